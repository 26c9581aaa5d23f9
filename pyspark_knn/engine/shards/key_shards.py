"""The assignment of items and queries to shards by their keys."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import Column
from pyspark.sql import functions as F

from pyspark_knn.engine.shards.sampling import KEY_COUNTS, count_keys
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.spreading import int_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.fit.packed import PackedItems


_BUCKETS = 16
"""Buckets of keys for each shard: enough to fill all shards about evenly."""


@dataclass(frozen=True)
class KeyShards:
    """The shards of each key.

    Keys are divided into buckets by their hashes, and the buckets are assigned to shards. So a key
    has one shard, and a query is searched in one shard. The items of a key that are too many for
    one shard are divided over several shards, by their ids.

    Attributes
    ----------
    buckets : tuple of int
        The shard of each bucket.
    large : dict of int to tuple of int
        The hashes of the keys that are divided, and the shards of each.
    first : int, default=0
        The number of the first shard, from which the others are counted.
    """

    buckets: tuple[int, ...]
    large: dict[int, tuple[int, ...]]
    first: int = 0

    def of_items(
        self, key_hashes: NDArray[np.int64], id_hashes: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """Return the shard of each item.

        Parameters
        ----------
        key_hashes : ndarray of shape (n_items,), dtype int64
            The hashes of their keys, see `key_columns.key_hash`.
        id_hashes : ndarray of shape (n_items,), dtype uint64
            Hashes of their ids.

        Returns
        -------
        ndarray of shape (n_items,), dtype int64
            Numbers of shards, counted from the first one.
        """
        shards: NDArray[np.int64] = np.array(self.buckets)[key_hashes % len(self.buckets)]
        for key, own in self.large.items():
            rows = np.flatnonzero(key_hashes == key)
            shards[rows] = np.array(own)[id_hashes[rows] % np.uint64(len(own))]
        return shards

    def of_key(self, key: Column) -> Column:
        """Return the shards of a key, an array of int, given its hash."""
        bucket = F.pmod(key, F.lit(len(self.buckets))).cast("int")
        shards = F.array(F.get(self._numbers(self.buckets), bucket))
        for large, own in self.large.items():
            shards = F.when(key == F.lit(large), self._numbers(own)).otherwise(shards)
        return shards

    def _numbers(self, shards: Sequence[int]) -> Column:
        return int_array([self.first + shard for shard in shards])


def shards_of_query(parts: Sequence[KeyShards], keys: Column, filled: Sequence[int]) -> Column:
    """Return the shards that a query is sent to.

    Parameters
    ----------
    parts : sequence of KeyShards
        The shards of the fit, and those of each append.
    keys : Column
        The hashes of the keys of the query, an array of long.
    filled : sequence of int
        The shards that have items.

    Returns
    -------
    Column
        An array of int with at least one shard, and without repetitions: the query must get an
        answer, even if no item has its key.
    """
    shards = F.flatten(
        F.transform(keys, lambda key: F.concat(*(each.of_key(key) for each in parts)))
    )
    shards = F.array_intersect(shards, int_array(filled))
    return F.when(F.size(shards) > 0, shards).otherwise(F.array(F.lit(filled[0])))


def find_key_shards(packed: PackedItems, num_shards: int) -> KeyShards:
    """Assign the keys to shards of about equal size, given how many items have them.

    The driver gets the number of items of each bucket, and the hashes of large keys.

    Parameters
    ----------
    packed : PackedItems
        The items.
    num_shards : int
        The number of shards.
    """
    fair, num_buckets = -(-packed.num_items // num_shards), _BUCKETS * num_shards
    count = guarded(functools.partial(count_keys, packed.num_features))
    rows = packed.frame.mapInArrow(count, KEY_COUNTS)
    sums = rows.groupBy("key").agg(F.sum("rows").alias("rows"))
    is_large = F.col("rows") > fair
    by = F.struct(
        F.when(~is_large, F.pmod("key", F.lit(num_buckets))).alias("bucket"),
        F.when(is_large, F.col("key")).alias("key"),
    )
    with compat.described(packed.frame.sparkSession, "pyspark_knn: count the items of keys"):
        counts = sums.groupBy(by.alias("by")).agg(F.sum("rows")).select("by.*", "sum(rows)")
        found = [tuple(row) for row in counts.collect()]
    large = {key: rows for _, key, rows in found if key is not None}
    buckets = {bucket: rows for bucket, key, rows in found if key is None}
    return assigned(num_shards, [buckets.get(i, 0) for i in range(num_buckets)], large)


def assigned(num_shards: int, buckets: Sequence[int], large: Mapping[int, int]) -> KeyShards:
    """Assign buckets and parts of large keys to shards: the largest first, to the emptiest shard.

    Parameters
    ----------
    num_shards : int
        The number of shards.
    buckets : sequence of int
        The number of items in each bucket, without those of large keys.
    large : mapping of int to int
        The hashes of large keys, and their numbers of items.

    Returns
    -------
    KeyShards
        The assignment.
    """
    fair = -(-(sum(buckets) + sum(large.values())) // num_shards)
    ways = {key: -(-rows // fair) for key, rows in sorted(large.items())}
    loads = [(large[key] / many, key, True) for key, many in ways.items() for _ in range(many)]
    loads += [(float(rows), number, False) for number, rows in enumerate(buckets)]
    loads.sort(key=lambda load: load[0], reverse=True)
    emptiest = [(0.0, shard) for shard in range(num_shards)]
    of_buckets = [0] * len(buckets)
    of_large: dict[int, list[int]] = {key: [] for key in ways}
    for rows, which, is_large in loads:
        total, shard = heapq.heappop(emptiest)
        if is_large:
            of_large[which].append(shard)
        else:
            of_buckets[which] = shard
        heapq.heappush(emptiest, (total + rows, shard))
    return KeyShards(tuple(of_buckets), {key: tuple(each) for key, each in of_large.items()})
