"""The shards of new items: few items are packed by the task that also builds their shards."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit.chunks import CHUNK_SCHEMA
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.shards.build import ShardRequest
from pyspark_knn.engine.shards.build_few import (
    FewRequest,
    pack_and_build,
    unpack_chunks,
)
from pyspark_knn.engine.shards.dividing import next_series, undivided
from pyspark_knn.engine.shards.frames import ShardSource, SharedFrame
from pyspark_knn.engine.shards.jobs import (
    BuiltSeries,
    ShardTraits,
    build_series,
)
from pyspark_knn.engine.shards.layout import ShardSeries, slots
from pyspark_knn.engine.ship.bundle import read_bundle
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_SCHEMA
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.plans import is_small_scan
from pyspark_knn.index.cells import ShardAssignment
from pyspark_knn.index.registry import approximate_classes

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.packing import PackRequest
    from pyspark_knn.engine.fit.source import ItemSource
    from pyspark_knn.index.base import IndexSpec

_FEW_BYTES = 32 << 20
"""The largest estimate of the size of items that one task packs: it takes less than a second."""

_MOST_PACKED = 64 << 20
"""The largest size of items that the task which packs them also builds shards of, in bytes. Files
may contain more than Spark's estimate."""


def pack_new(
    dataset: DataFrame,
    source: ItemSource,
    spec: IndexSpec,
    before: Sequence[ShardSeries],
    traits: ShardTraits,
) -> PackedItems:
    """Pack new items of a sharded index, and build their shards at once if they are few.

    Parameters
    ----------
    dataset : DataFrame
        The items.
    source : ItemSource
        What to read.
    spec : IndexSpec
        The index of each shard.
    before : sequence of ShardSeries
        The shards of the other items.
    traits : ShardTraits
        What they have in common.

    Returns
    -------
    PackedItems
        The items, for `append_series`.
    """
    many_graphs = before[0].assignment is not None and spec.algorithm in approximate_classes()
    # Without ids, the order of the rows matters, which Spark may change when it joins partitions.
    if source.id_type is None or many_graphs or not is_small_scan(dataset, _FEW_BYTES):
        return PackedItems(dataset, source, may_be_empty=True)
    return _FewItems(dataset, source, spec, before, traits)


def append_series(
    packed: PackedItems,
    spec: IndexSpec,
    before: Sequence[ShardSeries],
    traits: ShardTraits,
    all_traits: ShardTraits,
    position: int,
) -> tuple[ShardSeries, BuiltSeries]:
    """Build the shards of new items, unless they were built when the items were packed.

    Parameters
    ----------
    packed : PackedItems
        The new items, at least one.
    spec, before, traits
        See `pack_new`.
    all_traits : ShardTraits
        What all shards have in common, with the new items.
    position : int
        The position of the first new item, if items have no ids.
    """
    if isinstance(packed, _FewItems) and (taken := packed.take()) is not None:
        return taken
    series = next_series(packed, spec, before, traits)
    return series, build_series(packed, spec, all_traits, series, position)


class _FewItems(PackedItems):
    """New items, which one task packs and builds the shards of, unless they are too many for that.

    Attributes
    ----------
    frame : DataFrame
        The chunks, if there are too many items.
    """

    def __init__(
        self,
        dataset: DataFrame,
        source: ItemSource,
        spec: IndexSpec,
        before: Sequence[ShardSeries],
        traits: ShardTraits,
    ) -> None:
        self._shards: ShardRequest = ShardRequest(
            dim=traits.num_features,
            dtype=traits.dtype,
            num_shards=1,
            first=slots(before),
            order=tuple(source.item_columns),
            has_ids=True,
            chunks=np.empty((0, 5), np.int64),
            spec=spec,
            storage=traits.storage,
            assignment=undivided(before, spec),
            keys=tuple(source.key_types),
        )
        self._most_bytes = min(_MOST_PACKED, traits.shard_bytes)
        self._built: BuiltSeries | None = None
        self._is_kept = False
        super().__init__(dataset, source, may_be_empty=True)

    def __exit__(self, *error: Any) -> None:
        if not self._is_kept:
            super().__exit__(*error)

    def take(self) -> tuple[ShardSeries, BuiltSeries] | None:
        """Return the shards, which stay persisted from now on; None if none were built."""
        if self._built is None:
            return None
        self._is_kept = True
        assignment = self._shards.assignment
        count = len(assignment.ways) if isinstance(assignment, ShardAssignment) else 1
        return ShardSeries(self._shards.first, count, self.dtype, assignment), self._built

    def _packed(self, dataset: DataFrame, request: PackRequest) -> DataFrame:
        few = FewRequest(request, self._shards, self._most_bytes)
        run = guarded(functools.partial(pack_and_build, few))
        one = self.source.read(dataset).coalesce(1)
        return one.mapInArrow(run, from_arrow_schema(SHARD_SCHEMA))

    def _counts(self) -> list[Row]:
        rows = compat.collect(self.frame.where("notes IS NOT NULL").select("notes"))
        counts: list[Row] = []
        for notes in (read_bundle(memoryview(row["notes"])) for row in rows):
            counts += [Row(**count) for count in notes.counts.to_pylist()]
            if notes.shards:
                shards = ShardSource(SharedFrame(self.frame), tuple(notes.shards))
                self._built = BuiltSeries(shards, notes.ids)
        if self._built is None:
            # Too many items, if any.
            chunks = self.frame.where("bytes IS NOT NULL").select("bytes")
            self.frame = chunks.mapInArrow(guarded(unpack_chunks), from_arrow_schema(CHUNK_SCHEMA))
        return counts
