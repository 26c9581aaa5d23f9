"""Brute force for metrics that are not matrix products: the distance of every pair, in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.brute_force import BruteForce
from pyspark_knn.index.buffers import short_buffers
from pyspark_knn.index.equal_rows import search_each_once
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.kernels import KERNELS, SET_METRICS, set_distance
from pyspark_knn.index.selection import (
    NearestSoFar,
    exclusion_of,
    exclusion_of_items,
    search_in_blocks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.hits import Hits

_BLOCK_PAIRS = 1 << 18
"""Pairs of a query and an item in a block. Their distances take 2 MiB."""

_SET_PAIRS = 1 << 15
"""Pairs of sets whose distances are computed at a time. Each array takes 256 KiB, so that they stay
in the cache."""

_FIRST_ITEMS = 256
"""Items in the first block, at least 4 k. Each block has twice the items of the one before."""

_TIES = 2
"""If more pairs of a query than this times k are left, ties among them are cut off."""

_BLOCK_QUERIES = 256
"""The largest number of queries in a block."""


class PairwiseSearch(BruteForce):
    """Brute-force search that computes the distance of every pair. Supports every metric.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items, which the index keeps as they are.
    metric : Metric
        The metric.
    block_pairs : int, default=_BLOCK_PAIRS
        Pairs of a query and an item in a block.
    block_queries : int, default=_BLOCK_QUERIES
        The largest number of queries in a block.
    """

    metrics: ClassVar[frozenset[str]] = frozenset(KERNELS)

    def __init__(
        self,
        matrix: NDArray[np.floating],
        metric: Metric,
        *,
        block_pairs: int = _BLOCK_PAIRS,
        block_queries: int = _BLOCK_QUERIES,
    ) -> None:
        super().__init__(matrix, metric)
        self._block_pairs = block_pairs
        self._block_queries = block_queries

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> PairwiseSearch:
        """Return an index that keeps the items as they are."""
        return cls(matrix, spec.metric)

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        step = max(1, min(self._block_queries, self._block_pairs // k))

        def search(some: NDArray[np.floating]) -> Neighbors:
            return search_in_blocks(self._search, some, k, max_distance, exclude, step)

        if self._metric.compares_sets and exclude is None:
            return search_each_once(search, queries, queries != 0)
        return search(queries)

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        least = least_figures(self._metric, queries)
        widest = max(1, self._block_pairs // max(1, len(queries)))
        rows, start, step = np.arange(len(queries)), 0, min(widest, max(_FIRST_ITEMS, 4 * k))
        while rows.size and start < len(self._matrix):
            stop = min(start + step, len(self._matrix))
            distances = block_distances(self._metric, queries[rows], self._matrix[start:stop])
            excluded = exclusion_of(exclude, rows)
            part = None if excluded is None else exclusion_of_items(excluded, start, stop)
            allowed = _allowed(distances, best, rows, part)
            near, columns = np.nonzero(allowed)
            best.offer(rows[near], columns + start, distances[near, columns])
            # Items of later positions lose ties, so that no item can be nearer.
            rows = rows[~(best.distances[rows, -1] <= least[rows])]
            start, step = stop, min(2 * step, widest)
        return best.neighbors()

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        self.compare_all(queries, np.arange(len(queries)), exclude, hits)

    def compare_all(
        self,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        hits: Hits,
    ) -> None:
        """Find the hits of some queries by comparing them with every item.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            All queries.
        rows : ndarray of shape (n_rows,), dtype int64
            The row numbers of those to compare, in ascending order.
        exclude : Exclusion or None
            Pairs of all queries that are no hits.
        hits : Hits
            The hits of all queries.
        """
        for begin in range(0, len(rows), self._block_queries):
            part = rows[begin : begin + self._block_queries]
            excluded = exclusion_of(exclude, part)
            step = max(1, self._block_pairs // len(part))
            for start in range(hits.first(part), len(self._matrix), step):
                stop = min(start + step, len(self._matrix))
                distances = block_distances(self._metric, queries[part], self._matrix[start:stop])
                near = distances <= hits.limit
                if excluded is not None:
                    pairs = exclusion_of_items(excluded, start, stop)
                    near[pairs.rows, pairs.positions] = False
                at, columns = np.nonzero(near)
                hits.offer(part[at], columns + start, distances[at, columns])


def search_rest(
    index: NeighborIndex,
    queries: NDArray[np.floating],
    rows: NDArray[np.int64],
    best: NearestSoFar,
    max_distance: float | None,
    exclude: Exclusion | None,
) -> None:
    """Set the neighbors of the queries that an index cannot search in its own way.

    Parameters
    ----------
    index : NeighborIndex
        The items and the metric.
    queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
        All queries.
    rows : ndarray of shape (n_rows,), dtype int64
        The row numbers of those to search, in ascending order; may be empty.
    best : NearestSoFar
        The neighbors of all queries, updated in place.
    max_distance : float or None
        The largest distance of a neighbor.
    exclude : Exclusion or None
        Pairs of all queries that must not be found.
    """
    if not rows.size:
        return
    found = PairwiseSearch(index.matrix, index.metric).kneighbors(
        queries[rows],
        best.distances.shape[1],
        max_distance=max_distance,
        exclude=exclusion_of(exclude, rows),
    )
    best.replace(rows, found)


def _allowed(
    distances: NDArray[np.float64],
    best: NearestSoFar,
    rows: NDArray[np.int64],
    exclude: Exclusion | None,
) -> NDArray[np.bool_]:
    """Return which pairs of a block may be among the nearest; it has the items that come next."""
    k = best.distances.shape[1]
    last, limits = best.distances[rows, -1], best.limits()[rows]
    excluding = np.zeros(0, np.int64) if exclude is None else np.unique(exclude.rows)
    if k < distances.shape[1] and np.isinf(limits).any():
        kth = np.partition(distances, k - 1, axis=1)[:, k - 1]
        # The k-th distance counts excluded items, so it does not hold for these queries.
        kth[excluding] = np.inf
        # A pair without a distance is NaN, which sorts last, and `fmin` ignores.
        limits = np.fmin(limits, kth)
    allowed = distances <= limits[:, None]
    # At the distance of the last neighbor, an item of a later position comes after it.
    full = (last < np.inf) & (last <= limits)
    allowed[full] = distances[full] < last[full, None]
    if exclude is not None:
        allowed[exclude.rows, exclude.positions] = False
    crowded = np.flatnonzero(np.count_nonzero(allowed, axis=1) > _TIES * k)
    if crowded.size:
        ties = allowed[crowded] & (distances[crowded] == limits[crowded, None])
        # Of the items at the limit, only the first ones can be neighbors.
        allowed[crowded] &= ~(ties & (np.cumsum(ties, axis=1, dtype=np.int32) > k))
    return allowed


def least_figures(metric: Metric, queries: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a distance for each query that no item is nearer than.

    Parameters
    ----------
    metric : Metric
        The metric.
    queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
        The queries.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The distances.
    """
    if metric.name == "inner_product":
        return np.full(len(queries), -np.inf)
    if metric.compares_sets:
        sizes = np.count_nonzero(queries, axis=1).astype(np.float64)
        return set_distance(metric.name, sizes, sizes, sizes, queries.shape[1])
    return np.zeros(len(queries))


def block_distances(
    metric: Metric, queries: NDArray[np.floating], items: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the distances of all pairs of a query and an item, as `Metric.distances` does.

    Parameters
    ----------
    metric : Metric
        The metric.
    queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
        The queries.
    items : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.

    Returns
    -------
    ndarray of shape (n_queries, n_items), dtype float64
        The distances.
    """
    if metric.name in SET_METRICS:
        return _set_distances(metric, queries, items)
    rows = np.repeat(np.arange(len(queries)), len(items))
    positions = np.tile(np.arange(len(items)), len(queries))
    return metric.distances(queries, items, rows, positions).reshape(len(queries), len(items))


def _set_distances(
    metric: Metric, queries: NDArray[np.floating], items: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Compute distances of sets from the sizes of intersections, a matrix product of 0 and 1.

    The sums are integers of at most n_features, which are exact in float32 up to 2**24 and in
    float64 up to 2**53, so every order of summation gives the same distance.
    """
    dtype = np.float32 if queries.shape[1] < 1 << 24 else np.float64
    left, right = (queries != 0).astype(dtype), (items != 0).astype(dtype)
    both = left @ right.T
    one, other = (np.count_nonzero(side, axis=1).astype(np.float64) for side in (left, right))
    result = np.empty(both.shape)
    step = max(1, _SET_PAIRS // max(1, len(items)))
    with short_buffers():
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            wide = both[part].astype(np.float64)
            sizes = one[part, None], other, queries.shape[1]
            result[part] = set_distance(metric.name, wide, *sizes)
    return result
