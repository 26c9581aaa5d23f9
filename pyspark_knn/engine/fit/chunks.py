"""Packed chunks of items: what a row of them holds, and how it is read. No Spark in here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CHUNK_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("chunk", pa.int32()),
        ("rows", pa.int64()),
        ("dim", pa.int32()),
        ("skipped", pa.int64()),
        ("problem", pa.string()),
        ("narrow", pa.bool_()),
        ("label", pa.float64()),
        ("size", pa.int64()),
        ("stored", pa.int64()),
        ("content", pa.int64()),
        ("digest", pa.int64()),
        ("keys", pa.binary()),
        ("lengths", pa.binary()),
        ("places", pa.binary()),
        ("values", pa.binary()),
    ]
)
"""A row for each chunk, and one more (chunk -1, no rows) that closes each partition and tells
what was wrong in it. `narrow`: the values are float32. `label`: the largest one, where there are
labels. `size`: bytes of the four binary columns together. `stored`: values of sparse vectors, null
for dense ones. `content`: equal for equal rows, in whatever order. `digest`: equal for equal
binary columns. `keys`: an Arrow stream. `lengths` and `places`: of sparse vectors only."""

DENSE_BYTES = 16 << 20
"""Sparse vectors that are made dense at once."""

CHANGED = (
    "the items DataFrame is not deterministic: {what}. Persist it or write it to storage first."
)

CONTENT_WRAP = 1 << 63
"""Contents add up modulo this."""


def content_of(
    value: NDArray[np.floating], place: NDArray[np.integer] | None, keys: pa.RecordBatch
) -> int:
    """A sum over rows, so that it depends neither on their order nor on where chunks begin.

    It is taken before values are narrowed, and a zero adds nothing: how the vectors come to be
    stored, which depends on the rows beside them, makes no difference.
    """
    bits = value.view(f"u{value.itemsize}")
    if place is None:
        sums = bits.sum(axis=0, dtype=np.uint64)
        total = (sums * np.arange(1, len(sums) + 1, dtype=np.uint64)).sum()
    else:
        total = (bits * (place + 1).astype(np.uint64)).sum()
    return int(total) + sum(map(_sum_of_keys, keys.columns))


def _sum_of_keys(keys: pa.Array) -> int:
    if pa.types.is_boolean(keys.type):
        keys = keys.cast(pa.uint8())
    *_, data = keys.buffers()
    if not len(keys) or data is None:
        return 0
    if pa.types.is_primitive(keys.type) or pa.types.is_decimal(keys.type):
        size, width = len(keys) * keys.type.bit_width // 8, min(8, keys.type.bit_width // 8)
    else:
        size, width = pc.sum(pc.binary_length(keys)).as_py(), 1
    return int(np.frombuffer(data[:size], f"u{width}").sum(dtype=np.uint64))


def unpack(row: Any, dim: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """The vectors of a chunk, dense.

    Parameters
    ----------
    row : Row or dict
        One of `CHUNK_SCHEMA`.
    dim : int
        The dimension of the vectors.

    Yields
    ------
    start : int
        The first row of a slice of the chunk.
    matrix : ndarray of shape (n_rows, dim), dtype float32 or float64
        Its vectors: all of them, without a copy, where they are stored dense; up to `DENSE_BYTES`
        where they are sparse.
    """
    dtype: type[np.floating] = np.float32 if row["narrow"] else np.float64
    values: NDArray[np.floating] = np.frombuffer(row["values"], dtype=dtype)
    if row["lengths"] is None:
        yield 0, values.reshape(-1, dim)
        return
    lengths = np.frombuffer(row["lengths"], dtype=np.int64)
    places = np.frombuffer(row["places"], dtype=np.int32)
    ends = np.cumsum(lengths)
    step = max(1, DENSE_BYTES // (dim * values.itemsize))
    for start in range(0, len(lengths), step):
        part = lengths[start : start + step]
        stored = slice(ends[start] - lengths[start], ends[start + len(part) - 1])
        matrix = np.zeros((len(part), dim), dtype=values.dtype)
        matrix[np.repeat(np.arange(len(part)), part), places[stored]] = values[stored]
        yield start, matrix


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch, with binary cells as buffers: they stay where they are."""
    cells = zip(*map(cells_of, batch.columns), strict=True)
    return (dict(zip(batch.schema.names, row, strict=True)) for row in cells)


def cells_of(column: pa.Array) -> list[Any]:
    """The cells of a column, those of a binary one as buffers."""
    if not pa.types.is_binary(column.type):
        return list(column.to_pylist())
    # Slices of the column's one buffer: `as_buffer` of a cell is a copy (pyarrow 26).
    _, offsets, values = column.buffers()
    places = np.frombuffer(offsets, np.int32)[column.offset :].tolist()
    cells = zip(places, places[1:], column.is_valid().to_pylist(), strict=False)
    return [values.slice(start, end - start) if valid else None for start, end, valid in cells]


def one_row(schema: pa.Schema, cells: Mapping[str, object]) -> pa.RecordBatch:
    """A batch of one row; a cell that is not given is null, a `pyarrow.Buffer` is not copied."""
    arrays = [_one_cell(cells.get(each.name), each.type) for each in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _one_cell(cell: object, kind: pa.DataType) -> pa.Array:
    if not isinstance(cell, pa.Buffer):
        return pa.array([cell], kind)
    ends = pa.py_buffer(np.array([0, cell.size], np.int32))
    return pa.Array.from_buffers(kind, 1, [None, ends, cell])


def stream_of(batches: list[pa.RecordBatch]) -> pa.Buffer | None:
    """Record batches as an Arrow stream; None where they have no columns."""
    if not batches[0].num_columns:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
