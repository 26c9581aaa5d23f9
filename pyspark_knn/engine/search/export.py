"""Read the items of an index back as rows of a DataFrame, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.fit.chunks import POSITION, SERIES
from pyspark_knn.engine.rows.vectors import vector_rows
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.index.sparse.rows import slices_of

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows

_BATCH_BYTES = 32 << 20
"""The vectors in one batch of rows, in bytes."""


def read_items(
    ref: BundleRef,
    names: list[str],
    batches: Iterator[pa.RecordBatch],
    batch_bytes: int = _BATCH_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Yield the items at given positions.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    names : list of str
        The columns to yield: "position", "features", and those of the items.
    batches : iterator of pyarrow.RecordBatch
        One column of consecutive positions.
    batch_bytes : int, default=_BATCH_BYTES
        The bytes of the vectors in one batch of rows.

    Yields
    ------
    pyarrow.RecordBatch
        The columns `names`.
    """
    searchable = open_bundle(ref)
    for batch in batches:
        if batch.num_rows:
            start = batch.column(0)[0].as_py()
            stop, dtype = start + batch.num_rows, searchable.index.matrix.dtype
            yield from _rows(searchable, names, start, stop, dtype, batch_bytes)


def read_shards(
    digests: dict[int, str],
    names: list[str],
    dtype: np.dtype[np.floating],
    series: Sequence[int],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the items of shards.

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    names : list of str
        The columns to yield: "features", "series", and those of the items.
    dtype : numpy dtype
        The type of the vectors. Those of some shards may be narrower.
    series : sequence of int
        The number of the first shard of each series.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        The columns `names`.
    """
    for shard, searchable in open_shards(digests, batches):
        number = sum(first <= shard for first in series) - 1
        yield from _rows(searchable, names, 0, searchable.items.count, dtype, series=number)


def _rows(
    searchable: Searchable,
    names: list[str],
    start: int,
    stop: int,
    dtype: np.dtype[np.floating],
    batch_bytes: int = _BATCH_BYTES,
    series: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Yield the items from `start` to `stop` in batches of bounded size."""
    items, matrix = searchable.items, searchable.vectors(slice(start, stop))
    for first, last in steps(matrix, batch_bytes):
        where = slice(start + first, start + last)
        cells = {name: values[where] for name, values in items.columns.items()}
        cells[POSITION] = pa.array(np.arange(where.start, where.stop))
        cells.setdefault("id", cells[POSITION])
        if SERIES in names:
            cells[SERIES] = pa.array(np.full(last - first, series, np.int32))
        if "features" in names:
            cells["features"] = vector_rows(matrix[first:last], dtype)
        yield pa.RecordBatch.from_arrays([cells[name] for name in names], names=names)


def steps(matrix: Rows, batch_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows whose values take about `batch_bytes`, at least one row each.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_rows, n_features)
        The vectors.
    batch_bytes : int
        The bytes of the values of a range.

    Yields
    ------
    first, last : int
        A range; `last` is not part of it.
    """
    if isinstance(matrix, np.ndarray):
        step = max(1, batch_bytes // (8 * matrix.shape[1]))
        for first in range(0, len(matrix), step):
            yield first, min(first + step, len(matrix))
        return
    for part in slices_of(matrix.lengths, batch_bytes // 12):
        yield part.start, part.stop
