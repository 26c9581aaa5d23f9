"""Builds the index that was asked for, or the one that is fastest on the items at hand."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import algorithms_for, check_algorithm
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.score_space import has_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec, NeighborIndex

_LOG = logging.getLogger(__name__)

# With fewer items, any search takes microseconds, and timing takes more than it can save.
_FEW = 2048

# Items of the sample that is timed, and of a smaller one that shows how the time grows.
_SAMPLE = 16_384
_PART = 2048

# Neighbours of a timed search, and the most queries of one.
_K = 10
_QUERIES = 1024

# Queries of the first timed search, and when one has taken long enough to be believed. A block
# search is slow with few queries; a tree, and a comparison of all pairs, take them one by one.
_A_BLOCK, _BLOCK_SECONDS = 256, 0.02
_A_FEW, _FEW_SECONDS = 8, 0.01

# Trees whose estimates are within this factor of the best are timed again with all items, and brute
# force beside them. Where items have so many numbers that growing a tree takes more than seconds,
# that is done for a tree that is the best, and for no other.
_CLOSE = 2.5
_MOST_NUMBERS = 1 << 25


def build_index(matrix: NDArray[np.floating], spec: IndexSpec) -> tuple[NeighborIndex, str]:
    """Index the rows of `matrix`.

    What "auto" picks decides on the time of a search, never on its answer.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        C-contiguous and finite, at least one row. Kept, not copied.
    spec : IndexSpec

    Returns
    -------
    index : NeighborIndex
    reason : str
        Why it is this one, in a sentence.

    Raises
    ------
    ValueError
        If the metric cannot compare rows of so many features or with such values, or the algorithm
        cannot serve it.
    """
    spec.metric.check_dimension(matrix.shape[1])
    spec.metric.check_values(matrix)
    check_algorithm(spec.algorithm, spec.metric)
    if spec.algorithm == "auto":
        index, reason = _fastest(matrix, spec)
    else:
        index, reason = _build(spec.algorithm, matrix, spec), f"{spec.algorithm} was asked for"
    _LOG.info("indexed %d items of %d features: %s", *matrix.shape, reason)
    return index, reason


def _build(algorithm: str, matrix: NDArray[np.floating], spec: IndexSpec) -> NeighborIndex:
    if algorithm == "brute":
        brute = BlockSearch if has_scores(spec.metric) else PairwiseSearch
        return brute.build(matrix, spec)
    # Not at the top: scikit-learn takes 100 MiB of a process, and brute force does without it.
    from pyspark_knn.index.sklearn_index import BallTreeSearch, KDTreeSearch

    trees = {"kd_tree": KDTreeSearch, "ball_tree": BallTreeSearch}
    return trees[algorithm].build(matrix, spec)


def _fastest(matrix: NDArray[np.floating], spec: IndexSpec) -> tuple[NeighborIndex, str]:
    """The index whose searches take the least time, and why it is that one."""
    able = algorithms_for(spec.metric)
    if len(able) == 1:
        return _build("brute", matrix, spec), f"only brute serves metric {spec.metric.name!r}"
    if len(matrix) < _FEW:
        return _build("brute", matrix, spec), f"brute is as good as any for {len(matrix)} items"
    # As in a worker: one thread, whatever the machine has.
    with threadpool_limits(limits=1):
        costs = _estimates(able, matrix, spec)
        best = min(costs, key=lambda algorithm: costs[algorithm])
        trees = [each for each in costs if each != "brute" and costs[each] <= _CLOSE * costs[best]]
        if matrix.size > _MOST_NUMBERS:
            trees = [each for each in trees if each == best]
        if not trees or len(matrix) <= _SAMPLE:
            return _build(best, matrix, spec), _reason(costs, "estimated from a sample")
        # Even a tree that leads must prove itself: an estimate of one can be wrong several times.
        index, costs = _fastest_of(["brute", *trees], matrix, spec)
        return index, _reason(costs, "timed with all items")


def _fastest_of(
    algorithms: list[str], matrix: NDArray[np.floating], spec: IndexSpec
) -> tuple[NeighborIndex, dict[str, float]]:
    """Build one index after the other, and keep the fastest."""
    best = _build(algorithms[0], matrix, spec)
    costs = {best.algorithm: _seconds_per_query(best)}
    for algorithm in algorithms[1:]:
        index = _build(algorithm, matrix, spec)
        costs[algorithm] = _seconds_per_query(index)
        if costs[algorithm] < costs[best.algorithm]:
            best = index
    return best, costs


def _estimates(
    able: tuple[str, ...], matrix: NDArray[np.floating], spec: IndexSpec
) -> dict[str, float]:
    """Seconds that a query is to take by each algorithm that may be worth it."""
    costs = {"brute": _estimate_brute(matrix, spec)}
    limit = _CLOSE * costs["brute"]
    for tree in ("kd_tree", "ball_tree"):
        if tree in able:
            costs[tree] = _estimate_tree(tree, matrix, spec, limit)
            # A ball_tree took 0.45 of a kd_tree's time at best, on all data tried: it is hopeless
            # where a kd_tree is.
            if costs[tree] > limit:
                break
    return costs


def _estimate_brute(matrix: NDArray[np.floating], spec: IndexSpec) -> float:
    """Seconds that a query is to take by brute force, as a sample of the items tells."""
    sample = _sample(matrix, _SAMPLE)
    return _seconds_per_query(_build("brute", sample, spec)) * len(matrix) / len(sample)


def _estimate_tree(
    algorithm: str, matrix: NDArray[np.floating], spec: IndexSpec, limit: float
) -> float:
    """Seconds that a query is to take in a tree, as two samples of the items tell.

    Trees take the logarithm of the number of items at their best, and all of them at worst. Where
    not even the square root of the number brings one below `limit`, the smaller sample is enough.
    """
    part = _sample(matrix, _PART)
    before = _seconds_per_query(_build(algorithm, part, spec))
    times = len(matrix) / len(part)
    if times == 1 or before * times**0.5 > limit:
        return before * times
    sample = _sample(matrix, _SAMPLE)
    cost = _seconds_per_query(_build(algorithm, sample, spec))
    growth = np.log(cost / before) / np.log(len(sample) / len(part))
    growth = float(np.clip(growth, 0.0, 1.0))
    return float(cost * (len(matrix) / len(sample)) ** growth)


def _sample(matrix: NDArray[np.floating], size: int) -> NDArray[np.floating]:
    """About `size` of the rows, or all, from all over the matrix."""
    step = max(1, len(matrix) // size)
    return matrix if step == 1 else np.ascontiguousarray(matrix[::step])


def _seconds_per_query(index: NeighborIndex) -> float:
    """The time of a search for the neighbours of some of the items themselves."""
    queries = _sample(index.matrix, _QUERIES)[:_QUERIES]
    k = min(_K, len(index.matrix))
    in_blocks = isinstance(index, BlockSearch)
    many, enough = (_A_BLOCK, _BLOCK_SECONDS) if in_blocks else (_A_FEW, _FEW_SECONDS)
    while True:
        # The time of this thread: others, of this process or not, do not count.
        start = time.thread_time()
        index.kneighbors(queries[:many], k)
        seconds = time.thread_time() - start
        if seconds > enough or many >= len(queries):
            return max(seconds, 1e-9) / min(many, len(queries))
        many = max(2 * many, round(1.25 * many * enough / max(seconds, 1e-9)))


def _reason(costs: dict[str, float], how: str) -> str:
    fastest, *others = sorted(costs, key=lambda algorithm: costs[algorithm])
    figures = ", ".join(f"{each} {1e6 * costs[each]:.0f}" for each in others)
    return f"{fastest} is the fastest: {1e6 * costs[fastest]:.0f} us a query, {figures} ({how})"
