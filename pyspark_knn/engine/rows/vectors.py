"""Batches of feature vectors in Arrow arrays, in Python workers.

This module does not import Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyspark_knn.engine.spark.arrow import list_offsets, list_rows
from pyspark_knn.index.sparse.rows import SparseRows

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows

VALUES = "values"
LAYOUT = "layout"
"""The inputs that make up a feature vector, see `features.Features`."""

_EXACT = 1 << 53
"""The largest n such that a double represents all integers from -n to n exactly."""


class InexactValueError(ValueError):
    """A vector contains an integer that a double cannot represent exactly."""


@dataclass(frozen=True)
class VectorBatch:
    """The feature vectors of one Arrow batch, any of which may be dense or sparse.

    Attributes
    ----------
    dims : ndarray of shape (n_rows,), dtype int64
        The dimension of each vector, -1 if it is null.
    sparse : ndarray of shape (n_rows,), dtype bool
        Whether each vector is sparse.
    starts, lengths : ndarray of shape (n_rows,), dtype int64
        The start of each vector's stored values in `values`, and their number.
    values : ndarray of shape (n_values,), dtype float32 or float64
        The stored values of all vectors. A null element is NaN.
    indices : ndarray of shape (n_indices,), dtype int32, or None
        The dimension and the indices of the stored values of each sparse vector; None if no vector
        can be sparse.
    index_starts, index_lengths : ndarray of shape (n_rows,), dtype int64
        The start of each sparse vector's indices in `indices`, and their number.
    """

    dims: NDArray[np.int64]
    sparse: NDArray[np.bool_]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    values: NDArray[np.floating]
    indices: NDArray[np.int32] | None
    index_starts: NDArray[np.int64]
    index_lengths: NDArray[np.int64]

    @classmethod
    def from_arrow(cls, arrays: Mapping[str, pa.Array], name: str = "features") -> VectorBatch:
        """Create a batch from the columns that `features.features_of` selects.

        Parameters
        ----------
        arrays : mapping of str to pyarrow.Array
            `VALUES` and, unless all vectors are arrays, `LAYOUT`; others are ignored.
        name : str, default="features"
            The name of the features column, for error messages.

        Returns
        -------
        VectorBatch
            The vectors, without a copy of their values if these are doubles or floats without
            nulls.

        Raises
        ------
        InexactValueError
            If an array of integers contains one that a double cannot represent exactly.
        """
        values, starts, lengths = list_parts(arrays[VALUES], name)
        null = _null_mask(arrays[VALUES])
        dims = np.where(null, -1, lengths)
        if LAYOUT not in arrays:
            dense = np.zeros(len(dims), dtype=bool)
            return cls(dims, dense, starts, lengths, values, None, starts, lengths)
        layout, layout_starts, layout_lengths = list_parts(arrays[LAYOUT])
        if layout.dtype.kind == "f":
            # Only a damaged vector has a null size or index: -1 is malformed, too.
            layout = np.nan_to_num(layout, nan=-1.0).astype(np.int32)
        sparse = layout_lengths > 0
        sized = sparse & ~null
        dims[sized] = layout[layout_starts[sized]]
        # A sparse vector without indices has a null layout. Its number of indices is -1.
        sparse |= _null_mask(arrays[LAYOUT])
        index_starts, index_lengths = layout_starts + 1, layout_lengths - 1
        return cls(dims, sparse, starts, lengths, values, layout, index_starts, index_lengths)

    def __len__(self) -> int:
        return len(self.dims)

    def dense(self, rows: NDArray[np.int64], dim: int) -> NDArray[np.floating]:
        """Return vectors as a matrix, without a copy if they are dense and contiguous.

        Parameters
        ----------
        rows : ndarray of shape (n,), dtype int64
            The row numbers of the vectors, in increasing order.
        dim : int
            The dimension of all these vectors.

        Returns
        -------
        ndarray of shape (n, dim), dtype float32 or float64
            The matrix, C-contiguous. A view of `values` is read-only.
        """
        count = len(rows)
        if count == 0:
            return np.empty((0, dim), dtype=self.values.dtype)
        first = self.starts[rows[0]]
        end = first + count * dim
        whole = rows[-1] - rows[0] == count - 1 and not self.sparse[rows].any()
        if whole and self.starts[rows[-1]] + dim == end:
            return self.values[first:end].reshape(count, dim)
        matrix = np.zeros((count, dim), dtype=self.values.dtype)
        row, index, value = self.entries(rows)
        matrix[row, index] = value
        return matrix

    def sparse_rows(self, rows: NDArray[np.int64], dim: int) -> SparseRows:
        """Return vectors as sparse rows, without the stored values that are 0.

        Parameters
        ----------
        rows : ndarray of shape (n,), dtype int64
            The row numbers of the vectors.
        dim : int
            The dimension of all these vectors.

        Returns
        -------
        SparseRows of shape (n, dim), dtype float32 or float64
            The vectors.
        """
        row, index, value = self.entries(rows)
        return SparseRows.from_entries(row, index, value, (len(rows), dim))

    def malformed(self) -> NDArray[np.int64]:
        """Return the rows of sparse vectors that MLlib could not have made.

        MLlib checks its vectors when Python creates them, but not when they are read from a file.

        Returns
        -------
        ndarray of shape (n,), dtype int64
            The numbers of the rows whose indices are not as many as their values, are not in
            ascending order, occur twice, are not from 0 to the dimension less 1, or are null. Rows
            whose values or dimension are null although they have indices are malformed, too.
        """
        if self.indices is None or not self.sparse.any():
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.sparse)
        starts, lengths = self.index_starts[rows], self.index_lengths[rows]
        bad = (lengths != self.lengths[rows]) | (self.dims[rows] < 0)
        some = lengths > 0
        first, last = starts[some], starts[some] + lengths[some] - 1
        bad[some] |= (self.indices[first] < 0) | (self.indices[last] >= self.dims[rows[some]])
        # Of the indices of all rows, in one pass: those that are not above the one before them.
        falls = np.flatnonzero(self.indices[1:] <= self.indices[:-1]) + 1
        of_row = np.searchsorted(starts, falls, side="right") - 1
        inside = (of_row >= 0) & (falls > starts[of_row]) & (falls < (starts + lengths)[of_row])
        bad[of_row[inside]] = True
        malformed: NDArray[np.int64] = rows[bad]
        return malformed

    def entries(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
        """Return the stored values of vectors as coordinates, in the order of the vectors.

        Parameters
        ----------
        rows : ndarray of shape (n,), dtype int64
            The row numbers of the vectors.

        Returns
        -------
        row : ndarray of shape (n_entries,), dtype int64
            The position of the value's vector in `rows`.
        index : ndarray of shape (n_entries,), dtype int64
            The index of the value in its vector.
        value : ndarray of shape (n_entries,), dtype float32 or float64
            The value.
        """
        lengths = self.lengths[rows]
        row = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        value = self.values[self.starts[rows][row] + within]
        index = within
        if self.indices is not None and len(self.indices):
            sparse = self.sparse[rows][row]
            at = np.where(sparse, self.index_starts[rows][row] + within, 0)
            index = np.where(sparse, self.indices[at], within)
        return row, index, value


def vector_rows(matrix: Rows, dtype: np.dtype[np.floating]) -> pa.Array:
    """Return vectors as a column of the type `features.vector_type`.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_rows, dim), dtype float32 or float64
        The vectors.
    dtype : numpy dtype
        The type of the values of dense vectors.

    Returns
    -------
    pyarrow.ListArray or pyarrow.StructArray
        A list of each dense vector; of each sparse one, the struct that stores MLlib's.
    """
    if isinstance(matrix, np.ndarray):
        return list_rows(matrix.astype(dtype, copy=False))
    matrix = matrix.compact()
    count, offsets = len(matrix), list_offsets(matrix.lengths)
    fields = {
        "type": pa.array(np.zeros(count, np.int8)),
        "size": pa.array(np.full(count, matrix.n_features, np.int32)),
        "indices": pa.ListArray.from_arrays(offsets, pa.array(matrix.indices)),
        "values": pa.ListArray.from_arrays(offsets, pa.array(matrix.data.astype(np.float64))),
    }
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))


def _null_mask(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def list_parts(
    array: pa.Array, name: str = "features"
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Return the values of a list array in one array, and the start and length of each list.

    Parameters
    ----------
    array : pyarrow.ListArray
        The lists.
    name : str, default="features"
        The name of the column, for error messages.

    Returns
    -------
    values : ndarray of shape (n_values,)
        The elements of all lists. Integers of 64 bits become doubles, and nulls NaN.
    starts : ndarray of shape (n_lists,), dtype int64
        The start of each list in `values`.
    lengths : ndarray of shape (n_lists,), dtype int64
        The length of each list, 0 if it is null.

    Raises
    ------
    InexactValueError
        If a double cannot represent an integer exactly.
    """
    offsets = array.offsets.to_numpy().astype(np.int64)
    # `array.values` contains the whole buffer, of which a sliced array uses only a part.
    flat = array.values[offsets[0] : offsets[-1]]
    if pa.types.is_int64(flat.type):
        flat = _as_doubles(flat, name)
    if flat.null_count:
        flat = flat.cast(pa.float64()).fill_null(np.nan)
    offsets -= offsets[0]
    starts = offsets[:-1]
    lengths = np.where(_null_mask(array), 0, offsets[1:] - starts)
    return flat.to_numpy(zero_copy_only=False), starts, lengths


def _as_doubles(integers: pa.Array, name: str) -> pa.Array:
    bounds = pc.min_max(integers).as_py()
    if bounds["min"] is None or (bounds["min"] >= -_EXACT and bounds["max"] <= _EXACT):
        return integers.cast(pa.float64())
    exact = integers.fill_null(0).to_numpy()
    doubles = exact.astype(np.float64)
    # 2**63 - 1 becomes 2**63, which is not an int64: casting it back returns a different number.
    with np.errstate(invalid="ignore"):
        changed = np.flatnonzero(doubles.astype(np.int64) != exact)
    if len(changed):
        raise InexactValueError(
            f"featuresCol {name!r} contains {exact[changed[0]]}, which a double cannot represent "
            "exactly. To round such values, cast the column to array<double>."
        )
    return pa.array(doubles, mask=integers.is_null().to_numpy(zero_copy_only=False))
