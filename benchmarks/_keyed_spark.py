"""The part `--only spark` of benchmarks/keyed.py: the plans that people write today."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from _harness import check, consume, median, ratio, show, start
from _keyed_data import Shape, rows, shapes
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

# The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
cloudpickle.register_pickle_by_value(sys.modules[rows.__module__])

K = 5
DIMENSIONS = (16, 64)
ZIPF_ITEMS = 200_000
QUERIES = (500_000, 300_000, 200_000, 200_000)
"""For each shape, about as many as there are items, as in a self-join."""
MOST_PAIRS = {"vector_l2_distance": 20_000_000, "pandas UDF": 5_000_000}
"""With more pairs than this, a join takes minutes, and gets only a part of the queries. Its time
for all of them is extrapolated, in proportion to the number of pairs."""
COGROUPS, FEW_COGROUPS = 20_000, 5_000
"""The cogrouped plan takes milliseconds for each group. Of more groups than the first number, it
gets only the second, and its time is extrapolated too."""
CHECKED = 500
SAME = 0.999
"""The share of equal neighbors; `vector_l2_distance` computes in float32."""


def nearest(pairs: DataFrame) -> DataFrame:
    """Return the k nearest of the pairs (query, item, distance) of each query."""
    window = Window.partitionBy("query").orderBy("distance", "item")
    return pairs.withColumn("rank", F.row_number().over(window)).where(F.col("rank") <= K)


def joined(items: DataFrame, queries: DataFrame, distance: Any) -> DataFrame:
    """Join on the key, compute the distance of each pair, and rank by a window."""
    left = queries.select(F.col("id").alias("query"), "key", F.col("features").alias("left"))
    right = items.select(F.col("id").alias("item"), "key", F.col("features").alias("right"))
    pairs = left.join(right, "key")
    return nearest(pairs.select("query", "item", distance("left", "right").alias("distance")))


def pandas_distance(left: pd.Series, right: pd.Series) -> pd.Series:
    """Compute the distances of a batch of pairs by numpy."""
    gaps = np.stack(left.to_numpy()) - np.stack(right.to_numpy())
    return pd.Series(np.sqrt(np.einsum("ij,ij->i", gaps, gaps, dtype=np.float64)))


def of_group(queries: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Search a group by a matrix product."""
    if queries.empty or items.empty:
        return pd.DataFrame({"query": [], "item": [], "distance": []})
    left, right = np.stack(queries["features"].to_numpy()), np.stack(items["features"].to_numpy())
    squares = np.einsum("ij,ij->i", right, right) - 2 * (left @ right.T)
    squares += np.einsum("ij,ij->i", left, left)[:, None]
    k = min(K, len(items))
    best = np.argpartition(squares, k - 1, axis=1)[:, :k]
    distances = np.sqrt(np.maximum(np.take_along_axis(squares, best, axis=1), 0))
    return pd.DataFrame(
        {
            "query": np.repeat(queries["id"].to_numpy(), k),
            "item": items["id"].to_numpy()[best.ravel()],
            "distance": distances.ravel(),
        }
    )


def cogrouped(items: DataFrame, queries: DataFrame) -> DataFrame:
    """Search each group by numpy, in a cogrouped `applyInPandas`."""
    both = queries.groupBy("key").cogroup(items.groupBy("key"))
    return both.applyInPandas(of_group, "query long, item long, distance double")


def ours(items: DataFrame, queries: DataFrame) -> DataFrame:
    """Fit on the items, and search."""
    model = KNNEstimator(k=K, idCol="id", keyCols="key").fit(items)
    return model.kneighborsJoin(queries).select(
        F.col("id").alias("query"), F.col("neighbor").alias("item"), "distance"
    )


def constant_answers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Return as many rows as a search, without one."""
    for batch in batches:
        count = K * batch.num_rows
        query = np.repeat(batch.column("id").to_numpy(), K)
        columns = [pa.array(query), pa.array(np.arange(count)), pa.array(np.ones(count))]
        yield pa.RecordBatch.from_arrays(columns, ["query", "item", "distance"])


def no_search(_: DataFrame, queries: DataFrame) -> DataFrame:
    """Send the queries to Python and as many rows back: what Spark takes without any search."""
    return queries.mapInArrow(constant_answers, "query long, item long, distance double")


OURS, SQL, UDF, GROUPS = "pyspark_knn", "vector_l2_distance", "pandas UDF", "cogrouped numpy"
NO_SEARCH = "no search at all"
PLANS: dict[str, Callable[[DataFrame, DataFrame], DataFrame]] = {
    OURS: ours,
    SQL: lambda items, queries: joined(items, queries, F.vector_l2_distance),
    UDF: lambda items, queries: joined(items, queries, F.pandas_udf(pandas_distance, "double")),
    GROUPS: cogrouped,
    NO_SEARCH: no_search,
}


def on_spark(scale: float, rounds: int) -> None:
    """Time fit and search together, against a join and a window, and a cogrouped numpy."""
    spark = start(spark__driver__memory="6g", spark__sql__shuffle__partitions="8")
    table = []
    for dim in DIMENSIONS:
        for shape, count in zip(shapes(scale, ZIPF_ITEMS), QUERIES, strict=True):
            table.append(one(spark, shape, int(count * scale), dim, min(rounds, 3)))
            print(*table[-1], sep=" | ", file=sys.stderr, flush=True)
    spark.stop()
    show(
        f"Fit and search on Spark, k={K}, local[2], seconds (~: extrapolated from a part)",
        [
            *("dimensions", "keys", "items", "queries", "pairs"),
            *(f"{OURS}, fit", f"{OURS}, search", NO_SEARCH, SQL, UDF, GROUPS),
            *("best of the others / fit and search", "... / search", f"... / {NO_SEARCH}"),
        ],
        table,
    )


def one(spark: SparkSession, shape: Shape, count: int, dim: int, rounds: int) -> list[str]:
    """Time all plans for a shape."""
    rng = np.random.default_rng(1)
    keys = rng.permutation(np.repeat(np.arange(len(shape.sizes)), shape.sizes))
    asked = shape.groups(rng, count)
    items, queries = rows(spark, keys, dim, 1), rows(spark, asked, dim, 2)
    pairs = int(shape.sizes[asked].sum())
    groups = len(shape.sizes)
    parts = {name: min(1.0, most / pairs) for name, most in MOST_PAIRS.items()}
    parts |= {
        OURS: 1.0,
        NO_SEARCH: 1.0,
        GROUPS: 1.0 if groups <= COGROUPS else FEW_COGROUPS / groups,
    }
    inputs = {
        name: (items, queries.where(F.col("id") < part * count).persist())
        for name, part in parts.items()
    }
    if parts[GROUPS] < 1:
        chosen = F.col("key") < parts[GROUPS] * groups
        inputs[GROUPS] = items.where(chosen).persist(), queries.where(chosen).persist()
    for frame in itertools.chain(*inputs.values()):
        frame.count()
    check_plans(items, queries.where(F.col("id") < CHECKED))
    took: dict[str, list[float]] = {name: [] for name in (*PLANS, "fit")}
    for _, (name, plan) in itertools.product(range(rounds), PLANS.items()):
        begin = time.perf_counter()
        frame = plan(*inputs[name])
        if name == OURS:
            took["fit"].append(time.perf_counter() - begin)
        consume(frame)
        took[name].append(time.perf_counter() - begin)
    for frame in itertools.chain(*inputs.values()):
        frame.unpersist()
    for name, part in parts.items():
        took[name] = [each / part for each in took[name]]
    others = [SQL, UDF, GROUPS]
    best = min(ratio(took[name], took[OURS]) for name in others)
    search = np.subtract(took[OURS], took["fit"]).tolist()
    searched = min(ratio(took[name], search) for name in others)
    most = min(ratio(took[name], took[NO_SEARCH]) for name in others)
    return [
        *(str(dim), shape.name, f"{len(keys):,}", f"{count:,}"),
        f"{pairs:,}",
        f"{median(took['fit']):.1f}",
        f"{median(search):.1f}",
        f"{median(took[NO_SEARCH]):.1f}",
        *("~" * (parts[name] < 1) + f"{median(took[name]):.1f}" for name in others),
        f"{best:.1f}",
        f"{searched:.1f}",
        f"{most:.1f}",
    ]


def check_plans(items: DataFrame, queries: DataFrame) -> None:
    """Stop unless all plans find the same neighbors of some queries."""
    found = {
        name: set(
            plan(items, queries)
            .select("query", "item")
            .toPandas()
            .itertuples(index=False, name=None)
        )
        for name, plan in PLANS.items()
        if name not in (GROUPS, NO_SEARCH)
    }
    for name, pairs in found.items():
        same = len(pairs & found[OURS]) / len(found[OURS])
        check(same >= SAME and len(pairs) == len(found[OURS]), f"neighbors of {name}")
