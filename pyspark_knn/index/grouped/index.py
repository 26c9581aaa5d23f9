"""An index of items in groups: a query is compared with the items of its own groups only."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import Exclusion, Found, IndexSpec, storage_of
from pyspark_knn.index.grouped.items import DenseItems, SparseItems
from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.grouped.pairs import compare_pairs
from pyspark_knn.index.grouped.tables import TableSearch
from pyspark_knn.index.grouped.visits import Visits
from pyspark_knn.index.registry import class_for
from pyspark_knn.index.score_space import has_scores, score_space
from pyspark_knn.index.selection import nearest_first
from pyspark_knn.index.sparse.rows import offsets_of, ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex, Rows
    from pyspark_knn.index.distances import Metric

_LARGE_ITEMS = 1 << 14
"""Items from which on a group has an index of its own."""

_LARGE_SHARE = 0.25
"""The algorithm that is fastest for the largest group is used for groups of this share of it."""

_TABLE_WORK = 3000
"""Products of all pairs of a group start to be faster than their distances at this number of pairs,
times 8 more than the features."""


class GroupedIndex:
    """An index of items in groups, in which a search names the groups of each query.

    Small groups are searched by the distances of all pairs, larger ones by products, and each of
    the large ones has an index of its own. This changes the time of a search, never its result.

    Its arrays may be read-only memory maps, as those of `NeighborIndex`.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        The items, in the order of their groups.
    positions : ndarray of shape (n_items,), dtype int64
        The position of each item: a permutation, in ascending order within a group.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Where the items of each group begin, and where the last ones end. No group is empty.
    metric : Metric
        The metric.
    large : dict of int to NeighborIndex
        The indexes of the large groups, in ascending order of the group.
    algorithm : str
        The algorithm of the largest group.
    table_work : float, default=_TABLE_WORK
        Pairs of a group times features from which on the group is searched by products.

    Attributes
    ----------
    metric : Metric
        The metric of the distances.
    algorithm : str
        The algorithm of the largest group; "brute" if no group is large.
    exact : bool
        Whether every search returns the true nearest items.
    storage : {"dense", "sparse"}
        Whether the items and the queries are the rows of an ndarray, or `SparseRows`.
    n_features : int
        The dimension of the vectors.
    """

    def __init__(
        self,
        matrix: Rows,
        positions: NDArray[np.int64],
        starts: NDArray[np.int64],
        metric: Metric,
        large: dict[int, NeighborIndex],
        algorithm: str = "brute",
        *,
        table_work: float = _TABLE_WORK,
    ) -> None:
        self.metric = metric
        self.algorithm = algorithm
        self.exact = all(index.exact for index in large.values())
        self.storage = storage_of(matrix)
        self.n_features = int(matrix.shape[1])
        self._positions = positions
        self._starts = starts
        self._large = large
        self._table_work = table_work
        self._items: DenseItems | SparseItems
        self._tables: TableSearch | None = None
        if not isinstance(matrix, np.ndarray):
            self._items = SparseItems(matrix, metric)
            return
        self._items = DenseItems(matrix, metric)
        if has_scores(metric):
            space = score_space(metric, matrix)
            self._tables = TableSearch(matrix, space) if np.float32 in space.dtypes else None

    @classmethod
    def build(
        cls,
        matrix: Rows,
        positions: NDArray[np.int64],
        starts: NDArray[np.int64],
        spec: IndexSpec,
        *,
        large_items: int = _LARGE_ITEMS,
        table_work: float = _TABLE_WORK,
    ) -> tuple[GroupedIndex, str]:
        """Index items in groups.

        Parameters
        ----------
        matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
            The items, in the order of their groups and, within a group, of their positions; finite,
            at least one row, C-contiguous if dense. The index keeps the matrix itself, not a copy.
        positions : ndarray of shape (n_items,), dtype int64
            The position of each item: a permutation, in ascending order within a group.
        starts : ndarray of shape (n_groups + 1,), dtype int64
            Where the items of each group begin, and where the last ones end. No group is empty.
        spec : IndexSpec
            The metric, the algorithm of large groups and its options.
        large_items : int, default=_LARGE_ITEMS
            The number of items from which on a group has an index of its own.
        table_work : float, default=_TABLE_WORK
            See the class.

        Returns
        -------
        index : GroupedIndex
            The index.
        reason : str
            Why its large groups have their algorithm, in one sentence.

        Raises
        ------
        ValueError
            If the metric does not support the number of features or their values, or the algorithm
            does not support the metric.
        """
        metric = spec.metric
        metric.check_dimension(matrix.shape[1])
        metric.check_values(matrix)
        if spec.algorithm != "auto":
            class_for(spec.algorithm, metric, spec.registered, storage_of(matrix))
        sizes = np.diff(starts)
        numbers = np.flatnonzero(sizes >= large_items)
        if numbers.size == 0:
            index = cls(matrix, positions, starts, metric, {}, table_work=table_work)
            return index, f"brute is fast enough for groups of up to {sizes.max()} items"
        largest = int(numbers[sizes[numbers].argmax()])
        best, reason = build_index(matrix[starts[largest] : starts[largest + 1]], spec)
        least = _LARGE_SHARE * sizes[largest] if spec.algorithm == "auto" else 0
        large = {}
        for number in numbers.tolist():
            algorithm = best.algorithm if sizes[number] >= least else "brute"
            items = matrix[starts[number] : starts[number + 1]]
            if number == largest:
                large[number] = best
            else:
                large[number], _ = build_index(items, replace(spec, algorithm=algorithm))
        index = cls(matrix, positions, starts, metric, large, best.algorithm, table_work=table_work)
        return index, f"of the largest group, {sizes[largest]} items: {reason}"

    @property
    def matrix(self) -> Rows:
        """The items, as passed to `build`."""
        return self._items.matrix

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return len(self._starts) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of items of each group: ndarray of shape (n_groups,), dtype int64."""
        return np.diff(self._starts)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The position of the item of each row of `matrix`, as passed to `build`."""
        return self._positions

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the items of each group begin and the last ones end, as passed to `build`."""
        return self._starts

    def vectors(self, positions: slice | NDArray[np.int64]) -> Rows:
        """Return the vectors of some items.

        Parameters
        ----------
        positions : slice or ndarray, dtype int64
            The positions of the items.

        Returns
        -------
        ndarray or SparseRows
            Their vectors, in this order.
        """
        places = np.empty_like(self._positions)
        places[self._positions] = np.arange(len(places))
        return self.matrix[places[positions]]

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, without the large groups' parts of the matrix."""
        nothing = self.matrix[:0]
        large = {number: index.over(nothing) for number, index in self._large.items()}
        return {**self.__dict__, "_large": large}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes, and the large groups' parts of the matrix."""
        self.__dict__.update(state)
        matrix, starts = self.matrix, self._starts
        self._large = {
            number: index.over(matrix[starts[number] : starts[number + 1]])
            for number, index in self._large.items()
        }

    def search(
        self,
        queries: Any,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Found:
        """Return the k nearest items of each query among those of its groups.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            The queries, as `storage` says: finite, C-contiguous if dense; may be read-only, and may
            have zero rows.
        rows, groups : ndarray of shape (n_visits,), dtype int64
            The groups of the queries: query ``rows[i]`` is compared with the items of group
            ``groups[i]``. Rows are in ascending order, and no pair occurs twice. A query may have
            any number of groups.
        k : int
            The number of neighbors of a query, at least 1.
        max_distance : float, optional
            The largest distance of a neighbor, inclusive. Items farther than this are not returned.
        exclude : Exclusion, optional
            Pairs of a query and the position of an item that must not be returned. They do not
            count towards k.

        Returns
        -------
        Found
            The neighbors of all queries, ordered by distance, then by position. Distances are equal
            to the last bit to those of `pyspark_knn.index.distances`.
        """
        if not len(rows):
            return Found(np.zeros(len(queries) + 1, np.int64), np.zeros(0), np.zeros(0, np.int64))
        visits = Visits.of(rows, groups, self._starts, self._positions, exclude)
        # Lists of this many items are complete, so a larger k would only take memory.
        k = min(k, int(visits.sizes.sum()))
        lists = Lists.joined(self._search(queries, visits, k, max_distance))
        if max_distance is not None:
            lists = lists.within(max_distance)
        return self._found(len(queries), rows, lists, k)

    def _search(
        self, queries: Any, visits: Visits, k: int, max_distance: float | None
    ) -> list[Lists]:
        """Search all visits, each in the way that is fastest for its group."""
        large = np.isin(visits.groups, np.fromiter(self._large, np.int64))
        by_table = np.zeros(len(visits), bool)
        if self._tables is not None:
            runs = np.diff(visits.runs())
            work = visits.sizes * np.repeat(runs, runs) * (self.n_features + 8)
            by_table = ~large & (work >= self._table_work)
        distances = self._items.distances(queries)
        part = visits.take(np.flatnonzero(~(large | by_table)))
        found = compare_pairs(part, distances, k)
        if self._tables is not None:
            part = visits.take(np.flatnonzero(by_table))
            found += self._tables.search(queries, part, distances, k)
        part = visits.take(np.flatnonzero(large))
        runs = part.runs()
        for first, last in itertools.pairwise(runs):
            found.append(
                self._search_large(queries, part.take(slice(first, last)), k, max_distance)
            )
        return found

    def _search_large(
        self, queries: Any, visits: Visits, k: int, max_distance: float | None
    ) -> Lists:
        """Search a group that has an index of its own."""
        number, start = int(visits.groups[0]), int(visits.starts[0])
        exclude = None
        if visits.excluded.size:
            order = np.argsort(visits.excluded[1], kind="stable")
            exclude = Exclusion(*visits.excluded[:, order])
        found = self._large[number].search(
            queries[visits.rows],
            min(k, int(visits.sizes[0])),
            max_distance=max_distance,
            exclude=exclude,
        )
        counts = np.diff(found.offsets)
        return Lists(visits.numbers, counts, found.positions + start, found.distances)

    def _found(self, n_queries: int, rows: NDArray[np.int64], lists: Lists, k: int) -> Found:
        """Merge the lists of the visits of each query."""
        positions, distances = self._positions[lists.places], lists.distances
        counts = np.bincount(rows, lists.counts, n_queries).astype(np.int64)
        if (rows[1:] == rows[:-1]).any():
            order = nearest_first(np.repeat(rows, lists.counts), positions, distances)
            kept = ranges(offsets_of(counts)[:-1], np.minimum(counts, k))
            counts = np.minimum(counts, k)
            positions, distances = positions[order[kept]], distances[order[kept]]
        return Found(offsets_of(counts), distances, positions)
