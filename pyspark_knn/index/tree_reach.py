"""The items that a tree of scikit-learn finds within a radius of each query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reached:
    """The items within a radius of each query, by the distances of a tree.

    Parameters
    ----------
    tree : sklearn.neighbors.KDTree or sklearn.neighbors.BallTree
        The tree.
    rows : ndarray of shape (n_queries,), dtype int64
        The row numbers of the queries.
    coordinates : ndarray of shape (n_queries, n_coordinates), dtype float64
        Their coordinates.
    radii : ndarray of shape (n_queries,), dtype float64
        Their radii, inclusive; not finite where the tree cannot be asked.
    most : int
        The number of pairs to return at a time, about.

    Attributes
    ----------
    rows : ndarray of shape (n_asked,), dtype int64
        The queries that the tree is asked for.
    rest : ndarray of shape (n_rest,), dtype int64
        The others: those that reach so many items that brute force is faster.
    """

    def __init__(
        self,
        tree: Any,
        rows: NDArray[np.int64],
        coordinates: NDArray[np.float64],
        radii: NDArray[np.float64],
        most: int,
    ) -> None:
        n_items = len(tree.data)
        counts = np.full(len(rows), n_items)
        known = np.isfinite(radii)
        if known.any():
            counts[known] = tree.query_radius(coordinates[known], radii[known], count_only=True)
        few = counts <= n_items // 4
        self.rows, self.rest = rows[few], rows[~few]
        self._tree, self._most = tree, most
        self._coordinates, self._radii, self._counts = coordinates[few], radii[few], counts[few]

    def pairs(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the row numbers of queries, and the positions of the items in their radius."""
        start = 0
        while start < len(self.rows):
            # As many queries as have `most` pairs together, at least one.
            totals = np.cumsum(self._counts[start:])
            stop = start + max(1, int(np.searchsorted(totals, self._most)))
            part, start = slice(start, stop), stop
            found = self._tree.query_radius(self._coordinates[part], self._radii[part])
            yield np.repeat(self.rows[part], [len(one) for one in found]), np.concatenate(found)
