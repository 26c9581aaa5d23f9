"""Compare every metric with scikit-learn, on one thread and without Spark, and check the answers.

    python benchmarks/metrics.py                                  takes some ten minutes
    python benchmarks/metrics.py --metrics cityblock,jaccard --cells 50000x32

"ours" is the algorithm that "auto" picks. scikit-learn is asked with brute force and with "auto",
and the faster one counts. All take turns for several rounds, and the median is reported, so that
other work on the machine slows all of them equally. The neighbors are compared with those of a
search by the distances of all pairs; scikit-learn's, up to rounding.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.kernels import SET_METRICS
from pyspark_knn.index.pairwise import PairwiseSearch

Search = Callable[[NDArray[np.floating]], tuple[NDArray[np.float64], NDArray[np.int64]]]

CELLS = (
    (2000, 2),
    (20_000, 2),
    (200_000, 4),
    (2000, 8),
    (50_000, 8),
    (2000, 32),
    (50_000, 32),
    (200_000, 32),
    (20_000, 128),
)

METRICS = (
    "euclidean",
    "sqeuclidean",
    "seuclidean",
    "mahalanobis",
    "cityblock",
    "chebyshev",
    "minkowski",
    "canberra",
    "braycurtis",
    "hamming",
    "cosine",
    "correlation",
    "haversine",
    *SET_METRICS,
)
"""minkowski has p = 3; hamming, five values; braycurtis, no negative values, for which scikit-learn
and scipy differ."""

MOST_QUERIES = 2048


@dataclass
class Row:
    """One row of the table."""

    metric: str
    n_items: int
    dim: int
    k: int
    pick: str = ""
    micros: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times faster ours is than the best of scikit-learn."""
        theirs = [micros for name, micros in self.micros.items() if name != "ours"]
        return min(theirs) / self.micros["ours"]


def make_data(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return items and queries from the same distribution."""
    rng = np.random.default_rng(row.n_items + row.dim)
    shape = row.n_items + MOST_QUERIES, row.dim
    if row.metric == "haversine":
        sines, longitude = rng.uniform(-1, 1, shape[0]), rng.uniform(-np.pi, np.pi, shape[0])
        rows = np.stack([np.arcsin(sines), longitude], axis=1)
    elif row.metric in SET_METRICS:
        rows = (rng.random(shape) < 0.3) * 1.0
        rows[rows.sum(axis=1) == 0, 0] = 1.0  # by some formulas 0 / 0 for scikit-learn
    elif row.metric == "hamming":
        rows = rng.integers(0, 5, shape) * 1.0
    else:
        rows = rng.standard_normal(shape)
    rows = np.abs(rows) if row.metric == "braycurtis" else rows
    return np.ascontiguousarray(rows[MOST_QUERIES:]), np.ascontiguousarray(rows[:MOST_QUERIES])


def resolved(row: Row, items: NDArray[np.float64]) -> tuple[Metric, dict[str, Any]]:
    """Return the metric, and the arguments of scikit-learn."""
    params: dict[str, Any] = {}
    if row.metric == "seuclidean":
        params = {"V": items.var(axis=0, ddof=1)}
    if row.metric == "mahalanobis":
        params = {"VI": np.linalg.inv(np.cov(items, rowvar=False).reshape(row.dim, row.dim))}
    p = 3.0 if row.metric == "minkowski" else 2.0
    metric = resolve_metric(row.metric, p, params)
    return metric, {"metric": row.metric, "p": p, "metric_params": params or None}


def contestants(row: Row, items: NDArray[np.float64]) -> tuple[dict[str, Search], Metric]:
    """Return the searches by name."""
    metric, arguments = resolved(row, items)
    index, _ = build_index(items, IndexSpec(metric))
    row.pick = index.algorithm
    found: dict[str, Search] = {"ours": lambda queries: index.kneighbors(queries, row.k)}
    sets = metric.compares_sets
    for algorithm in ("brute", "auto"):
        theirs = NearestNeighbors(n_neighbors=row.k, algorithm=algorithm, **arguments)
        theirs.fit(items != 0 if sets else items)
        found[f"sklearn {algorithm}"] = lambda queries, theirs=theirs: theirs.kneighbors(
            queries != 0 if sets else queries
        )
    return found, metric


def measure(row: Row, rounds: int, seconds: float) -> Row:
    """Fill in the median microseconds of a query."""
    items, queries = make_data(row)
    searches, metric = contestants(row, items)
    expected = PairwiseSearch(items, metric).kneighbors(queries[:4], row.k)
    many, times = {}, {name: [] for name in searches}
    for name, search in searches.items():
        start = time.process_time()
        search(queries[:32])
        once = (time.process_time() - start) / 32
        # Ours gets as many queries as a batch has. A search in blocks is slow with few.
        least = 1024 if name == "ours" else 32
        many[name] = int(np.clip(seconds / once, least, MOST_QUERIES))
    for _ in range(rounds):
        for name, search in searches.items():
            asked = queries[: many[name]]
            start = time.process_time()
            distances, positions = search(asked)
            times[name].append((time.process_time() - start) / len(asked) * 1e6)
            if name == "ours" and not np.array_equal(positions[:4], expected.positions):
                raise SystemExit(f"wrong answer: {row}")
            if name != "ours" and name not in row.notes:
                good = np.allclose(distances[:4], expected.distances, rtol=1e-6, atol=1e-7)
                row.notes += [] if good else [name]
    row.micros = {name: float(np.median(each)) for name, each in times.items()}
    return row


def table(rows: list[Row]) -> str:
    """Format all rows in Markdown."""
    lines = [
        "| metric | items x dim | ours | auto picks | sklearn brute | sklearn auto | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        figures = [
            f"{row.micros[name]:.1f}{' (wrong)' if name in row.notes else ''}"
            for name in ("sklearn brute", "sklearn auto")
        ]
        lines.append(
            f"| {row.metric} | {row.n_items:,} x {row.dim} | {row.micros['ours']:.1f} | {row.pick} "
            f"| {' | '.join(figures)} | {row.ratio:.2f} |"
        )
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Format the smallest and the mean ratio of each metric, and of all."""
    lines = ["| metric | smallest ratio | geometric mean |", "| --- | --- | --- |"]
    for name in (*dict.fromkeys(row.metric for row in rows), "all"):
        ratios = [row.ratio for row in rows if name in (row.metric, "all")]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines.append(f"| {name} | {min(ratios):.2f} | {mean:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metrics", help="metrics to run, with commas between them")
    parser.add_argument("--cells", help="sizes to run, such as 2000x8,50000x32")
    parser.add_argument("--k", type=int, default=10, help="number of neighbors")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each search of scikit-learn")
    args = parser.parse_args()
    cells = CELLS
    if args.cells:
        cells = tuple(tuple(map(int, each.split("x"))) for each in args.cells.split(","))
    rows = []
    warnings.simplefilter("ignore")
    print("CPU microseconds per query, medians of one thread; ratio: best of sklearn / ours\n")
    with threadpool_limits(limits=1):
        for metric in args.metrics.split(",") if args.metrics else METRICS:
            sizes = cells
            if metric == "haversine":
                sizes = tuple((n_items, 2) for n_items in dict.fromkeys(n for n, _ in cells))
            for n_items, dim in sizes:
                rows.append(measure(Row(metric, n_items, dim, args.k), args.rounds, args.seconds))
                print(table(rows[-1:]).split("\n")[-1], flush=True)
    print(f"\n{table(rows)}\n\n{summary(rows)}")


if __name__ == "__main__":
    main()
