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

from pyspark_knn.index.approximate.libraries import load_library
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
        # FAISS keeps the first of equally distant items, so the order of the lists matters, too.
        chosen = self.nearest(queries, nprobe)
        return self._scanned(queries, np.sort(chosen, axis=1), chosen[:, 0], many)[0]

    def certain(
        self, queries: NDArray[np.float32], many: int, nprobe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the nearest items in the nearest lists, and for which queries they are certain.

        Parameters
        ----------
        queries, many, nprobe
            See `candidates`.

        Returns
        -------
        positions : ndarray of shape (n_queries, many), dtype int64
            The positions of the items.
        certain : ndarray of shape (n_queries,), dtype bool
            Whether all other items of these lists are farther from the query than each of `many`
            items.
        """
        positions = np.empty((len(queries), many), np.int64)
        sure = np.zeros(len(queries), bool)
        chosen = self.nearest(queries, nprobe)
        # With many equal distances few queries are certain: the first ones show that.
        for part in (slice(0, _TRIED), slice(_TRIED, len(queries))):
            if part.start >= len(queries) or 2 * sure[: part.start].sum() < part.start:
                break
            lists = chosen[part]
            found, squares = self._scanned(queries[part], lists, lists[:, 0], many + 1)
            positions[part] = found[:, :many]
            sure[part] = found[:, many - 1] >= 0
            sure[part] &= separated(squares[:, many - 1], squares[:, many], queries.shape[1])
        return positions, sure

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


def separated(
    near: NDArray[np.float32], far: NDArray[np.float32], n_coordinates: int
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
    near, far : ndarray of shape (n_queries,), dtype float32
        Squared distances, computed in float32 from the same coordinates.
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
