"""What a search would cost, in words and figures, without the search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyspark_knn.engine.placement import AUTO_BYTES

_GIB = 2.0**30
_CANDIDATE_BYTES = 24

EXPLAINED_QUERIES = 256
"""Queries that are timed: enough for a block of them."""


@dataclass(frozen=True)
class SearchCost:
    """The figures that a report is made of.

    Attributes
    ----------
    items, features, queries, k : int
        Items, the dimension of their vectors, queries, and neighbours wanted.
    index_bytes : int
        Of the whole index.
    pair_seconds : float
        What a query and an item take together, measured on a sample.
    cores : int
        Tasks that the cluster runs at a time.
    shards, replicas, tasks : int
        Of a sharded index; 0 of a replicated one.
    probed : float
        Which share of the shards a query goes to, at the most.
    """

    items: int
    features: int
    queries: int
    k: int
    index_bytes: int
    pair_seconds: float
    cores: int
    shards: int = 0
    replicas: int = 0
    tasks: int = 0
    probed: float = 1.0

    def report(self) -> str:
        """The report, a line a fact."""
        parts = self._sharded() if self.shards else self._replicated()
        return "\n".join([*self._sizes(), *parts, self._time(), *self._advice()])

    def _sizes(self) -> list[str]:
        pairs = f"{self.queries * self.items:.3g} pairs"
        if self.probed < 1:
            pairs += f", of which {self.probed:.1%} are looked at"
        return [
            f"items      {self.items:,} of {self.features:,} dimensions, {_size(self.index_bytes)}",
            f"queries    {self.queries:,}, {self.k} neighbours each: {pairs}",
        ]

    def _replicated(self) -> list[str]:
        whole = _size(self.index_bytes)
        return [
            "placement  replicated",
            f"moved      {whole} to each executor, once; no query",
            f"memory     {whole} an executor, which its Python workers share",
        ]

    def _sharded(self) -> list[str]:
        copies = self.queries * math.ceil(self.shards * self.probed)
        vectors, found = copies * self.features * 8, copies * self.k * _CANDIDATE_BYTES
        return [
            f"placement  sharded: {self.shards} shards, {self.replicas} replicas of each, "
            f"{self.tasks} tasks",
            f"moved      {_size(self.index_bytes * self.replicas)} of shards, {_size(vectors)} of "
            f"query vectors, {_size(found)} of candidates",
            f"memory     {_size(self._task_bytes)} in Python for each task of an executor",
        ]

    @property
    def _task_bytes(self) -> int:
        """A shard while it is put together, and the batch beside it."""
        return 2 * self.index_bytes // self.shards + (128 << 20)

    @property
    def _hours(self) -> float:
        return self.queries * self.items * self.probed * self.pair_seconds / 3600

    def _time(self) -> str:
        return (
            f"time       about {self._hours:.3g} core-hours, {60 * self._hours / self.cores:.3g} "
            f"minutes on {self.cores} cores (from {EXPLAINED_QUERIES} queries at most)"
        )

    def _advice(self) -> list[str]:
        advice = []
        if not self.shards and self.index_bytes > AUTO_BYTES:
            advice.append("placement='sharded' needs no machine that holds the whole index")
        if self.shards and 60 * self._hours / self.tasks > 10:
            advice.append(
                f"a task takes about {60 * self._hours / self.tasks:.0f} minutes, which a lost "
                "executor repeats: raise numReplicas"
            )
        if self.shards and self._task_bytes > _GIB:
            advice.append(
                "raise spark.executor.memoryOverhead to the Python memory of all tasks that an "
                "executor runs at a time, or raise numShards"
            )
        return [f"advice     {line}" for line in advice]


def _size(count: float) -> str:
    """Bytes in a unit that people read."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
