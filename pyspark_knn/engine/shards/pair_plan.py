"""The Spark plan of all pairs of items within a distance."""

from __future__ import annotations

import functools

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.rows.features import features_of
from pyspark_knn.engine.rows.key_columns import key_hashes
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists
from pyspark_knn.engine.search.batches import AFTER, Request
from pyspark_knn.engine.search.pairs import (
    NEIGHBOR,
    ORIGIN,
    PLACE,
    ROUTE,
    PairRoutes,
    read_pair_queries,
)
from pyspark_knn.engine.shards.key_shards import shards_of_query
from pyspark_knn.engine.shards.one_shard import QUERY_PART
from pyspark_knn.engine.shards.plan import ShardPlan
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS


def pairs_within(plan: ShardPlan, max_distance: float) -> DataFrame:
    """Return all pairs of items within a distance, each once; see `Placement.pairs`.

    Every two shards are compared once: the items of one of them are queries for the other.
    """
    items = _pair_queries(plan, max_distance)
    inputs = features_of(items, "featuresCol", "features").inputs
    after = F.when(F.col("shard") == F.col(ORIGIN), F.col(PLACE)).otherwise(-1)
    replica = F.pmod(F.xxhash64(ORIGIN, PLACE), F.lit(plan.replicas))
    copies = items.select("*", F.explode(ROUTE).alias("shard")).select(
        "shard",
        F.col("id").alias("own_id"),
        (F.col("shard") * plan.replicas + replica).cast("int").alias("target"),
        F.lit(QUERY_PART).alias("part"),
        *(each.value.alias(f"input_{name}") for name, each in inputs.items()),
        after.alias(f"input_{AFTER}"),
        *(F.col(name).alias(f"input_{name}") for name in plan.key_columns),
    )
    types = {name: each.type for name, each in inputs.items()}
    types |= {AFTER: T.LongType(), **plan.key_columns}
    request = Request(
        k=None,
        max_distance=max_distance,
        handle_invalid="error",
        features_col="features",
        inputs=tuple(types),
        answer=FoundLists(T.StructType(), ()),
        keys=tuple(plan.key_columns),
    )
    found = plan.searched(copies, types, request)
    pairs = found.select("own_id", F.explode(F.arrays_zip("id", DISTANCE)).alias("pair"))
    own, other = F.col("own_id"), F.col("pair")["id"]
    return pairs.select(
        F.least(own, other).alias("id"),
        F.greatest(own, other).alias(NEIGHBOR),
        F.col("pair")[DISTANCE].alias(DISTANCE),
    )


def _pair_queries(plan: ShardPlan, max_distance: float) -> DataFrame:
    """Return the items, each with the shards that it is compared in."""
    filled = sorted(plan.digests)
    routes = PairRoutes(tuple(filled), max_distance, plan.cells, plan.dtype)
    types = {
        ORIGIN: T.IntegerType(),
        PLACE: T.LongType(),
        ROUTE: T.ArrayType(T.IntegerType()),
        "features": plan.vector_type,
    }
    columns = {"id": plan.item_columns["id"], **plan.key_columns}
    run = guarded(functools.partial(read_pair_queries, plan.digests, routes, tuple(columns)))
    types |= columns
    items = plan.frame.select(*SHARD_COLUMNS).mapInArrow(run, struct_type(types))
    if not plan.key_shards:
        return items
    keys = key_hashes([F.col(name) for name in plan.key_columns], lists=False)
    of_key = shards_of_query(plan.key_shards, keys, filled)
    return items.withColumn(ROUTE, F.array_intersect(ROUTE, of_key))
