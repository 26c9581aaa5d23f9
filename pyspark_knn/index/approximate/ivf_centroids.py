"""The nearest centroids of inverted lists: the same ones for a query in every batch.

They are found by matrix products, whose rounding errors depend on how many queries are multiplied
together. Where a list is on the edge, a query could have one answer in one batch and another answer
in another. So the edge is decided by distances in float64, for the queries for which products leave
it open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.ivf_bounds import (
    COMPARED_FLOATS,
    MOST_COORDINATES,
    apart,
    factors,
    squared_distances,
    squared_norms,
)
from pyspark_knn.index.approximate.ivf_selection import (
    keys_of,
    limits,
    scores_and_numbers,
    smallest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MORE = 8
"""Further centroids that products find where the edge is open. If others may be nearer still, all
are compared."""

_SCORES = 1 << 19
"""Scores that are computed at a time."""

_FEW_QUERIES = 64
"""With fewer queries, the search of FAISS takes less time."""


class Centroids:
    """The centroids of lists.

    Parameters
    ----------
    flat : faiss.IndexFlatL2
        The centroids.

    Attributes
    ----------
    vectors : ndarray of shape (n_lists, n_coordinates), dtype float32
        The centroids.
    """

    def __init__(self, flat: Any) -> None:
        self._flat = flat
        self.vectors: NDArray[np.float32] = flat.reconstruct_n(0, flat.ntotal)
        # A product of n + 1 coordinates adds the squared norms, which takes no time of its own.
        self._extended = np.column_stack([self.vectors, squared_norms(self.vectors)])
        self._extended = self._extended.astype(np.float32)

    def nearest(
        self, queries: NDArray[np.float32], many: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest centroids.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        many : int
            The number of centroids to return for a query, at most all.

        Returns
        -------
        numbers : ndarray of shape (n_queries, many), dtype int64
            Their numbers, about the nearest first.
        squares : ndarray of shape (n_queries, many), dtype float32
            Their squared distances, within rounding errors. Where these errors leave open which
            centroid is the last one, those of others that are as far.
        """
        n_lists = len(self.vectors)
        norms = squared_norms(queries)
        scores, numbers = self._about_nearest(queries, norms, min(many + 1, n_lists))
        squares = (scores[:, :many] + norms[:, None]).astype(np.float32)
        if many == n_lists:
            return numbers, squares
        found = np.ascontiguousarray(numbers[:, :many])
        edge, beyond = scores[:, many - 1] + norms, scores[:, many] + norms
        rows = np.flatnonzero(~apart(edge, beyond, norms, queries.shape[1]))
        if rows.size:
            found[rows] = self._at_the_edge(queries[rows], norms[rows], many)
        return found, squares

    def _at_the_edge(
        self, queries: NDArray[np.float32], norms: NDArray[np.float64], many: int
    ) -> NDArray[np.int64]:
        """Return the nearest centroids of queries for which products leave the last one open."""
        n_lists = len(self.vectors)
        compared = min(many + _MORE, n_lists)
        scores, numbers = self._about_nearest(queries, norms, compared)
        # If a centroid beyond those that were found may be nearer, too, compare with all.
        edge = scores[:, many - 1] + norms
        few = apart(edge, scores[:, -1] + norms, norms, queries.shape[1])
        few |= compared == n_lists
        found = np.empty((len(queries), many), np.int64)
        found[few] = self._decided(queries[few], np.sort(numbers[few], axis=1), many)
        found[~few] = self._decided(queries[~few], np.arange(n_lists)[None], many)
        return found

    def _about_nearest(
        self, queries: NDArray[np.float32], norms: NDArray[np.float64], many: int
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return the lowest scores of each query in ascending order, and the numbers of centroids.

        A score is a squared distance by products less the squared norm of the query.
        """
        if len(queries) < _FEW_QUERIES or queries.shape[1] > MOST_COORDINATES:
            squares, numbers = self._flat.search(queries, many)
            return squares - norms[:, None], numbers
        scores = np.empty((len(queries), many), np.float32)
        numbers = np.empty((len(queries), many), np.int64)
        step = max(1, _SCORES // len(self.vectors))
        doubled = factors(queries)
        buffer = np.empty((min(step, len(queries)), len(self.vectors)), np.float32)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            left = doubled[part]
            table = np.matmul(left, self._extended.T, out=buffer[: len(left)])
            scores[part], numbers[part] = _smallest(table, many)
        return scores, numbers

    def _decided(
        self, queries: NDArray[np.float32], numbers: NDArray[np.int64], many: int
    ) -> NDArray[np.int64]:
        """Return the nearest of some centroids, by distance in float64, then by number."""
        found = np.empty((len(queries), many), np.int64)
        step = max(1, COMPARED_FLOATS // (numbers.shape[1] * queries.shape[1]))
        numbers = np.broadcast_to(numbers, (len(queries), numbers.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            squares = squared_distances(queries[part], self.vectors[numbers[part]])
            order = np.argsort(squares, axis=1, kind="stable")[:, :many]
            found[part] = np.take_along_axis(numbers[part], order, axis=1)
        return found


def _smallest(
    table: NDArray[np.float32], many: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the smallest numbers of each row, in ascending order, and their columns.

    Numbers above a limit are dropped first, which takes a fraction of the time of a partition of
    all.
    """
    n_rows, width = table.shape
    where = np.flatnonzero(table <= limits(table, many)[:, None])
    rows = where // width
    keys = keys_of(table.ravel().take(where), where - rows * width)
    return scores_and_numbers(smallest(keys, np.bincount(rows, minlength=n_rows), many))
