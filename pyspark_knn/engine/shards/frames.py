"""The persisted DataFrames of shards, which several indexes may share."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn.engine.spark.caching import free_with, unpersist

if TYPE_CHECKING:
    from pyspark_knn.engine.ship.shard_rows import Shard


class SharedFrame:
    """A persisted DataFrame, which is unpersisted when the last object that uses it is gone.

    Parameters
    ----------
    frame : DataFrame
        Persisted rows of `shard_rows.SHARD_SCHEMA`.
    *sources : DataFrame
        Other persisted DataFrames, which are needed to build lost shards again.
    """

    def __init__(self, frame: DataFrame, *sources: DataFrame) -> None:
        self.frame = frame
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        # The users refer to this object, so that it is gone when they are.
        self._releases = {each: free_with(self, each) for each in (frame, *sources)}

    def join(self, user: object) -> None:
        """Add a user."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        """Remove a user, and unpersist the DataFrame if that was the last one."""
        self._users.discard(user)
        if not self._users:
            for frame, release in self._releases.items():
                release.detach()
                unpersist(frame)


@dataclass(frozen=True)
class ShardSource:
    """Shards in a persisted DataFrame.

    Attributes
    ----------
    shared : SharedFrame
        The DataFrame.
    shards : tuple of Shard
        The shards in it that belong to an index. The others were replaced.
    whole : bool
        Whether these are all shards in it.
    """

    shared: SharedFrame
    shards: tuple[Shard, ...]
    whole: bool = True

    @property
    def frame(self) -> DataFrame:
        """The rows of the shards."""
        if self.whole:
            return self.shared.frame
        return self.shared.frame.where(F.col("shard").isin([each.shard for each in self.shards]))

    def without(self, numbers: set[int]) -> ShardSource:
        """Return the source without some shards."""
        kept = tuple(each for each in self.shards if each.shard not in numbers)
        return ShardSource(self.shared, kept, self.whole and len(kept) == len(self.shards))


def union_of(sources: Sequence[ShardSource]) -> DataFrame:
    """Return the rows of all shards; those of a shard follow one another, in order."""
    return functools.reduce(DataFrame.unionByName, (each.frame for each in sources))
