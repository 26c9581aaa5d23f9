"""The defaults for the numbers of shards, replicas and tasks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyspark_knn.index.found import SPARSE
from pyspark_knn.index.registry import expected_bytes

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.counted import CountedItems
    from pyspark_knn.index.base import IndexSpec

SHARD_BYTES = 256 << 20
"""The vectors of one shard, in bytes, unless numShards is set or the heap of a task is small."""

_SMALL_SHARD_BYTES = 32 << 20
"""The vectors of one shard, in bytes, however small the heap is."""

_HEAP_SHARE = 8
"""The heap of a task in shards. A task that persists a shard, or reads one back from disk, may hold
all parts of it: Spark compares the memory of persisted batches with its limit after 16 of them
only, and Java's object streams keep what they read. Two tasks with shards of 256 MiB failed in a
heap of 1 GiB; shards of an eighth did not, nor in half of that heap."""

LARGEST_SHARD = 1 << 30
"""The largest vectors of one shard, in bytes: before Spark 4, an Arrow batch may contain a whole
shard, and its limit is 2 GiB."""

_SPREAD_SHARDS = 8
"""Shards of a small index: enough to build them in parallel, few enough to search them quickly."""

_CELL_ITEMS = 1 << 13
"""Items in a cell, unless numShards is set."""

_MAX_CELLS = 1024
"""More cells exclude more items from a search, but each query is compared with all centers."""

_TASKS_PER_CORE = 4
"""Small shards share tasks, since a task takes a while to start."""


def shard_bytes_of(heap: int) -> int:
    """Return the default for the largest vectors of one shard, given the heap of a task."""
    return min(SHARD_BYTES, max(_SMALL_SHARD_BYTES, heap // _HEAP_SHARE))


def added_bytes(packed: CountedItems, storage: str, spec: IndexSpec) -> int:
    """Return about how many bytes an approximate index of items takes in addition to them.

    Parameters
    ----------
    packed : CountedItems
        The items.
    storage : {"dense", "sparse"}
        How their vectors will be stored.
    spec : IndexSpec
        How they will be indexed.
    """
    if storage == SPARSE or packed.source.key_types:
        return 0
    return expected_bytes(spec, (packed.num_items, packed.num_features), packed.dtype)


def choose_num_shards(
    requested: int | None,
    nbytes: int,
    num_items: int,
    cores: int,
    shard_by: str = "hash",
    shard_bytes: int = SHARD_BYTES,
    *,
    added: int = 0,
) -> int:
    """Return the number of shards.

    The default is shards of `shard_bytes`, but at least as many as there are cores, up to 8, so
    that a small index is built in parallel too. Of cells there is at least one for 8,192 items, up
    to 1,024 cells, since a search skips most of them. There are never more shards than items.

    Parameters
    ----------
    requested : int or None
        The Param ``numShards``.
    nbytes : int
        The bytes of the item matrix.
    num_items, cores : int
        The number of items, and of tasks that the cluster runs at a time.
    shard_by : {"hash", "kmeans"}
        The Param ``shardBy``.
    shard_bytes : int
        See `shard_bytes_of`.
    added : int, default=0
        The bytes of an approximate index, which count for the default.

    Raises
    ------
    ValueError
        If `requested` makes shards larger than 1 GiB.
    """
    least = -(-nbytes // LARGEST_SHARD)
    if requested is not None and requested < least:
        raise ValueError(
            f"numShards must be >= {least}, so that no shard is larger than 1 GiB, got {requested}"
        )
    wanted = requested or max(-(-(nbytes + added) // shard_bytes), min(cores, _SPREAD_SHARDS))
    if requested is None and shard_by == "kmeans":
        wanted = max(wanted, min(num_items // _CELL_ITEMS, _MAX_CELLS))
    return min(wanted, num_items)


def enough_shards(nbytes: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Return the smallest number of shards of at most `shard_bytes`."""
    return max(1, -(-nbytes // shard_bytes))


def grown_num_shards(
    before: int,
    old: tuple[int, int],
    new: tuple[int, int],
    cores: int,
    shard_by: str,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Return the number of shards that a fit has after items were appended.

    It is the default if it was so far, and else as requested, unless shards would be too large.

    Parameters
    ----------
    before : int
        The number so far.
    old, new : (int, int)
        The bytes of the vectors and the number of items, so far and with the new items.
    cores, shard_by, shard_bytes
        See `choose_num_shards`.
    """
    if before == choose_num_shards(None, *old, cores, shard_by, shard_bytes):
        return choose_num_shards(None, *new, cores, shard_by, shard_bytes)
    return max(before, -(-new[0] // LARGEST_SHARD))


def choose_num_replicas(num_shards: int, cores: int) -> int:
    """Return the number of tasks that share the queries of a shard, so that few cores are idle.

    It is the smallest number, of up to two tasks per core, that keeps most cores busy at the end.
    """

    def busy(replicas: int) -> float:
        waves = num_shards * replicas / cores
        return waves / math.ceil(waves)

    return max(range(1, math.ceil(2 * cores / num_shards) + 1), key=busy)


def enough_tasks(nbytes: int, cores: int, shard_bytes: int = SHARD_BYTES) -> int:
    """Return a number of tasks that keeps all cores busy with none of the tasks too large."""
    return max(_TASKS_PER_CORE * cores, -(-nbytes // shard_bytes))
