"""Which shards a query goes to, where shards are cells: what runs on the executors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.chunks import rows_of, unpack
from pyspark_knn.engine.shard_search import PASSING
from pyspark_knn.engine.vectors import VectorBatch
from pyspark_knn.engine.worker import Request, list_offsets, query_step, valid_queries
from pyspark_knn.index.cells import Cells
from pyspark_knn.index.cells import ShardAssignment as Cut


def route_nearest(
    request: Request, cells: Cells, probes: int, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """The shards of the nearest centres of each query, nearest first.

    Parameters
    ----------
    request : Request
        What is wanted.
    cells : Cells
    probes : int
        How many shards.
    batches : iterator of tuples of pyarrow.Array
        The columns that make up the feature vector.

    Yields
    ------
    pyarrow.ListArray
        Of int. An invalid query goes to one shard, where it is told to be invalid.
    """
    for arrays in _blocks(cells, batches):
        matrix, valid = _vectors(request, cells, arrays)
        shards = np.full((len(valid), min(probes, len(cells.numbers))), cells.numbers[0])
        shards[valid] = cells.nearest(matrix, probes)
        lengths = np.where(valid, shards.shape[1], 1)
        kept = np.arange(shards.shape[1]) < lengths[:, None]
        yield pa.ListArray.from_arrays(list_offsets(lengths), pa.array(shards[kept], pa.int32()))


def route_within(
    request: Request, cells: Cells, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Which further shards may hold a neighbour of each query.

    Parameters
    ----------
    request : Request
        What is wanted.
    cells : Cells
    batches : iterator of tuples of pyarrow.Array
        The columns that make up the feature vector, the shard that was searched, and the distances
        that it gave.

    Yields
    ------
    pyarrow.ListArray
        Of int; `PASSING` comes first in each list.
    """
    for *arrays, searched, found in _blocks(cells, batches):
        matrix, valid = _vectors(request, cells, tuple(arrays))
        opened = np.zeros((len(valid), len(cells.numbers)), dtype=bool)
        opened[valid] = cells.within(matrix, _limits(request, found)[valid])
        before = searched.to_numpy(zero_copy_only=False)
        opened &= cells.numbers[None, :] != before[:, None]
        column = np.nonzero(opened)[1]
        lengths = opened.sum(axis=1)
        shards = np.insert(cells.numbers[column], np.cumsum(lengths) - lengths, PASSING)
        yield pa.ListArray.from_arrays(list_offsets(lengths + 1), pa.array(shards, pa.int32()))


def _blocks(
    cells: Cells, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[tuple[pa.Array, ...]]:
    """Batches of so few rows that their vectors may be made dense, however wide they are."""
    step = query_step(cells.centers.shape[1])
    for arrays in batches:
        for start in range(0, max(1, len(arrays[0])), step):
            yield tuple(each.slice(start, step) for each in arrays)


def _limits(request: Request, found: pa.Array) -> NDArray[np.float64]:
    """How far a further neighbour may be, for each query."""
    limit = np.inf if request.max_distance is None else request.max_distance
    counts = found.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    limits = np.full(len(found), limit)
    full = counts >= request.k
    ends = np.cumsum(counts)[full] - 1
    flat = found.flatten().to_numpy(zero_copy_only=False)
    limits[full] = np.minimum(limits[full], flat[ends])
    return limits


def _vectors(
    request: Request, cells: Cells, arrays: tuple[pa.Array, ...]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    queries = VectorBatch.from_arrow(arrays, request.features_col)
    return valid_queries(queries, np.arange(len(queries)), cells.centers.shape[1])


def sample_items(
    dim: int, share: float, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """A share of the vectors in packed chunks, evenly spaced.

    Parameters
    ----------
    dim : int
        The dimension of the vectors; chunks of another one are left out.
    share : float
        From 0 (exclusive) to 1.
    batches : iterator of pyarrow.RecordBatch
        Of `chunks.CHUNK_SCHEMA`.

    Yields
    ------
    pyarrow.RecordBatch
        One column, an array of double.
    """
    step = max(1, int(1 / share))
    for start, matrix in _chunks(dim, batches):
        few = matrix[-start % step :: step].astype(np.float64)
        lists = pa.ListArray.from_arrays(
            list_offsets(np.full(len(few), dim)), pa.array(few.ravel())
        )
        yield pa.RecordBatch.from_arrays([lists], names=["features"])


def count_cells(dim: int, cut: Cut, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """How many items of packed chunks are in each cell; rows of cell and rows."""
    for _, matrix in _chunks(dim, batches):
        cells, counts = np.unique(cut.cells(matrix), return_counts=True)
        yield pa.RecordBatch.from_pydict({"cell": cells, "rows": counts})


def _chunks(
    dim: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    for batch in batches:
        for chunk in rows_of(batch):
            if chunk["chunk"] >= 0 and chunk["dim"] == dim:
                yield from unpack(chunk, dim)
