"""Choose the shards that a query is sent to, if shards are cells, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.invalid import read_vectors
from pyspark_knn.engine.search.batches import Request, valid_queries
from pyspark_knn.engine.search.in_shards import PASSING
from pyspark_knn.engine.spark.arrow import list_offsets, slices
from pyspark_knn.index.cells import Cells
from pyspark_knn.index.found import DENSE


def route_nearest(
    request: Request, cells: Cells, probes: int, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Yield the shards of the cells whose centers are nearest to each query.

    Parameters
    ----------
    request : Request
        The search.
    cells : Cells
        The cells that the shards are.
    probes : int
        The number of cells per query. If `request.probes` is None, one shard of each is searched.
    batches : iterator of tuples of pyarrow.Array
        The columns `request.vector` of the queries.

    Yields
    ------
    pyarrow.ListArray
        Lists of int. An invalid query is sent to one shard, whose search handles it as invalid.
    """
    for arrays in _blocks(request, cells, batches):
        matrix, valid = _vectors(request, cells, arrays)
        # An exact search begins in one shard, since a row carries what was found in it.
        whole = request.probes is not None
        found = cells.probed(matrix, probes) if whole else cells.nearest(matrix, probes)
        shards = np.full((len(valid), found.shape[1]), -1)
        shards[:, 0] = cells.numbers[0]
        shards[valid] = found
        kept = shards >= 0
        lengths = kept.sum(axis=1)
        yield pa.ListArray.from_arrays(list_offsets(lengths), pa.array(shards[kept], pa.int32()))


def route_at_once(
    request: Request, cells: Cells, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Yield all shards that may contain a neighbor of each query, before any is searched.

    Parameters
    ----------
    request : Request
        The search.
    cells : Cells
        The cells that the shards are.
    batches : iterator of tuples of pyarrow.Array
        The columns `request.vector` of the queries and, unless all items within a distance are
        neighbors, the number of nearest items that are.

    Yields
    ------
    pyarrow.ListArray
        Lists of int, at least one: the nearest shard, or any one for an invalid query.
    """
    limit = np.inf if request.max_distance is None else request.max_distance
    width = len(request.vector)
    for arrays in _blocks(request, cells, batches):
        matrix, valid = _vectors(request, cells, arrays[:width])
        wanted = None if request.k is None else arrays[width].to_numpy()[valid]
        opened = cells.within(matrix, np.full(len(matrix), limit), wanted)
        alone = np.flatnonzero(~opened.any(axis=1))
        nearest = np.searchsorted(cells.numbers, cells.nearest(matrix[alone], 1)[:, 0])
        opened[alone, nearest] = True
        routes = np.zeros((len(valid), len(cells.numbers)), dtype=bool)
        routes[~valid, 0] = True
        routes[valid] = opened
        shards = pa.array(cells.numbers[np.nonzero(routes)[1]], pa.int32())
        yield pa.ListArray.from_arrays(list_offsets(routes.sum(axis=1)), shards)


def route_within(
    request: Request, cells: Cells, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Yield the further shards that may contain a neighbor of each query.

    Parameters
    ----------
    request : Request
        The search.
    cells : Cells
        The cells that the shards are.
    batches : iterator of tuples of pyarrow.Array
        The columns `request.vector` of the queries, the shard that was searched, and the distances
        of the neighbors in it.

    Yields
    ------
    pyarrow.ListArray
        Lists of int, each of which starts with `PASSING`.
    """
    for *arrays, searched, found in _blocks(request, cells, batches):
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
    request: Request, cells: Cells, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[tuple[pa.Array, ...]]:
    """Return batches of so few rows that their dense vectors fit in memory at any dimension."""
    step = request.query_step(cells.centers.shape[1])
    return (block for arrays in batches for block in slices(arrays, step))


def _limits(request: Request, found: pa.Array) -> NDArray[np.float64]:
    """Return the largest distance that a further neighbor of each query may have."""
    limit = np.inf if request.max_distance is None else request.max_distance
    counts = found.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    limits = np.full(len(found), limit)
    full = counts >= (np.inf if request.k is None else request.k)
    ends = np.cumsum(counts)[full] - 1
    flat = found.flatten().to_numpy(zero_copy_only=False)
    limits[full] = np.minimum(limits[full], flat[ends])
    return limits


def _vectors(
    request: Request, cells: Cells, arrays: tuple[pa.Array, ...]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    named = dict(zip(request.vector, arrays, strict=True))
    queries = read_vectors(named, request.features_col)
    return valid_queries(queries, np.arange(len(queries)), cells.centers.shape[1], DENSE)
