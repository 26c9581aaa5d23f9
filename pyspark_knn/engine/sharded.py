"""Placement "sharded": the index is divided into shards, and no machine holds all of them.

    packed chunks -split-> pieces -shuffle-> build -> shards: rows (shard, part, bytes), persisted

The driver receives counts and, if shards are cells, their centers. For the search of the shards see
`pyspark_knn.engine.shards.searching`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit.chunks import POSITION, SERIES
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.measuring import (
    Calibration,
    curve_of_levels,
    most_queries,
    searching,
)
from pyspark_knn.engine.placement import SHARDED, PlacedCost, Placement
from pyspark_knn.engine.rows.columns import Input, struct_type
from pyspark_knn.engine.rows.features import features_of, vector_type
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.answers import OwnSearch
from pyspark_knn.engine.search.batches import Request
from pyspark_knn.engine.search.export import read_shards
from pyspark_knn.engine.search.in_shards import time_shards
from pyspark_knn.engine.search.searchable import TIMING_SCHEMA
from pyspark_knn.engine.search.self_search import HeldOutSearch, SelfSearch
from pyspark_knn.engine.shards.appending import append_series, pack_new
from pyspark_knn.engine.shards.choosing import choose_algorithm
from pyspark_knn.engine.shards.dividing import first_series
from pyspark_knn.engine.shards.frames import ShardSource, union_of
from pyspark_knn.engine.shards.jobs import (
    ShardTraits,
    build_series,
    build_without,
    count_common_ids,
    count_duplicates,
    find_wanted,
)
from pyspark_knn.engine.shards.layout import (
    ShardSeries,
    cells_of,
    is_outgrown,
    key_shards,
    sample_of,
    slots,
)
from pyspark_knn.engine.shards.numbers import NumbersRequest, build_with_numbers
from pyspark_knn.engine.shards.pair_plan import pairs_within
from pyspark_knn.engine.shards.plan import ShardPlan
from pyspark_knn.engine.shards.restoring import (
    SHARD_STRUCTURE_SCHEMA,
    SavedShards,
    write_shard_structures,
)
from pyspark_knn.engine.shards.saved_layout import SavedLayout
from pyspark_knn.engine.shards.searching import search_queries
from pyspark_knn.engine.shards.self_plan import held_out_search, self_search
from pyspark_knn.engine.shards.sizing import (
    added_bytes,
    choose_num_replicas,
    choose_num_shards,
    enough_tasks,
    grown_num_shards,
    shard_bytes_of,
)
from pyspark_knn.engine.shards.updating import RemovalRequest
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS, Shard, first_numbers
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.heap import heap_per_task
from pyspark_knn.engine.spark.memory import available_memory
from pyspark_knn.index.recall import held_out_positions
from pyspark_knn.index.registry import approximate_classes, expected_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.recall import Curve


class Sharded(Placement):
    """An index in shards: rows of a persisted DataFrame.

    Parameters
    ----------
    sources : sequence of ShardSource
        The shards, and the persisted DataFrames that contain them.
    series : sequence of ShardSeries
        The shards of the fit, and those of each append.
    traits : ShardTraits
        What all shards have in common.
    num_duplicates : int
        The number of items that have the same id as another item.
    """

    name = SHARDED
    rebuilds_from_source = True
    searchable = None
    num_shards: int

    def __init__(
        self,
        sources: Sequence[ShardSource],
        series: Sequence[ShardSeries],
        traits: ShardTraits,
        num_duplicates: int,
    ) -> None:
        shards = [shard for source in sources for shard in source.shards]
        self.shards = sorted(shards, key=lambda shard: shard.shard)
        self.id_type = traits.source.id_type
        self.key_types = traits.source.key_types
        self.item_columns = traits.source.item_columns
        self.num_items = sum(shard.rows for shard in shards)
        self.num_features = traits.num_features
        self.storage = traits.storage
        self.num_duplicates = num_duplicates
        self.num_shards = traits.num_shards
        self.algorithm, self.algorithm_reason = _algorithm_of(self.shards)
        self.levels = max((shard.levels or [] for shard in self.shards), key=lambda each: each[-1:])
        self._cores = traits.cores
        self._nbytes = sum(shard.size for shard in shards)
        self._cells = cells_of(series, self.shards)
        self._sample = None if self._cells is None else sample_of(self.shards, self.num_features)
        self._sources, self._series, self._traits = tuple(sources), tuple(series), traits
        self._session = sources[0].shared.frame.sparkSession
        for source in sources:
            source.shared.join(self)

    @classmethod
    def build(
        cls,
        packed: PackedItems,
        spec: IndexSpec,
        storage: str,
        num_shards: int | None = None,
        shard_by: str = "hash",
        saved: SavedShards | None = None,
    ) -> Sharded:
        """Divide packed items into shards, and build the index of each on the executors.

        Parameters
        ----------
        packed : PackedItems
            The items.
        spec : IndexSpec
            The index of each shard.
        storage : {"dense", "sparse"}
            How the vectors are stored.
        num_shards : int, optional
            The number of shards. Default: see `choose_num_shards`.
        shard_by : {"hash", "kmeans"}
            Assign items to shards by a hash of their ids, or by cells of nearby items.
        saved : SavedShards, optional
            The structures of approximate shards, of a model that is loaded.
        """
        session = packed.frame.sparkSession
        cores, nbytes = compat.parallelism(session), packed.nbytes(storage)
        shard_bytes = shard_bytes_of(heap_per_task(session, cores))
        added = added_bytes(packed, storage, spec)
        count = choose_num_shards(
            num_shards, nbytes, packed.num_items, cores, shard_by, shard_bytes, added=added
        )
        layout = None if saved is None else saved.layout(spec.metric, packed)
        if layout is not None:
            series = layout.series
        else:
            series = (first_series(packed, spec.metric, count, shard_by, nbytes),)
        if len(series) == 1:
            whole, count = series[0], series[0].count
        else:
            whole = ShardSeries(0, slots(series), packed.dtype, SavedLayout(series))
        traits = ShardTraits(
            source=packed.source,
            num_features=packed.num_features,
            storage=storage,
            dtype=packed.dtype,
            cores=cores,
            nbytes=nbytes,
            num_shards=count,
            shard_bytes=shard_bytes,
        )
        spec, reason = choose_algorithm(packed, spec)
        built = build_series(packed, spec, traits, whole, saved=saved)
        if saved is not None:
            saved.warn_of_others(built.source.shards)
        duplicates = count_duplicates(built, whole, _id_wire_type(packed.source))
        index = cls([built.source], series, traits, duplicates)
        if spec.algorithm == "auto" and reason:
            reason = f"{index.algorithm_reason}; {reason}"
        index.algorithm_reason = reason or index.algorithm_reason
        return index

    @functools.cached_property
    def _frame(self) -> DataFrame:
        """The rows of all shards."""
        return union_of(self._sources)

    @property
    def converts(self) -> bool:
        """See `Placement.converts`; the tasks that build the shards check it."""
        return any(shard.converts for shard in self.shards)

    def search(self, queries: DataFrame, inputs: dict[str, Input], request: Request) -> DataFrame:
        """See `Placement.search`; a plan with two shuffles, without a job."""
        if queries.isStreaming:
            raise ValueError(
                "placement 'sharded' does not support streams. Use placement='replicated', or "
                "queries.writeStream.foreachBatch(lambda batch, _: model.transform(batch)...)."
            )
        self._check_session(queries.sparkSession)
        plan = self.plan(request.replicas)
        # Only the ids break ties, among columns that an answer does not need.
        needs = () if isinstance(request.answer, OwnSearch) else request.answer.needs
        needed = ("id", *needs)
        columns = {name: each for name, each in plan.item_columns.items() if name in needed}
        return search_queries(replace(plan, item_columns=columns), queries, inputs, request)

    def plan(self, replicas: int | None = None) -> ShardPlan:
        """Return the plan of a search, by default with enough replicas to keep all cores busy."""
        # By the number of shards of the fit: those of appends are too small to keep a core busy.
        replicas = replicas or choose_num_replicas(self._series[0].count, self._cores)
        count = slots(self._series)
        targets = count * replicas
        return ShardPlan(
            frame=self._frame,
            digests={shard.shard: shard.digest for shard in self.shards},
            num_shards=count,
            replicas=replicas,
            partitions=min(targets, self._enough_tasks(self._nbytes * replicas)),
            item_columns={
                name: kind for name, kind in self.item_columns.items() if name not in self.key_types
            },
            key_columns={name: self.item_columns[name] for name in self.key_types},
            dtype=self._traits.dtype,
            vector_type=vector_type(self._traits.dtype, self.storage),
            cells=self._cells,
            key_shards=key_shards(self._series),
            num_duplicates=self.num_duplicates,
            sample=self._sample,
        )

    def _enough_tasks(self, nbytes: int) -> int:
        return enough_tasks(nbytes, self._cores, self._traits.shard_bytes)

    def self_search(self, session: SparkSession, wanted: SelfSearch) -> DataFrame:
        """See `Placement.self_search`; the plan of a search, without a job."""
        self._check_session(session)
        return self_search(self.plan(wanted.replicas), first_numbers(self.shards), wanted)

    def pairs(self, session: SparkSession, max_distance: float) -> DataFrame:
        """See `Placement.pairs`; a plan with one shuffle, without a job."""
        self._check_session(session)
        return self._pairs_with_ids(pairs_within(self.plan(), max_distance))

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; items have a position only if they have no id."""
        self._check_session(session)
        return self._in_spark_types(self._stored())

    def saved_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.saved_frame`; with the series of the shards, if there are several."""
        self._check_session(session)
        if not self._keeps_structures or len(self._series) == 1:
            return self.items_frame(session)
        return self._in_spark_types(self._stored({SERIES: T.IntegerType()}))

    def columns_frame(self, session: SparkSession, types: dict[str, T.DataType]) -> DataFrame:
        """See `Placement.columns_frame`."""
        self._check_session(session)
        read = functools.partial(
            read_shards,
            self.plan().digests,
            list(types),
            self._traits.dtype,
            [each.first for each in self._series],
        )
        return self._frame.select(*SHARD_COLUMNS).mapInArrow(guarded(read), struct_type(types))

    def _stored(self, more: Mapping[str, T.DataType] | None = None) -> DataFrame:
        """Return the items with the types that they have in the shards, and further columns."""
        types = {
            "id": self.item_columns["id"],
            "features": vector_type(self._traits.dtype, self.storage),
        }
        types |= {**self.item_columns, **(more or {})}
        frame = self.columns_frame(self._session, types)
        return frame if self.id_type is not None else frame.withColumnRenamed("id", POSITION)

    def _check_session(self, session: SparkSession) -> None:
        if not compat.same_cluster(self._session, session):
            raise ValueError(
                "This sharded model belongs to another or a stopped Spark session. Save it in that "
                "session and load it here."
            )

    def structure_frame(self, session: SparkSession) -> DataFrame | None:
        """See `Placement.structure_frame`; with the number of the shard of each row."""
        if not self._keeps_structures:
            return None
        self._check_session(session)
        layout = SavedLayout(self._series)
        run = guarded(functools.partial(write_shard_structures, self.plan().digests, layout))
        schema = from_arrow_schema(SHARD_STRUCTURE_SCHEMA)
        return self._frame.select(*SHARD_COLUMNS).mapInArrow(run, schema)

    @property
    def _keeps_structures(self) -> bool:
        """Whether a saved model contains the structures of these shards.

        If there are too many shards, a loaded model divides all items anew instead.
        """
        kind = approximate_classes().get(self.algorithm)
        if kind is None or not kind.worth_saving:
            return False
        appended = self._appended
        return not is_outgrown(
            shards=len(self.shards),
            refit_shards=self.num_shards,
            appended_shards=len(appended),
            items=self.num_items,
            appended_items=sum(each.rows for each in appended),
            cells=0 if self._cells is None else self._cells.count,
        )

    @property
    def _appended(self) -> list[Shard]:
        return [each for each in self.shards if each.shard >= self._series[0].count]

    def fetch(self) -> tuple[Items, Rows]:
        """See `Placement.fetch`; no other method moves vectors of shards to the driver."""
        frame = self._stored()
        source = ItemSource(
            features=features_of(frame, "featuresCol", "features"),
            features_col="features",
            columns={
                field.name: Input(F.col(field.name), field.dataType)
                for field in frame.schema.fields
                if field.name != "features"
            },
            id_type=self.id_type,
            storage=self.storage,
            missing=self._traits.source.missing,
        )
        with PackedItems(frame, source) as packed:
            _check_memory(packed.nbytes(self.storage))
            gathered = packed.gather(self.storage)
            return gathered.items, gathered.matrix

    def pack_new(self, items: DataFrame, source: ItemSource, spec: IndexSpec) -> PackedItems:
        """See `Placement.pack_new`; the shards of few items are built at once."""
        return pack_new(items, source, spec, self._series, self._traits)

    def append(self, packed: PackedItems, spec: IndexSpec) -> Placement:
        """See `Placement.append`; the new items become shards of their own."""
        self._check_session(packed.frame.sparkSession)
        nbytes = self._traits.nbytes + packed.nbytes(self.storage)
        by = "hash" if self._cells is None else "kmeans"
        num_shards = grown_num_shards(
            self.num_shards,
            self._sized(self._traits.nbytes, self.num_items, spec),
            self._sized(nbytes, self.num_items + packed.num_items, spec),
            self._cores,
            by,
            self._traits.shard_bytes,
        )
        traits = replace(
            self._traits,
            nbytes=nbytes,
            dtype=np.result_type(self._traits.dtype, packed.dtype),
            num_shards=num_shards,
        )
        series, built = append_series(
            packed, spec, self._series, self._traits, traits, self.num_items
        )
        ids = _id_wire_type(self._traits.source)
        duplicates = self.num_duplicates + count_duplicates(built, series, ids)
        if self.id_type is not None:
            duplicates += count_common_ids(self._sources, built, self.item_columns["id"])
        return Sharded([*self._sources, built.source], [*self._series, series], traits, duplicates)

    def _sized(self, nbytes: int, num_items: int, spec: IndexSpec) -> tuple[int, int]:
        """Return the bytes of the vectors and of their index, and the number of items."""
        shape = (num_items, self.num_features)
        return nbytes + expected_bytes(spec, shape, self._traits.dtype), num_items

    def remove(self, wanted: pa.Array, spec: IndexSpec) -> Placement:
        """See `Placement.remove`; only shards with such items are built again."""
        hits, distinct = find_wanted(self._sources, wanted)
        removed = sum(hits.values())
        if not removed:
            return self
        self._check_rest(removed)
        sources = [source.without(set(hits)) for source in self._sources]
        sources = [source for source in sources if source.shards]
        request = RemovalRequest(wanted, spec, tuple(self.key_types), self._cells)
        if rebuilt := build_without(self._sources, request, hits):
            sources.append(rebuilt)
        nbytes = self._traits.nbytes * (self.num_items - removed) // self.num_items
        traits = replace(self._traits, nbytes=nbytes)
        duplicates = self.num_duplicates - (removed - distinct)
        return Sharded(sources, self._series, traits, duplicates)

    def with_numbers(self, values: DataFrame, names: Sequence[str], spec: IndexSpec) -> Placement:
        """See `Placement.with_numbers`; one shuffle of all shards."""
        known = {shard.shard: shard for shard in self.shards}
        request = NumbersRequest(tuple(names), known, spec, tuple(self.key_types), self._cells)
        partitions = min(len(known), self._enough_tasks(self._nbytes))
        built = build_with_numbers(
            self._sources, values, first_numbers(self.shards), request, partitions
        )
        source = self._traits.source
        keys = source.key_types
        columns = {name: each for name, each in source.columns.items() if name not in keys}
        columns |= {name: Input(F.col(name), T.DoubleType()) for name in names}
        columns |= {name: source.columns[name] for name in keys}
        traits = replace(self._traits, source=replace(source, columns=columns))
        return Sharded([built], self._series, traits, self.num_duplicates)

    @property
    def largest_label(self) -> float | None:
        """See `Placement.largest_label`."""
        return max((each.label for each in self.shards if each.label is not None), default=None)

    def held_out_recall(self, wanted: Calibration) -> Curve:
        """See `Placement.held_out_recall`; runs one job or two, with numProbes one more."""
        plan, firsts = self.plan(), first_numbers(self.shards)
        share = most_queries(wanted.k) / self.num_items
        # The items of each shard that its index was not trained on.
        drawn = [
            firsts[each.shard] + held_out_positions(each.rows, wanted.seed, ceil(share * each.rows))
            for each in self.shards
        ]
        numbers = np.concatenate(drawn)

        def search(levels: Sequence[int], probes: int | None) -> DataFrame:
            return held_out_search(plan, firsts, HeldOutSearch(wanted.k, numbers, levels, probes))

        return curve_of_levels(self.levels, wanted, searching(search, wanted))

    def cost(
        self, session: SparkSession, queries: Rows, k: int, knob: int | None = None
    ) -> PlacedCost:
        """See `Placement.cost`; it is measured in the largest shard."""
        plan = self.plan()
        largest = max(self.shards, key=lambda shard: shard.rows)
        run = guarded(functools.partial(time_shards, plan.digests, queries, k, knob))
        rows = self._frame.where(F.col("shard") == largest.shard).select(*SHARD_COLUMNS)
        timing = rows.mapInArrow(run, TIMING_SCHEMA).collect()[0]
        appended = self._appended
        return PlacedCost.of(
            timing,
            self._nbytes,
            self._cores,
            shards=len(self.shards),
            replicas=plan.replicas,
            tasks=plan.partitions,
            cells=0 if self._cells is None else self._cells.count,
            refit_shards=self.num_shards,
            appended_shards=len(appended),
            appended_items=sum(each.rows for each in appended),
        )

    def unpersist(self) -> None:
        """See `Placement.unpersist`; every later search rebuilds the shards."""
        for source in self._sources:
            source.shared.leave(self)


def _id_wire_type(source: ItemSource) -> T.DataType | None:
    """Return the type that ids have in Python; None if items have no ids."""
    return None if source.id_type is None else source.item_columns["id"]


def _check_memory(needed: int) -> None:
    """Raise a ValueError if the driver has not enough memory for the items."""
    free = available_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"the items need {needed / 2**30:.2f} GiB on the driver, but only {free / 2**30:.2f} "
            "GiB are free. Use the DataFrame model.items instead."
        )


def _algorithm_of(shards: list[Shard]) -> tuple[str, str]:
    """Return the algorithm of most items, since each shard chooses its own, and the reason."""
    items: Counter[str] = Counter()
    for shard in shards:
        items[shard.algorithm] += shard.rows
    most = max(items, key=lambda name: items[name])
    example = next(shard for shard in shards if shard.algorithm == most)
    kinds = Counter(shard.algorithm for shard in shards)
    counts = ", ".join(f"{name} in {kinds[name]}" for name in sorted(kinds))
    return most, f"{counts} of {len(shards)} shards; in shard {example.shard}: {example.reason}"
