"""An index of items in groups: a query is compared with the items of its own groups only."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.found import Exclusion, Found, storage_of
from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.grouped.search import GroupSearch, Thresholds
from pyspark_knn.index.grouped.visits import Visits, lower_bounds
from pyspark_knn.index.hits import Hits, TooManyHits
from pyspark_knn.index.registry import class_for
from pyspark_knn.index.selection import nearest_first
from pyspark_knn.index.sparse.index import SparseIndex
from pyspark_knn.index.sparse.rows import offsets_of, ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.grouped.queries import GroupQueries

_LARGE_SHARE = 0.25
"""The algorithm that is fastest for the largest group is used for groups of this share of it."""

_QUERIES_PER_GROUP = 64
"""With more queries of each group at a time, a query takes no less time."""

_PRODUCTS_AT_ONCE = 1 << 32
"""Products of two numbers in a search of several batches of queries: a second or two."""

_THRESHOLDS = Thresholds()
"""What is fastest on random vectors."""


class GroupedIndex:
    """An index of items in groups, in which a search names the groups of each query.

    It is not a `NeighborIndex`, but has the same attributes. Its arrays may be read-only memory
    maps. Groups are searched in different ways, see `pyspark_knn.index.grouped.search`, which
    changes the time of a search, never its result.

    Parameters
    ----------
    search : GroupSearch
        The search of the groups, over the items in the order of their groups.
    metric : Metric
        The metric.
    positions : ndarray of shape (n_items,), dtype int64
        The position of each item: a permutation, in ascending order within a group.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Where the items of each group begin, and where the last ones end. No group is empty.
    algorithm : str
        The algorithm of the large groups.

    Attributes
    ----------
    metric : Metric
        The metric of the distances.
    algorithm : str
        The algorithm of the large groups; "brute" if there are none.
    exact : bool
        Whether every search returns the true nearest items.
    storage : {"dense", "sparse"}
        Whether the items and the queries are the rows of an ndarray, or `SparseRows`.
    n_features : int
        The dimension of the vectors.
    """

    def __init__(
        self,
        search: GroupSearch,
        metric: Metric,
        positions: NDArray[np.int64],
        starts: NDArray[np.int64],
        algorithm: str,
    ) -> None:
        self.metric = metric
        self.algorithm = algorithm
        self.exact = all(index.exact for index in search.large.values())
        self.storage = search.storage
        self.n_features = search.n_features
        self._search = search
        self._positions = positions
        self._starts = starts

    @classmethod
    def build(
        cls,
        matrix: Rows,
        positions: NDArray[np.int64],
        starts: NDArray[np.int64],
        spec: IndexSpec,
        thresholds: Thresholds = _THRESHOLDS,
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
            The metric, the algorithm of the large groups and its options.
        thresholds : Thresholds, optional
            Which groups are searched in which way.

        Returns
        -------
        index : GroupedIndex
            The index.
        reason : str
            Why the large groups have their algorithm, in one sentence.

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
        numbers = np.flatnonzero(sizes >= thresholds.large(metric))
        large: dict[int, NeighborIndex] = {}
        algorithm, reason = "brute", f"brute is fast enough for groups of up to {sizes.max()} items"
        if numbers.size:
            large, reason = _large_indexes(matrix, starts, numbers, spec)
            largest = int(sizes.argmax())
            algorithm = large[largest].algorithm
            reason = f"for the largest group, {sizes[largest]} items: {reason}"
        # Sparse indexes of groups are parts of one index, which the search makes when needed.
        large = {each: one for each, one in large.items() if not isinstance(one, SparseIndex)}
        search = GroupSearch(matrix, starts, metric, large, thresholds)
        return cls(search, metric, positions, starts, algorithm), reason

    @property
    def matrix(self) -> Rows:
        """The items, in the order of their groups."""
        return self._search.matrix

    @property
    def added_bytes(self) -> int:
        """See `NeighborIndex.added_bytes`."""
        return self._search.added_bytes

    @property
    def queries_at_once(self) -> int:
        """See `NeighborIndex.queries_at_once`.

        A product reads the items of a group once for all its queries. Other distances gain nothing.
        Groups that take long for each query are searched sooner, so that the first answers do not
        wait for many queries.
        """
        if not self._search.by_products:
            return 1
        sizes = self.sizes.astype(np.float64)
        products = self.n_features * (sizes @ sizes) / sizes.sum()
        return max(1, min(_QUERIES_PER_GROUP * self.n_groups, int(_PRODUCTS_AT_ONCE / products)))

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

    def groups_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the groups of items, given their positions."""
        groups: NDArray[np.int64] = np.searchsorted(
            self._starts, self._places[positions], side="right"
        )
        return groups - 1

    @functools.cached_property
    def _places(self) -> NDArray[np.int64]:
        """The row number of the item at each position: ndarray of shape (n_items,), dtype int64."""
        places = np.empty_like(self._positions)
        places[self._positions] = np.arange(len(places))
        return places

    def vectors(self, positions: slice | NDArray[np.int64]) -> Rows:
        """Return the vectors of some items.

        Parameters
        ----------
        positions : slice without a step, or ndarray, dtype int64
            The positions of the items.

        Returns
        -------
        ndarray or SparseRows
            Their vectors, in this order.
        """
        if isinstance(positions, slice):
            # Items are exported slice by slice, so a slice must not cost as much as all positions.
            start, stop, _ = positions.indices(len(self._positions))
            inside = (self._positions >= start) & (self._positions < stop)
            places = np.flatnonzero(inside)
            return self.matrix[places[np.argsort(self._positions[places])]]
        return self.matrix[self._places[positions]]

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, without the large groups' parts of the matrix."""
        self.__dict__.pop("_places", None)
        search = copy.copy(self._search)
        if search.large:
            nothing = self.matrix[:0]
            search.large = {each: one.over(nothing) for each, one in search.large.items()}
        return {**self.__dict__, "_search": search}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes, and the large groups' parts of the matrix."""
        self.__dict__.update(state)
        starts, large = self._starts, self._search.large
        if large:
            matrix = self.matrix
            for each, one in large.items():
                large[each] = one.over(matrix[starts[each] : starts[each + 1]])

    def search(
        self,
        queries: GroupQueries,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Found:
        """Return the k nearest items of each query among those of its groups.

        Parameters
        ----------
        queries : GroupQueries
            The queries and their groups.
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
        visits = self._visits(queries, exclude)
        # Lists of this many items are complete, so a larger k would only take memory.
        k = min(k, max(1, int(visits.sizes.sum())))
        found = self._search.run(queries.vectors, visits, k, max_distance)
        lists = Lists.joined(list(found))
        if max_distance is not None:
            lists = lists.within(max_distance)
        return _merged(len(queries), queries.rows, self._positions[lists.places], lists, k)

    def within(
        self,
        queries: GroupQueries,
        max_distance: float,
        *,
        exclude: Exclusion | None = None,
        after: NDArray[np.int64] | None = None,
        most: int | None = None,
    ) -> Found | None:
        """Return all items within a distance of each query among those of its groups.

        Parameters
        ----------
        queries : GroupQueries
            The queries and their groups.
        max_distance, exclude, after, most
            See `NeighborIndex.within`.

        Returns
        -------
        Found or None
            See `NeighborIndex.within`.
        """
        hits = Hits(len(queries), max_distance, after, most)
        places = None
        if after is not None:
            places = self._places_up_to(queries.groups, after[queries.rows])
        visits = self._visits(queries, exclude)
        try:
            for lists in self._search.run(queries.vectors, visits, None, max_distance, places):
                rows = np.repeat(queries.rows[lists.visits], lists.counts)
                hits.offer(rows, self._positions[lists.places], lists.distances)
        except TooManyHits:
            return None
        return hits.found()

    def _visits(self, queries: GroupQueries, exclude: Exclusion | None) -> Visits:
        return Visits.of(queries.rows, queries.groups, self._starts, self._positions, exclude)

    def _places_up_to(
        self, groups: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the place in each group of its last item up to a position; -1 if there is none."""
        starts = self._starts[groups]
        sizes = self._starts[groups + 1] - starts
        return lower_bounds(self._positions, starts, sizes, positions + 1) - 1


def _large_indexes(
    matrix: Rows, starts: NDArray[np.int64], numbers: NDArray[np.int64], spec: IndexSpec
) -> tuple[dict[int, NeighborIndex], str]:
    """Index the groups `numbers`; return the reason of the algorithm of the largest one too."""
    sizes = np.diff(starts)
    largest = int(sizes.argmax())
    best, reason = build_index(matrix[starts[largest] : starts[largest + 1]], spec)
    least = _LARGE_SHARE * sizes[largest] if spec.algorithm == "auto" else 0
    found = {}
    for number in numbers.tolist():
        algorithm = best.algorithm if sizes[number] >= least else "brute"
        items = matrix[starts[number] : starts[number + 1]]
        again = replace(spec, algorithm=algorithm)
        found[number] = best if number == largest else build_index(items, again)[0]
    return found, reason


def _merged(
    n_queries: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    lists: Lists,
    k: int,
) -> Found:
    """Merge the lists of the visits of each query, and keep the k nearest."""
    distances = lists.distances
    counts = np.bincount(rows, lists.counts, n_queries).astype(np.int64)
    if (rows[1:] == rows[:-1]).any():
        order = nearest_first(np.repeat(rows, lists.counts), positions, distances)
        kept = order[ranges(offsets_of(counts)[:-1], np.minimum(counts, k))]
        counts = np.minimum(counts, k)
        positions, distances = positions[kept], distances[kept]
    return Found(offsets_of(counts), distances, positions)
