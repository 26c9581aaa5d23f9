"""Placement 2: the index is cut into shards, which no machine ever holds together.

    packed chunks -split-> pieces -shuffle-> build -> shards: rows (shard, part, bytes), persisted

    shards  ---.
                union -shuffle by (shard, replica)-> search -shuffle by query-> merge -> answers
    queries ---'

The search is one lazy plan. A query goes to all shards as a row of its number and its vector; its
other columns go with one of these rows, and stay in the JVM. A shard's parts come just before its
queries in the order of a partition, so a worker holds one shard and one batch.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine import columns, compat, placement
from pyspark_knn.engine.items import Items, ItemSource, PackedItems
from pyspark_knn.engine.shard_build import (
    PIECE_SCHEMA,
    SHARD_SCHEMA,
    ShardRequest,
    build_shards,
    split_chunks,
)
from pyspark_knn.engine.shard_search import (
    SHARD_COLUMNS,
    Candidates,
    merge_candidates,
    read_shards,
    search_shards,
)
from pyspark_knn.engine.spreading import int_array, row_hash, spreading_keys
from pyspark_knn.engine.worker import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec

logger = logging.getLogger(__name__)

_SHARD_BYTES = 128 << 20
"""Vectors of one shard, unless numShards says otherwise."""

_LARGEST_SHARD = 1 << 30
"""Before Spark 4 a batch of Arrow may hold all of a shard, and ends at 2 GiB."""

_SPREAD_SHARDS = 8
"""Shards of a small index: enough to build it side by side, few enough to search by."""

_LAST = (1 << 31) - 1
"""As the number of a part: behind all parts."""


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
    """

    number: int
    rows: int
    duplicates: int
    size: int
    digest: str
    algorithm: str
    reason: str


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
    ) -> None:
        self.shards = shards
        self.num_shards = num_shards
        self.replicas = max(1, -(-cores // num_shards))
        self.id_type = id_type
        self._frame = frame
        self._keys = keys
        self._single = single
        self._num_features = num_features
        self._release = weakref.finalize(self, compat.unpersist, frame)
        self._release.atexit = False

    @classmethod
    def build(
        cls,
        packed: PackedItems,
        spec: IndexSpec,
        id_type: T.DataType | None,
        num_shards: int | None = None,
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
        """
        session = packed.frame.sparkSession
        cores = compat.parallelism(session)
        count = choose_num_shards(num_shards, packed.nbytes, packed.num_items, cores)
        keys = _key_fields(packed.source, id_type)
        request = ShardRequest(
            dim=packed.num_features,
            narrow=packed.dtype.itemsize == 4,
            num_shards=count,
            keys=tuple(packed.source.keys),
            order=tuple(field.name for field in keys),
            chunks=_chunk_table(packed),
            spec=spec,
        )
        split = functools.partial(split_chunks, request)
        build = functools.partial(build_shards, request)
        spread = F.element_at(int_array(spreading_keys(count)), F.col("shard") + 1)
        pieces = packed.frame.mapInArrow(split, PIECE_SCHEMA)
        frame = compat.persist(
            pieces.repartition(count, spread)
            .sortWithinPartitions("shard")
            .mapInArrow(build, SHARD_SCHEMA)
        )
        with compat.described(session, f"pyspark_knn: build {count} shards"):
            shards = _shards_of(frame)
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

    @property
    def digests(self) -> dict[int, str]:
        """What each shard is, so that one that is lost and built again cannot be another."""
        return {shard.number: shard.digest for shard in self.shards}

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
        numbered = _numbered(queries, inputs)
        copies = self._copies(numbered, len(inputs))
        found = self._search(copies, [kind for _, kind in inputs], request)
        return finish(self._merge(found, queries.schema, request))

    def _copies(self, numbered: DataFrame, inputs: int) -> DataFrame:
        """A row for each query and each shard; one of them carries the query's other columns."""
        everywhere = int_array([shard.number for shard in self.shards])
        # Other bits of the hash than those that pick the replica.
        bits = F.shiftrightunsigned(F.xxhash64("query"), 32)
        carrier = F.pmod(bits, F.lit(len(self.shards))) == F.col("place")
        copies = numbered.select("*", F.posexplode(everywhere).alias("place", "shard"))
        replica = F.pmod(F.xxhash64("query"), F.lit(self.replicas))
        return copies.select(
            "query",
            "shard",
            (F.col("shard") * self.replicas + replica).cast("int").alias("target"),
            F.lit(_LAST).alias("part"),
            F.when(carrier, F.struct(F.lit(len(self.shards)).alias("sent"), "row")).alias("rest"),
            *(f"input_{i}" for i in range(inputs)),
        )

    def _search(self, copies: DataFrame, kinds: list[T.DataType], request: Request) -> DataFrame:
        """The candidates of each row of `copies`, searched beside its shard."""
        replicas = F.explode(int_array(range(self.replicas))).alias("replica")
        shards = self._frame.select("*", replicas).select(
            (F.col("shard") * self.replicas + F.col("replica")).alias("target"),
            "part",
            *SHARD_COLUMNS,
        )
        targets = self.num_shards * self.replicas
        spread = F.element_at(int_array(spreading_keys(targets)), F.col("target") + 1)
        rows = (
            copies.unionByName(shards, allowMissingColumns=True)
            .repartition(targets, spread)
            .sortWithinPartitions("target", "part")
        )
        answer = Candidates(T.StructType([T.StructField("distance", _DOUBLES), *self._lists()]))
        keep = "error" if request.handle_invalid == "error" else "keep"
        wanted = replace(request, answer=answer, handle_invalid=keep)
        run = functools.partial(search_shards, wanted, self.digests)
        given = [*_SHARD_TYPES, *kinds]
        # It depends on the rows before it: Spark must not move, repeat or leave out any of it.
        search = compat.batch_udf(run, given, T.ArrayType(answer.result_type), deterministic=False)
        inputs = [*SHARD_COLUMNS, *(f"input_{i}" for i in range(len(kinds)))]
        found = rows.select("query", "rest", search(*map(F.col, inputs)).alias("found"))
        return found.select("query", "rest", F.inline("found").alias(*answer.result_type.names))

    def _merge(self, found: DataFrame, schema: T.StructType, request: Request) -> DataFrame:
        """The k nearest of the candidates of each query, beside the query's own columns."""
        names = ["distance", *(field.name for field in self._keys)]
        candidates = F.when(F.col("distance").isNotNull(), F.struct(*names))
        whole = found.groupBy("query").agg(
            F.collect_list(candidates).alias("found"), F.collect_list("rest").alias("rest")
        )
        run = functools.partial(merge_candidates, request, names)
        given = [T.IntegerType(), T.IntegerType(), T.IntegerType(), _DOUBLES]
        given += [field.dataType for field in self._lists()]
        merge = compat.batch_udf(run, given, T.ArrayType(request.answer.result_type))
        rest = F.get("rest", F.lit(0))
        answers = merge(
            rest["sent"],
            F.size("found"),
            F.size("rest"),
            *(F.flatten(F.col("found").getField(name)) for name in names),
        )
        own = [
            rest["row"][f"own_{i}"].alias(field.name, metadata=field.metadata)
            for i, field in enumerate(schema.fields)
        ]
        return whole.select(*own, F.inline(answers).alias(*request.answer.result_type.names))

    def _lists(self) -> list[T.StructField]:
        return [T.StructField(each.name, T.ArrayType(each.dataType)) for each in self._keys]

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; there is a position only where there is no id."""
        self._check_session(session)
        value = T.FloatType() if self._single else T.DoubleType()
        head = self._keys[0] if self.id_type is not None else _POSITION
        fields = [head, T.StructField("features", T.ArrayType(value)), *self._keys[1:]]
        run = functools.partial(read_shards, self.digests, self.id_type is not None)
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

    def unpersist(self) -> None:
        """See `Placement.unpersist`: every later search builds the shards again."""
        self._release()


_DOUBLES = T.ArrayType(T.DoubleType())
_POSITION = T.StructField("position", T.LongType())
_SHARD_TYPES = [T.IntegerType(), T.LongType(), T.LongType(), T.StringType(), T.BinaryType()]


def choose_num_shards(asked: int | None, nbytes: int, num_items: int, cores: int) -> int:
    """How many shards to cut items into.

    Unless asked for: shards of 128 MiB, but no fewer than there are cores, up to 8, so that a small
    index is built side by side too. Never more than there are items.

    Parameters
    ----------
    asked : int or None
        The Param ``numShards``.
    nbytes : int
        Bytes of the item matrix.
    num_items, cores : int
        Items, and tasks that the cluster runs at a time.

    Raises
    ------
    ValueError
        If the shards that were asked for would be larger than 1 GiB.
    """
    least = -(-nbytes // _LARGEST_SHARD)
    if asked is not None and asked < least:
        raise ValueError(
            f"numShards must be >= {least}, so that no shard is larger than 1 GiB, got {asked}"
        )
    wanted = asked or max(-(-nbytes // _SHARD_BYTES), min(cores, _SPREAD_SHARDS))
    return min(wanted, num_items)


def _chunk_table(packed: PackedItems) -> NDArray[np.int64]:
    rows = np.array([(c.partition, c.chunk, 0, c.rows) for c in packed.chunks], np.int64)
    rows[:, 2] = np.cumsum(rows[:, 3]) - rows[:, 3]
    return rows


def _key_fields(source: ItemSource, id_type: T.DataType | None) -> list[T.StructField]:
    """What an item has beside its vector, in the order that breaks ties."""
    kind = T.LongType() if id_type is None else columns.wire_type(id_type)
    more = [name for name in ("label", "weight") if name in source.keys]
    return [T.StructField("id", kind), *(T.StructField(name, T.DoubleType()) for name in more)]


def _shards_of(frame: DataFrame) -> list[Shard]:
    """What the first parts tell; this is what builds the shards."""
    told = ("rows", "duplicates", "size", "digest", "algorithm", "reason")
    rows = frame.where("part = 0").select("shard", *told).collect()
    return sorted((Shard(*row) for row in rows), key=lambda shard: shard.number)


def _numbered(queries: DataFrame, inputs: list[tuple[Column, T.DataType]]) -> DataFrame:
    """The queries with a number each: all they are in "row", what the worker needs in "input_i".

    A task that is repeated must give each row its number again, though rows out of a shuffle come
    in another order then. So they are sorted by all that they hold before they are numbered.
    """
    fields = queries.schema.fields
    names = [f"own_{i}" for i in range(len(fields))] + [f"input_{i}" for i in range(len(inputs))]
    plain = queries.select("*", *(each for each, _ in inputs)).toDF(*names)
    kinds = [field.dataType for field in fields] + [kind for _, kind in inputs]
    whole = row_hash([(F.col(name), kind) for name, kind in zip(names, kinds, strict=True)])
    ordered = plain.withColumn("order", whole).sortWithinPartitions("order")
    return ordered.select(
        F.monotonically_increasing_id().alias("query"),
        F.struct(*names[: len(fields)]).alias("row"),
        *names[len(fields) :],
    )
