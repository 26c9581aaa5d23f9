"""The search of inverted lists: which lists a query is compared with, the same in every batch.

FAISS finds the nearest centroids by matrix products, whose rounding errors depend on how many
queries are searched together. Where a list is on the edge, a query could have one answer in one
batch and another answer in another. So the edge is decided by distances in float64, for the queries
for which products leave it open. FAISS then searches given lists, query by query.

Of equally distant items FAISS keeps the first, so the order of the lists matters, too: they are
searched in the order of their numbers. Where the distances prove which items are the nearest, the
order does not matter. These are searched from the nearest list on, which takes less time, since
most items of the other lists are no candidates then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.ivf_products import ListProducts, bounds
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.approximate.search import Certain
from pyspark_knn.index.rounding import U
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MORE = 8
"""Further centroids that products find where the edge is open. If others may be nearer still, all
are compared."""

_COMPARED_FLOATS = 1 << 20
"""Numbers in the centroids that are compared in float64 at a time."""

_TRIED = 256
"""Queries that show for how many the candidates are certain."""

_TRIED_BY_PRODUCTS = 32
"""The same for products: their time is lost where they prove little."""

_SMALLEST = 2.0**-80
"""Of a smaller sum, squares that underflow may be a part that counts."""

_MOST_COORDINATES = 1 << 16
"""The sum of more squared coordinates may overflow."""


class ListSearch:
    """Lists, and the search for the nearest of their centroids.

    Parameters
    ----------
    lists : faiss.IndexIVF
        The lists.
    """

    def __init__(self, lists: Any) -> None:
        self.lists = lists
        self._centroids: NDArray[np.float32] = lists.quantizer.reconstruct_n(0, lists.nlist)
        self._products = ListProducts(lists)
        self._largest = float(np.sqrt(np.square(self._centroids, dtype=np.float64).sum(1).max()))

    def candidates(self, queries: NDArray[np.float32], many: int, nprobe: int) -> NDArray[np.int64]:
        """Return the nearest items in the nearest lists.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        many : int
            The number of items to return for a query.
        nprobe : int
            The number of lists to search, at most all.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            The positions of the items, the nearest first; -1 where there are no more.
        """
        chosen = self.nearest(queries, nprobe)
        found = np.empty((len(queries), many), np.int64)
        rest = np.arange(len(queries))
        if self._products_pay(queries, chosen, many, many):
            positions, squares = self._products.nearest(queries, chosen, many + 1)
            found[:] = positions[:, :many]
            rest = np.flatnonzero(~_apart(squares[:, many - 1], squares[:, many], queries))
        if rest.size:
            # FAISS keeps the first of equally distant items, so the order of the lists matters.
            lists, first = np.sort(chosen[rest], axis=1), chosen[rest, 0]
            found[rest] = self._scanned(queries[rest], lists, first, many)[0]
        return found

    def certain(
        self,
        queries: NDArray[np.float32],
        many: int,
        nprobe: int,
        items: NDArray[np.float32],
        spare: int,
    ) -> list[Certain]:
        """Return candidates that need not be ranked among others, where this is proved.

        Parameters
        ----------
        queries, many, nprobe
            See `candidates`.
        items : ndarray of shape (n_items, n_coordinates), dtype float32
            The coordinates of the items.
        spare : int
            The number of candidates beyond `many` that are ranked where nothing is proved.

        Returns
        -------
        list of Certain
            Candidates of some queries, which contain the nearest `many` items of these lists.
        """
        chosen = self.nearest(queries, nprobe)
        found: list[Certain] = []
        rest = np.arange(len(queries))
        if self._products_pay(queries, chosen, many, many + spare):
            found = self._certain_by_products(queries, chosen, many, items, spare)
            rest = np.setdiff1d(rest, np.concatenate([each.rows for each in found]))
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
        many: int,
        items: NDArray[np.float32],
        spare: int,
    ) -> list[Certain]:
        """Return candidates of the queries for which products prove that they are right.

        Where products leave open which of the candidates are the nearest, these are ranked. No more
        of them than where nothing is proved: of so many, FAISS finds the same neighbors.
        """
        kept = many + spare
        positions, squares = self._products.nearest(queries, chosen, kept + 1)
        sure = _apart(squares[:, many - 1], squares[:, many], queries)
        found = [Certain(np.flatnonzero(sure), positions[sure, :many])]
        rest = np.flatnonzero(~sure)
        step = max(1, _COMPARED_FLOATS // (kept * queries.shape[1]))
        for start in range(0, len(rest), step):
            rows = rest[start : start + step]
            near = positions[rows, :kept]
            gaps = items[near].astype(np.float64)
            gaps -= queries[rows, None]
            ranked = np.where(near >= 0, np.square(gaps, out=gaps).sum(axis=2), np.inf)
            nearest = np.partition(ranked, many - 1, axis=1)[:, many - 1]
            beyond, _ = bounds(squares[rows, kept], queries[rows])
            proved = separated(nearest, beyond, queries.shape[1])
            found.append(Certain(rows[proved], near[proved]))
        return found

    def _products_pay(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64], near: int, far: int
    ) -> bool:
        """Return whether products are fast, and precise enough for most of the first queries.

        They must tell the nearest `near` items from those beyond the nearest `far`.
        """
        if not self._products.pay(chosen.size):
            return False
        some = slice(0, _TRIED_BY_PRODUCTS)
        squares = self._scanned(queries[some], chosen[some], chosen[some, 0], far + 1)[1]
        beyond, _ = bounds(squares[:, far], queries[some])
        proved = separated(squares[:, near - 1], beyond, queries.shape[1])
        return bool(2 * proved.sum() >= len(proved))

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

    def nearest(self, queries: NDArray[np.float32], nprobe: int) -> NDArray[np.int64]:
        """Return the nearest centroids.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        nprobe : int
            The number of centroids to return for a query, at most all.

        Returns
        -------
        ndarray of shape (n_queries, nprobe), dtype int64
            Their numbers; the nearest one is about the first.
        """
        n_lists = len(self._centroids)
        squares, numbers = self.lists.quantizer.search(queries, min(nprobe + 1, n_lists))
        if nprobe == n_lists:
            return np.asarray(numbers, np.int64)
        # The bound on the rounding error of a squared distance by products, twice.
        norms = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1)) + self._largest
        slack = 2.0 * (queries.shape[1] + 4) * U * norms**2
        found: NDArray[np.int64] = np.ascontiguousarray(numbers[:, :nprobe])
        rows = np.flatnonzero(squares[:, nprobe] <= squares[:, nprobe - 1] + slack)
        if rows.size:
            found[rows] = self._at_the_edge(queries[rows], slack[rows], nprobe)
        return found

    def _at_the_edge(
        self, queries: NDArray[np.float32], slack: NDArray[np.float64], nprobe: int
    ) -> NDArray[np.int64]:
        """Return the nearest centroids of queries for which products leave the last one open."""
        n_lists = len(self._centroids)
        many = min(nprobe + _MORE, n_lists)
        squares, numbers = self.lists.quantizer.search(queries, many)
        # If a centroid beyond those that were found may be nearer, too, compare with all.
        few = (many == n_lists) | (squares[:, -1] > squares[:, nprobe - 1] + slack)
        found = np.empty((len(queries), nprobe), np.int64)
        found[few] = self._decided(queries[few], np.sort(numbers[few], axis=1), nprobe)
        found[~few] = self._decided(queries[~few], np.arange(n_lists)[None], nprobe)
        return found

    def _decided(
        self, queries: NDArray[np.float32], numbers: NDArray[np.int64], nprobe: int
    ) -> NDArray[np.int64]:
        """Return the nearest of some centroids, by distance in float64, then by number."""
        found = np.empty((len(queries), nprobe), np.int64)
        step = max(1, _COMPARED_FLOATS // (numbers.shape[1] * queries.shape[1]))
        numbers = np.broadcast_to(numbers, (len(queries), numbers.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            gaps = self._centroids[numbers[part]].astype(np.float64)
            gaps -= queries[part, None]
            squares = np.square(gaps, out=gaps).sum(axis=2)
            order = np.argsort(squares, axis=1, kind="stable")[:, :nprobe]
            found[part] = np.take_along_axis(numbers[part], order, axis=1)
        return found


def _apart(
    near: NDArray[np.floating], far: NDArray[np.floating], queries: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return where squared distances by products prove what `separated` proves."""
    return separated(bounds(near, queries)[1], bounds(far, queries)[0], queries.shape[1])


def separated(
    near: NDArray[np.floating], far: NDArray[np.floating], n_coordinates: int
) -> NDArray[np.bool_]:
    """Return where computed squared distances prove that one item is nearer than another one.

    A squared distance is a sum of n squares of differences. In float32, each rounding multiplies a
    term by a factor from 1 - u to 1 + u, where u = 2**-24. There are two such factors for the
    difference, which is squared, one for the square, and at most n - 1 for the sum, in any order.
    So the computed sum is s (1 + e), where s is the true one and abs(e) <= g with
    g = (n + 2) u / (1 - (n + 2) u), see Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1. If near / (1 - g) < far / (1 + g), the true sums are in the same order,
    and that is near (1 + g) < far (1 - g). One more u on either side is more than the error of the
    distances in float64, by which neighbors are ordered. Squares that underflow lose less than
    2**-149 each, which is nothing beside the smallest `far`.

    Parameters
    ----------
    near, far : ndarray of shape (n_queries,), dtype float32 or float64
        Squared distances, computed in float32 from the same coordinates, or bounds of the true
        ones: none is above `near`, and none below `far`.
    n_coordinates : int
        Their number. Nothing is proved with more than 65,536.

    Returns
    -------
    ndarray of shape (n_queries,), dtype bool
        Whether the first item is nearer, by its true distance and by that in float64.
    """
    if n_coordinates > _MOST_COORDINATES:
        return np.zeros(len(near), bool)
    error = (n_coordinates + 2) * U / (1 - (n_coordinates + 2) * U) + U
    proved: NDArray[np.bool_] = near.astype(np.float64) * (1 + error) < far * np.float64(1 - error)
    return proved & (far >= _SMALLEST)
