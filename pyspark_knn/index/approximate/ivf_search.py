"""The search of inverted lists: the same neighbors of a query in every batch.

Of equally distant items FAISS keeps the first, so the order of the lists matters, too: they are
searched in the order of their numbers. Where the distances prove which items are the nearest, the
order does not matter. These are searched from the nearest list on, which takes less time, since
most items of the other lists are no candidates then.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.ivf_bounds import (
    COMPARED_FLOATS,
    apart,
    bounds,
    separated,
    sizes_within,
    squared_distances,
    squared_norms,
)
from pyspark_knn.index.approximate.ivf_centroids import Centroids
from pyspark_knn.index.approximate.ivf_estimates import Estimates
from pyspark_knn.index.approximate.ivf_products import ListProducts
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.approximate.search import Certain
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    CoordinatesOf = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_TRIED = 256
"""Queries that show for how many the candidates are certain."""

_TRIED_BY_PRODUCTS, _TRIED_FOR_LIMITS = 32, 64
"""The same for products, without and with limits: their time is lost where they prove little."""

_WORTHWHILE, _NEARLY_ALL = 0.5, 0.9
"""The share of these queries for which products must prove something, and the share from which on
they need no further candidates."""

_RANKED = 6
"""Further candidates that are ranked where products do not tell which are the nearest."""


class ListSearch:
    """Lists, and the search for the nearest of their centroids.

    Parameters
    ----------
    lists : faiss.IndexIVF
        The lists.
    """

    def __init__(self, lists: Any) -> None:
        self.lists = lists
        self.centroids = Centroids(lists.quantizer)
        self._products = ListProducts(lists)

    def candidates(
        self, queries: NDArray[np.float32], many: int, nprobe: int, items: CoordinatesOf | None
    ) -> NDArray[np.int64]:
        """Return the nearest items in the nearest lists.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        many : int
            The number of items to return for a query.
        nprobe : int
            The number of lists to search, at most all.
        items : callable or None
            Returns the coordinates of items, given their positions; None if they may have other
            last bits than those in the lists.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            The positions of the items, about the nearest first; -1 where there are no more.
        """
        chosen, centroid_squares = self.centroids.nearest(queries, nprobe)
        found = np.empty((len(queries), many), np.int64)
        rest = np.arange(len(queries))
        tried = self._tried(queries, chosen, many + _RANKED + 1)
        alone, with_more = (
            self._proved(queries, tried, many, each) for each in (many, many + _RANKED)
        )
        more = _RANKED if items is not None and alone < _NEARLY_ALL else 0
        if max(alone, with_more if more else 0.0) >= _WORTHWHILE:
            most = self._most(chosen, centroid_squares, tried, many)
            found[:], sure = self._nearest_by_products(queries, chosen, most, many, more, items)
            rest = np.flatnonzero(~sure)
        if rest.size:
            # FAISS keeps the first of equally distant items, so the order of the lists matters.
            lists, first = np.sort(chosen[rest], axis=1), chosen[rest, 0]
            found[rest] = self._scanned(queries[rest], lists, first, many)[0]
        return found

    def _nearest_by_products(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        most: NDArray[np.float32] | None,
        many: int,
        more: int,
        items: CoordinatesOf | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the nearest items, and for which queries it is proved that FAISS finds the same.

        Where products leave it open, distances may tell them from `more` further ones.
        """
        kept = many + more
        dim = queries.shape[1]
        positions, squares, sizes = self._products.nearest(queries, chosen, kept + 1, most)
        sure = apart(squares[:, many - 1], squares[:, many], sizes, dim)
        if items is None or not more:
            return positions[:, :many], sure
        for rows in _blocks(np.flatnonzero(~sure), kept * queries.shape[1]):
            near = positions[rows, :kept]
            ranked = _squares(queries[rows], near, items)
            order = np.argsort(ranked, axis=1)
            ranked = np.take_along_axis(ranked, order, axis=1)
            proved = separated(ranked[:, many - 1], ranked[:, many], queries.shape[1])
            proved &= _beyond(ranked[:, many - 1], squares[rows, kept], sizes[rows], dim)
            sure[rows] = proved
            positions[rows, :kept] = np.take_along_axis(near, order, axis=1)
        return positions[:, :many], sure

    def certain(
        self,
        queries: NDArray[np.float32],
        many: int,
        nprobe: int,
        items: CoordinatesOf,
        spare: int,
    ) -> list[Certain]:
        """Return candidates that need not be ranked among others, where this is proved.

        Parameters
        ----------
        queries, many, nprobe
            See `candidates`.
        items : callable
            Returns the coordinates of items, given their positions.
        spare : int
            The number of candidates beyond `many` that are ranked where nothing is proved.

        Returns
        -------
        list of Certain
            Candidates of some queries, which contain the nearest `many` items of these lists.
        """
        chosen, centroid_squares = self.centroids.nearest(queries, nprobe)
        found: list[Certain] = []
        rest = np.arange(len(queries))
        tried = self._tried(queries, chosen, many + spare + 1)
        if self._proved(queries, tried, many, many + spare) >= _WORTHWHILE:
            most = self._most(chosen, centroid_squares, tried, many)
            found = self._certain_by_products(queries, chosen, most, many, items, spare)
            left = np.ones(len(queries), bool)
            for each in found:
                left[each.rows] = False
            rest = np.flatnonzero(left)
        n_tried = n_sure = 0
        # With many equal distances few queries are certain: the first ones show that.
        for rows in (rest[:_TRIED], rest[_TRIED:]):
            if not rows.size or 2 * n_sure < n_tried:
                break
            lists = chosen[rows]
            positions, squares = self._scanned(queries[rows], lists, lists[:, 0], many + 1)
            sure = positions[:, many - 1] >= 0
            sure &= separated(squares[:, many - 1], squares[:, many], queries.shape[1])
            found.append(Certain(rows[sure], positions[sure, :many]))
            n_tried, n_sure = len(rows), int(sure.sum())
        return found

    def _certain_by_products(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        most: NDArray[np.float32] | None,
        many: int,
        items: CoordinatesOf,
        spare: int,
    ) -> list[Certain]:
        """Return candidates of the queries for which products prove that they are right.

        Where products leave open which of the candidates are the nearest, these are ranked. No more
        of them than where nothing is proved: of so many, FAISS finds the same neighbors.
        """
        kept = many + spare
        dim = queries.shape[1]
        positions, squares, sizes = self._products.nearest(queries, chosen, kept + 1, most)
        sure = apart(squares[:, many - 1], squares[:, many], sizes, dim)
        found = [Certain(np.flatnonzero(sure), positions[sure, :many])]
        for rows in _blocks(np.flatnonzero(~sure), kept * queries.shape[1]):
            near = positions[rows, :kept]
            ranked = _squares(queries[rows], near, items)
            nearest = np.partition(ranked, many - 1, axis=1)[:, many - 1]
            proved = _beyond(nearest, squares[rows, kept], sizes[rows], dim)
            found.append(Certain(rows[proved], near[proved]))
        return found

    def _tried(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64], many: int
    ) -> NDArray[np.float32]:
        """Return the squared distances that FAISS finds for the first queries.

        They show how much products prove. For no queries if products would take longer anyway.
        """
        if not self._products.pay(chosen.size):
            return np.empty((0, many), np.float32)
        limited = self._products.allows_limits(chosen.size)
        some = slice(0, _TRIED_FOR_LIMITS if limited else _TRIED_BY_PRODUCTS)
        return self._scanned(queries[some], chosen[some], chosen[some, 0], many)[1]

    def _proved(
        self, queries: NDArray[np.float32], tried: NDArray[np.float32], near: int, far: int
    ) -> float:
        """Return the share of the tried queries for which products are precise enough.

        Products must tell the nearest `near` items from those beyond the nearest `far`.
        """
        if not len(tried):
            return 0.0
        sizes = sizes_within(tried[:, far], squared_norms(queries[: len(tried)]))
        return float(_beyond(tried[:, near - 1], tried[:, far], sizes, queries.shape[1]).mean())

    def _most(
        self,
        chosen: NDArray[np.int64],
        centroid_squares: NDArray[np.float32],
        tried: NDArray[np.float32],
        many: int,
    ) -> NDArray[np.float32] | None:
        """Return about the squared distance of the item after the nearest ones of each query.

        None: it is not known well enough, or it would save no time.
        """
        if not self._products.allows_limits(chosen.size):
            return None
        return self._estimates.limits(chosen, centroid_squares, many + 1, tried[:, many])

    @functools.cached_property
    def _estimates(self) -> Estimates:
        """How far neighbors are, made by the first search with limits."""
        return Estimates(self.centroids.vectors, self._products.items)

    def _scanned(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        first: NDArray[np.int64],
        many: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest items in the chosen lists, and their squared distances.

        Queries with equal `first` are searched one after the other: their lists are in the cache.
        """
        faiss = load_library("faiss")
        order = by_row(first)
        inputs = queries[order], chosen[order], np.zeros(chosen.shape, np.float32)
        outputs = (
            np.empty((len(queries), many), np.float32),
            np.empty((len(queries), many), np.int64),
        )
        # The method of Python ignores `params`. Pointers do not keep arrays alive: all have names.
        rows, numbers, unused, squares, positions = map(faiss.swig_ptr, (*inputs, *outputs))
        params = faiss.SearchParametersIVF(nprobe=chosen.shape[1])
        self.lists.search_preassigned_c(
            len(queries), rows, many, numbers, unused, squares, positions, False, params
        )
        found = np.empty_like(outputs[1]), np.empty_like(outputs[0])
        found[0][order], found[1][order] = outputs[1], outputs[0]
        return found


def _blocks(rows: NDArray[np.int64], n_floats: int) -> Iterator[NDArray[np.int64]]:
    """Yield some rows at a time, each of which has so many numbers."""
    step = max(1, COMPARED_FLOATS // n_floats)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _squares(
    queries: NDArray[np.float32], positions: NDArray[np.int64], items: CoordinatesOf
) -> NDArray[np.float64]:
    """Return the squared distances of the items of each query in float64; inf for no item."""
    vectors = items(positions.ravel()).reshape(*positions.shape, -1)
    squares = squared_distances(queries, vectors)
    squares[positions < 0] = np.inf
    return squares


def _beyond(
    near: NDArray[np.floating],
    far: NDArray[np.floating],
    sizes: NDArray[np.float64],
    n_coordinates: int,
) -> NDArray[np.bool_]:
    """Return where an item is proved to be beyond another one.

    `far` is its squared distance by products, `near` that of the other one from differences.
    """
    least, _ = bounds(far, sizes, n_coordinates)
    return separated(near, least, n_coordinates)
