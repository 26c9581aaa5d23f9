"""Placement "sharded": the index is divided into shards, and no machine holds all of them.

    packed chunks -split-> pieces -shuffle-> build -> shards: rows (shard, part, bytes), persisted

The driver receives counts and, if shards are cells, their centers. For the search of the shards see
`pyspark_knn.engine.shards.plan`.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit.chunks import CHANGED, POSITION
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.placement import SHARDED, PlacedCost, Placement
from pyspark_knn.engine.rows.columns import Input, struct_type
from pyspark_knn.engine.rows.features import features_of, vector_type
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.batches import TIMING_SCHEMA, Request
from pyspark_knn.engine.search.export import read_shards
from pyspark_knn.engine.search.in_shards import time_shards
from pyspark_knn.engine.shards.build import PIECE_SCHEMA, ShardRequest, build_shards, split_chunks
from pyspark_knn.engine.shards.clustering import find_assignment
from pyspark_knn.engine.shards.plan import ShardPlan
from pyspark_knn.engine.shards.sizing import (
    LARGEST_SHARD,
    choose_num_replicas,
    choose_num_shards,
    enough_tasks,
)
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS, SHARD_FIELDS, SHARD_SCHEMA, Shard
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import free_with, persisted, unpersist
from pyspark_knn.engine.spark.memory import available_memory
from pyspark_knn.engine.spark.spreading import repartition_evenly
from pyspark_knn.index.cells import Cells, ShardAssignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec, Rows

logger = logging.getLogger(__name__)


class Sharded(Placement):
    """An index in shards: rows of a persisted DataFrame.

    Parameters
    ----------
    frame : DataFrame
        Rows of `shard_rows.SHARD_SCHEMA`. The parts of a shard follow one another, in order.
    shards : list of Shard
        The shards in it.
    num_shards : int
        The number of shards, the empty ones included.
    cores : int
        The number of tasks that the cluster runs at a time.
    source : ItemSource
        What was read of the items.
    dtype : numpy dtype
        The type of the vectors, float32 or float64.
    num_features : int
        The dimension of the vectors.
    storage : {"dense", "sparse"}
        How the vectors are stored.
    assignment : ShardAssignment, optional
        The cells that the shards consist of. Default: the shards are not cells.
    """

    name = SHARDED
    rebuilds_from_source = True
    searchable = None
    num_shards: int

    def __init__(
        self,
        frame: DataFrame,
        shards: list[Shard],
        *,
        num_shards: int,
        cores: int,
        source: ItemSource,
        dtype: np.dtype[np.floating],
        num_features: int,
        storage: str,
        assignment: ShardAssignment | None = None,
    ) -> None:
        self.shards = shards
        self.id_type = source.id_type
        self.item_columns = source.item_columns
        self.num_items = sum(shard.rows for shard in shards)
        self.num_features = num_features
        self.storage = storage
        self.num_duplicates = sum(shard.duplicates for shard in shards)
        self.num_shards = num_shards
        self.algorithm, self.algorithm_reason = _algorithm_of(shards)
        self._cores = cores
        self._nbytes = sum(shard.size for shard in shards)
        self._cells = None if assignment is None else _cells(assignment, shards)
        self._frame = frame
        self._dtype = dtype
        self._release = free_with(self, frame)

    @classmethod
    def build(
        cls,
        packed: PackedItems,
        spec: IndexSpec,
        storage: str,
        num_shards: int | None = None,
        shard_by: str = "hash",
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
        """
        session = packed.frame.sparkSession
        cores = compat.parallelism(session)
        nbytes = packed.nbytes(storage)
        count = choose_num_shards(num_shards, nbytes, packed.num_items, cores, shard_by)
        assignment = None
        if shard_by == "kmeans":
            most = LARGEST_SHARD * packed.num_items // nbytes
            assignment = find_assignment(packed, count, most, spec.metric)
            count = int(assignment.ways.sum())
        source = packed.source
        request = ShardRequest(
            dim=packed.num_features,
            dtype=packed.dtype,
            num_shards=count,
            order=tuple(source.item_columns),
            has_ids=bool(source.sort_by),
            chunks=_chunk_table(packed),
            spec=spec,
            storage=storage,
            assignment=assignment,
        )
        built = _built(packed, request, min(count, enough_tasks(nbytes, cores)))
        with (
            compat.described(session, f"pyspark_knn: build {count} shards"),
            persisted(built) as frame,
        ):
            shards = _shards_of(frame)
            if sum(shard.rows for shard in shards) != packed.num_items:
                what = "the rows in the shards differ from the rows counted before"
                raise RuntimeError(CHANGED.format(what=what))
        logger.info("built %d shards of %d items", len(shards), packed.num_items)
        return cls(
            frame,
            shards,
            num_shards=count,
            cores=cores,
            source=source,
            dtype=packed.dtype,
            num_features=packed.num_features,
            storage=storage,
            assignment=assignment,
        )

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
        return self.plan(request.replicas).answers(queries, inputs, request)

    def plan(self, replicas: int | None = None) -> ShardPlan:
        """Return the plan of a search, by default with enough replicas to keep all cores busy."""
        replicas = replicas or choose_num_replicas(self.num_shards, self._cores)
        targets = self.num_shards * replicas
        return ShardPlan(
            frame=self._frame,
            digests={shard.shard: shard.digest for shard in self.shards},
            num_shards=self.num_shards,
            replicas=replicas,
            partitions=min(targets, enough_tasks(self._nbytes * replicas, self._cores)),
            item_columns=self.item_columns,
            vector_type=vector_type(self._dtype, self.storage),
            cells=self._cells,
        )

    def pairs(self, session: SparkSession, max_distance: float) -> DataFrame:
        """See `Placement.pairs`; a plan with one shuffle, without a job."""
        self._check_session(session)
        return self._pairs_with_ids(self.plan().pairs(max_distance))

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; items have a position only if they have no id."""
        self._check_session(session)
        return self._with_ids(self._stored())

    def _stored(self) -> DataFrame:
        """Return the items with the types that they have in the shards."""
        types = {"id": self.item_columns["id"], "features": vector_type(self._dtype, self.storage)}
        types |= self.item_columns
        run = guarded(functools.partial(read_shards, self.plan().digests, list(types)))
        frame = self._frame.select(*SHARD_COLUMNS).mapInArrow(run, struct_type(types))
        return frame if self.id_type is not None else frame.withColumnRenamed("id", POSITION)

    def _check_session(self, session: SparkSession) -> None:
        if not compat.same_cluster(self._frame.sparkSession, session):
            raise ValueError(
                "This sharded model belongs to another or a stopped Spark session. Save it in that "
                "session and load it here."
            )

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
        )
        with PackedItems(frame, source) as packed:
            _check_memory(packed.nbytes(self.storage))
            return packed.gather(self.storage)

    def cost(self, session: SparkSession, queries: Rows, k: int) -> PlacedCost:
        """See `Placement.cost`; it is measured in the largest shard."""
        plan = self.plan()
        largest = max(self.shards, key=lambda shard: shard.rows)
        run = guarded(functools.partial(time_shards, plan.digests, queries, k))
        rows = self._frame.where(F.col("shard") == largest.shard).select(*SHARD_COLUMNS)
        timing = rows.mapInArrow(run, TIMING_SCHEMA).collect()[0]
        return PlacedCost.of(
            timing,
            self._nbytes,
            self._cores,
            shards=len(self.shards),
            replicas=plan.replicas,
            tasks=plan.partitions,
        )

    def unpersist(self) -> None:
        """See `Placement.unpersist`; every later search rebuilds the shards."""
        self._release.detach()
        unpersist(self._frame)


def _check_memory(needed: int) -> None:
    """Raise a ValueError if the driver has not enough memory for the items."""
    free = available_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"the items need {needed / 2**30:.2f} GiB on the driver, but only {free / 2**30:.2f} "
            "GiB are free. Use the DataFrame model.items instead."
        )


def _built(packed: PackedItems, request: ShardRequest, partitions: int) -> DataFrame:
    """Return the rows of the shards, which are built when they are first read."""
    split = guarded(functools.partial(split_chunks, request))
    build = guarded(functools.partial(build_shards, request))
    pieces = packed.frame.mapInArrow(split, from_arrow_schema(PIECE_SCHEMA))
    pieces = repartition_evenly(pieces, partitions, "shard").sortWithinPartitions("shard")
    return pieces.mapInArrow(build, from_arrow_schema(SHARD_SCHEMA))


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


def _cells(assignment: ShardAssignment, shards: list[Shard]) -> Cells:
    numbers = np.array([shard.shard for shard in shards])
    radii = np.array([shard.radius for shard in shards], np.float64)
    return Cells(numbers, assignment.shard_centers()[numbers], radii, assignment.metric)


def _chunk_table(packed: PackedItems) -> NDArray[np.int64]:
    known = [(c.partition, c.chunk, 0, c.rows, c.content) for c in packed.chunks]
    rows = np.array(known, np.int64)
    rows[:, 2] = np.cumsum(rows[:, 3]) - rows[:, 3]
    return rows


def _shards_of(frame: DataFrame) -> list[Shard]:
    """Return the summaries of all shards; running this job builds the shards."""
    rows = frame.where("part = 0").select(*SHARD_FIELDS).collect()
    return sorted((Shard(**row.asDict()) for row in rows), key=lambda shard: shard.shard)
