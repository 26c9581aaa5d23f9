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
    squared_distances,
    squared_norms,
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

_MINIMA = 2
"""The number of parts of a row, for each number to find, from whose minima a limit is taken. With
fewer, more numbers are within the limit; with more, the limit takes longer."""


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
        self._squares = squared_norms(self.vectors).astype(np.float32)

    def nearest(self, queries: NDArray[np.float32], many: int) -> NDArray[np.int64]:
        """Return the nearest centroids.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        many : int
            The number of centroids to return for a query, at most all.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            Their numbers; the nearest one is about the first.
        """
        n_lists = len(self.vectors)
        norms = squared_norms(queries)
        scores, numbers = self._about_nearest(queries, norms, min(many + 1, n_lists))
        if many == n_lists:
            return numbers
        found = np.ascontiguousarray(numbers[:, :many])
        edge, beyond = scores[:, :many].max(axis=1) + norms, scores[:, many] + norms
        rows = np.flatnonzero(~apart(edge, beyond, norms, queries.shape[1]))
        if rows.size:
            found[rows] = self._at_the_edge(queries[rows], norms[rows], many)
        return found

    def _at_the_edge(
        self, queries: NDArray[np.float32], norms: NDArray[np.float64], many: int
    ) -> NDArray[np.int64]:
        """Return the nearest centroids of queries for which products leave the last one open."""
        n_lists = len(self.vectors)
        compared = min(many + _MORE, n_lists)
        scores, numbers = self._about_nearest(queries, norms, compared)
        # If a centroid beyond those that were found may be nearer, too, compare with all.
        edge = np.partition(scores, many - 1, axis=1)[:, many - 1] + norms
        few = apart(edge, scores[:, -1] + norms, norms, queries.shape[1])
        few |= compared == n_lists
        found = np.empty((len(queries), many), np.int64)
        found[few] = self._decided(queries[few], np.sort(numbers[few], axis=1), many)
        found[~few] = self._decided(queries[~few], np.arange(n_lists)[None], many)
        return found

    def _about_nearest(
        self, queries: NDArray[np.float32], norms: NDArray[np.float64], many: int
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """Return the lowest scores of each query, and the numbers of their centroids.

        The lowest score is the first, and the highest of them the last. A score is a squared
        distance by products less the squared norm of the query.
        """
        if len(queries) < _FEW_QUERIES or queries.shape[1] > MOST_COORDINATES:
            squares, numbers = self._flat.search(queries, many)
            return squares - norms[:, None], numbers
        scores = np.empty((len(queries), many), np.float32)
        numbers = np.empty((len(queries), many), np.int64)
        step = max(1, _SCORES // len(self.vectors))
        doubled = -2 * queries
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            table = doubled[part] @ self.vectors.T
            table += self._squares
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
    """Return the smallest numbers of each row, and their columns; the first is the smallest one.

    The last is the largest of them. Numbers above a limit are dropped first, which takes a fraction
    of the time of a partition of all.
    """
    n_rows, width = table.shape
    near = table <= _limits(table, many)[:, None]
    counts = np.count_nonzero(near, axis=1)
    where, longest = np.flatnonzero(near), int(counts.max())
    # The numbers of each row, and infinity, as the rows of a table.
    each = np.arange(n_rows)
    places = np.arange(len(where)) + np.repeat(each * longest - np.cumsum(counts) + counts, counts)
    numbers = np.full(n_rows * longest, np.inf, np.float32)
    columns = np.zeros(n_rows * longest, np.int64)
    numbers[places] = table.ravel()[where]
    columns[places] = where - np.repeat(each * width, counts)
    order = np.argpartition(numbers.reshape(n_rows, longest), many - 1, axis=1)[:, :many]
    order += each[:, None] * longest
    found, names = numbers.take(order), columns.take(order)
    first = found[:, : max(1, many - 1)].argmin(axis=1)
    for part in (found, names):
        part[each, first], part[:, 0] = part[:, 0].copy(), part[each, first]
    return found, names


def _limits(table: NDArray[np.float32], many: int) -> NDArray[np.float32]:
    """Return a number for each row that at least `many` of its numbers do not exceed.

    It is the largest of the smallest minima of parts of the row, which are found much faster than
    the smallest numbers of all.
    """
    width = table.shape[1]
    while width >= 2 * _MINIMA * many:
        width //= 2
        table = np.minimum(table[:, :width], table[:, width : 2 * width])
    limits: NDArray[np.float32] = np.partition(table, many - 1, axis=1)[:, many - 1]
    return limits
