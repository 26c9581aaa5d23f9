"""Measure the search within a key: alone, and on Spark against plans without this library.

    python benchmarks/keyed.py                         the search alone, on one thread
    python benchmarks/keyed.py --only spark            end to end, on two cores
    python benchmarks/keyed.py --scale 0.1             fewer groups, or smaller ones

Times are CPU times of one thread, except on Spark. All contestants of a table take turns, so that
other work on the machine slows all of them equally, and medians are shown.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from _harness import check, show
from _keyed_data import Shape, shapes
from _keyed_spark import on_spark
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Found
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.grouped.queries import GroupQueries

K = 5
QUERIES = 10_000
ZIPF_ITEMS = 1_000_000
DIMENSIONS = (16, 64)
CHECKED = 100

BLOCK_SCORES = 1 << 18
"""Scores of a block of the bare product, as in the block search."""
BLOCK_QUERIES = 1024


def engine(scale: float, rounds: int) -> None:
    """Time the search within groups, and the products of which it consists."""
    table = []
    for dim, shape in itertools.product(DIMENSIONS, shapes(scale, ZIPF_ITEMS)):
        rng = np.random.default_rng(1)
        items = rng.standard_normal((shape.starts[-1], dim), dtype=np.float32)
        spec = IndexSpec(resolve_metric("euclidean"))
        positions = np.arange(len(items))
        begin = time.thread_time()
        index, _ = GroupedIndex.build(items, positions, shape.starts, spec)
        built = time.thread_time() - begin
        contestants: dict[str, Callable[[GroupQueries], Any]] = {
            "ours": lambda queries, index=index: index.search(queries, K),
            "product": products(items, shape),
            "loop": loop(items, shape, spec),
        }
        took: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):
            vectors = rng.standard_normal((QUERIES, dim), dtype=np.float32)
            queries = GroupQueries(vectors, np.arange(QUERIES), shape.groups(rng, QUERIES))
            found = {}
            for name, search in contestants.items():
                begin = time.thread_time()
                found[name] = search(queries)
                if turn:  # the first one warms up
                    took[name].append((time.thread_time() - begin) / QUERIES)
            check_answer(items, shape, queries, found["ours"], found["loop"], spec)
        table.append(_row(dim, shape, queries.groups, built, took))
        print(*table[-1], file=sys.stderr, flush=True)
    show(
        f"Batches of {QUERIES:,} queries, euclidean, k={K}, microseconds of CPU time per query",
        [
            *("dimensions", "groups", "items per query", "build, s", "pyspark_knn"),
            *("bare product", "an index for each group", "ours / product", "loop / ours"),
        ],
        table,
    )


def _row(
    dim: int,
    shape: Shape,
    groups: NDArray[np.int64],
    built: float,
    took: dict[str, list[float]],
) -> list[str]:
    once = {name: f"{1e6 * float(np.median(times)):.2f}" for name, times in took.items()}
    ratios = [
        f"{np.median(np.divide(took[slow], took[fast])):.2f}"
        for slow, fast in (("ours", "product"), ("loop", "ours"))
    ]
    compared = f"{shape.sizes[groups].mean():,.0f}"
    return [str(dim), shape.name, compared, f"{built:.2f}", *once.values(), *ratios]


def in_groups(queries: GroupQueries) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each group that is asked for, and the rows of its queries."""
    order = np.argsort(queries.groups, kind="stable")
    bounds = np.flatnonzero(np.diff(queries.groups[order], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(bounds):
        yield int(queries.groups[order[start]]), order[start:stop]


def products(items: NDArray[np.float32], shape: Shape) -> Callable[[GroupQueries], None]:
    """Return a function that multiplies the queries of each group with its items, and no more."""
    starts = shape.starts
    out = np.empty(max(BLOCK_SCORES, BLOCK_QUERIES * 64), np.float32)

    def run(queries: GroupQueries) -> None:
        for group, rows in in_groups(queries):
            vectors, members = queries.vectors[rows], items[starts[group] : starts[group + 1]]
            for first in range(0, len(rows), BLOCK_QUERIES):
                left = vectors[first : first + BLOCK_QUERIES]
                width = max(64, BLOCK_SCORES // len(left))
                for start in range(0, len(members), width):
                    right = members[start : start + width]
                    scores = out[: len(left) * len(right)].reshape(len(left), len(right))
                    np.matmul(left, right.T, out=scores)

    return run


def loop(
    items: NDArray[np.float32], shape: Shape, spec: IndexSpec
) -> Callable[[GroupQueries], list[tuple[NDArray[np.int64], Found]]]:
    """Return a search by an index of each group, made when the group is first asked for."""
    starts, indexes = shape.starts, dict[int, NeighborIndex]()

    def run(queries: GroupQueries) -> list[tuple[NDArray[np.int64], Found]]:
        found = []
        for group, rows in in_groups(queries):
            if group not in indexes:
                members = items[starts[group] : starts[group + 1]]
                indexes[group], _ = build_index(members, spec)
            k = min(K, int(shape.sizes[group]))
            found.append((rows, indexes[group].search(queries.vectors[rows], k)))
        return found

    return run


def check_answer(
    items: NDArray[np.float32],
    shape: Shape,
    queries: GroupQueries,
    ours: Found,
    theirs: list[tuple[NDArray[np.int64], Found]],
    spec: IndexSpec,
) -> None:
    """Stop unless the neighbors are those of a search of each group alone, to the bit."""
    order = np.concatenate([rows for rows, _ in theirs])
    counts = np.diff(ours.offsets)[order]
    shift = np.repeat(shape.starts[queries.groups[order]], counts)
    at = np.repeat(ours.offsets[order] - np.cumsum(counts) + counts, counts)
    at += np.arange(len(at))
    distances = np.concatenate([found.distances for _, found in theirs])
    positions = np.concatenate([found.positions for _, found in theirs])
    check(np.array_equal(distances, ours.distances[at]), "the distances of each group alone")
    check(np.array_equal(positions + shift, ours.positions[at]), "the items of each group alone")
    for row in range(CHECKED):
        group = queries.groups[row]
        members = np.arange(shape.starts[group], shape.starts[group + 1])
        pairs = np.full(len(members), row), members
        true = np.sort(spec.metric.distances(queries.vectors, items, *pairs))[:K]
        here = slice(ours.offsets[row], ours.offsets[row + 1])
        check(np.array_equal(true, ours.distances[here]), "the distances of all pairs")


def main() -> None:
    """Run the selected parts."""
    parts = {"engine": engine, "spark": on_spark}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for groups, or their size")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--only", default="engine", help="parts to run, separated by commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.only.split(","):
        # One thread; the limit does not reach the Python workers, which have their own.
        with threadpool_limits(1):
            parts[name](given.scale, given.rounds)


if __name__ == "__main__":
    main()
