"""Read the ids of shards, and build shards without some of their items, in a Python worker."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.searchable import Searchable, task_threads
from pyspark_knn.engine.shards.build import written_shard
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import Cells
from pyspark_knn.index.choices import SharedChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.spreads import Spread

FOUND_SCHEMA = pa.schema([("shard", pa.int32()), ("rows", pa.int64()), ("wanted", pa.binary())])
"""A shard, the number of its items that have a wanted id, and which ids these are, as int64."""


def read_ids(
    digests: dict[int, str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the ids of shards, in a column "id".

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of the head of each shard in order.
    """
    for _, items in open_shards(digests, batches, heads=True):
        yield pa.RecordBatch.from_arrays([items.columns["id"]], names=["id"])


def find_ids(
    digests: dict[int, str], wanted: pa.Array, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield a row of `FOUND_SCHEMA` for each shard that has items with a wanted id.

    Parameters
    ----------
    digests, batches
        See `read_ids`.
    wanted : pyarrow.Array
        Distinct ids, without nulls.
    """
    for shard, items in open_shards(digests, batches, heads=True):
        which, positions = items.positions_of(wanted.cast(items.columns["id"].type))
        if len(positions):
            cells = [[shard], [len(positions)], [np.unique(which).tobytes()]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(cell, each.type) for cell, each in zip(cells, FOUND_SCHEMA, strict=True)],
                schema=FOUND_SCHEMA,
            )


@dataclass(frozen=True)
class RemovalRequest:
    """The parameters of a task that removes items from shards.

    Attributes
    ----------
    wanted : pyarrow.Array
        The ids of the items to remove. Each shard keeps at least one item.
    spec : IndexSpec
        The index to build.
    keys : tuple of str
        The item columns of keys; empty if there are no keys.
    cells : Cells or None
        The cells that the shards are; None if they are not cells.
    unique : str
        A value that makes this plan unique, see `packing.PackRequest`.
    """

    wanted: pa.Array
    spec: IndexSpec
    keys: tuple[str, ...] = ()
    cells: Cells | None = None
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)


def remove_items(
    request: RemovalRequest, digests: dict[int, str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Build shards again without some of their items.

    Parameters
    ----------
    request : RemovalRequest
        What to remove.
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `shard_rows.SHARD_SCHEMA`.
    """
    choice = SharedChoice()
    with threadpool_limits(limits=task_threads()):
        for shard, searchable in open_shards(digests, batches):
            spread = functools.partial(_spread, request.cells, shard)
            content = _without(searchable, request.wanted)
            yield from written_shard(shard, content, request.spec, request.keys, spread, choice)


def _without(searchable: Searchable, wanted: pa.Array) -> tuple[pa.Table, Rows]:
    """Return the other items of a shard, in their order, and their vectors."""
    items: Items = searchable.items
    kept = np.ones(items.count, dtype=bool)
    kept[items.positions_of(wanted.cast(items.columns["id"].type))[1]] = False
    rows = np.flatnonzero(kept)
    table = pa.table(dict(items.columns)).take(pa.array(rows)).combine_chunks()
    return table, searchable.vectors(rows)


def _spread(cells: Cells | None, shard: int, matrix: NDArray[np.floating]) -> Spread | None:
    return None if cells is None else cells.spread(shard, matrix)
