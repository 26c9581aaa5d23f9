"""The search of each item among the other items, in a Python worker.

An item is left out of its own neighbors by its number, not by its id or its distance, so the search
is right for items with equal vectors and for items with equal ids. The number of an item is its
position in a replicated index. Of shards, the items of the first one come first, then those of the
next one, each in the order of their positions in the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import types as T
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.rows.items import NUMBER
from pyspark_knn.engine.rows.vectors import vector_rows
from pyspark_knn.engine.search.batches import BLOCK_NUMBERS
from pyspark_knn.engine.search.export import steps
from pyspark_knn.engine.search.searchable import Searchable, task_threads
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.index.found import DENSE, Exclusion

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBERS, NEIGHBORS, DISTANCES = "numbers", "neighbors", "distances"
"""Lists of the neighbors of an item, nearest first: their numbers, their ids, their distances."""

QUERY = "query"
"""The column that numbers the queries of a measured search."""

_BLOCK_BYTES = 32 << 20
"""The vectors of the items that are searched at once, in bytes."""

_SPARSE_ITEMS = 1 << 10
"""The number of sparse items that are searched at once."""


@dataclass(frozen=True)
class SelfSearch:
    """The parameters of a search of each item among the others.

    Attributes
    ----------
    k : int
        Neighbors per item; may exceed the number of items.
    max_distance : float or None
        The largest distance of a neighbor, inclusive, in the unit of the metric.
    probes, replicas : int or None
        See `batches.Request`; for shards only.
    knob : int or None
        See `batches.Request`.
    """

    k: int
    max_distance: float | None = None
    probes: int | None = None
    replicas: int | None = None
    knob: int | None = None


@dataclass(frozen=True)
class HeldOutSearch:
    """The parameters of a search of some items among the others, to measure the recall.

    Attributes
    ----------
    k : int
        Neighbors per item; may exceed the number of items.
    numbers : ndarray of shape (n_queries,), dtype int64
        The numbers of the items that are queries, in ascending order.
    levels : sequence of int
        The levels at which each of them is searched, see `Searchable.tuned`.
    probes : int or None
        See `batches.Request`.
    """

    k: int
    numbers: NDArray[np.int64]
    levels: Sequence[int]
    probes: int | None = None


def found_schema(id_type: T.DataType) -> T.StructType:
    """Return the columns of a result, given the type of ids in Python."""
    lists = {NUMBERS: T.LongType(), NEIGHBORS: id_type, DISTANCES: T.DoubleType()}
    fields = {name: T.ArrayType(kind) for name, kind in lists.items()}
    return struct_type({NUMBER: T.LongType(), "id": id_type, **fields})


def self_search_in_bundle(
    ref: BundleRef,
    wanted: SelfSearch,
    batches: Iterator[pa.RecordBatch],
    block_numbers: int = BLOCK_NUMBERS,
) -> Iterator[pa.RecordBatch]:
    """Yield the nearest other items of some of the items.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    wanted : SelfSearch
        What to search.
    batches : iterator of pyarrow.RecordBatch
        One column of positions, in ascending order.
    block_numbers : int, default=BLOCK_NUMBERS
        The number of neighbors in a batch, unless one item has more.

    Yields
    ------
    pyarrow.RecordBatch
        The columns `NUMBER`, "id", `NUMBERS`, `NEIGHBORS` and `DISTANCES`.
    """
    searchable = open_bundle(ref).tuned(wanted.knob)
    k = min(wanted.k, searchable.items.count)
    step = max(1, min(_most_items(searchable), block_numbers // k))
    with threadpool_limits(limits=task_threads()):
        for batch in batches:
            positions = batch.column(0).to_numpy()
            for start in range(0, len(positions), step):
                yield _found(searchable, positions[start : start + step], k, wanted.max_distance)


def _most_items(searchable: Searchable) -> int:
    if searchable.index.storage == DENSE:
        return _BLOCK_BYTES // (8 * searchable.index.n_features)
    return _SPARSE_ITEMS


def _found(
    searchable: Searchable, positions: NDArray[np.int64], k: int, max_distance: float | None
) -> pa.RecordBatch:
    items, queries = searchable.items, searchable.own_queries(positions)
    own = Exclusion(np.arange(len(positions)), positions)
    found = searchable.index.search(queries, k, max_distance=max_distance, exclude=own)
    lists = {
        NUMBERS: pa.array(found.positions),
        NEIGHBORS: items.take("id", found.positions),
        DISTANCES: pa.array(found.distances),
    }
    offsets = pa.array(found.offsets, pa.int32())
    columns = {NUMBER: pa.array(positions), "id": items.take("id", positions)}
    columns |= {name: pa.ListArray.from_arrays(offsets, each) for name, each in lists.items()}
    return pa.RecordBatch.from_pydict(columns)


def read_own_queries(
    digests: dict[int, str],
    firsts: Mapping[int, int],
    dtype: np.dtype[np.floating],
    columns: Sequence[str],
    wanted: NDArray[np.int64] | None,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the items of shards as queries for all shards.

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    firsts : mapping of int to int
        The number of the first item of each shard.
    dtype : numpy dtype
        The type of the vectors. Those of some shards may be narrower.
    columns : sequence of str
        The item columns to yield, such as `NUMBER`, "id" and the keys.
    wanted : ndarray, dtype int64, or None
        The numbers of the items to yield; None for all.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        The columns `columns` and "features".
    """
    for shard, searchable in open_shards(digests, batches):
        items, matrix = searchable.items.numbered(firsts[shard]), searchable.vectors(slice(None))
        for first, last in steps(matrix, _BLOCK_BYTES):
            positions = np.arange(first, last)
            vectors = matrix[first:last]
            if wanted is not None:
                chosen = np.isin(positions + firsts[shard], wanted)
                positions, vectors = positions[chosen], vectors[chosen]
            cells = {name: items.take(name, positions) for name in columns}
            cells["features"] = vector_rows(vectors, dtype)
            yield pa.RecordBatch.from_pydict(cells)
