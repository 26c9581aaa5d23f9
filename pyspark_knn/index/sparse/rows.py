"""Sparse vectors as the rows of a matrix, of which only the values other than 0 are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

_PART_VALUES = 1 << 18
"""Stored values that are copied at a time."""


@dataclass(frozen=True)
class SparseRows:
    """The rows of a sparse matrix, in the layout of `scipy.sparse.csr_matrix`.

    The stored values of row ``i`` are at ``indptr[i]:indptr[i + 1]``. Indices are in strictly
    ascending order within a row, and no stored value is 0. A slice of rows is a view: its `indptr`
    need not begin with 0. The arrays may be read-only memory maps.

    Attributes
    ----------
    data : ndarray of shape (n_values,), dtype float32 or float64
        The stored values.
    indices : ndarray of shape (n_values,), dtype int32
        The feature of each stored value.
    indptr : ndarray of shape (n_rows + 1,), dtype int64
        Where the values of each row begin, and where those of the last row end.
    n_features : int
        The dimension of the vectors.
    """

    data: NDArray[np.floating]
    indices: NDArray[np.int32]
    indptr: NDArray[np.int64]
    n_features: int

    @classmethod
    def from_dense(cls, matrix: NDArray[np.floating]) -> SparseRows:
        """Return the rows of a dense matrix.

        Parameters
        ----------
        matrix : ndarray of shape (n_rows, n_features), dtype float32 or float64
            The vectors.

        Returns
        -------
        SparseRows
            The same vectors.
        """
        row, index = np.nonzero(matrix)
        return cls.from_entries(row, index, matrix[row, index], matrix.shape)

    @classmethod
    def from_entries(
        cls,
        row: NDArray[np.integer],
        index: NDArray[np.integer],
        value: NDArray[np.floating],
        shape: tuple[int, int],
    ) -> SparseRows:
        """Return rows, given their stored values as coordinates.

        Parameters
        ----------
        row, index : ndarray of shape (n_values,), integer
            The row and the feature of each value, sorted by row, then by feature; no pair twice.
        value : ndarray of shape (n_values,), dtype float32 or float64
            The values. Those that are 0 are dropped.
        shape : tuple of int
            The number of rows, and the dimension of the vectors.

        Returns
        -------
        SparseRows
            The rows.
        """
        stored = value != 0
        if not stored.all():
            row, index, value = row[stored], index[stored], value[stored]
        indptr = offsets_of(np.bincount(row, minlength=shape[0]))
        return cls(value, index.astype(np.int32, copy=False), indptr, shape[1])

    @classmethod
    def merged(
        cls,
        parts: list[SparseRows],
        places: NDArray[np.integer],
        dtype: np.dtype[np.floating] | None = None,
    ) -> SparseRows:
        """Return the rows of several parts of equal dimension, in a given order.

        Parameters
        ----------
        parts : list of SparseRows
            At least one part. Emptied, so that each part is freed after it was copied.
        places : ndarray of shape (n_rows,), integer
            The place of each row of the parts, one part after the other, in the result.
        dtype : numpy dtype, optional
            The type of the values. Default: that of the first part.

        Returns
        -------
        SparseRows
            All rows.
        """
        n_features, dtype = parts[0].n_features, dtype or parts[0].dtype
        lengths = np.zeros(len(places), np.int64)
        lengths[places] = np.concatenate([part.lengths for part in parts])
        indptr = offsets_of(lengths)
        data = np.empty(indptr[-1], dtype)
        indices = np.empty(indptr[-1], np.int32)
        start = 0
        parts.reverse()
        while parts:
            part = parts.pop().compact()
            at = ranges(indptr[places[start : start + len(part)]], part.lengths)
            data[at], indices[at] = part.data, part.indices
            start += len(part)
        return cls(data, indices, indptr, n_features)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and the dimension of the vectors."""
        return len(self), self.n_features

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The type of the values."""
        return self.data.dtype

    @property
    def nbytes(self) -> int:
        """The size of the arrays in bytes."""
        return self.data.nbytes + self.indices.nbytes + self.indptr.nbytes

    @property
    def size(self) -> int:
        """The number of stored values."""
        return int(self.indptr[-1] - self.indptr[0])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of stored values of each row."""
        return np.diff(self.indptr)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: slice | NDArray[Any]) -> SparseRows:
        """Return some rows: a view for a slice without a step, otherwise a copy."""
        if not isinstance(rows, slice):
            return self.take(np.flatnonzero(rows) if rows.dtype == bool else rows)
        start, stop, step = rows.indices(len(self))
        if step != 1:
            return self.take(np.arange(start, stop, step))
        indptr = self.indptr[start : max(start, stop) + 1]
        return SparseRows(self.data, self.indices, indptr, self.n_features)

    def take(self, rows: NDArray[np.integer]) -> SparseRows:
        """Return a copy of some rows.

        Parameters
        ----------
        rows : ndarray of shape (n,), integer
            Row numbers, in any order.

        Returns
        -------
        SparseRows
            These rows, in this order.
        """
        lengths = self.lengths[rows]
        indptr = offsets_of(lengths)
        data = np.empty(indptr[-1], self.dtype)
        indices = np.empty(indptr[-1], np.int32)
        # Part by part, since the positions take more memory than the values.
        for part in slices_of(lengths, _PART_VALUES):
            _, at = self.entries(rows[part])
            stored = slice(indptr[part.start], indptr[part.stop])
            data[stored], indices[stored] = self.data[at], self.indices[at]
        return SparseRows(data, indices, indptr, self.n_features)

    def entries(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the stored values of some rows are.

        Parameters
        ----------
        rows : ndarray of shape (n,), integer
            Row numbers, in any order.

        Returns
        -------
        row : ndarray of shape (n_values,), dtype int64
            The position of the value's row in `rows`.
        at : ndarray of shape (n_values,), dtype int64
            The position of the value in `data` and `indices`.
        """
        starts = self.indptr[:-1][rows]
        lengths = self.indptr[1:][rows] - starts
        return np.repeat(np.arange(len(rows)), lengths), ranges(starts, lengths)

    def dense(self) -> NDArray[np.floating]:
        """Return the rows as a dense matrix: ndarray of shape (n_rows, n_features)."""
        matrix = np.zeros(self.shape, self.dtype)
        row = np.repeat(np.arange(len(self)), self.lengths)
        matrix[row, self._stored(self.indices)] = self._stored(self.data)
        return matrix

    def matrix(self) -> csr_array:
        """Return the rows as a matrix of scipy, of dtype float64."""
        from scipy.sparse import csr_array

        rows = self.compact()
        data = rows.data.astype(np.float64, copy=False)
        return csr_array((data, rows.indices, rows.indptr), self.shape)

    def replaced(self, data: NDArray[np.floating]) -> SparseRows:
        """Return rows of the same layout with other values: ndarray of the same shape."""
        return SparseRows(data, self.indices, self.indptr, self.n_features)

    def compact(self) -> SparseRows:
        """Return the same rows with an `indptr` that begins with 0, and no values of other rows."""
        if self.indptr[0] == 0 and self.indptr[-1] == len(self.data):
            return self
        data, indices = self._stored(self.data), self._stored(self.indices)
        return SparseRows(data, indices, self.indptr - self.indptr[0], self.n_features)

    def _stored(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[self.indptr[0] : self.indptr[-1]]


def offsets_of(lengths: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where parts of the given lengths begin, and where the last one ends.

    Parameters
    ----------
    lengths : ndarray of shape (n,), integer or bool
        The lengths.

    Returns
    -------
    ndarray of shape (n + 1,), dtype int64
        The offsets, from 0.
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the integers of several ranges, one range after the other.

    Parameters
    ----------
    starts, lengths : ndarray of shape (n,), integer
        The first integer of each range, and the number of its integers.

    Returns
    -------
    ndarray of shape (lengths.sum(),), dtype int64
        The integers.
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def slices_of(
    lengths: NDArray[np.int64], most_values: int, most_rows: int | None = None
) -> list[slice]:
    """Divide rows into slices of a bounded number of stored values, at least one row each.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,), dtype int64
        The number of stored values of each row.
    most_values : int
        The number of stored values of a slice. A single row may have more.
    most_rows : int, optional
        The number of rows of a slice. Default: as many as values.

    Returns
    -------
    list of slice
        The slices, in order.
    """
    ends = np.cumsum(lengths)
    most_rows = most_rows or most_values
    parts, start = [], 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        stop = int(np.searchsorted(ends, before + most_values, side="right"))
        stop = min(max(stop, start + 1), start + most_rows)
        parts.append(slice(start, stop))
        start = stop
    return parts
