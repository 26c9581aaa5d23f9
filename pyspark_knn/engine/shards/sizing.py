"""How many shards, replicas and tasks: rules for what is left unset."""

from __future__ import annotations

import math

_SHARD_BYTES = 256 << 20
"""Vectors of one shard, unless numShards says otherwise."""

LARGEST_SHARD = 1 << 30
"""Before Spark 4 a batch of Arrow may hold all of a shard, and ends at 2 GiB."""

_SPREAD_SHARDS = 8
"""Shards of a small index: enough to build it side by side, few enough to search by."""

_CELL_ITEMS = 1 << 13
_MOST_CELLS = 1024
"""More cells rule out more items, but each query has to look at all of their centres."""

_TASKS_PER_CORE = 4
"""Small shards share tasks, which take a while to start."""


def choose_num_shards(
    asked: int | None, nbytes: int, num_items: int, cores: int, shard_by: str = "hash"
) -> int:
    """How many shards to cut items into.

    Unless asked for: shards of 256 MiB, but no fewer than there are cores, up to 8, so that a small
    index is built side by side too. Of cells at least one for 8,192 items, up to 1,024: they are
    there to be passed over. Never more than there are items.

    Parameters
    ----------
    asked : int or None
        The Param ``numShards``.
    nbytes : int
        Bytes of the item matrix.
    num_items, cores : int
        Items, and tasks that the cluster runs at a time.
    shard_by : {"hash", "kmeans"}

    Raises
    ------
    ValueError
        If the shards that were asked for would be larger than 1 GiB.
    """
    least = -(-nbytes // LARGEST_SHARD)
    if asked is not None and asked < least:
        raise ValueError(
            f"numShards must be >= {least}, so that no shard is larger than 1 GiB, got {asked}"
        )
    wanted = asked or max(-(-nbytes // _SHARD_BYTES), min(cores, _SPREAD_SHARDS))
    if asked is None and shard_by == "kmeans":
        wanted = max(wanted, min(num_items // _CELL_ITEMS, _MOST_CELLS))
    return min(wanted, num_items)


def choose_num_replicas(num_shards: int, cores: int) -> int:
    """How many tasks share the queries of a shard: so many that few cores idle in the last wave.

    Of up to two tasks a core, the fewest that keep the largest share of the cores busy.
    """

    def busy(replicas: int) -> float:
        waves = num_shards * replicas / cores
        return waves / math.ceil(waves)

    return max(range(1, math.ceil(2 * cores / num_shards) + 1), key=busy)


def enough_tasks(nbytes: int, cores: int) -> int:
    """Tasks that are enough to keep all cores busy, and that none of them is too large."""
    return max(_TASKS_PER_CORE * cores, -(-nbytes // _SHARD_BYTES))
