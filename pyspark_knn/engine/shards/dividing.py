"""Which shards items are divided into: those of a fit, and those of an append."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.engine.shards.clustering import find_assignment, ways_of
from pyspark_knn.engine.shards.key_shards import KeyShards, find_key_shards
from pyspark_knn.engine.shards.layout import ShardSeries, slots
from pyspark_knn.engine.shards.sizing import LARGEST_SHARD, enough_shards
from pyspark_knn.index.cells import ShardAssignment

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.engine.shards.jobs import ShardTraits
    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.distances import Metric


def first_series(
    packed: PackedItems, metric: Metric, count: int, shard_by: str, nbytes: int
) -> ShardSeries:
    """Return the shards of the items of a fit.

    Parameters
    ----------
    packed : PackedItems
        The items.
    metric : Metric
        The metric.
    count : int
        About the number of shards.
    shard_by : {"hash", "kmeans"}
        Assign items to shards by a hash of their ids, or by cells of nearby items.
    nbytes : int
        The size of all items in bytes, which limits the size of a cell.
    """
    assignment: ShardAssignment | KeyShards | None = None
    if shard_by == "kmeans":
        most = LARGEST_SHARD * packed.num_items // nbytes
        assignment = find_assignment(packed, count, most, metric)
        count = int(assignment.ways.sum())
    if packed.source.key_types:
        assignment = find_key_shards(packed, count)
    return ShardSeries(0, count, packed.dtype, assignment)


def next_series(
    packed: PackedItems, spec: IndexSpec, before: Sequence[ShardSeries], traits: ShardTraits
) -> ShardSeries:
    """Return as few shards of new items as their size allows, or one for each cell.

    Parameters
    ----------
    packed : PackedItems
        The new items.
    spec : IndexSpec
        The index of each shard.
    before : sequence of ShardSeries
        The shards of the other items.
    traits : ShardTraits
        What they have in common.
    """
    first, assigned = slots(before), before[0].assignment
    nbytes = packed.nbytes(traits.storage)
    count = enough_shards(nbytes, traits.shard_bytes)
    whole = undivided(before, spec)
    if count == 1 or assigned is None:
        count = len(whole.ways) if isinstance(whole, ShardAssignment) else count
        return ShardSeries(first, count, packed.dtype, whole)
    if isinstance(assigned, ShardAssignment):
        most = max(1, LARGEST_SHARD * packed.num_items // nbytes)
        ways = ways_of(packed, assigned, most)
        cut = ShardAssignment(assigned.centers, np.cumsum(ways) - ways, ways, spec.metric)
        return ShardSeries(first, int(ways.sum()), packed.dtype, cut)
    if isinstance(assigned, KeyShards):
        keys = replace(find_key_shards(packed, count), first=first)
        return ShardSeries(first, count, packed.dtype, keys)
    return ShardSeries(first, count, packed.dtype)


def undivided(before: Sequence[ShardSeries], spec: IndexSpec) -> ShardAssignment | KeyShards | None:
    """Return the assignment of few new items: to one shard, or to one for each cell.

    Parameters
    ----------
    before : sequence of ShardSeries
        The shards of the other items.
    spec : IndexSpec
        The index of each shard.
    """
    assigned = before[0].assignment
    if isinstance(assigned, ShardAssignment):
        whole = np.ones(len(assigned.centers), np.int64)
        return ShardAssignment(assigned.centers, np.cumsum(whole) - whole, whole, spec.metric)
    return KeyShards((0,), {}, slots(before)) if isinstance(assigned, KeyShards) else None
