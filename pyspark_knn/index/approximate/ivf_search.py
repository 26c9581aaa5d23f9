"""The search of inverted lists: which lists a query is compared with, the same in every batch.

FAISS finds the nearest centroids by matrix products, whose rounding errors depend on how many
queries are searched together. Where a list is on the edge, a query could have one answer in one
batch and another answer in another. So the edge is decided by distances in float64, for the queries
for which products leave it open. FAISS then searches given lists, query by query.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MORE = 8
"""Further centroids that products find. If others may be nearer still, all are compared."""

_COMPARED_FLOATS = 1 << 20
"""Numbers in the centroids that are compared in float64 at a time."""


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
        faiss = load_library("faiss")
        chosen = self.nearest(queries, nprobe)
        # Neighboring queries search the same lists, which are then in the cache.
        order = by_row(chosen[:, 0])
        # FAISS keeps the first of equally distant items, so the order of the lists matters, too.
        chosen = np.sort(chosen[order], axis=1)
        inputs = queries[order], chosen, np.zeros(chosen.shape, np.float32)
        squares = np.empty((len(queries), many), np.float32)
        positions = np.empty((len(queries), many), np.int64)
        # The method of Python ignores `params`. Pointers do not keep arrays alive: all have names.
        rows, numbers, unused, *outputs = map(faiss.swig_ptr, (*inputs, squares, positions))
        params = faiss.SearchParametersIVF(nprobe=nprobe)
        self.lists.search_preassigned_c(
            len(queries), rows, many, numbers, unused, *outputs, False, params
        )
        found = np.empty_like(positions)
        found[order] = positions
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
        many = min(nprobe + _MORE, n_lists)
        squares, numbers = self.lists.quantizer.search(queries, many)
        if nprobe == n_lists:
            return np.asarray(numbers, np.int64)
        # The bound on the rounding error of a squared distance by products, twice.
        norms = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1)) + self._largest
        slack = 2.0 * (queries.shape[1] + 4) * 2.0**-24 * norms**2
        edge = squares[:, nprobe - 1] + slack
        open_rows = np.flatnonzero(squares[:, nprobe] <= edge)
        found: NDArray[np.int64] = numbers[:, :nprobe]
        if not open_rows.size:
            return found
        # If a centroid beyond those that were found may be nearer, too, compare with all.
        few = (many == n_lists) | (squares[open_rows, -1] > edge[open_rows])
        rows = open_rows[few]
        found[rows] = self._decided(queries[rows], np.sort(numbers[rows], axis=1), nprobe)
        rows = open_rows[~few]
        found[rows] = self._decided(queries[rows], np.arange(n_lists)[None], nprobe)
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
