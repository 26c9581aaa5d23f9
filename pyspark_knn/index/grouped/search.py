"""How the groups of a search are searched: each in the way that is fastest for it.

1. Small groups, by the distances of all pairs of a query and an item (`pairs`).
2. Groups with more work to do, by products (`tables`), if the metric has scores.
3. Groups that have an index of their own, by this index. Where it takes no time to make one, it is
   made for a single search: of sparse vectors, of sets, of vectors with missing values, and where
   products rule out too few items.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyspark_knn.index.found import storage_of
from pyspark_knn.index.grouped.items import DenseItems, SparseItems
from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.grouped.pairs import compared_pairs
from pyspark_knn.index.grouped.tables import TableSearch
from pyspark_knn.index.score_spaces import has_scores, score_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Found, Rows
    from pyspark_knn.index.grouped.visits import Visits

_COSTS = {"cosine": 8, "correlation": 16}
"""The time that the distance of a pair takes, as a multiple of that of a euclidean distance."""


@dataclass(frozen=True)
class Thresholds:
    """From which sizes on groups are searched in another way.

    Attributes
    ----------
    large_items : int
        Items from which on a group has an index of its own, where products are fast.
    large_pairwise_items : int
        The same for metrics without scores: `auto` does not time searches of fewer items.
    table_work : float
        Items of a group beyond k, times 8 more than the features, from which on products are faster
        than distances.
    copied_work : float
        Pairs of a query and an item of one group, times 32 more than the features, up to which the
        items are copied for each query, so that numpy is not called for each group.
    alone_pairs : float
        Pairs of a query and an item of one group from which on an index is made for one search,
        where the metric has no products.
    missing_work : float
        The same of vectors with missing values, times 8 more than the features ...
    missing_queries : int
        ... and the queries of one group that it takes besides, since an index of the group is made.
    """

    large_items: int = 1 << 14
    large_pairwise_items: int = 1 << 11
    table_work: float = 500
    copied_work: float = 12_000
    alone_pairs: float = 1000
    missing_work: float = 150_000
    missing_queries: int = 5

    def large(self, metric: Metric) -> int:
        """Return from how many items on a group has an index of its own."""
        return self.large_items if has_scores(metric) else self.large_pairwise_items


class GroupSearch:
    """The search of the groups of an index.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        The items, in the order of their groups.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Where the items of each group begin, and where the last ones end. No group is empty.
    metric : Metric
        The metric.
    large : dict of int to NeighborIndex
        The groups that have an index of their own.
    thresholds : Thresholds
        How the other groups are searched.

    Attributes
    ----------
    storage : {"dense", "sparse"}
        How the items are stored.
    n_features : int
        The dimension of the vectors.
    """

    def __init__(
        self,
        matrix: Rows,
        starts: NDArray[np.int64],
        metric: Metric,
        large: dict[int, NeighborIndex],
        thresholds: Thresholds,
    ) -> None:
        self.large = large
        self.storage = storage_of(matrix)
        self.n_features = int(matrix.shape[1])
        self._work = (self.n_features + 8) * _COSTS.get(metric.name, 1)
        self._thresholds = thresholds
        self._makes_indexes = not isinstance(matrix, np.ndarray) or metric.compares_sets
        self._missing = metric.allows_missing
        self._items: DenseItems | SparseItems
        self._tables: TableSearch | None = None
        if not isinstance(matrix, np.ndarray):
            self._items = SparseItems(matrix, metric)
            return
        self._items = DenseItems(matrix, metric)
        if has_scores(metric):
            space = score_space(metric, matrix)
            if np.float32 in space.dtypes:
                self._tables = TableSearch(matrix, space, starts, thresholds.copied_work)

    @property
    def added_bytes(self) -> int:
        """The bytes of the large groups' own indexes, beside the items."""
        return sum(each.added_bytes for each in self.large.values())

    @property
    def by_products(self) -> bool:
        """Whether products rule out items, which takes less for each of more queries of a group."""
        return self._tables is not None

    @property
    def matrix(self) -> Rows:
        """The items."""
        return self._items.matrix

    def run(
        self,
        queries: Any,
        visits: Visits,
        k: int | None,
        limit: float | None,
        after: NDArray[np.int64] | None = None,
    ) -> Iterator[Lists]:
        """Search all visits.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        visits : Visits
            The queries and their groups.
        k : int or None
            The number of neighbors of a visit; None: all within the limit.
        limit : float or None
            The largest distance of interest, inclusive.
        after : ndarray of shape (n_visits,), dtype int64, optional
            If `k` is None, the items of each group up to this place need not be found.

        Yields
        ------
        Lists
            The k nearest items of some visits, or all. At least those within the limit are there.
        """
        distances = self._items.distances(queries)
        alone, by_table = self._ways(visits, k)
        for lists in compared_pairs(visits.take(np.flatnonzero(~(alone | by_table))), distances):
            yield lists if k is None else lists.nearest(k)
        if self._tables is not None and by_table.any():
            part = np.flatnonzero(by_table)
            found = self._tables.search(queries, visits.take(part), distances, k, limit)
            for lists, crowded in found:
                alone[part[crowded]] = True
                yield lists
        rest = visits.take(np.flatnonzero(alone))
        for first, last in itertools.pairwise(rest.runs()):
            each = rest.take(slice(first, last))
            index = self._index_of(each)
            if k is not None:
                yield _nearest(index, queries[each.rows], each, k, limit)
            else:
                yield _within(index, queries[each.rows], each, limit, after)

    def _ways(self, visits: Visits, k: int | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which visits are searched by an index of one group, and which by tables."""
        runs = visits.runs()
        counts = np.diff(runs)
        groups, sizes = visits.groups[runs[:-1]], visits.sizes[runs[:-1]]
        pairs = sizes * counts
        large = np.isin(groups, np.fromiter(self.large, np.int64))
        by_table = np.zeros(len(groups), bool)
        if self._tables is not None:
            # The distances of k items are computed in any case.
            rest = np.maximum(sizes - (k or 0), 0)
            by_table = ~large & (rest * self._work >= self._thresholds.table_work)
        elif self._makes_indexes:
            large |= pairs >= self._thresholds.alone_pairs
        elif self._missing:
            enough = pairs * self._work >= self._thresholds.missing_work
            large |= enough & (counts >= self._thresholds.missing_queries)
        return np.repeat(large, counts), np.repeat(by_table, counts)

    def _index_of(self, visits: Visits) -> NeighborIndex:
        """Return the index of a group: its own, or one that is made for this search."""
        start, size = int(visits.starts[0]), int(visits.sizes[0])
        index = self.large.get(int(visits.groups[0]))
        return self._items.index(slice(start, start + size)) if index is None else index


def _nearest(
    index: NeighborIndex, queries: Any, visits: Visits, k: int, limit: float | None
) -> Lists:
    """Search the index of a group for the nearest items."""
    k = min(k, int(visits.sizes[0]))
    found = index.search(queries, k, max_distance=limit, exclude=visits.exclusion())
    return _lists(visits, found)


def _within(
    index: NeighborIndex,
    queries: Any,
    visits: Visits,
    limit: float | None,
    after: NDArray[np.int64] | None,
) -> Lists:
    """Search the index of a group for all items within a distance."""
    if after is not None:
        after = after[visits.numbers]
    farthest = np.inf if limit is None else limit
    found = index.within(queries, farthest, exclude=visits.exclusion(), after=after)
    return _lists(visits, cast("Found", found))


def _lists(visits: Visits, found: Found) -> Lists:
    places = found.positions + int(visits.starts[0])
    return Lists(visits.numbers, np.diff(found.offsets), places, found.distances)
