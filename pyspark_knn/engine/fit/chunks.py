"""The format of packed chunks of items, and their reader. Independent of Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyspark_knn.index.found import DENSE, SPARSE
from pyspark_knn.index.sparse.rows import SparseRows, offsets_of

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows

CHUNK_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("chunk", pa.int32()),
        ("rows", pa.int64()),
        ("dim", pa.int32()),
        ("skipped", pa.int64()),
        ("problem", pa.string()),
        ("dtype", pa.string()),
        ("label", pa.float64()),
        ("size", pa.int64()),
        ("stored", pa.int64()),
        ("content", pa.int64()),
        ("digest", pa.int64()),
        ("columns", pa.binary()),
        ("lengths", pa.binary()),
        ("indices", pa.binary()),
        ("values", pa.binary()),
    ]
)
"""A row for each chunk, and one more (chunk -1, no rows) that closes each partition and names the
first problem in it. `dtype`: that of the values, float32 or float64. `label`: the largest label,
if there are labels. `size`: bytes of the four binary columns together. `stored`: the number of
stored values of sparse vectors; null for dense ones. `content`: equal for equal rows in any order.
`digest`: equal for equal binary columns. `columns`: the item columns, an Arrow stream. `lengths`
and `indices`: of sparse vectors only."""

COUNTED = (
    *("partition", "chunk", "rows", "dim", "skipped", "problem", "dtype", "label", "size"),
    *("stored", "content", "digest"),
)
"""The columns of `CHUNK_SCHEMA` that the driver reads to count the items."""

DENSE_BYTES = 16 << 20
"""The bytes of the sparse vectors that are made dense at once."""

CHANGED = (
    "the items DataFrame is not deterministic: {what}. Persist it or write it to storage before "
    "fit."
)
"""The message of an error whose cause is `what`: rows that changed between two passes."""

POSITION = "position"
"""The column of saved items that contains their order; `Items` do not have it."""

KEY_HASH = "key_hash"
"""The column of packed items that assigns them to shards by their keys; `Items` do not have it."""

SERIES = "series"
"""The column of saved items that contains the series of their shard, 0 for that of the fit; `Items`
do not have it."""

ASSIGNING = (KEY_HASH, SERIES)
"""The columns of packed items that assign them to shards, and are dropped there."""

HIDDEN = (POSITION, *ASSIGNING)
"""The columns of packed items that `Items` do not have."""

CONTENT_WRAP = 1 << 63
"""The contents of chunks are added modulo this number."""


def content_of(
    value: NDArray[np.floating], index: NDArray[np.integer] | None, columns: pa.RecordBatch
) -> int:
    """Return a sum over rows, which depends neither on their order nor on where chunks begin.

    It is computed before values are rounded, and a zero adds nothing. So it does not depend on how
    the vectors are stored, which depends on the other rows of a chunk.
    """
    bits = value.view(f"u{value.itemsize}")
    if index is None:
        sums = bits.sum(axis=0, dtype=np.uint64)
        total = (sums * np.arange(1, len(sums) + 1, dtype=np.uint64)).sum()
    else:
        total = (bits * (index + 1).astype(np.uint64)).sum()
    return int(total) + sum(map(_sum_of_column, columns.columns))


def _sum_of_column(column: pa.Array) -> int:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    *_, data = column.buffers()
    if not len(column) or data is None:
        return 0
    if pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type):
        size, width = len(column) * column.type.bit_width // 8, min(8, column.type.bit_width // 8)
    else:
        size, width = pc.sum(pc.binary_length(column)).as_py(), 1
    return int(np.frombuffer(data[:size], f"u{width}").sum(dtype=np.uint64))


def vector_cells(matrix: Rows) -> dict[str, pa.Buffer | None]:
    """Return the columns `lengths`, `indices` and `values` of vectors.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_rows, dim), dtype float32 or float64
        The vectors.

    Returns
    -------
    dict
        The columns; `lengths` and `indices` are None for dense vectors.
    """
    if isinstance(matrix, np.ndarray):
        return {"lengths": None, "indices": None, "values": pa.py_buffer(matrix)}
    matrix = matrix.compact()
    return {
        "lengths": pa.py_buffer(matrix.lengths),
        "indices": pa.py_buffer(matrix.indices),
        "values": pa.py_buffer(matrix.data),
    }


def unpack(
    row: Any, dim: int, storage: str = DENSE, dense_bytes: int = DENSE_BYTES
) -> Iterator[tuple[int, Any]]:
    """Yield the vectors of a chunk.

    Parameters
    ----------
    row : Row or dict
        A row of `CHUNK_SCHEMA`.
    dim : int
        The dimension of the vectors.
    storage : {"dense", "sparse"}, default="dense"
        The form in which they are yielded, whatever the form in which they were packed.
    dense_bytes : int, default=DENSE_BYTES
        The bytes of the sparse vectors that are made dense at once.

    Yields
    ------
    start : int
        The first row of a slice of the chunk.
    matrix : ndarray or SparseRows of shape (n_rows, dim), dtype float32 or float64
        The vectors of the slice. There is one slice, unless sparse vectors are made dense: then it
        takes up to `dense_bytes`, but has at least one vector.
    """
    values: NDArray[np.floating] = np.frombuffer(row["values"], dtype=row["dtype"])
    if row["lengths"] is None:
        matrix = values.reshape(-1, dim)
        yield 0, matrix if storage == DENSE else SparseRows.from_dense(matrix)
        return
    lengths = np.frombuffer(row["lengths"], dtype=np.int64)
    indices = np.frombuffer(row["indices"], dtype=np.int32)
    rows = SparseRows(values, indices, offsets_of(lengths), dim)
    if storage == SPARSE:
        yield 0, rows
        return
    step = max(1, dense_bytes // (dim * values.itemsize))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step].dense()


def placed(
    parts: Iterable[Any],
    places: NDArray[np.int64],
    dim: int,
    dtype: np.dtype[np.floating],
    storage: str,
) -> Any:
    """Return the vectors of several parts in a given order.

    Parameters
    ----------
    parts : iterable of ndarray or SparseRows
        Vectors, as `unpack` yields them.
    places : ndarray of shape (n_rows,), dtype int64
        The place of each vector of the parts, one part after the other, in the result.
    dim : int
        The dimension of the vectors.
    dtype : numpy dtype
        The type of the values.
    storage : {"dense", "sparse"}
        The form of the vectors.

    Returns
    -------
    ndarray or SparseRows of shape (n_rows, dim)
        The vectors.
    """
    if storage == SPARSE:
        return SparseRows.merged(list(parts), places, dtype)
    matrix: NDArray[np.floating] = np.empty((len(places), dim), dtype)
    start = 0
    for part in parts:
        matrix[places[start : start + len(part)]] = part
        start += len(part)
    return matrix


def columns_of(row: Any) -> pa.Table:
    """Return the item columns of a chunk, a row of `CHUNK_SCHEMA` that has some."""
    return pa.ipc.open_stream(row["columns"]).read_all()
