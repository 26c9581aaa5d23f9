"""Cells of items that are near each other: a tree that halves them along their widest axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.buffers import buffers_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_AXES = 16
"""The largest number of axes that cells are cut along: further ones rule out hardly any cell."""

_BLOCK_FLOATS = 1 << 15
"""Squared distances that are computed at a time: 128 KiB, which stay in the cache."""


class Cells:
    """Cells of about equal size, and the box around each.

    Parameters
    ----------
    coordinates : ndarray of shape (n_items, n_axes), dtype float32
        The coordinates of the items, by descending variance.
    size : int
        The largest number of items in a cell.

    Attributes
    ----------
    order : ndarray of shape (n_items,), dtype int64
        The positions of the items, cell by cell.
    bounds : ndarray of shape (n_cells + 1,), dtype int64
        Where the items of each cell begin in `order`, and where the last ones end.
    lows, highs : ndarray of shape (n_axes, n_cells), dtype float32
        The least and the largest coordinates of each cell, on at most `MOST_AXES` axes.
    """

    def __init__(self, coordinates: NDArray[np.float32], size: int) -> None:
        coordinates = coordinates[:, :MOST_AXES]
        count = len(coordinates)
        self._depth = max(0, int(np.ceil(np.log2(count / size))))
        self._axes = np.zeros(2**self._depth - 1, np.int64)
        self._values = np.zeros(2**self._depth - 1, np.float32)
        self.order = np.arange(count)
        self.bounds = np.array([0, count])
        for level in range(self._depth):
            self._halve(coordinates, level)
        for start, stop in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            self.order[start:stop].sort()
        ordered = coordinates[self.order]
        starts = self.bounds[:-1]
        self.lows = np.ascontiguousarray(np.minimum.reduceat(ordered, starts).T)
        self.highs = np.ascontiguousarray(np.maximum.reduceat(ordered, starts).T)

    def _halve(self, coordinates: NDArray[np.float32], level: int) -> None:
        """Halve each part of a level along the axis on which it is widest."""
        bounds = [0]
        for number, start in enumerate(self.bounds[:-1]):
            stop = self.bounds[number + 1]
            part = self.order[start:stop]
            inside = coordinates[part]
            axis = int(inside.std(axis=0).argmax())
            half = len(part) // 2
            sides = np.argpartition(inside[:, axis], half)
            self.order[start:stop] = part[sides]
            node = 2**level - 1 + number
            self._axes[node], self._values[node] = axis, inside[sides[half], axis]
            bounds += [start + half, stop]
        self.bounds = np.array(bounds)

    @property
    def count(self) -> int:
        """The number of cells."""
        return len(self.bounds) - 1

    @property
    def largest(self) -> int:
        """The number of items in the largest cell."""
        return int(np.diff(self.bounds).max())

    def cell_of(self, coordinates: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the cell of each query, as if it was an item.

        Parameters
        ----------
        coordinates : ndarray of shape (n_queries, n_axes), dtype float32
            The coordinates of the queries.

        Returns
        -------
        ndarray of shape (n_queries,), dtype int64
            The numbers of the cells. Cells whose numbers have the same upper bits are neighbors.
        """
        rows = np.arange(len(coordinates))
        node = np.zeros(len(coordinates), np.int64)
        for _ in range(self._depth):
            upper = coordinates[rows, self._axes[node]] >= self._values[node]
            node = 2 * node + 1 + upper
        node -= 2**self._depth - 1
        return node

    def squared_distances(
        self, coordinates: NDArray[np.float32], cells: slice
    ) -> NDArray[np.float32]:
        """Return the squared distances of queries to the boxes of some cells.

        Parameters
        ----------
        coordinates : ndarray of shape (n_queries, n_axes), dtype float32
            The coordinates of the queries.
        cells : slice
            The cells.

        Returns
        -------
        ndarray of shape (n_queries, n_cells), dtype float32
            The squared distances; 0 for a query inside of the box.
        """
        lows, highs = self.lows[:, cells], self.highs[:, cells]
        total = np.zeros((len(coordinates), lows.shape[1]), np.float32)
        with buffers_for(lows.shape[1]):
            _add_squares(total, coordinates, lows, highs)
        return total


def _add_squares(
    total: NDArray[np.float32],
    coordinates: NDArray[np.float32],
    lows: NDArray[np.float32],
    highs: NDArray[np.float32],
) -> None:
    """Add the squared distances of queries to boxes, a block of queries at a time."""
    step = max(1, _BLOCK_FLOATS // max(1, lows.shape[1]))
    for start in range(0, len(total), step):
        part = total[start : start + step]
        gap, other = np.empty_like(part), np.empty_like(part)
        queries = coordinates[start : start + step]
        for axis, (low, high) in enumerate(zip(lows, highs, strict=True)):
            query = queries[:, axis, None]
            np.subtract(low, query, out=gap)
            np.subtract(query, high, out=other)
            np.maximum(gap, other, out=gap)
            np.maximum(gap, 0.0, out=gap)
            gap *= gap
            part += gap
