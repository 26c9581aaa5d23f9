"""The Spark plan of a search of cells: of all that may contain a neighbor, or of some of them.

An exact search of the k nearest items takes one of two ways, whose answers are the same:

* At once: the distances from the centers alone bound the distance of the k-th neighbor. That rules
  out most cells if clusters are far apart. Then a query is sent to the others, and that is all.
* In turn: the nearest cell is searched first, and what is found there rules out more cells. Then
  the rest is searched, with a second shuffle of all queries and all shards.

The driver chooses, by a few items of each shard, since queries are mostly where items are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import EXCLUDED, ITSELF, Request
from pyspark_knn.engine.search.routing import route_at_once, route_nearest, route_within
from pyspark_knn.engine.shards.plan import InputTypes, ShardPlan, input_columns
from pyspark_knn.engine.ship.batch_udf import batch_udf

if TYPE_CHECKING:
    from pyspark_knn.engine.ship.udf import BatchFunction
    from pyspark_knn.index.cells import Cells

_FEW_CELLS = 4
"""A query may be sent to so many shards at once, on average. A second search costs as much."""

_DOUBLES = T.ArrayType(T.DoubleType())
_INTS = T.ArrayType(T.IntegerType())


def found_in_cells(
    plan: ShardPlan, cells: Cells, queries: DataFrame, types: InputTypes, request: Request
) -> DataFrame:
    """Return the candidates of each query: a row for each shard that it is sent to.

    Parameters
    ----------
    plan : ShardPlan
        The shards.
    cells : Cells
        The cells that they are.
    queries : DataFrame
        Numbered queries, see `plan.numbered`.
    types : dict of str to DataType
        Their inputs.
    request : Request
        The search.

    Returns
    -------
    DataFrame
        See `ShardPlan.searched`.
    """
    vector = [types[name] for name in request.vector]
    inputs = input_columns(request.vector)
    if request.probes is not None:
        choose = functools.partial(route_nearest, request, cells, request.probes)
        route = _once(choose, vector)(*inputs)
        return plan.searched(plan.routed(queries, route), types, request)
    if request.held_out is not None and len(plan.digests) <= _FEW_CELLS:
        # Bounds by the centers count the items that are held out; all cells need no bounds.
        return plan.searched(plan.copies(queries), types, request)
    if request.k is None or _few_at_once(plan, cells, request, request.k):
        if request.k is not None:
            vector.append(T.LongType())
            inputs.append(_wanted(plan, request, request.k).cast("long"))
        route = _once(functools.partial(route_at_once, request, cells), vector)(*inputs)
        return plan.searched(plan.routed(queries, route), types, request)
    route = _once(functools.partial(route_nearest, request, cells, 1), vector)(*inputs)
    found = plan.searched(plan.routed(queries, route), types, request)
    return _further(plan, found, cells, types, request)


def _few_at_once(plan: ShardPlan, cells: Cells, request: Request, k: int) -> bool:
    """Whether a query that is near an item is sent to few shards before any is searched."""
    if plan.sample is None or not len(plan.sample):
        return False
    if request.held_out is not None:
        # The distances from the centers count the items that are held out.
        return False
    limit = np.inf if request.max_distance is None else request.max_distance
    count = len(plan.sample)
    # An excluded id is mostly that of the query itself.
    wanted = np.full(count, k + (EXCLUDED in request.inputs or ITSELF in request.inputs))
    opened = cells.within(plan.sample, np.full(count, limit), wanted)
    return bool(opened.sum() <= _FEW_CELLS * count)


def _wanted(plan: ShardPlan, request: Request, k: int) -> Column:
    """Return how many items are nearest to a query, those included that may be excluded."""
    if ITSELF in request.inputs:
        return F.lit(k + 1)
    if EXCLUDED not in request.inputs:
        return F.lit(k)
    many = F.greatest(F.size(f"input_{EXCLUDED}"), F.lit(0))
    # Each duplicate is one more item that an id excludes. As long: k may be the largest int.
    beyond = many.cast("long") + F.lit(k + plan.num_duplicates)
    return F.when(many > 0, beyond).otherwise(F.lit(k))


def _further(
    plan: ShardPlan, first: DataFrame, cells: Cells, types: InputTypes, request: Request
) -> DataFrame:
    """Search further cells, given the candidates of each query in its nearest cell.

    The row of the nearest cell passes through this search, with the other columns of its query.
    """
    within = functools.partial(route_within, request, cells)
    vector = [types[name] for name in request.vector]
    further = _once(within, [*vector, T.IntegerType(), _DOUBLES])
    lists = plan.lists(request)
    before = {name: f"before_{name}" for name in lists}
    queries = first.withColumn("row", F.col("rest")["row"]).drop("rest")
    queries = queries.withColumnsRenamed(before)
    route = further(*input_columns(request.vector), F.col("shard"), F.col(before[DISTANCE]))
    carrier = F.col("rest").isNotNull()
    kept = {name: F.when(carrier, F.col(name)) for name in before.values()}
    # The row that passes through is not searched, so it needs no vector.
    kept |= {f"input_{name}": F.when(~carrier, F.col(f"input_{name}")) for name in types}
    copies = plan.routed(queries, route).withColumns(kept)
    found = plan.searched(copies, types, request)
    either = [F.coalesce(name, before[name]).alias(name) for name in lists]
    return found.select("query", "rest", *either)


def _once(route: BatchFunction, given: list[T.DataType]) -> Callable[..., Column]:
    """Return a UDF of routes that Spark evaluates once.

    Spark filters by the result of a deterministic UDF before it explodes it, which runs it twice.
    """
    return batch_udf(route, given, _INTS, deterministic=False)
