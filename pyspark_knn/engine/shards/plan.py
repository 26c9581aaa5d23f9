"""The Spark plan of a sharded search.

    numbered queries --route--> copies, one per shard --.
                                                         union -shuffle-> search -> candidates
    rows of shards --copied--> one per replica ---------'                               |
                                     answers <- merge <- shuffle by query --------------'

A copy contains the number and the vector of its query. The other columns of the query are in one of
its copies, the carrier, and never leave the JVM, since the search is a scalar function and Spark
sends it only its arguments. If shards are cells and the search is exact, the nearest cell is
searched first, and its distances decide to which other cells the query is sent. A search for all
items within a distance needs no distances to decide, so it searches all cells at once. If the items
have keys, the query is sent to the shards of its key.

The candidates of a query are the nearest items of each shard that it was sent to.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import Input, struct_type
from pyspark_knn.engine.rows.features import features_of
from pyspark_knn.engine.rows.key_columns import key_hashes
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists, MergedSearch, OwnSearch
from pyspark_knn.engine.search.batches import AFTER, KNOB, WANTED, Request
from pyspark_knn.engine.search.in_shards import PASSING, search_shards
from pyspark_knn.engine.search.merge import merge_batches
from pyspark_knn.engine.search.pairs import (
    NEIGHBOR,
    ORIGIN,
    PLACE,
    ROUTE,
    PairRoutes,
    read_pair_queries,
)
from pyspark_knn.engine.shards.block_plan import answers_by_blocks, block_size
from pyspark_knn.engine.shards.cell_plan import found_in_cells, input_columns
from pyspark_knn.engine.shards.key_shards import KeyShards, shards_of_query
from pyspark_knn.engine.shards.one_shard import QUERY_PART, after_shards, in_one_shard, shard_types
from pyspark_knn.engine.ship.batch_udf import batch_udf
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS
from pyspark_knn.engine.spark.spreading import int_array, row_hash
from pyspark_knn.index.cells import Cells

InputTypes = dict[str, T.DataType]
"""The inputs of a query and their types."""

_DOUBLES = T.ArrayType(T.DoubleType())
_INTS = T.ArrayType(T.IntegerType())


@dataclass(frozen=True)
class ShardPlan:
    """A plan to search the shards of one index.

    Attributes
    ----------
    frame : DataFrame
        Rows of `shard_rows.SHARD_SCHEMA`.
    digests : dict of int to str
        The digest of each shard that is not empty, by the number of the shard.
    num_shards : int
        The number of shards, the empty ones included.
    replicas : int
        The number of tasks that share the queries of one shard.
    partitions : int
        The number of partitions of the shuffle that joins shards and queries.
    item_columns : dict of str to DataType
        The item columns that break ties, in this order; "id" comes first.
    key_columns : dict of str to DataType
        The item columns of keys, in their order; empty if the items have no keys.
    dtype : numpy dtype
        The type of the vectors, float32 or float64.
    vector_type : DataType
        The type of the vectors of the items as rows.
    cells : Cells or None
        The cells that the shards consist of; None if the shards are not cells.
    key_shards : tuple of KeyShards
        The shards of keys; empty if the items have no keys.
    num_duplicates : int
        The number of items that have the same id as another item.
    sample : ndarray of shape (n_sampled, n_features), dtype float64, or None
        A few items, if the shards are cells.
    """

    frame: DataFrame
    digests: dict[int, str]
    num_shards: int
    replicas: int
    partitions: int
    item_columns: dict[str, T.DataType]
    key_columns: dict[str, T.DataType]
    dtype: np.dtype[np.floating]
    vector_type: T.DataType
    cells: Cells | None
    key_shards: tuple[KeyShards, ...] = ()
    num_duplicates: int = 0
    sample: NDArray[np.float64] | None = None

    def answers(self, queries: DataFrame, inputs: dict[str, Input], request: Request) -> DataFrame:
        """Add the columns of `request.answer` to `queries`; see `Placement.search`."""
        types = {name: each.type for name, each in inputs.items()}
        return self.search(numbered(queries, inputs), queries.schema, types, request)

    def search(
        self, queries: DataFrame, schema: T.StructType, types: InputTypes, request: Request
    ) -> DataFrame:
        """Search queries that are in the form of `numbered`, given the schema of their columns."""
        if most := block_size(self, types, request):
            return answers_by_blocks(self, queries, schema, types, request, most)
        return self._merged(self._found(queries, types, request), schema, request)

    def _found(self, queries: DataFrame, types: InputTypes, request: Request) -> DataFrame:
        """Return the candidates of each query: a row for each shard that it is sent to."""
        if isinstance(request.answer, MergedSearch):
            return self.searched(self._copies_of_wanted(queries), types, request)
        if self.key_shards:
            lists = isinstance(types[request.keys[0]], T.ArrayType)
            keys = key_hashes(input_columns(request.keys), lists=lists)
            route = shards_of_query(self.key_shards, keys, sorted(self.digests))
            return self.searched(self.routed(queries, route), types, request)
        if self.cells is None:
            return self.searched(self.copies(queries), types, request)
        return found_in_cells(self, self.cells, queries, types, request)

    def pairs(self, max_distance: float) -> DataFrame:
        """Return all pairs of items within a distance, each once; see `Placement.pairs`.

        Every two shards are compared once: the items of one of them are queries for the other.
        """
        items = self._pair_queries(max_distance)
        inputs = features_of(items, "featuresCol", "features").inputs
        after = F.when(F.col("shard") == F.col(ORIGIN), F.col(PLACE)).otherwise(-1)
        replica = F.pmod(F.xxhash64(ORIGIN, PLACE), F.lit(self.replicas))
        copies = items.select("*", F.explode(ROUTE).alias("shard")).select(
            "shard",
            F.col("id").alias("own_id"),
            (F.col("shard") * self.replicas + replica).cast("int").alias("target"),
            F.lit(QUERY_PART).alias("part"),
            *(each.value.alias(f"input_{name}") for name, each in inputs.items()),
            after.alias(f"input_{AFTER}"),
            *(F.col(name).alias(f"input_{name}") for name in self.key_columns),
        )
        types = {name: each.type for name, each in inputs.items()}
        types |= {AFTER: T.LongType(), **self.key_columns}
        request = Request(
            k=None,
            max_distance=max_distance,
            handle_invalid="error",
            features_col="features",
            inputs=tuple(types),
            answer=FoundLists(T.StructType(), ()),
            keys=tuple(self.key_columns),
        )
        found = self.searched(copies, types, request)
        pairs = found.select("own_id", F.explode(F.arrays_zip("id", DISTANCE)).alias("pair"))
        own, other = F.col("own_id"), F.col("pair")["id"]
        return pairs.select(
            F.least(own, other).alias("id"),
            F.greatest(own, other).alias(NEIGHBOR),
            F.col("pair")[DISTANCE].alias(DISTANCE),
        )

    def _pair_queries(self, max_distance: float) -> DataFrame:
        """Return the items, each with the shards that it is compared in."""
        filled = sorted(self.digests)
        routes = PairRoutes(tuple(filled), max_distance, self.cells, self.dtype)
        types = {
            ORIGIN: T.IntegerType(),
            PLACE: T.LongType(),
            ROUTE: _INTS,
            "features": self.vector_type,
        }
        columns = {"id": self.item_columns["id"], **self.key_columns}
        run = guarded(functools.partial(read_pair_queries, self.digests, routes, tuple(columns)))
        types |= columns
        items = self.frame.select(*SHARD_COLUMNS).mapInArrow(run, struct_type(types))
        if not self.key_shards:
            return items
        keys = key_hashes([F.col(name) for name in self.key_columns], lists=False)
        of_key = shards_of_query(self.key_shards, keys, filled)
        return items.withColumn(ROUTE, F.array_intersect(ROUTE, of_key))

    def copies(self, queries: DataFrame) -> DataFrame:
        """Return a copy of each query for each shard; any of them may be the carrier."""
        shards = sorted(self.digests)
        every = queries.select("*", F.posexplode(int_array(shards)).alias("place", "shard"))
        return self._addressed(every, F.lit(len(shards)), _any_of(F.lit(len(shards))))

    def _copies_of_wanted(self, queries: DataFrame) -> DataFrame:
        """Return a copy of each query for each shard; of one that is not `WANTED`, a single one.

        That copy passes through the search.
        """
        shards = sorted(self.digests)
        wanted = F.col(f"input_{WANTED}")
        route = F.when(wanted, int_array(shards)).otherwise(int_array([PASSING]))
        every = queries.withColumn("route", route)
        every = every.select("*", F.posexplode("route").alias("place", "shard"))
        sent = F.when(F.col("shard") == PASSING, 0).otherwise(len(shards))
        return self._addressed(every, sent, _any_of(F.size("route"))).drop("route")

    def routed(self, queries: DataFrame, route: Column) -> DataFrame:
        """Return a copy of each query for each shard of its route; the first is the carrier."""
        every = queries.withColumn("route", route).drop("shard")
        every = every.select("*", F.posexplode("route").alias("place", "shard"))
        return self._addressed(every, F.size("route"), F.lit(0)).drop("route")

    def _addressed(self, copies: DataFrame, sent: Column, carrier: Column) -> DataFrame:
        """Add the task of each copy, its part number and, to the carrier, the other columns.

        The other columns of a query come with the number of its copies.
        """
        replica = F.pmod(F.xxhash64("query"), F.lit(self.replicas))
        rest = F.when(F.col("place") == carrier, F.struct(sent.alias("sent"), "row"))
        return copies.withColumns(
            {
                # A row that passes through belongs to no shard, so any task will do.
                "target": F.when(F.col("shard") >= 0, F.col("shard") * self.replicas + replica)
                .otherwise(F.pmod(F.xxhash64("query"), F.lit(self.num_shards * self.replicas)))
                .cast("int"),
                "part": F.when(F.col("shard") >= 0, QUERY_PART).otherwise(QUERY_PART - 1),
                "rest": rest,
            }
        ).drop("row", "place")

    def searched(self, copies: DataFrame, types: InputTypes, request: Request) -> DataFrame:
        """Return `copies` with the candidates of each, found in the task that holds its shard."""
        # Queries that are compared with the same items, or at the same level, come together.
        after = [f"input_{name}" for name in types if name in (AFTER, KNOB)]
        rows = after_shards(self, copies, *after)
        lists = self.lists(request)
        if isinstance(request.answer, MergedSearch):
            answer: FoundLists | OwnSearch = request.answer.in_shard(struct_type(lists))
        else:
            answer = FoundLists(struct_type(lists), tuple(lists))
        wanted = in_one_shard(request, answer)
        run = functools.partial(search_shards, wanted, self.digests)
        given = shard_types()
        # A result depends on the rows before it, so Spark must not reorder, repeat or drop any.
        search = batch_udf(
            run, [*given, *types.values()], T.ArrayType(answer.result_type), deterministic=False
        )
        found = rows.withColumn("found", search(*map(F.col, SHARD_COLUMNS), *input_columns(types)))
        kept = [name for name in copies.columns if name not in ("target", "part")]
        return found.select(*kept, F.inline("found").alias(*lists))

    def _merged(self, found: DataFrame, schema: T.StructType, request: Request) -> DataFrame:
        """Return the columns of each query with its k nearest candidates."""
        lists = self.lists(request)
        candidates = F.when(F.col(DISTANCE).isNotNull(), F.struct(*lists))
        whole = found.groupBy("query").agg(
            F.collect_list(candidates).alias("found"), F.collect_list("rest").alias("rest")
        )
        run = functools.partial(merge_batches, request, tuple(lists))
        given = [T.IntegerType(), T.IntegerType(), T.IntegerType(), *lists.values()]
        merge = batch_udf(run, given, T.ArrayType(request.answer.result_type))
        rest = F.get("rest", F.lit(0))
        answers = merge(
            rest["sent"],
            F.size("found"),
            F.size("rest"),
            *(F.flatten(F.col("found").getField(name)) for name in lists),
        )
        own = [
            rest["row"][f"own_{i}"].alias(field.name, metadata=field.metadata)
            for i, field in enumerate(schema.fields)
        ]
        return whole.select(*own, F.inline(answers).alias(*request.answer.result_type.names))

    def lists(self, request: Request) -> dict[str, T.DataType]:
        """Return the types of the lists that a shard returns for a query, by name."""
        if isinstance(request.answer, MergedSearch):
            return request.answer.shard_lists(self.item_columns)
        columns = {name: T.ArrayType(kind) for name, kind in self.item_columns.items()}
        return {DISTANCE: _DOUBLES, **columns}


def _any_of(count: Column) -> Column:
    """Return the place of the copy of a query that is the carrier, of so many copies."""
    # Not the bits of the hash that pick the replica.
    return F.pmod(F.shiftrightunsigned(F.xxhash64("query"), 32), count)


def numbered(queries: DataFrame, inputs: dict[str, Input]) -> DataFrame:
    """Number the queries: their columns are in "row", those that the worker needs in "input_...".

    A retried task must give each row the same number, although the rows of a shuffle may come in
    another order then. So rows are sorted by a hash of all their columns before they are numbered.
    """
    fields = queries.schema.fields
    own = [f"own_{i}" for i in range(len(fields))]
    whole = row_hash([(F.col(own[i]), field.dataType) for i, field in enumerate(fields)])
    ordered = queries.toDF(*own).sortWithinPartitions(whole)
    # After the sort, which would otherwise move each vector twice.
    named = ordered.toDF(*queries.columns).select("*", *(each.value for each in inputs.values()))
    names = own + [f"input_{name}" for name in inputs]
    return named.toDF(*names).select(
        F.monotonically_increasing_id().alias("query"),
        F.struct(*own).alias("row"),
        *names[len(own) :],
    )
