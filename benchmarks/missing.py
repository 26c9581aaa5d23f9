"""Time the search among missing values, and check the answers.

    python benchmarks/missing.py                        the search itself, on one thread
    python benchmarks/missing.py --items 20000 --dim 16
    python benchmarks/missing.py --only imputer         KNNImputer beside scikit-learn's, on Spark
    python benchmarks/missing.py --only large           500,000 rows: time and memory

The contestants take turns, so that other work on the machine slows all of them equally. Times are
CPU time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import check, median, ratio, show
from _missing_imputer import beside_sklearn, large
from numpy.typing import NDArray
from sklearn.metrics.pairwise import nan_euclidean_distances
from threadpoolctl import threadpool_limits

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch

K, N_QUERIES, SKLEARN_QUERIES, CHECKED = 10, 1024, 256, 16
PLAIN, OURS, WITHIN, PAIRS, SKLEARN = "plain", "ours", "within", "pairs", "scikit-learn"

Rows = NDArray[np.floating]

DATA: dict[str, Callable[[np.random.Generator, int, int], Rows]] = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d), np.float32),
    "float64": lambda rng, n, d: rng.standard_normal((n, d)),
    "offset 1e4": lambda rng, n, d: rng.standard_normal((n, d)) + 1e4,
    "tight clusters": lambda rng, n, d: (
        rng.standard_normal((10, d))[rng.integers(0, 10, n)] + 1e-3 * rng.standard_normal((n, d))
    ),
}
"""The vectors before some of their values are knocked out."""

CASES = [
    ("normal", 0.0, 1.0),
    ("normal", 0.2, 0.1),
    ("normal", 0.01, 1.0),
    ("normal", 0.2, 1.0),
    ("normal", 0.6, 1.0),
    ("float64", 0.2, 1.0),
    ("offset 1e4", 0.2, 1.0),
    ("tight clusters", 0.2, 1.0),
]
"""The data, the share of missing values, and the share of the columns that have some."""


def knocked_out(rng: np.random.Generator, matrix: Rows, share: float, columns: float) -> Rows:
    """Return a copy in which a share of the values of some columns is missing."""
    missing = rng.random(matrix.shape) < share
    missing[:, round(columns * matrix.shape[1]) :] = False
    return np.where(missing, matrix.dtype.type(np.nan), matrix)


def sklearn(queries: Rows, items: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distances of the nearest items, as brute force of scikit-learn finds them."""
    distances = nan_euclidean_distances(queries, items)
    # As NearestNeighbors does; old releases refuse NaN there.
    nearest = np.argpartition(distances, K - 1, axis=1)[:, :K]
    return np.sort(np.take_along_axis(distances, nearest, 1), axis=1), nearest


def cpu_turns(
    contestants: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run the contestants in turns; return the CPU seconds of each round, and the last results."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for turn in range(-1, rounds):
        for name, run in contestants.items():
            begin = time.thread_time()
            results[name] = run()
            if turn >= 0:
                seconds[name].append(time.thread_time() - begin)
    return seconds, results


def checked(items: Rows, queries: Rows, found: Neighbors, results: dict[str, Any]) -> None:
    """Stop the benchmark unless the answers are right: those of all pairs, and of scikit-learn."""
    metric = resolve_metric("nan_euclidean")
    true = PairwiseSearch(items, metric).kneighbors(queries[:CHECKED], K)
    check(np.array_equal(true.positions, found.positions[:CHECKED]), "the neighbors")
    check(np.array_equal(true.distances, found.distances[:CHECKED]), "the distances")
    inside = results[WITHIN]
    first = inside.distances[: inside.offsets[1]]
    check(np.array_equal(first[:K], found.distances[0, : len(first[:K])]), "all within a distance")
    theirs, _ = results[SKLEARN]
    # Their squares are off by the rounding of those of the values.
    off = np.abs(theirs**2 - found.distances[: len(theirs)] ** 2).max()
    scale = items.shape[1] * float(np.nanmax(np.abs(items))) ** 2
    check(off <= 10 * np.finfo(items.dtype).eps * scale, "the distances of scikit-learn")


def row_of(data: str, share: float, columns: float, given: argparse.Namespace) -> list[object]:
    """Return a row of the table."""
    rng = np.random.default_rng(1)
    whole = DATA[data](rng, given.items + N_QUERIES, given.dim)
    gaps = knocked_out(rng, whole, share, columns)
    plain, _ = build_index(whole[N_QUERIES:], IndexSpec(resolve_metric("euclidean"), "brute"))
    begin = time.thread_time()
    items, queries = gaps[N_QUERIES:], gaps[:N_QUERIES]
    ours, _ = build_index(items, IndexSpec(resolve_metric("nan_euclidean")))
    build = time.thread_time() - begin
    found = ours.kneighbors(queries, K)
    limit = float(np.median(found.distances[:, -1]))
    seconds, results = cpu_turns(
        {
            PLAIN: lambda: plain.kneighbors(whole[:N_QUERIES], K),
            OURS: lambda: ours.kneighbors(queries, K),
            WITHIN: lambda: ours.within(queries, limit),
            PAIRS: lambda: PairwiseSearch(items, ours.metric).kneighbors(queries[:CHECKED], K),
            SKLEARN: lambda: sklearn(queries[:SKLEARN_QUERIES], items),
        },
        given.rounds,
    )
    checked(items, queries, found, results)
    of_all = {PAIRS: N_QUERIES / CHECKED, SKLEARN: N_QUERIES / SKLEARN_QUERIES}
    times = {name: [of_all.get(name, 1) * t for t in each] for name, each in seconds.items()}
    return [
        data,
        f"{share:.0%}" + (f" of {columns:.0%} of the columns" if columns < 1 else ""),
        f"{build:.3f}",
        *(f"{1e6 / N_QUERIES * median(times[name]):.0f}" for name in times),
        f"{ratio(times[OURS], times[PLAIN]):.2f}",
        f"{ratio(times[SKLEARN], times[OURS]):.1f}",
    ]


def search(given: argparse.Namespace) -> None:
    """Print the table of the search itself."""
    with threadpool_limits(limits=1):
        rows = [row_of(*case, given) for case in CASES]
    headers = ["data", "missing", "build, s", "euclidean", "nan_euclidean", "within a distance"]
    headers += ["pair by pair", "scikit-learn", "relative to euclidean", "scikit-learn / ours"]
    show(f"Microseconds per query, {given.items:,} x {given.dim}, k={K}", headers, rows)


PARTS = {"search": search, "imputer": beside_sklearn, "large": large}
"""The parts of the benchmark, by the names that `--only` takes."""


def main() -> None:
    """Run the parts, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="search", help="parts to run, separated by commas")
    given = parser.parse_args()
    for name in given.only.split(","):
        PARTS[name](given)


if __name__ == "__main__":
    main()
