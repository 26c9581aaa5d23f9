"""Times a search from end to end on Spark against what else a user could do, and checks it.

    python benchmarks/transform.py [--items 100000] [--queries 20000] [--dim 64] [--rounds 3]

Slow contestants get fewer queries; figures are queries per second.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from _harness import (
    as_mllib,
    check,
    consume,
    matrix_of,
    median,
    ratio,
    show,
    start,
    take_turns,
    vectors,
)
from pyspark.ml.feature import BucketedRandomProjectionLSH
from pyspark.sql import functions as F
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

K = 10
FEW = 1_000
FEWEST = 100

OURS, OURS_MANY = "pyspark_knn", "pyspark_knn, 4 times the queries"

Ids = np.ndarray


# --- the contestants: each returns the ids of the neighbours, in the order of the queries ---------


def ours(model: Any, queries: DataFrame) -> Ids:
    """The model of this library."""
    rows = model.transform(queries).select("id", "neighbors").toPandas().sort_values("id")
    return np.stack(rows["neighbors"].to_numpy())


def row_by_row(shared: Any, queries: DataFrame) -> Ids:
    """The recipe as it is passed on: a broadcast index, and a map over the rows."""
    found = queries.rdd.map(lambda row: (row.id, shared.value.kneighbors([row.features])[1][0]))
    return np.stack([ids for _, ids in sorted(found.collect(), key=lambda pair: pair[0])])


def in_blocks(shared: Any, queries: DataFrame) -> Ids:
    """The recipe, written with care: mapInPandas, a block of queries at a time."""

    def search(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        with threadpool_limits(limits=1):
            for batch in batches:
                block = np.stack(batch["features"].to_numpy())
                found = shared.value.kneighbors(block, return_distance=True)
                yield pd.DataFrame(
                    {"id": batch["id"], "neighbors": list(found[1]), "distances": list(found[0])}
                )

    schema = "id long, neighbors array<long>, distances array<double>"
    rows = queries.mapInPandas(search, schema).select("id", "neighbors").toPandas()
    return np.stack(rows.sort_values("id")["neighbors"].to_numpy())


def nearest_by_join(items: DataFrame, queries: DataFrame) -> Ids:
    """Spark's own join (4.2 and later)."""
    right = items.select(F.col("id").alias("item"), F.col("features").alias("vector"))
    distance = F.call_function("vector_l2_distance", F.col("features"), F.col("vector"))
    join = queries.nearestByJoin(right, distance, K, mode="exact", direction="distance")
    rows = join.select("id", "item", distance.alias("d")).toPandas().sort_values(["id", "d"])
    return rows["item"].to_numpy().reshape(-1, K)


def lsh(model: Any, items: DataFrame, queries: DataFrame) -> Ids:
    """MLlib's LSH: one call a query."""
    keys = [row.features for row in queries.orderBy("id").collect()]
    found = [model.approxNearestNeighbors(items, key, K).select("id").collect() for key in keys]
    return np.array([[row.id for row in rows] + [-1] * (K - len(rows)) for rows in found])


def joblib_spark(fitted: Any, block: np.ndarray) -> Ids:
    """Joblib's backend on Spark: a task for each part of the queries."""
    from joblib import Parallel, delayed, parallel_backend

    parts = np.array_split(block, 4)
    with parallel_backend("spark", n_jobs=2):
        found = Parallel()(delayed(_plain_search)(fitted, part) for part in parts)
    return np.concatenate(found)


def _plain_search(fitted: Any, block: np.ndarray) -> Ids:
    with threadpool_limits(limits=1):
        positions: Ids = fitted.kneighbors(block, return_distance=False)
        return positions


# --- tables ---------------------------------------------------------------------------------------


def against_the_others(spark: SparkSession, options: argparse.Namespace) -> None:
    """Queries per second, and whether the answers are those of the others."""
    items = vectors(spark, options.items, options.dim, seed=1)
    queries = vectors(spark, options.queries, options.dim, seed=2)
    few, fewest = queries.where(f"id < {FEW}"), queries.where(f"id < {FEWEST}")
    model = KNNEstimator(k=K, idCol="id").fit(items)
    matrix, block = matrix_of(items), matrix_of(queries)
    fitted = NearestNeighbors(n_neighbors=K).fit(matrix)
    shared = spark.sparkContext.broadcast(fitted)
    many = vectors(spark, 4 * options.queries, options.dim, seed=2)
    contestants: dict[str, tuple[int, Callable[[], Ids]]] = {
        OURS: (options.queries, lambda: ours(model, queries)),
        OURS_MANY: (4 * options.queries, lambda: ours(model, many)),
        "the recipe in blocks (mapInPandas)": (options.queries, lambda: in_blocks(shared, queries)),
        "scikit-learn alone, all cores": (
            options.queries,
            lambda: fitted.kneighbors(block, return_distance=False),
        ),
        "the recipe row by row (rdd.map)": (FEW, lambda: row_by_row(shared, few)),
    }
    if hasattr(items, "nearestByJoin"):
        contestants["Spark's nearestByJoin"] = (FEWEST, lambda: nearest_by_join(items, fewest))
    hashed, asked = as_mllib(items), as_mllib(queries.where("id < 10"))
    projection = BucketedRandomProjectionLSH(
        inputCol="features", outputCol="hashes", bucketLength=4.0, numHashTables=4, seed=1
    )
    buckets = projection.fit(hashed)
    contestants["MLlib BucketedRandomProjectionLSH"] = (10, lambda: lsh(buckets, hashed, asked))
    if importlib.util.find_spec("joblibspark"):
        from joblibspark import register_spark

        register_spark()
        contestants["joblib-spark"] = (options.queries, lambda: joblib_spark(fitted, block))
    seconds, found = take_turns(
        {name: run for name, (_, run) in contestants.items()}, options.rounds
    )
    pace = {
        name: [contestants[name][0] / each for each in times] for name, times in seconds.items()
    }
    rows = []
    for name, (count, _) in contestants.items():
        recall = np.mean(
            [
                len(set(a) & set(b)) / K
                for a, b in zip(found[OURS_MANY][:count], found[name], strict=True)
            ]
        )
        rows.append(
            [
                name,
                f"{count:,}",
                f"{median(pace[name]):,.1f}",
                f"{ratio(pace[OURS], pace[name]):,.2f} x",
                f"{ratio(pace[OURS_MANY], pace[name]):,.2f} x",
                f"{recall:.4f}",
            ]
        )
        check(name.startswith("MLlib") or recall > 0.999, name)
    show(
        f"{options.items:,} x {options.dim} items, k={K}, local[2]",
        [
            "way",
            "queries",
            "queries a second",
            "ours is faster by",
            "with 4 times the queries",
            "same neighbours",
        ],
        rows,
    )
    shared.destroy()


def overhead(spark: SparkSession, options: argparse.Namespace) -> None:
    """What Spark adds to the search itself, on the same cores."""
    items = vectors(spark, options.items, options.dim, seed=1)
    model = KNNEstimator(k=K, idCol="id").fit(items)
    index = model._fitted.searchable.index
    rows = []
    for count in (options.queries, 4 * options.queries):
        queries = vectors(spark, count, options.dim, seed=3)
        halves = np.array_split(matrix_of(queries), 2)
        seconds, _ = take_turns(
            {
                "spark": lambda q=queries: consume(model.transform(q)),
                "alone": lambda parts=halves: _one_process_a_core(index, parts),
            },
            options.rounds,
        )
        rows.append(
            [
                f"{count:,}",
                f"{median(seconds['spark']):.2f}",
                f"{median(seconds['alone']):.2f}",
                f"{ratio(seconds['spark'], seconds['alone']):.2f}",
            ]
        )
    show(
        "transform against the same index in one plain process a core",
        ["queries", "transform, s", "plain processes, s", "ratio"],
        rows,
    )


def _one_process_a_core(index: Any, parts: list[np.ndarray]) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_search_part, args=(index, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        check(process.exitcode == 0, "a plain process failed")


def _search_part(index: Any, part: np.ndarray) -> None:
    with threadpool_limits(limits=1):
        # As many at a time as Spark puts into a batch.
        for begin in range(0, len(part), 10_000):
            index.kneighbors(part[begin : begin + 10_000], K)


def growth(spark: SparkSession, options: argparse.Namespace) -> None:
    """Twice and four times the queries, and the items."""
    rows = []
    for what in ("queries", "items"):
        first = None
        for times in (1, 2, 4):
            n_items = options.items * (times if what == "items" else 1)
            n_queries = options.queries * (times if what == "queries" else 1)
            items = vectors(spark, n_items, options.dim, seed=1)
            queries = vectors(spark, n_queries, options.dim, seed=2)
            model = KNNEstimator(k=K, idCol="id").fit(items)
            seconds, _ = take_turns(
                {"ours": lambda m=model, q=queries: consume(m.transform(q))}, options.rounds
            )
            took = median(seconds["ours"])
            first = first or took
            rows.append([what, f"x{times}", f"{took:.2f}", f"{took / first:.2f}"])
            items.unpersist()
            queries.unpersist()
    show("Growth of transform", ["more", "", "seconds (median)", "against x1"], rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    begin = time.perf_counter()
    spark = start()
    overhead(spark, options)
    growth(spark, options)
    against_the_others(spark, options)
    spark.stop()
    print(f"\n({time.perf_counter() - begin:.0f} s in all)")


if __name__ == "__main__":
    main()
