"""The extended prefixes of items, cell by cell, and their products with those of queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.axes.bounds import box_error, errors, reach, thresholds
from pyspark_knn.index.axes.cells import Cells
from pyspark_knn.index.axes.nearest import largest_columns
from pyspark_knn.index.flags import places_of_few
from pyspark_knn.index.score_space import squared_norms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.axes.rotation import Rotation
    from pyspark_knn.index.score_space import ScoreSpace

    Survivors = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

_BLOCK_FLOATS = 1 << 18
"""Numbers in the items of a block that is rotated: 2 MiB of float64."""

_PRODUCT_QUERIES = 2048
"""Queries of one product with the items of a cell, at most."""

_AT_HOME, _AROUND = 1, 2
"""The cells that a query is in, and the cells around it, are those whose numbers have the same bits
above so many."""

_CELLS_AT_ONCE = 1024
"""Cells whose distances to the queries are known at a time."""

_MOST_AT_HOME = 256
"""Items of the cells that a query is in that are compared for its first limit, or more if it needs
so many neighbors."""

_NONE = 2.0**100
"""A threshold that no product reaches, and that overflows in none."""


class Prefixes:
    """The extended prefixes of items.

    Parameters
    ----------
    rotation : Rotation
        The axes.
    extended : ndarray of shape (n_items, n_axes + 1), dtype float32
        The extended prefixes of the items.
    cell_size : int
        The largest number of items in a cell.

    Attributes
    ----------
    rotation : Rotation
        The axes.
    cells : Cells
        The cells.
    """

    def __init__(self, rotation: Rotation, extended: NDArray[np.float32], cell_size: int) -> None:
        self.rotation = rotation
        n_axes = rotation.n_axes
        self.cells = Cells(extended[:, :n_axes], cell_size)
        # In the order of the cells: the prefix, the term of the item, and 1 for the threshold.
        self._table = np.ones((len(extended), n_axes + 3), np.float32)
        np.take(extended, self.cells.order, axis=0, out=self._table[:, : n_axes + 1])
        self._table[:, n_axes + 1] = -0.5 * squared_norms(self._table[:, : n_axes + 1])

    @classmethod
    def of(
        cls,
        space: ScoreSpace,
        matrix: NDArray[np.floating],
        rotation: Rotation,
        cell_size: int,
    ) -> Prefixes:
        """Return the prefixes of the rows of a matrix.

        Parameters
        ----------
        space : ScoreSpace
            The score space of the items.
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.
        rotation : Rotation
            The axes.
        cell_size : int
            The largest number of items in a cell.

        Returns
        -------
        Prefixes
            Their prefixes.
        """
        return cls(rotation, extended_items(space, matrix, rotation), cell_size)

    @property
    def nbytes(self) -> int:
        """The bytes of the prefixes: 4 for each axis, and 20, of an item."""
        return self._table.nbytes + self.cells.order.nbytes

    def queries(self, vectors: NDArray[np.float64]) -> QueryPrefixes:
        """Return the prefixes of queries, given their vectors in the score space."""
        return QueryPrefixes(self, vectors)


def extended_items(
    space: ScoreSpace, matrix: NDArray[np.floating], rotation: Rotation
) -> NDArray[np.float32]:
    """Return the extended prefixes of items: ndarray of shape (n_items, n_axes + 1)."""
    result = np.empty((len(matrix), rotation.n_axes + 1), np.float32)
    step = max(1, _BLOCK_FLOATS // matrix.shape[1])
    for start in range(0, len(matrix), step):
        where = slice(start, min(start + step, len(matrix)))
        result[where] = rotation.extended(space.vectors(matrix[where], where))
    return result


class QueryPrefixes:
    """The extended prefixes of a batch of queries, to be compared with those of the items.

    Parameters
    ----------
    items : Prefixes
        The items.
    vectors : ndarray of shape (n_queries, n_features), dtype float64
        The vectors of the queries in the score space.
    """

    def __init__(self, items: Prefixes, vectors: NDArray[np.float64]) -> None:
        self._items = items
        self._n_axes = items.rotation.n_axes
        # As the table of the items, but the term of the item is multiplied by 1.
        self._left = np.ones((len(vectors), self._n_axes + 3), np.float32)
        self._left[:, : self._n_axes + 1] = items.rotation.extended(vectors)
        self._squares = squared_norms(self._left[:, : self._n_axes + 1])
        self._norms = np.sqrt(self._squares)
        self._reaches = np.full(len(vectors), np.inf)
        self._needed = np.full(len(vectors), -np.inf)
        self._raised = np.full(len(vectors), np.inf)
        self._at_home: NDArray[np.int64] | None = None
        self.home = items.cells.cell_of(self._left)
        size = max(_PRODUCT_QUERIES, 1 << _AROUND) * items.cells.largest
        self._products = np.empty(size, np.float32)
        self._reached = np.empty(size, bool)

    def demand(self, limits: NDArray[np.float64]) -> None:
        """Set the distance that no neighbor of each query exceeds; negative: it needs none."""
        self._reaches = reach(limits, self._norms, self._items.rotation)
        needed = thresholds(self._reaches, self._squares, self._n_axes)
        np.minimum(needed, _NONE, out=needed)
        self._left[:, -1] = -needed
        self._needed = needed
        self._raised = errors(self._reaches, self._squares, self._n_axes) - self._left[:, -1]

    def matter(self, rows: NDArray[np.int64], ceilings: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which pairs are not ruled out by the distances that were set since their yield.

        Parameters
        ----------
        rows, ceilings : ndarray of shape (n_pairs,)
            As yielded by `near_survivors`.

        Returns
        -------
        ndarray of shape (n_pairs,), dtype bool
            False for the pairs that are ruled out.
        """
        return ceilings >= self._needed[rows]

    def nearest_at_home(self, many: int) -> NDArray[np.int64]:
        """Return some items of the cells that each query is in, near it by their prefixes.

        They are not among those that `near_survivors` yields.

        Parameters
        ----------
        many : int
            How many, at most as many as the smallest cell has.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            The positions of the items.
        """
        cells, n_left = self._items.cells, self._n_axes + 2
        places = np.empty((len(self.home), many), np.int64)
        for rows, where in self._grouped(_AT_HOME):
            first = slice(where.start, min(where.stop, where.start + max(_MOST_AT_HOME, 4 * many)))
            products = self._left[rows, :n_left] @ self._items._table[first, :n_left].T
            places[rows] = where.start + largest_columns(products, many)
        self._at_home = places
        return cells.order[places]

    def near_survivors(self) -> Iterator[Survivors]:
        """Yield the pairs that prefixes cannot rule out, of items in the cells around each query.

        `demand` may be called in between; then fewer of the following pairs are left.

        Yields
        ------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query, and the position of the item.
        ceilings : ndarray of shape (n_pairs,), dtype float64
            See `pyspark_knn.index.axes.bounds`; the nearest items of a query by their prefixes have
            the largest.
        """
        for rows, where in self._grouped(_AROUND):
            yield from self._compared(rows, where, self._at_home)

    def _grouped(self, bits: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
        """Yield the queries in the same cells, and the items there, but for the lower bits."""
        cells = self._items.cells
        for group, rows in _groups(self.home >> bits):
            first = group << bits
            last = min(first + (1 << bits), cells.count)
            yield rows, slice(int(cells.bounds[first]), int(cells.bounds[last]))

    def far_survivors(self) -> Iterator[Survivors]:
        """Yield the same for the other cells, as far as they may contain a neighbor."""
        cells = self._items.cells
        own = self.home >> _AROUND
        for first in range(0, cells.count, _CELLS_AT_ONCE):
            numbers = np.arange(first, min(first + _CELLS_AT_ONCE, cells.count))
            part = slice(first, first + len(numbers))
            squares = cells.squared_distances(self._left, part)
            near = squares <= self._box_limits()[:, None]
            near &= own[:, None] != (numbers >> _AROUND)
            near = np.ascontiguousarray(near.T)
            for cell, asked in zip(numbers, near, strict=True):
                rows = np.flatnonzero(asked)
                if rows.size:
                    where = slice(cells.bounds[cell], cells.bounds[cell + 1])
                    yield from self._compared(rows, where)

    def _box_limits(self) -> NDArray[np.float32]:
        """Return the largest squared distance of a box that may contain a neighbor."""
        with np.errstate(over="ignore"):
            squares = self._reaches**2 * (1.0 + 2.0 * box_error(self._n_axes))
            limits = np.where(self._reaches < 0, -1.0, squares).astype(np.float32)
        return np.nextafter(limits, np.float32(np.inf))

    def _compared(
        self, rows: NDArray[np.int64], where: slice, known: NDArray[np.int64] | None = None
    ) -> Iterator[Survivors]:
        """Yield the pairs of some queries and some items in the table that reach the thresholds.

        Without those of the `known` places in the table, some for each query.
        """
        right = self._items._table[where].T
        width = right.shape[1]
        step = len(self._products) // width
        for start in range(0, len(rows), step):
            asked = rows[start : start + step]
            whole = asked[-1] - asked[0] + 1 == len(asked)
            left = self._left[asked[0] : asked[-1] + 1] if whole else self._left[asked]
            size = len(asked) * width
            products = self._products[:size]
            table = products.reshape(len(asked), width)
            np.matmul(left, right, out=table)
            if known is not None:
                np.put_along_axis(table, known[asked] - where.start, -1.0, axis=1)
            np.greater_equal(products, 0.0, out=self._reached[:size])
            places = places_of_few(self._reached[:size])
            if places.size:
                near, columns = np.divmod(places, width)
                near = asked[near]
                ceilings = products[places] + self._raised[near]
                yield near, self._items.cells.order[where.start + columns], ceilings


def _groups(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each number that occurs, and the rows where it does."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, starts[1:]), strict=True)
