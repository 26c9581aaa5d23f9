"""Placement 2: the index is cut into shards, which no machine ever holds together.

    packed chunks -split-> pieces -shuffle-> build -> shards: rows (shard, part, bytes), persisted

The driver sees counts, and of cells the centres. How shards are searched is in `shard_plan`.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine import columns, compat, placement
from pyspark_knn.engine.caching import free_with, persisted, unpersist
from pyspark_knn.engine.chunks import CHANGED
from pyspark_knn.engine.clustering import find_cut
from pyspark_knn.engine.guard import guarded
from pyspark_knn.engine.items import Items
from pyspark_knn.engine.packed import PackedItems
from pyspark_knn.engine.placement import PlacedCost
from pyspark_knn.engine.shard_build import (
    PIECE_SCHEMA,
    SHARD_SCHEMA,
    ShardRequest,
    build_shards,
    split_chunks,
)
from pyspark_knn.engine.shard_plan import ShardPlan
from pyspark_knn.engine.shard_search import SHARD_COLUMNS, read_shards, time_shards
from pyspark_knn.engine.sizing import (
    LARGEST_SHARD,
    choose_num_replicas,
    choose_num_shards,
    enough_tasks,
)
from pyspark_knn.engine.spreading import int_array, spreading_keys
from pyspark_knn.engine.worker import TIMING_SCHEMA, Answer, Request
from pyspark_knn.index.cells import Cells, Cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """What the driver knows of a shard.

    Attributes
    ----------
    number : int
        From 0; the numbers of empty shards are left out.
    rows, duplicates : int
        Items, and how many of them have the id of another one.
    size : int
        Bytes of the bundle.
    digest : str
        Names its items.
    algorithm, reason : str
        The index that it has, and why.
    radius : float or None
        Where shards are cells, the largest distance of an item from the centre.
    converts : bool
        See `Placement.converts`.
    """

    number: int
    rows: int
    duplicates: int
    size: int
    digest: str
    algorithm: str
    reason: str
    radius: float | None
    converts: bool


class Sharded(placement.Placement):
    """An index in shards: rows of a persisted DataFrame.

    Parameters
    ----------
    frame : DataFrame
        Rows of `shard_build.SHARD_SCHEMA`. The parts of a shard stand next to each other, in order.
    shards : list of Shard
        What is in it.
    num_shards : int
        Shards, the empty ones too.
    cores : int
        Tasks that the cluster runs at a time.
    keys : list of StructField
        What an item has beside its vector: "id", as it travels, and "label", "weight" if any.
    id_type : DataType or None
        The Spark type of the ids; None where positions stand for ids.
    single : bool
        Whether the vectors are float32.
    num_features : int
        Their dimension.
    cut : Cut or None
        The cells that the shards are, if so.
    """

    name: ClassVar[str] = placement.SHARDED

    def __init__(
        self,
        frame: DataFrame,
        shards: list[Shard],
        *,
        num_shards: int,
        cores: int,
        keys: list[T.StructField],
        id_type: T.DataType | None,
        single: bool,
        num_features: int,
        cut: Cut | None = None,
    ) -> None:
        self.shards = shards
        self.num_shards = num_shards
        self.id_type = id_type
        self._cores = cores
        self._nbytes = sum(shard.size for shard in shards)
        self._cells = None if cut is None else _cells(cut, shards)
        self._frame = frame
        self._keys = keys
        self._single = single
        self._num_features = num_features
        self._release = free_with(self, frame)

    @classmethod
    def build(
        cls,
        packed: PackedItems,
        spec: IndexSpec,
        id_type: T.DataType | None,
        num_shards: int | None = None,
        shard_by: str = "hash",
    ) -> Sharded:
        """Cut packed items into shards and build the index of each where its items come together.

        Parameters
        ----------
        packed : PackedItems
        spec : IndexSpec
            The index of each shard.
        id_type : DataType or None
            The Spark type of the ids; None where positions stand for ids.
        num_shards : int, optional
            Unset: see `choose_num_shards`.
        shard_by : {"hash", "kmeans"}
            Deal the items out by a hash of their ids, or make shards of cells of near ones.
        """
        session = packed.frame.sparkSession
        cores = compat.parallelism(session)
        count = choose_num_shards(num_shards, packed.nbytes, packed.num_items, cores, shard_by)
        cut = None
        if shard_by == "kmeans":
            most = LARGEST_SHARD * packed.num_items // packed.nbytes
            cut = find_cut(packed, count, most, spec.metric)
            count = int(cut.ways.sum())
        keys = _key_fields(list(packed.source.keys), id_type)
        request = ShardRequest(
            dim=packed.num_features,
            narrow=packed.dtype.itemsize == 4,
            num_shards=count,
            keys=tuple(packed.source.keys),
            order=tuple(field.name for field in keys),
            chunks=_chunk_table(packed),
            spec=spec,
            cut=cut,
        )
        split = guarded(functools.partial(split_chunks, request))
        build = guarded(functools.partial(build_shards, request))
        partitions = min(count, enough_tasks(packed.nbytes, cores))
        place = F.pmod("shard", F.lit(partitions)) + 1
        spread = F.element_at(int_array(spreading_keys(partitions)), place)
        pieces = packed.frame.mapInArrow(split, from_arrow_schema(PIECE_SCHEMA))
        built = (
            pieces.repartition(partitions, spread)
            .sortWithinPartitions("shard")
            .mapInArrow(build, from_arrow_schema(SHARD_SCHEMA))
        )
        with (
            compat.described(session, f"pyspark_knn: build {count} shards"),
            persisted(built) as frame,
        ):
            shards = _shards_of(frame)
            if sum(shard.rows for shard in shards) != packed.num_items:
                raise RuntimeError(
                    CHANGED.format(what="the shards hold other rows than had been counted before")
                )
        logger.info("built %d shards of %d items", len(shards), packed.num_items)
        return cls(
            frame,
            shards,
            num_shards=count,
            cores=cores,
            keys=keys,
            id_type=id_type,
            single=request.narrow,
            num_features=packed.num_features,
            cut=cut,
        )

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return sum(shard.rows for shard in self.shards)

    @property
    def num_features(self) -> int:
        """The dimension of their vectors."""
        return self._num_features

    @property
    def converts(self) -> bool:
        """See `Placement.converts`; the tasks that built the shards looked."""
        return any(shard.converts for shard in self.shards)

    @property
    def duplicates(self) -> int:
        """How many items have the id of another one."""
        return sum(shard.duplicates for shard in self.shards)

    @property
    def algorithm(self) -> tuple[str, str]:
        """The index that most items are in, and why: each shard may choose for itself."""
        rows: Counter[str] = Counter()
        for shard in self.shards:
            rows[shard.algorithm] += shard.rows
        most = max(rows, key=lambda name: rows[name])
        told = next(shard for shard in self.shards if shard.algorithm == most)
        kinds = Counter(shard.algorithm for shard in self.shards)
        counts = ", ".join(f"{name} in {kinds[name]}" for name in sorted(kinds))
        return most, f"{counts} of {len(self.shards)} shards; in shard {told.number}: {told.reason}"

    def search(
        self,
        queries: DataFrame,
        inputs: list[tuple[Column, T.DataType]],
        request: Request,
        finish: Callable[[DataFrame], DataFrame],
    ) -> DataFrame:
        """See `Placement.search`; one plan of two shuffles, without a job."""
        if queries.isStreaming:
            raise ValueError(
                "a sharded index cannot search a stream: use "
                "queries.writeStream.foreachBatch(lambda batch, _: model.transform(batch)...), or "
                "placement='replicated'"
            )
        self._check_session(queries.sparkSession)
        plan = self.plan(request.replicas)
        return finish(plan.answers(queries, inputs, request))

    def answer(
        self, queries: NDArray[Any], k: int, max_distance: float | None, answer: Answer
    ) -> pa.StructArray:
        """See `Placement.answer`: it is not there."""
        raise ValueError(
            "the index of a sharded model is on the executors, not here: use transform on a "
            "DataFrame of the vectors"
        )

    def plan(self, replicas: int | None = None) -> ShardPlan:
        """How to search these shards; unless told, with as many replicas as keep cores busy."""
        replicas = replicas or choose_num_replicas(self.num_shards, self._cores)
        targets = self.num_shards * replicas
        return ShardPlan(
            frame=self._frame,
            digests={shard.number: shard.digest for shard in self.shards},
            num_shards=self.num_shards,
            replicas=replicas,
            partitions=min(targets, enough_tasks(self._nbytes * replicas, self._cores)),
            keys=self._keys,
            cells=self._cells,
        )

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; there is a position only where there is no id."""
        self._check_session(session)
        value = T.FloatType() if self._single else T.DoubleType()
        head = self._keys[0] if self.id_type is not None else _POSITION
        fields = [head, T.StructField("features", T.ArrayType(value)), *self._keys[1:]]
        run = guarded(functools.partial(read_shards, self.plan().digests, self.id_type is not None))
        frame = self._frame.select(*SHARD_COLUMNS).mapInArrow(run, T.StructType(fields))
        if self.id_type is None:
            return frame
        return frame.withColumn("id", columns.from_wire(F.col("id"), self.id_type))

    def _check_session(self, session: SparkSession) -> None:
        if not compat.same_cluster(self._frame.sparkSession, session):
            raise ValueError(
                "the shards of this model are in another Spark session, or in one that was "
                "stopped: save the model there, and load it in this one"
            )

    def fetch(self) -> tuple[Items, NDArray[np.floating]]:
        """See `Placement.fetch`: the one thing that brings vectors of shards to the driver."""
        frame = self.items_frame(self._frame.sparkSession)
        with PackedItems(frame, placement.saved_source(frame)) as packed:
            placement.check_fetch(packed)
            items, matrix = packed.gather()
        return (replace(items, ids=None) if self.id_type is None else items), matrix

    def cost(self, session: SparkSession, queries: NDArray[np.floating], k: int) -> PlacedCost:
        """See `Placement.cost`; the largest shard stands for all."""
        plan = self.plan()
        largest = max(self.shards, key=lambda shard: shard.rows)
        run = guarded(functools.partial(time_shards, plan.digests, queries, k))
        rows = self._frame.where(F.col("shard") == largest.number).select(*SHARD_COLUMNS)
        seconds, items = rows.mapInArrow(run, TIMING_SCHEMA).collect()[0]
        return PlacedCost(
            self._nbytes,
            seconds / max(1, len(queries)) / items,
            self._cores,
            shards=len(self.shards),
            replicas=plan.replicas,
            tasks=plan.partitions,
        )

    def unpersist(self) -> None:
        """See `Placement.unpersist`: every later search builds the shards again."""
        self._release.detach()
        unpersist(self._frame)


_POSITION = T.StructField("position", T.LongType())


def _cells(cut: Cut, shards: list[Shard]) -> Cells:
    numbers = np.array([shard.number for shard in shards])
    radii = np.array([shard.radius for shard in shards], np.float64)
    return Cells(numbers, cut.shard_centers()[numbers], radii, cut.metric)


def _chunk_table(packed: PackedItems) -> NDArray[np.int64]:
    known = [(c.partition, c.chunk, 0, c.rows, c.content) for c in packed.chunks]
    rows = np.array(known, np.int64)
    rows[:, 2] = np.cumsum(rows[:, 3]) - rows[:, 3]
    return rows


def _key_fields(names: list[str], id_type: T.DataType | None) -> list[T.StructField]:
    """What an item has beside its vector, in the order that breaks ties."""
    kind = T.LongType() if id_type is None else columns.wire_type(id_type)
    more = [name for name in ("label", "weight") if name in names]
    return [T.StructField("id", kind), *(T.StructField(name, T.DoubleType()) for name in more)]


def _shards_of(frame: DataFrame) -> list[Shard]:
    """What the first parts tell; this is what builds the shards."""
    told = ("rows", "duplicates", "size", "digest", "algorithm", "reason", "radius", "converts")
    rows = frame.where("part = 0").select("shard", *told).collect()
    return sorted((Shard(*row) for row in rows), key=lambda shard: shard.number)
