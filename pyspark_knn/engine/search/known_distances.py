"""The distances that a Python worker knows of queries, from the shards that it has searched.

The k-th smallest distance in one shard is a limit for the next one: an item beyond it is not among
the k nearest of all shards. With the limit, the search of a shard rules out most items from its
start, and returns fewer. So a worker remembers the k smallest distances of each query of a stage,
also from task to task. Which shards a worker has searched is a matter of chance, and so is what a
shard returns beyond the k nearest of all shards; the merged answer does not depend on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pyspark_knn.engine.search.batches import Request

_KNOWN_DISTANCES = 1 << 22
"""The largest number of distances that a worker remembers: 32 MiB."""


class KnownDistances:
    """The k smallest distances so far of each query, by blocks of queries.

    Parameters
    ----------
    k : int
        The number of neighbors of a query.
    most : int, default=_KNOWN_DISTANCES
        The largest number of distances to remember. Further blocks are not remembered.
    """

    def __init__(self, k: int, most: int = _KNOWN_DISTANCES) -> None:
        self._k = k
        self._room = most
        self._tables: dict[Hashable, NDArray[np.float64]] = {}
        self._shards: dict[Hashable, set[int]] = {}

    def limits(self, blocks: Sequence[tuple[Hashable, int]]) -> NDArray[np.float64] | None:
        """Return a distance of each query, beyond which no item is among its k nearest.

        Parameters
        ----------
        blocks : sequence of (hashable, int)
            The names of blocks, and how many queries each has.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64, or None
            The limits, inclusive; inf for a query of which fewer than k distances are known. None
            if no block is known.
        """
        if not any(name in self._tables for name, _ in blocks):
            return None
        return np.concatenate(
            [
                self._tables[name][:, -1] if name in self._tables else np.full(count, np.inf)
                for name, count in blocks
            ]
        )

    def add(self, name: Hashable, shard: int, distances: pa.ListArray) -> None:
        """Add the distances of the items of a shard, once, while there is room for them.

        Parameters
        ----------
        name : hashable
            The name of the block of queries.
        shard : int
            The number of the shard. A retried task searches it again.
        distances : pyarrow.ListArray
            At most k distances of each query; null for none.
        """
        count = len(distances)
        if name not in self._tables:
            if count * self._k > self._room:
                return
            self._room -= count * self._k
        shards = self._shards.setdefault(name, set())
        if shard in shards:
            return
        shards.add(shard)
        lengths = distances.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(count), lengths)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        table = np.full((count, self._k), np.inf)
        table[rows, places] = distances.flatten().to_numpy()
        if name in self._tables:
            both = np.concatenate([self._tables[name], table], axis=1)
            table = np.partition(both, self._k - 1, axis=1)[:, : self._k].copy()
        elif not (lengths == self._k).all():
            table.sort(axis=1)
        self._tables[name] = table


@dataclass(frozen=True)
class KnownInShard:
    """The known distances of some blocks, while one more shard is searched.

    Attributes
    ----------
    distances : KnownDistances
        What is known.
    shard : int
        The number of the shard.
    names : sequence of hashable
        The names of the blocks.
    """

    distances: KnownDistances
    shard: int
    names: Sequence[Hashable]

    def limits(self, first: int, counts: Sequence[int]) -> NDArray[np.float64] | None:
        """Return `KnownDistances.limits` of the blocks from `first` on, of so many queries each."""
        names = self.names[first : first + len(counts)]
        return self.distances.limits(list(zip(names, counts, strict=True)))

    def add(self, number: int, distances: pa.ListArray) -> None:
        """Add what the shard found for a block, see `KnownDistances.add`."""
        self.distances.add(self.names[number], self.shard, distances)


_last: list[tuple[Hashable, KnownDistances]] = []
"""What is known in the last search of this worker, and what search that is."""


def known_distances(search: str, request: Request) -> KnownDistances | None:
    """Return what this worker knows in the search of the task that it runs.

    Parameters
    ----------
    search : str
        A name that no other search has: blocks of the same name and content have other distances by
        another metric.
    request : Request
        The search.

    Returns
    -------
    KnownDistances or None
        The distances; None if items are held out, since these differ from query to query.
    """
    from pyspark import TaskContext

    if request.k is None or request.held_out is not None:
        return None
    context = TaskContext.get()
    if context is None:
        return KnownDistances(request.k)
    # Not by the name alone: a search that runs again may have other queries.
    stage = search, context.stageId()
    if not _last or _last[0][0] != stage:
        _last[:] = [(stage, KnownDistances(request.k))]
    return _last[0][1]
