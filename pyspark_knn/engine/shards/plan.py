"""The shards of a search, and how queries are sent to them: what all Spark plans have in common.

A copy of a query contains its number and its vector. The other columns of the query are in one of
its copies, the carrier, and never leave the JVM, since the search is a scalar function and Spark
sends it only its arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import Input, struct_type
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists, MergedSearch, OwnSearch
from pyspark_knn.engine.search.batches import AFTER, KNOB, WANTED, Request
from pyspark_knn.engine.search.in_shards import PASSING, search_shards
from pyspark_knn.engine.shards.key_shards import KeyShards
from pyspark_knn.engine.shards.one_shard import QUERY_PART, in_one_shard, shard_types
from pyspark_knn.engine.ship.batch_udf import batch_udf
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS
from pyspark_knn.engine.spark.spreading import (
    int_array,
    int_array_sql,
    repartition_evenly,
    row_hash,
)
from pyspark_knn.index.cells import Cells

InputTypes = dict[str, T.DataType]
"""The inputs of a query and their types."""

_DOUBLES = T.ArrayType(T.DoubleType())


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

    def copies(self, queries: DataFrame) -> DataFrame:
        """Return a copy of each query for each shard; any of them may be the carrier."""
        shards = sorted(self.digests)
        every = queries.select("*", F.posexplode(int_array(shards)).alias("place", "shard"))
        return self._addressed(every, F.lit(len(shards)), _any_of(F.lit(len(shards))))

    def copies_of_wanted(self, queries: DataFrame) -> DataFrame:
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
        rows = self.after_shards(copies, *after)
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

    def after_shards(self, copies: DataFrame, *after: str) -> DataFrame:
        """Return `copies` and the rows of shards, each copy in the task of its shard, after it.

        Parameters
        ----------
        copies : DataFrame
            Rows with a "target", a "part" and a "shard".
        *after : str
            Columns of `copies` that sort the copies of a shard.

        Returns
        -------
        DataFrame
            Both, sorted within partitions.
        """
        replicas = int_array_sql(range(self.replicas))
        shards = self.frame.selectExpr("*", f"explode({replicas}) AS replica")
        target = F.expr(f"shard * {self.replicas} + replica AS target")
        # Not by SQL alone, in which "offset" may be a reserved word.
        shards = shards.select(target, "part", *SHARD_COLUMNS)
        both = copies.unionByName(shards, allowMissingColumns=True)
        rows = repartition_evenly(both, self.partitions, "target")
        return rows.sortWithinPartitions("target", "part", *after)

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


def input_columns(names: Iterable[str]) -> list[Column]:
    """Return the columns of a query that the worker needs."""
    return [F.col(f"input_{name}") for name in names]
