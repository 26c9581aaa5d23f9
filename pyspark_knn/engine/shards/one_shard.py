"""The search of one shard in the plan of a search: its rows come just before its queries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS, SHARD_SCHEMA
from pyspark_knn.engine.spark.spreading import int_array, repartition_evenly

if TYPE_CHECKING:
    from pyspark_knn.engine.search.answers import FoundLists, OwnSearch
    from pyspark_knn.engine.search.batches import Request
    from pyspark_knn.engine.shards.plan import ShardPlan

QUERY_PART = (1 << 31) - 1
"""The part number of a query, which sorts it after all parts of its shard."""

_UNLIMITED = (1 << 31) - 1
"""More neighbors than an Arrow list has."""


def after_shards(plan: ShardPlan, copies: DataFrame, *after: str) -> DataFrame:
    """Return `copies` and the rows of shards, each copy in the task of its shard, after it.

    Parameters
    ----------
    plan : ShardPlan
        The shards.
    copies : DataFrame
        Rows with a "target", a "part" and a "shard".
    *after : str
        Columns of `copies` that sort the copies of a shard.

    Returns
    -------
    DataFrame
        Both, sorted within partitions.
    """
    replicas = F.explode(int_array(range(plan.replicas))).alias("replica")
    shards = plan.frame.select("*", replicas).select(
        (F.col("shard") * plan.replicas + F.col("replica")).alias("target"),
        "part",
        *SHARD_COLUMNS,
    )
    both = copies.unionByName(shards, allowMissingColumns=True)
    rows = repartition_evenly(both, plan.partitions, "target")
    return rows.sortWithinPartitions("target", "part", *after)


def in_one_shard(request: Request, answer: FoundLists | OwnSearch) -> Request:
    """Return the request to one shard: all candidates, and a null for an invalid query."""
    keep = "error" if request.handle_invalid == "error" else "keep"
    # What fits in one row is decided when the neighbors of all shards are merged.
    return replace(request, answer=answer, handle_invalid=keep, row_neighbors=_UNLIMITED)


def shard_types() -> list[T.DataType]:
    """Return the types of `SHARD_COLUMNS`."""
    return [from_arrow_type(SHARD_SCHEMA.field(name).type) for name in SHARD_COLUMNS]
