"""The Spark plan of a search of the items of shards among each other."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.rows.features import features_of
from pyspark_knn.engine.rows.items import NUMBER
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists, distances_alone
from pyspark_knn.engine.search.batches import ITSELF, KNOB, Request
from pyspark_knn.engine.search.self_search import (
    QUERY,
    HeldOutSearch,
    SelfSearch,
    found_schema,
    read_own_queries,
)
from pyspark_knn.engine.shards.plan import ShardPlan
from pyspark_knn.engine.shards.searching import search_numbered
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS
from pyspark_knn.engine.spark.spreading import int_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    items = _own_items(plan, firsts, {**own, **plan.key_columns})
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
        knob=wanted.knob,
    )
    # Items with equal columns differ in their numbers, which break these ties.
    numbered = replace(plan, item_columns={**plan.item_columns, NUMBER: T.LongType()})
    return search_numbered(numbered, queries, struct_type(own), types, request)


def held_out_search(plan: ShardPlan, firsts: Mapping[int, int], wanted: HeldOutSearch) -> DataFrame:
    """Return the distances of the nearest other items of some items, at several levels.

    Parameters
    ----------
    plan : ShardPlan
        The shards, whose items have no keys.
    firsts : mapping of int to int
        The number of the first item of each shard.
    wanted : HeldOutSearch
        What to search.

    Returns
    -------
    DataFrame
        The columns `measuring.QUERY`, `KNOB` and `DISTANCE`, see `measuring.searching`.
    """
    items = _own_items(plan, firsts, {NUMBER: T.LongType()}, wanted.numbers)
    items = items.select("*", F.posexplode(int_array(wanted.levels)).alias("place", KNOB))
    vectors = features_of(items, "featuresCol", "features").inputs
    queries = items.select(
        (F.col(NUMBER) * len(wanted.levels) + F.col("place")).alias("query"),
        F.struct(F.col(NUMBER).alias("own_0"), F.col(KNOB).alias("own_1")).alias("row"),
        *(each.value.alias(f"input_{name}") for name, each in vectors.items()),
        F.col(NUMBER).alias(f"input_{ITSELF}"),
        F.col(KNOB).alias(f"input_{KNOB}"),
    )
    types = {name: each.type for name, each in vectors.items()}
    types |= {ITSELF: T.LongType(), KNOB: T.IntegerType()}
    request = Request(
        k=wanted.k,
        max_distance=None,
        handle_invalid="error",
        features_col="features",
        inputs=tuple(types),
        answer=distances_alone(),
        probes=wanted.probes,
        firsts=firsts,
        held_out=wanted.numbers,
    )
    own = struct_type({QUERY: T.LongType(), KNOB: T.IntegerType()})
    return search_numbered(plan, queries, own, types, request)


def _own_items(
    plan: ShardPlan,
    firsts: Mapping[int, int],
    columns: Mapping[str, T.DataType],
    wanted: NDArray[np.int64] | None = None,
) -> DataFrame:
    """Return columns and vectors of the items; with `wanted`, of those with these numbers."""
    names = tuple(columns)
    run = functools.partial(read_own_queries, plan.digests, firsts, plan.dtype, names, wanted)
    read = struct_type({**columns, "features": plan.vector_type})
    return plan.frame.select(*SHARD_COLUMNS).mapInArrow(guarded(run), read)
