"""The Spark plan of a search in which every query is sent to every shard, in blocks of queries.

    numbered queries --pack--> queries without their vectors ------------------.
                           '-> blocks --copied--> one per shard --.            |
                                                                   union -shuffle-> search
    rows of shards --copied--> one per replica -------------------'            |
                        answers <- merge <- shuffle by block ------------------'

A block is one row, so Spark hardly moves more rows if there are more shards. The other columns of
the queries pass through the search, and each meets its answer in the merge: the rows that the
shards returned for a block directly precede its queries.

Expressions are SQL where they can be: a column that is made in Python takes ten calls of the JVM or
more for each of its functions, and so the plan of a search took as long as the search of few items.
"""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.search.answers import FoundLists, MergedSearch
from pyspark_knn.engine.search.batches import KNOB
from pyspark_knn.engine.search.in_shards import PASSING, search_blocks
from pyspark_knn.engine.search.query_blocks import LARGEST_BLOCK, PACKED, merge_blocks, pack_blocks
from pyspark_knn.engine.shards.one_shard import QUERY_PART, in_one_shard, shard_types
from pyspark_knn.engine.shards.plan import InputTypes, ShardPlan
from pyspark_knn.engine.ship.batch_udf import batch_udf
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.spreading import int_array_sql

if TYPE_CHECKING:
    from pyspark_knn.engine.search.batches import Request

_SMALLEST_BLOCK = 16
"""Fewer queries in a block are not worth the packing."""

_BLOCK_CANDIDATES = 1 << 20
"""The largest number of candidates of the queries of a block, which are merged at once."""

_FOUND = struct_type({"found": T.BinaryType()})


def block_size(plan: ShardPlan, types: InputTypes, request: Request) -> int:
    """Return how many queries are sent to the shards as one row; 0 if they are sent singly."""
    every = plan.cells is None and not plan.key_shards and bool(plan.digests)
    if not every or request.k is None or KNOB in types:
        return 0
    if isinstance(request.answer, MergedSearch) or not compat.limits_batches():
        return 0
    most = _BLOCK_CANDIDATES // (len(plan.digests) * request.k)
    return min(most, LARGEST_BLOCK) if most >= _SMALLEST_BLOCK else 0


def answers_by_blocks(
    plan: ShardPlan,
    queries: DataFrame,
    schema: T.StructType,
    types: InputTypes,
    request: Request,
    most: int,
) -> DataFrame:
    """Return the columns of each query with its k nearest neighbors.

    Parameters
    ----------
    plan : ShardPlan
        The shards.
    queries : DataFrame
        Numbered queries, see `plan.numbered`.
    schema : StructType
        The columns of the queries.
    types : dict of str to DataType
        Their inputs.
    request : Request
        The search, with a `k`.
    most : int
        The largest number of queries in a block.

    Returns
    -------
    DataFrame
        The answers.
    """
    lists = plan.lists(request)
    found = _searched(plan, _copies(plan, queries, types, most), request, lists)
    rows = found.repartition("block").sortWithinPartitions("block", "place")
    run = functools.partial(merge_blocks, request, len(plan.digests), tuple(lists))
    given: list[T.DataType] = [T.LongType(), T.IntegerType(), T.LongType(), T.BinaryType()]
    # The answer to a query depends on the rows before it.
    merge = batch_udf(run, given, T.ArrayType(request.answer.result_type), deterministic=False)
    # A step of its own: inside of inline, Spark 4.3 loses fields of "row" that it prunes.
    merged = rows.withColumn("answers", merge("block", "place", "mark", "found"))
    own = [
        F.col(f"row.own_{i}").alias(field.name, metadata=field.metadata)
        for i, field in enumerate(schema.fields)
    ]
    return merged.select(*own, F.inline("answers").alias(*request.answer.result_type.names))


def _copies(plan: ShardPlan, queries: DataFrame, types: InputTypes, most: int) -> DataFrame:
    """Return a row for each query, which passes through, and one for each block and shard."""
    names = [f"input_{name}" for name in types]
    run = functools.partial(pack_blocks, tuple(types), most)
    pack = batch_udf(
        run,
        [T.LongType(), *types.values()],
        T.ArrayType(from_arrow_schema(PACKED)),
        deterministic=False,
    )
    packed = queries.withColumn("packed", pack("query", *names))
    packed = packed.selectExpr("row", f"inline(packed) AS ({', '.join(PACKED.names)})")
    passing, every = int_array_sql([PASSING]), int_array_sql([PASSING, *sorted(plan.digests)])
    copies = packed.selectExpr(
        "*",
        # In turn, so that the tasks of a shard get as many blocks each.
        f"pmod(turn + spark_partition_id(), {plan.replicas}) AS replica",
        f"explode(CASE WHEN data IS NOT NULL THEN {every} ELSE {passing} END) AS shard",
    )
    to_shard = "CASE WHEN shard >= 0 THEN"
    any_task = f"pmod(xxhash64(block), {plan.num_shards * plan.replicas})"
    return copies.selectExpr(
        "shard",
        f"CAST({to_shard} shard * {plan.replicas} + replica ELSE {any_task} END AS int) AS target",
        f"{to_shard} {QUERY_PART} ELSE {QUERY_PART - 1} END AS part",
        "block",
        f"{to_shard} -1 ELSE place END AS place",
        "mark",
        f"{to_shard} data END AS data",
        f"{to_shard} NULL ELSE row END AS row",
    )


def _searched(
    plan: ShardPlan, copies: DataFrame, request: Request, lists: dict[str, T.DataType]
) -> DataFrame:
    """Return `copies` with what the shards found for the blocks among them."""
    answer = FoundLists(struct_type(lists), tuple(lists))
    wanted = in_one_shard(request, answer)
    run = functools.partial(search_blocks, uuid.uuid4().hex, wanted, plan.digests)
    given = [*shard_types(), T.LongType(), T.LongType(), T.BinaryType()]
    search = batch_udf(run, given, T.ArrayType(_FOUND), deterministic=False)
    asked = (*SHARD_COLUMNS, "block", "mark", "data")
    rows = plan.after_shards(copies).withColumn("answers", search(*asked))
    return rows.selectExpr("block", "place", "mark", "row", "inline(answers) AS (found)")
