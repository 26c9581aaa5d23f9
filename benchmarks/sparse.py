"""Measure the search of sparse vectors: alone, on Spark, its memory, and where it beats dense.

    python benchmarks/sparse.py                        the search alone, on one thread
    python benchmarks/sparse.py --only spark           end to end, on two cores
    python benchmarks/sparse.py --only memory          of workers and of a small driver (Linux)
    python benchmarks/sparse.py --only choice          dense against sparse storage
    python benchmarks/sparse.py --scale 0.1            smaller data

Seconds are CPU seconds of one thread, except on Spark. All contestants of a table take turns, so
that other work on the machine slows all of them equally, and medians are shown. The `bench` extra
adds the names and sparse_dot_topn.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _harness import check, show
from _sparse_data import as_rows, random_rows, spread, vectors_of
from _sparse_memory import memory
from _sparse_spark import on_spark
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Neighbors

K = 10
QUERIES = 4096
SKLEARN_BATCH = 512
CELLS = (
    ("names", 20_000),
    ("names", 100_000),
    ("cities", 143_000),
    ("names", 500_000),
    ("words", 20_000),
    ("words", 100_000),
    ("words", 500_000),
)
TOLERANCE = 1e-12

CHOICE_ITEMS, CHOICE_QUERIES = 50_000, 256
CHOICE_NUMBERS = 1 << 28
"""The largest number of values of a dense matrix: 1 GiB of float32."""
DIMENSIONS = (256, 1024, 4096, 16_384)
SHARES = (4, 8, 16, 32, 64, 256)

Search = Callable[[sparse.csr_matrix], Any]


# --- the search alone ----------------------------------------------------------------------------


def ours(items: sparse.csr_matrix) -> Search:
    """Return a search of this library."""
    index, _ = build_index(as_rows(items), IndexSpec(resolve_metric("cosine")))
    return lambda queries: index.kneighbors(as_rows(queries), K)


def sklearn_brute(items: sparse.csr_matrix) -> Search:
    """Return a search of scikit-learn, in batches of which it makes the best.

    It fills a matrix of all pairs. For more queries at once, the operating system takes most of the
    time to provide the memory.
    """
    index = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(items)

    def search(queries: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        starts = range(0, queries.shape[0], SKLEARN_BATCH)
        found = [index.kneighbors(queries[each : each + SKLEARN_BATCH]) for each in starts]
        distances, positions = zip(*found, strict=True)
        return np.concatenate(distances), np.concatenate(positions)

    return search


def dot_topn(items: sparse.csr_matrix) -> Search:
    """Return a search of sparse_dot_topn, in float32, in which it is faster."""
    from sparse_dot_topn import sp_matmul_topn

    transposed = items.T.tocsr().astype(np.float32)

    def search(queries: sparse.csr_matrix) -> sparse.csr_matrix:
        return sp_matmul_topn(queries, transposed, top_n=K, sort=True, n_threads=1)

    return search


def engine(scale: float, rounds: int) -> None:
    """Time the search of text by cosine, and check the answers."""
    rows = []
    for data, full in CELLS:
        n = int(full * scale)
        vectors = vectors_of(data, n + QUERIES)
        items, queries = vectors[:n], vectors[n:]
        begin = time.thread_time()
        searches = {"ours": ours(items)}
        built = time.thread_time() - begin
        searches["sklearn"] = sklearn_brute(items)
        if importlib.util.find_spec("sparse_dot_topn"):
            searches["topn"] = dot_topn(items)
        took = {name: [] for name in searches}
        narrow, found = queries.astype(np.float32), {}
        for _ in range(rounds):
            for name, search in searches.items():
                asked = narrow if name == "topn" else queries
                begin = time.thread_time()
                found[name] = search(asked)
                took[name].append((time.thread_time() - begin) / QUERIES)
            check_answer(items, queries, found["ours"], found["sklearn"][0])
        rows.append(_row(f"{data}, {n:,}", vectors, built, took))
        print(*rows[-1], file=sys.stderr, flush=True)
    show(
        f"TF-IDF, 2^18 dimensions, cosine, k={K}, milliseconds of CPU time per query",
        [
            *("items", "stored per row", "build, s", "pyspark_knn", "sparse_dot_topn"),
            *("scikit-learn", "sparse_dot_topn / ours", "scikit-learn / ours"),
        ],
        rows,
    )


def _row(
    name: str, vectors: sparse.csr_matrix, built: float, took: dict[str, list[float]]
) -> list[str]:
    once = {each: 1e3 * float(np.median(times)) for each, times in took.items()}
    ratios = {
        each: f"{np.median(np.divide(took[each], took['ours'])):.2f}"
        for each in ("topn", "sklearn")
        if each in took
    }
    times = [f"{once[each]:.3f}" if each in once else "" for each in ("ours", "topn", "sklearn")]
    stored = f"{vectors.nnz / vectors.shape[0]:.1f}"
    return [name, stored, f"{built:.2f}", *times, ratios.get("topn", ""), ratios["sklearn"]]


def check_answer(
    items: sparse.csr_matrix,
    queries: sparse.csr_matrix,
    answer: Neighbors,
    distances: NDArray[np.float64],
) -> None:
    """Stop unless our distances are scikit-learn's, and our neighbors have these distances."""
    ours, positions = answer.distances, answer.positions
    check(bool(np.abs(ours - distances).max() <= TOLERANCE), "distances of scikit-learn")
    check(all(len(set(row)) == K for row in positions.tolist()), "an item twice")
    chosen, asked = items[positions.ravel()], queries[np.repeat(np.arange(len(ours)), K)]
    norms = linalg.norm(chosen, axis=1) * linalg.norm(asked, axis=1)
    products = np.asarray(chosen.multiply(asked).sum(axis=1)).ravel()
    figures = 1 - np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    check(bool(np.abs(figures - ours.ravel()).max() <= TOLERANCE), "the neighbors")


# --- dense against sparse ------------------------------------------------------------------------


def choice(scale: float, rounds: int) -> None:
    """Time dense and sparse storage of the same vectors, to find where sparse is faster."""
    rows = []
    for zipf in (False, True):
        for dim in DIMENSIONS:
            n = min(int(CHOICE_ITEMS * scale), CHOICE_NUMBERS // dim)
            for share in SHARES:
                if dim // share < 1:
                    continue
                vectors = random_rows(n + CHOICE_QUERIES, dim, dim // share, zipf=zipf)
                vectors = vectors.astype(np.float32)
                cells = [_dense_over_sparse(vectors, m, rounds) for m in ("cosine", "euclidean")]
                common = spread(vectors[CHOICE_QUERIES:])
                columns = "Zipf" if zipf else "random"
                rows.append(
                    [columns, f"{n:,} x {dim:,}", f"1/{share}", f"{common / dim:.6f}", *cells]
                )
                print(*rows[-1], file=sys.stderr, flush=True)
    show(
        f"Time of dense storage / time of sparse storage, {CHOICE_QUERIES} queries, k={K} "
        "(in brackets: ms per query, dense and sparse)",
        ["columns", "items", "stored", "sum of df^2 / n^2 / d", "cosine", "euclidean"],
        rows,
    )


def _dense_over_sparse(vectors: sparse.csr_matrix, metric: str, rounds: int) -> str:
    queries, items = vectors[:CHOICE_QUERIES], vectors[CHOICE_QUERIES:]
    spec = IndexSpec(resolve_metric(metric), "brute")
    contestants = {}
    for name, convert in (("dense", sparse.csr_matrix.toarray), ("sparse", as_rows)):
        contestants[name] = (build_index(convert(items), spec)[0], convert(queries))
    took: dict[str, list[float]] = {name: [] for name in contestants}
    found = {}
    for _ in range(rounds):
        for name, (index, asked) in contestants.items():
            begin = time.thread_time()
            found[name] = index.kneighbors(asked, K)
            took[name].append((time.thread_time() - begin) / CHOICE_QUERIES * 1e3)
    same = zip(found["dense"], found["sparse"], strict=True)
    check(all(np.array_equal(a, b) for a, b in same), f"dense and sparse differ, {metric}")
    ratio = np.median(np.divide(took["dense"], took["sparse"]))
    return f"{ratio:.2f} ({np.median(took['dense']):.2f}, {np.median(took['sparse']):.2f})"


def main() -> None:
    """Run the selected parts."""
    parts = {"engine": engine, "choice": choice, "spark": on_spark, "memory": memory}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of items")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--only", default="engine", help="parts to run, separated by commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.only.split(","):
        # One thread; the limit does not reach the Python workers, which have their own.
        with threadpool_limits(1):
            parts[name](given.scale, given.rounds)


if __name__ == "__main__":
    main()
