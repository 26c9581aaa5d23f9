"""The report of `explainSearch`: the estimated cost of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyspark_knn.engine.placement import GroupSizes
from pyspark_knn.engine.placing import AUTO_BYTES
from pyspark_knn.engine.shards.layout import is_outgrown

_GIB = 2.0**30
_CANDIDATE_BYTES = 24
"""Approximate size in bytes of a candidate neighbor that a shard returns."""

EXPLAINED_QUERIES = 256
"""How many queries are timed at most: enough to fill a block of queries."""


@dataclass(frozen=True)
class SearchCost:
    """The measured and estimated cost of a search.

    Attributes
    ----------
    items, features, queries : int
        Number of items, dimension of their vectors, and number of queries.
    k : int or None
        Neighbors per query; None for all within maxDistance.
    index_bytes : int
        Size of the whole index, in bytes.
    query_bytes : float
        Mean size of a query's vector, in bytes, measured on a sample.
    storage, storage_reason : str
        How the vectors are stored, and why.
    pair_seconds : float
        Time per pair of a query and an item, in seconds, measured on a sample.
    timed : int
        Number of queries of this sample.
    cores : int
        Number of tasks that the cluster runs at a time.
    shards, replicas, tasks : int
        Number of shards, of replicas per shard, and of tasks; 0 for a replicated index.
    cells : int
        Number of cells that the shards consist of; 0 if they are not cells.
    refit_shards : int
        Number of shards that a fit of the items would have.
    appended_shards, appended_items : int
        Number of shards of items that were appended, and of these items.
    probed : float
        Largest share of the shards that a query is searched in, from 0 to 1.
    groups : GroupSizes or None
        The groups of items with equal keys; None if there are no keys.
    algorithm : str
        The algorithm of the index.
    recall : str
        The measured recall of an approximate search; "" if it is exact.
    """

    items: int
    features: int
    queries: int
    k: int | None
    index_bytes: int
    query_bytes: float
    storage: str
    storage_reason: str
    pair_seconds: float
    timed: int
    cores: int
    shards: int = 0
    replicas: int = 0
    tasks: int = 0
    cells: int = 0
    refit_shards: int = 0
    appended_shards: int = 0
    appended_items: int = 0
    probed: float = 1.0
    groups: GroupSizes | None = None
    algorithm: str = ""
    recall: str = ""

    def report(self) -> str:
        """Return the report as text, one line for each aspect of the cost."""
        parts = self._sharded() if self.shards else self._replicated()
        return "\n".join([*self._sizes(), *parts, self._time(), *self._advice()])

    def _sizes(self) -> list[str]:
        pairs = f"{self._pairs:.3g} pairs"
        if self.probed < 1:
            pairs += f", of which at most {self.probed:.1%} are compared"
        return [
            f"items      {self.items:,} of {self.features:,} dimensions, {_size(self.index_bytes)}",
            f"queries    {self.queries:,}, {self._neighbors}: {pairs}",
            *self._groups(),
            f"algorithm  {self.algorithm}: {self.recall or 'exact'}",
            f"storage    {self.storage}: {self.storage_reason}",
        ]

    @property
    def _neighbors(self) -> str:
        if self.k is None:
            return "all neighbors within maxDistance"
        return f"{_counted(self.k, 'neighbor')} each"

    @property
    def _pairs(self) -> float:
        """The number of pairs of a query and an item, if queries have keys as items do."""
        return self.queries * (self.items if self.groups is None else self.groups.mean)

    def _groups(self) -> list[str]:
        if self.groups is None:
            return []
        largest = "; ".join(f"{key}: {size:,}" for key, size in self.groups.largest)
        return [
            f"keys       {self.groups.count:,} groups of {self.groups.median:,.0f} items (median), "
            f"the largest: {largest}"
        ]

    def _replicated(self) -> list[str]:
        whole = _size(self.index_bytes)
        return [
            "placement  replicated",
            f"transfer   {whole} to each executor, once; no queries",
            f"memory     {whole} per executor, shared by its Python workers",
        ]

    def _sharded(self) -> list[str]:
        searched = 1 if self.groups is not None else math.ceil(self.shards * self.probed)
        copies = self.queries * searched
        vectors = copies * self.query_bytes
        found = f"{_size(copies * self.k * _CANDIDATE_BYTES)} of" if self.k else "the"
        return [
            f"placement  sharded: {self.shards} shards, {self.replicas} replicas of each, "
            f"{self.tasks} tasks",
            f"transfer   {_size(self.index_bytes * self.replicas)} of shards, {_size(vectors)} of "
            f"query vectors, {found} candidates",
            f"memory     {_size(self._task_bytes)} of Python memory per concurrent task",
        ]

    @property
    def _task_bytes(self) -> int:
        """Python memory of a task in bytes: a shard while it is assembled, and a batch."""
        fitted = max(1, self.shards - self.appended_shards)
        return 2 * self.index_bytes // fitted + (128 << 20)

    @property
    def _hours(self) -> float:
        return self._pairs * self.probed * self.pair_seconds / 3600

    def _time(self) -> str:
        minutes = 60 * self._hours / self.cores
        if 60 * minutes < 1:
            took = f"less than a second on {self.cores} cores"
        else:
            took = (
                f"about {self._hours:.3g} core-hours, {minutes:.3g} minutes on {self.cores} cores"
            )
        return f"time       {took} (estimated from {_counted(self.timed, 'query', 'queries')})"

    @property
    def _is_worth_a_refit(self) -> bool:
        """Whether appended shards make searches slower: they are many, or centers are outdated."""
        return is_outgrown(
            shards=self.shards,
            refit_shards=self.refit_shards,
            appended_shards=self.appended_shards,
            items=self.items,
            appended_items=self.appended_items,
            cells=self.cells,
        )

    def _advice(self) -> list[str]:
        advice = []
        if not self.shards and self.index_bytes > AUTO_BYTES:
            advice.append(
                "set placement='sharded' if the index does not fit in the memory of one machine"
            )
        if self.shards and 60 * self._hours / self.tasks > 10:
            advice.append(
                f"raise numReplicas: a task takes about {60 * self._hours / self.tasks:.0f} "
                "minutes, and is repeated if its executor is lost"
            )
        if self.shards and self._task_bytes > _GIB:
            advice.append(
                "raise spark.executor.memoryOverhead to the Python memory of all concurrent tasks "
                "of an executor, or raise numShards"
            )
        if self._is_worth_a_refit:
            advice.append(
                f"fit again, or save and load the model: {self.appended_items:,} items in "
                f"{self.appended_shards} of {self.shards} shards were appended, and a fit would "
                f"have {self.refit_shards} shards"
            )
        return [f"advice     {line}" for line in advice]


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def _size(count: float) -> str:
    """Format a number of bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
