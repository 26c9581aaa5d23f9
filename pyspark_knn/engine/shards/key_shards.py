"""The assignment of items and queries to shards by their keys."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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


@dataclass(frozen=True)
class KeyShards:
    """The shards of each key.

    A key has one shard, by its hash, so that a query is searched in one shard. The items of a key
    that are too many for one shard are divided over several consecutive shards, by their ids.

    Attributes
    ----------
    num_shards : int
        The number of shards.
    large : dict of int to int
        The hashes of the keys that are divided, and the number of shards of each.
    first : int
        The number of the first shard.
    """

    num_shards: int
    large: dict[int, int]
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
        shards: NDArray[np.int64] = key_hashes % self.num_shards
        for key, ways in self.large.items():
            rows = np.flatnonzero(key_hashes == key)
            shards[rows] += (id_hashes[rows] % np.uint64(ways)).astype(np.int64)
        return shards % self.num_shards

    def of_key(self, key: Column) -> Column:
        """Return the shards of a key, an array of int, given its hash."""
        shards = F.array((F.pmod(key, F.lit(self.num_shards)) + F.lit(self.first)).cast("int"))
        for large, ways in self.large.items():
            own = [self.first + (large + way) % self.num_shards for way in range(ways)]
            shards = F.when(key == F.lit(large), int_array(own)).otherwise(shards)
        return shards


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


def find_key_shards(packed: PackedItems, num_shards: int, first: int = 0) -> KeyShards:
    """Find the keys of more items than a shard should have; the driver gets these keys alone.

    Parameters
    ----------
    packed : PackedItems
        The items.
    num_shards : int
        The number of shards.
    first : int, default=0
        The number of the first shard.

    Returns
    -------
    KeyShards
        The assignment.
    """
    fair = -(-packed.num_items // num_shards)
    count = guarded(functools.partial(count_keys, packed.num_features))
    rows = (
        packed.frame.mapInArrow(count, KEY_COUNTS).groupBy("key").agg(F.sum("rows").alias("rows"))
    )
    with compat.described(packed.frame.sparkSession, "pyspark_knn: find large keys"):
        found = rows.where(F.col("rows") > fair).collect()
    large = {key: -(-items // fair) for key, items in found}
    return KeyShards(num_shards, dict(sorted(large.items())), first)
