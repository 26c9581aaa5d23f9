"""The Spark plan of a search of the items of shards among each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.rows.features import features_of
from pyspark_knn.engine.rows.items import NUMBER
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists
from pyspark_knn.engine.search.batches import ITSELF, Request
from pyspark_knn.engine.search.self_search import SelfSearch, found_schema, read_own_queries
from pyspark_knn.engine.shards.plan import ShardPlan
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS


def self_search(plan: ShardPlan, firsts: Mapping[int, int], wanted: SelfSearch) -> DataFrame:
    """Return the nearest other items of each item of some shards.

    The items are queries whose numbers are those of the items, so they need no further numbers.

    Parameters
    ----------
    plan : ShardPlan
        The shards.
    firsts : mapping of int to int
        The number of the first item of each shard.
    wanted : SelfSearch
        What to search.

    Returns
    -------
    DataFrame
        See `Placement.self_search`.
    """
    own = {NUMBER: T.LongType(), "id": plan.item_columns["id"]}
    columns = {**own, **plan.key_columns}
    run = guarded(
        functools.partial(read_own_queries, plan.digests, firsts, plan.dtype, tuple(columns))
    )
    read = struct_type({**columns, "features": plan.vector_type})
    items = plan.frame.select(*SHARD_COLUMNS).mapInArrow(run, read)
    vectors = features_of(items, "featuresCol", "features").inputs
    queries = items.select(
        F.col(NUMBER).alias("query"),
        F.struct(*(F.col(name).alias(f"own_{i}") for i, name in enumerate(own))).alias("row"),
        *(each.value.alias(f"input_{name}") for name, each in vectors.items()),
        F.col(NUMBER).alias(f"input_{ITSELF}"),
        *(F.col(name).alias(f"input_{name}") for name in plan.key_columns),
    )
    types = {name: each.type for name, each in vectors.items()}
    types |= {ITSELF: T.LongType(), **plan.key_columns}
    lists = found_schema(own["id"]).fields[len(own) :]
    request = Request(
        k=wanted.k,
        max_distance=wanted.max_distance,
        handle_invalid="error",
        features_col="features",
        inputs=tuple(types),
        answer=FoundLists(T.StructType(lists), (NUMBER, "id", DISTANCE)),
        probes=wanted.probes,
        keys=tuple(plan.key_columns),
        firsts=firsts,
    )
    # Items with equal columns differ in their numbers, which break these ties.
    numbered = replace(plan, item_columns={**plan.item_columns, NUMBER: T.LongType()})
    return numbered.search(queries, struct_type(own), types, request)
