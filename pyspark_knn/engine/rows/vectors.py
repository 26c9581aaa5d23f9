"""Feature vectors as Spark hands them to Python: batches of Arrow arrays. No Spark in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

VALUES = "values"
LAYOUT = "layout"
"""The inputs that make up a feature vector, see `columns.Features`."""

_EXACT = 1 << 53
"""Up to here a double holds every integer."""


class InexactValueError(ValueError):
    """An integer of a vector that no double equals."""


@dataclass(frozen=True)
class VectorBatch:
    """The feature vectors of one Arrow batch, dense and sparse ones mixed as they come.

    Attributes
    ----------
    dims : ndarray of shape (n_rows,), dtype int64
        The dimension of each vector; -1 for null.
    sparse : ndarray of shape (n_rows,), dtype bool
        Which rows hold indices.
    starts, lengths : ndarray of shape (n_rows,), dtype int64
        Where each row's stored values lie.
    values : ndarray, dtype float32 or float64
        All stored values, a null among them as NaN.
    indices : ndarray, dtype int32, or None
        The place of each stored value in its vector, as far as rows are sparse.
    index_starts : ndarray of shape (n_rows,), dtype int64
        Where each sparse row's indices lie.
    """

    dims: NDArray[np.int64]
    sparse: NDArray[np.bool_]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    values: NDArray[np.floating]
    indices: NDArray[np.int32] | None
    index_starts: NDArray[np.int64]

    @classmethod
    def from_arrow(cls, arrays: Mapping[str, pa.Array], name: str = "features") -> VectorBatch:
        """Read the columns that `columns.features_of` selects.

        Parameters
        ----------
        arrays : mapping of str to pyarrow.Array
            `VALUES`, and `LAYOUT` where vectors may be sparse; others are ignored.
        name : str
            What the features column is called, for messages.

        Raises
        ------
        InexactValueError
            If an array of integers holds one that a double cannot hold exactly.
        """
        values, starts, lengths = list_parts(arrays[VALUES], name)
        null = _null_mask(arrays[VALUES])
        dims = np.where(null, -1, lengths)
        if LAYOUT not in arrays:
            return cls(dims, np.zeros(len(dims), dtype=bool), starts, lengths, values, None, starts)
        layout, layout_starts, layout_lengths = list_parts(arrays[LAYOUT])
        sparse = layout_lengths > 0
        dims[sparse] = layout[layout_starts[sparse]]
        return cls(dims, sparse, starts, lengths, values, layout, layout_starts + 1)

    def __len__(self) -> int:
        return len(self.dims)

    def dense(self, rows: NDArray[np.int64], dim: int) -> NDArray[np.floating]:
        """The vectors of `rows`, all of dimension `dim`, as a matrix; a view where that can be.

        Parameters
        ----------
        rows : ndarray of shape (n,), dtype int64
            Ascending row numbers.
        dim : int
            Their dimension.

        Returns
        -------
        ndarray of shape (n, dim), dtype float32 or float64
            C-contiguous; read-only where it is a view.
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
        row, place, value = self.entries(rows)
        matrix[row, place] = value
        return matrix

    def entries(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]:
        """The stored values of `rows` as (row in `rows`, place in the vector, value), in order."""
        lengths = self.lengths[rows]
        row = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        value = self.values[self.starts[rows][row] + within]
        place = within
        if self.indices is not None and len(self.indices):
            known = self.sparse[rows][row]
            at = np.where(known, self.index_starts[rows][row] + within, 0)
            place = np.where(known, self.indices[at], within)
        return row, place, value


def _null_mask(array: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def list_parts(
    array: pa.Array, name: str = "features"
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The flat values of a list array, and each row's start and length in them."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    # The values are those of the whole buffer, of which a slice has a part.
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
    # 2**63 - 1 becomes 2**63, which is no int64: whatever the cast makes of it is another number.
    with np.errstate(invalid="ignore"):
        changed = np.flatnonzero(doubles.astype(np.int64) != exact)
    if len(changed):
        raise InexactValueError(
            f"featuresCol {name!r} holds {exact[changed[0]]}, which no double equals: to round "
            "such values on purpose, cast the column to array<double>"
        )
    return pa.array(doubles, mask=integers.is_null().to_numpy(zero_copy_only=False))


def invalid_rows(matrix: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows hold a NaN or an infinity."""
    finite: NDArray[np.bool_] = np.isfinite(matrix).all(axis=1)
    return ~finite


def describe_invalid(param: str, name: str, batch: VectorBatch, row: int, dim: int | None) -> str:
    """Say what is wrong with one vector, for an error message.

    Parameters
    ----------
    param, name : str
        The Param that names the column, and the column's name.
    batch : VectorBatch
        Holds the vector.
    row : int
        Which one it is.
    dim : int or None
        The dimension that it should have, where that is known.
    """
    found = int(batch.dims[row])
    if found < 0:
        what = "a null"
    elif dim is not None and found != dim:
        what = f"a vector of dimension {found} where {dim} is needed"
    elif found == 0:
        what = "a vector of dimension 0"
    else:
        *_, values = batch.entries(np.array([row]))
        what = "a NaN (or a null element)" if np.isnan(values).any() else "an infinity"
    return (
        f"{param} {name!r} holds {what}; set handleInvalid to 'skip' to leave such rows out, or to "
        "'keep' to keep such queries with nulls"
    )
