"""Build the index of a given algorithm, or of the one that is fastest on the given items."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from threadpoolctl import threadpool_limits

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.choice import within_recall
from pyspark_knn.index.approximate.long_builds import build_and_tell
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.found import storage_of
from pyspark_knn.index.registry import class_for, classes_for, with_storage
from pyspark_knn.index.terms.search import TermSearch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec, NeighborIndex
    from pyspark_knn.index.found import Rows

logger = logging.getLogger(__name__)

_MIN_TIMED_ITEMS = 1024
"""With fewer items a search takes microseconds, and timing takes longer than it can save."""

_TIMED_K = 10
"""Neighbors of a query in a timed search."""

_MAX_TIMED_QUERIES = 1024
"""The largest number of queries of a timed search."""

_FIRST_BLOCK_QUERIES, _ENOUGH_BLOCK_SECONDS = 256, 0.02
"""For a search in blocks: the queries of the first timed search, and how long a search must take
for its time to be reliable. Such a search is slow with few queries."""

_MAX_APPROXIMATE_QUERIES, _ENOUGH_APPROXIMATE_SECONDS = 4096, 0.2
"""The same for an approximate search, and the most queries: with few it takes up to four times as
long."""

_FIRST_QUERIES, _ENOUGH_SECONDS = 8, 0.01
"""The first queries and the time for every other search, which processes queries one by one."""

_CLOSE_RATIO = 2.5
"""Algorithms whose estimates are within this factor of the best one are timed again with all items,
and brute force with them."""

_NEVER_MUCH_FASTER_THAN = {"ball_tree": "kd_tree"}
"""Algorithm -> another one that takes at most about twice its time: on all data that was tried a
ball_tree took at least 0.45 of a kd_tree's time. Where the other one is far slower than brute
force, the algorithm is not timed."""


def seconds_per_query(index: NeighborIndex) -> float:
    """Time a search for the neighbors of some of the items themselves."""
    most, many, enough = _MAX_TIMED_QUERIES, _FIRST_QUERIES, _ENOUGH_SECONDS
    if isinstance(index, (BlockSearch, TermSearch)):
        many, enough = _FIRST_BLOCK_QUERIES, _ENOUGH_BLOCK_SECONDS
    elif not index.exact:
        most, many = _MAX_APPROXIMATE_QUERIES, _FIRST_BLOCK_QUERIES
        enough = _ENOUGH_APPROXIMATE_SECONDS
    queries = _sample(index.matrix, most)[:most]
    k = min(_TIMED_K, len(index.matrix))
    while True:
        # The time of this thread alone: other threads and processes do not count.
        start = time.thread_time()
        index.kneighbors(queries[:many], k)
        seconds = time.thread_time() - start
        if seconds > enough or many >= len(queries):
            return max(seconds, 1e-9) / min(many, len(queries))
        many = max(2 * many, round(1.25 * many * enough / max(seconds, 1e-9)))


def _build(algorithm: str, matrix: Rows, spec: IndexSpec) -> NeighborIndex:
    found = class_for(algorithm, spec.metric, spec.registered, storage_of(matrix))
    return found.build(matrix, spec)


def _sample(matrix: Rows, size: int) -> Rows:
    """Return about `size` of the rows, spread over the matrix, or all of them."""
    step = max(1, len(matrix) // size)
    if step == 1:
        return matrix
    sample = matrix[::step]
    return np.ascontiguousarray(sample) if isinstance(sample, np.ndarray) else sample


@dataclass(frozen=True)
class Trials:
    """How "auto" finds the fastest algorithm: by timed searches of samples, then of all items.

    Attributes
    ----------
    sample_items : int
        Items of the sample on which searches are timed.
    small_sample_items : int
        Items of the smaller sample, which shows how the time of a search grows.
    max_floats : int
        With more numbers in the items than this, building an index takes seconds. Then only an
        algorithm whose estimate is the best is timed with all items, beside brute force.
    timer : callable
        Returns the seconds per query of a search in an index.
    """

    sample_items: int = 16_384
    small_sample_items: int = 2048
    max_floats: int = 1 << 25
    timer: Callable[[NeighborIndex], float] = seconds_per_query

    def fastest(self, matrix: Rows, spec: IndexSpec) -> tuple[NeighborIndex, str]:
        """Return the exact index whose searches take the least time, and the reason."""
        storage = storage_of(matrix)
        classes = classes_for(spec.metric, spec.registered, storage)
        base, *others = (algorithm for algorithm, each in classes.items() if each.exact)
        if not others:
            index = _build(base, matrix, spec)
            of = with_storage(storage)
            return index, f"only {base} supports metric {spec.metric.name!r}{of}"
        if len(matrix) < _MIN_TIMED_ITEMS:
            return _build(base, matrix, spec), f"{base} is fast enough for {len(matrix)} items"
        # One thread, as in a worker, however many the machine has.
        with threadpool_limits(limits=1):
            costs = self._estimates(base, others, matrix, spec)
            best = min(costs, key=lambda algorithm: costs[algorithm])
            limit = _CLOSE_RATIO * costs[best]
            close = [each for each in others if costs.get(each, np.inf) <= limit]
            if matrix.size > self.max_floats:
                close = [each for each in close if each == best]
            if not close or len(matrix) <= self.sample_items:
                return _build(best, matrix, spec), _reason(costs, "estimated from a sample")
            # An estimate can be wrong by a factor of several, so the best one is timed as well.
            index, costs = self._fastest_of([base, *close], matrix, spec)
            return index, _reason(costs, "timed with all items")

    def _fastest_of(
        self, algorithms: list[str], matrix: Rows, spec: IndexSpec
    ) -> tuple[NeighborIndex, dict[str, float]]:
        """Build indexes in turn; return the fastest, and the seconds per query of each."""
        best = _build(algorithms[0], matrix, spec)
        costs = {best.algorithm: self.timer(best)}
        for algorithm in algorithms[1:]:
            index = _build(algorithm, matrix, spec)
            costs[algorithm] = self.timer(index)
            if costs[algorithm] < costs[best.algorithm]:
                best = index
        return best, costs

    def _estimates(
        self, base: str, others: list[str], matrix: Rows, spec: IndexSpec
    ) -> dict[str, float]:
        """Estimate the seconds per query of each algorithm that may be worth it."""
        costs = {base: self._estimate_linear(base, matrix, spec)}
        limit = _CLOSE_RATIO * costs[base]
        for algorithm in others:
            if costs.get(_NEVER_MUCH_FASTER_THAN.get(algorithm, ""), 0.0) <= limit:
                costs[algorithm] = self._estimate_growth(algorithm, matrix, spec, limit)
        return costs

    def _estimate_linear(self, algorithm: str, matrix: Rows, spec: IndexSpec) -> float:
        """Estimate the seconds per query of brute force: the time on a sample, in proportion."""
        sample = _sample(matrix, self.sample_items)
        return self.timer(_build(algorithm, sample, spec)) * len(matrix) / len(sample)

    def _estimate_growth(
        self, algorithm: str, matrix: Rows, spec: IndexSpec, limit: float
    ) -> float:
        """Estimate the seconds per query of an index, from its times on two samples.

        The time of a tree grows with the logarithm of the number of items at best, and with the
        number itself at worst. If the time is above `limit` even when it grows with the square
        root, the smaller sample is enough.
        """
        small = _sample(matrix, self.small_sample_items)
        before = self.timer(_build(algorithm, small, spec))
        times = len(matrix) / len(small)
        if times == 1 or before * times**0.5 > limit:
            return before * times
        sample = _sample(matrix, self.sample_items)
        cost = self.timer(_build(algorithm, sample, spec))
        growth = np.log(cost / before) / np.log(len(sample) / len(small))
        growth = float(np.clip(growth, 0.0, 1.0))
        return float(cost * (len(matrix) / len(sample)) ** growth)


_TRIALS = Trials()


def build_index(
    matrix: Rows, spec: IndexSpec, trials: Trials = _TRIALS
) -> tuple[NeighborIndex, str]:
    """Index the rows of a matrix.

    What "auto" chooses changes the time of a search, never its result, unless `spec` has a target
    recall below 1.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        The items: finite, at least one row, C-contiguous if dense. The index keeps the matrix
        itself, not a copy.
    spec : IndexSpec
        The metric, the algorithm and its options.
    trials : Trials, optional
        How "auto" finds the fastest algorithm.

    Returns
    -------
    index : NeighborIndex
        The index.
    reason : str
        Why it has this algorithm, in one sentence.

    Raises
    ------
    ValueError
        If the metric does not support the number of features or their values, or the algorithm does
        not support the metric.
    """
    spec.metric.check_dimension(matrix.shape[1])
    spec.metric.check_values(matrix)
    if spec.algorithm == "auto":
        index, reason = trials.fastest(matrix, spec)
        if spec.target_recall is not None:
            index, reason = within_recall(index, reason, spec, trials.timer, trials.sample_items)
    else:
        kind = class_for(spec.algorithm, spec.metric, spec.registered, storage_of(matrix))
        if issubclass(kind, ApproximateIndex):
            index = build_and_tell(kind, cast("NDArray[np.floating]", matrix), spec)
        else:
            index = kind.build(matrix, spec)
        reason = f"algorithm {spec.algorithm!r} was requested"
    # The knob, which is the detail of an approximate index, is chosen when its recall is measured.
    if index.detail and index.exact:
        reason += f"; {index.algorithm} searches {index.detail}"
    logger.info("indexed %d items of %d features: %s", *matrix.shape, reason)
    return index, reason


def _reason(costs: dict[str, float], how: str) -> str:
    fastest, *others = sorted(costs, key=lambda algorithm: costs[algorithm])
    slower = ", ".join(f"{each} {1e6 * costs[each]:.0f}" for each in others)
    fast = f"{1e6 * costs[fastest]:.0f}"
    return f"{fastest} is the fastest: {fast} us per query, {slower} ({how})"
