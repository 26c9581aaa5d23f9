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

# Items of the sample that is timed, and the part of it that shows how the time grows.
_SAMPLE = 16_384
_PART = 2048

# Neighbours and queries of a timed search, and when it has taken long enough to believe it.
_K = 10
_QUERIES = 1024
_ENOUGH_SECONDS = 0.05

# Algorithms whose estimates are within this factor are timed again with all items, unless these
# have so many numbers that growing a tree over them takes more than seconds.
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
        If the metric cannot compare rows of so many features, or the algorithm cannot serve it.
    """
    spec.metric.check_dimension(matrix.shape[1])
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
        costs = {algorithm: _estimate(algorithm, matrix, spec) for algorithm in able}
        close = [each for each in able if costs[each] <= _CLOSE * min(costs.values())]
        if len(close) == 1 or matrix.size > _MOST_NUMBERS or len(matrix) <= _SAMPLE:
            winner = min(costs, key=lambda algorithm: costs[algorithm])
            return _build(winner, matrix, spec), _reason(costs, "estimated from a sample")
        index, costs = _fastest_of(close, matrix, spec)
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


def _estimate(algorithm: str, matrix: NDArray[np.floating], spec: IndexSpec) -> float:
    """Seconds that a query is to take, as two samples of the items tell."""
    sample = _sample(matrix, _SAMPLE)
    cost = _seconds_per_query(_build(algorithm, sample, spec))
    if len(sample) == len(matrix):
        return cost
    growth = 1.0
    if algorithm != "brute":
        # Trees take the logarithm of the number of items at their best, and all of them at worst.
        part = _sample(sample, _PART)
        before = _seconds_per_query(_build(algorithm, part, spec))
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
    many = 8
    while True:
        # The time of this thread: others, of this process or not, do not count.
        start = time.thread_time()
        index.kneighbors(queries[:many], k)
        seconds = time.thread_time() - start
        if seconds > _ENOUGH_SECONDS or many >= len(queries):
            return max(seconds, 1e-9) / min(many, len(queries))
        many *= 2


def _reason(costs: dict[str, float], how: str) -> str:
    fastest, *others = sorted(costs, key=lambda algorithm: costs[algorithm])
    figures = ", ".join(f"{each} {1e6 * costs[each]:.0f}" for each in others)
    return f"{fastest} is the fastest: {1e6 * costs[fastest]:.0f} us a query, {figures} ({how})"
