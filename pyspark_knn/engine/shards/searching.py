"""The Spark plan of a sharded search.

    numbered queries --route--> copies, one per shard --.
                                                         union -shuffle-> search -> candidates
    rows of shards --copied--> one per replica ---------'                               |
                                     answers <- merge <- shuffle by query --------------'

For the copies see `plan.ShardPlan`. Where every query is sent to every shard, they are sent in
blocks, see `block_plan`. If shards are cells and the search is exact, the nearest cell is
searched first, and its distances decide to which other cells the query is sent. A search for all
items within a distance needs no distances to decide, so it searches all cells at once. If the items
have keys, the query is sent to the shards of its key.

The candidates of a query are the nearest items of each shard that it was sent to.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.key_columns import key_hashes
from pyspark_knn.engine.search.answers import DISTANCE, MergedSearch
from pyspark_knn.engine.search.merge import merge_batches
from pyspark_knn.engine.shards.block_plan import answers_by_blocks, block_size
from pyspark_knn.engine.shards.cell_plan import found_in_cells
from pyspark_knn.engine.shards.key_shards import shards_of_query
from pyspark_knn.engine.shards.plan import InputTypes, ShardPlan, input_columns, numbered
from pyspark_knn.engine.ship.batch_udf import batch_udf

if TYPE_CHECKING:
    from pyspark_knn.engine.rows.columns import Input
    from pyspark_knn.engine.search.batches import Request


def search_queries(
    plan: ShardPlan, queries: DataFrame, inputs: dict[str, Input], request: Request
) -> DataFrame:
    """Add the columns of `request.answer` to `queries`; see `Placement.search`."""
    types = {name: each.type for name, each in inputs.items()}
    return search_numbered(plan, numbered(queries, inputs), queries.schema, types, request)


def search_numbered(
    plan: ShardPlan, queries: DataFrame, schema: T.StructType, types: InputTypes, request: Request
) -> DataFrame:
    """Search queries that are in the form of `numbered`, given the schema of their columns."""
    if most := block_size(plan, types, request):
        return answers_by_blocks(plan, queries, schema, types, request, most)
    return _merged(plan, _found(plan, queries, types, request), schema, request)


def _found(plan: ShardPlan, queries: DataFrame, types: InputTypes, request: Request) -> DataFrame:
    """Return the candidates of each query: a row for each shard that it is sent to."""
    if isinstance(request.answer, MergedSearch):
        return plan.searched(plan.copies_of_wanted(queries), types, request)
    if plan.key_shards:
        lists = isinstance(types[request.keys[0]], T.ArrayType)
        keys = key_hashes(input_columns(request.keys), lists=lists)
        route = shards_of_query(plan.key_shards, keys, sorted(plan.digests))
        return plan.searched(plan.routed(queries, route), types, request)
    if plan.cells is None:
        return plan.searched(plan.copies(queries), types, request)
    return found_in_cells(plan, plan.cells, queries, types, request)


def _merged(plan: ShardPlan, found: DataFrame, schema: T.StructType, request: Request) -> DataFrame:
    """Return the columns of each query with its k nearest candidates."""
    lists = plan.lists(request)
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
