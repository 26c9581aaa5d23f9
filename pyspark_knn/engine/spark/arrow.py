"""Arrow batches: rows with large binary cells, and lists. Independent of Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def list_offsets(lengths: NDArray[np.bool_] | NDArray[np.int64]) -> pa.Array:
    """Return the offsets of lists of these lengths."""
    return pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())


def list_rows(matrix: NDArray[Any]) -> pa.ListArray:
    """Return a list for each row of a matrix."""
    offsets = list_offsets(np.full(len(matrix), matrix.shape[1]))
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))


def slices(arrays: tuple[pa.Array, ...], rows: int) -> Iterator[tuple[pa.Array, ...]]:
    """Yield slices of at most `rows` rows of the columns of a batch; none of an empty batch."""
    for start in range(0, len(arrays[0]), rows):
        yield tuple(each.slice(start, rows) for each in arrays)


def rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, with binary cells as buffers, which are not copied."""
    cells = zip(*map(cells_of, batch.columns), strict=True)
    return (dict(zip(batch.schema.names, row, strict=True)) for row in cells)


def cells_of(column: pa.Array) -> list[Any]:
    """Return the cells of a column; those of a binary column as buffers."""
    if not pa.types.is_binary(column.type):
        return list(column.to_pylist())
    # Slices of the column's buffer, because `as_buffer` of a cell makes a copy (pyarrow 26).
    _, offsets, values = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset :].tolist()
    cells = zip(ends, ends[1:], column.is_valid().to_pylist(), strict=False)
    return [values.slice(start, end - start) if valid else None for start, end, valid in cells]


def one_row(schema: pa.Schema, cells: Mapping[str, object]) -> pa.RecordBatch:
    """Return a batch of one row. A missing cell is null, a `pyarrow.Buffer` is not copied."""
    arrays = [_one_cell(cells.get(each.name), each.type) for each in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _one_cell(cell: object, kind: pa.DataType) -> pa.Array:
    if not isinstance(cell, pa.Buffer):
        return pa.array([cell], kind)
    ends = pa.py_buffer(np.array([0, cell.size], np.int32))
    return pa.Array.from_buffers(kind, 1, [None, ends, cell])


def stream_of(batches: list[pa.RecordBatch]) -> pa.Buffer | None:
    """Return record batches as an Arrow stream; None if they have no columns."""
    if not batches[0].num_columns:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
