"""A sample of packed items, and counts of them by cell and by key, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.fit.chunks import KEY_HASH, columns_of, unpack
from pyspark_knn.engine.spark.arrow import list_rows, rows_of
from pyspark_knn.index.cells import ShardAssignment

KEY_COUNTS = "key long, rows long"
"""The hash of a key, and a number of items with it."""


def sample_items(
    dim: int, share: float, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield a share of the vectors in packed chunks, evenly spaced.

    Parameters
    ----------
    dim : int
        The dimension of the vectors; chunks of another dimension are skipped.
    share : float
        The share of the vectors, greater than 0 and at most 1.
    batches : iterator of pyarrow.RecordBatch
        Rows of `chunks.CHUNK_SCHEMA`.

    Yields
    ------
    pyarrow.RecordBatch
        One column, an array of double.
    """
    step = max(1, int(1 / share))
    for start, matrix in _chunks(dim, batches):
        few = matrix[-start % step :: step].astype(np.float64)
        yield pa.RecordBatch.from_arrays([list_rows(few)], names=["features"])


def count_cells(
    dim: int, assignment: ShardAssignment, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield how many items of packed chunks are in each cell, in columns "cell" and "rows"."""
    for _, matrix in _chunks(dim, batches):
        cells, counts = np.unique(assignment.cells(matrix), return_counts=True)
        yield pa.RecordBatch.from_pydict({"cell": cells, "rows": counts})


def count_keys(dim: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield how many items of each packed chunk have a key, in rows of `KEY_COUNTS`."""
    for chunk in _rows(dim, batches):
        keys, counts = np.unique(columns_of(chunk)[KEY_HASH].to_numpy(), return_counts=True)
        yield pa.RecordBatch.from_pydict({"key": keys, "rows": counts})


def _chunks(
    dim: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    for chunk in _rows(dim, batches):
        yield from unpack(chunk, dim)


def _rows(dim: int, batches: Iterator[pa.RecordBatch]) -> Iterator[Mapping[str, Any]]:
    """Yield the chunks that contain vectors of dimension `dim`."""
    for batch in batches:
        for chunk in rows_of(batch):
            if chunk["chunk"] >= 0 and chunk["dim"] == dim:
                yield chunk
