"""The part `--only spark` of benchmarks/sparse.py: names matched on Spark, from text to answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from _harness import check, consume, show, start
from _sparse_data import names
from pyspark import cloudpickle
from pyspark.ml import Pipeline
from pyspark.ml.feature import IDF, HashingTF, MinHashLSH, NGram, RegexTokenizer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn import KNNEstimator

# The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

K = 10
NAMES = 500_000
RECIPE_QUERIES = 1_000
LSH_NAMES, LSH_TABLES, LSH_DISTANCE = 10_000, 5, 0.6


def texts(spark: SparkSession, n: int, seed: int) -> DataFrame:
    """Return ids and names."""
    frame = pd.DataFrame({"id": np.arange(n), "name": names(n, seed)})
    return spark.createDataFrame(frame).repartition(8, "id")


def three_grams() -> list[Any]:
    """Return the stages that convert a name to counts of the 3-grams of its characters."""
    return [
        RegexTokenizer(inputCol="name", outputCol="characters", pattern=".", gaps=False),
        NGram(n=3, inputCol="characters", outputCol="grams"),
        HashingTF(inputCol="grams", outputCol="counts"),
    ]


def stored(frame: DataFrame) -> DataFrame:
    """Persist and compute `frame`."""
    frame = frame.persist()
    frame.count()
    return frame


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time of `run`, and what it returns."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def on_spark(scale: float, _: int) -> None:
    """Match names with names: this library, the hand-written recipe, and MinHashLSH."""
    n = int(NAMES * scale)
    spark = start(spark__driver__memory="6g")
    items, queries = texts(spark, n, 1), texts(spark, n, 2)
    took, pipeline = seconds(
        lambda: Pipeline(stages=[*three_grams(), IDF(inputCol="counts", outputCol="features")]).fit(
            items
        )
    )
    columns = ("id", "counts", "features")
    more, both = seconds(
        lambda: [stored(pipeline.transform(each).select(*columns)) for each in (items, queries)]
    )
    print(f"MLlib's stages, from 2 x {n:,} names to persisted vectors: {took + more:.0f} s")
    rows = [*by_cosine(*both, n), *by_jaccard(*both, min(n, LSH_NAMES), n)]
    show(
        f"{n:,} names against {n:,} names on Spark, k={K}, local[2]",
        ["tool", "run with (queries x items)", "seconds", "seconds for all names", "recall"],
        rows,
    )
    spark.stop()


def by_cosine(items: DataFrame, queries: DataFrame, n: int) -> list[list[object]]:
    """Search by cosine: this library, and scikit-learn in a map."""
    knn = KNNEstimator(k=K, metric="cosine", idCol="id")
    fit, model = seconds(lambda: knn.fit(items))
    print(f"storage {model.getStorage()}: {model.storageReason}; {model.placementReason}")
    few = stored(queries.where(F.col("id") < RECIPE_QUERIES))
    ours = answers(model.transform(few))
    search, _ = seconds(lambda: consume(model.transform(queries)))
    model.unpersist()
    parts, theirs = seconds(lambda: recipe(items, few))
    check(
        bool(np.abs(theirs[ours.index].to_list() - np.stack(ours)).max() <= 1e-12),
        "the distances of the recipe",
    )
    # Collecting and indexing the items is done once, whatever the number of queries is.
    index, _ = seconds(lambda: recipe(items, few.limit(0)))
    whole = index + (parts - index) * n / len(ours)
    return [
        ["pyspark_knn, fit", f"{n:,}", f"{fit:.0f}", f"{fit:.0f}", ""],
        ["pyspark_knn, search", f"{n:,} x {n:,}", f"{search:.0f}", f"{search:.0f}", "1"],
        [
            "the recipe (scikit-learn on csr in `mapInPandas`)",
            f"{len(ours):,} x {n:,}",
            f"{parts:.0f}",
            f"{whole:,.0f} (extrapolated)",
            "1",
        ],
    ]


def answers(found: DataFrame) -> pd.Series:
    """Collect id -> distances."""
    return found.select("id", "distances").toPandas().set_index("id")["distances"]


def as_csr(indices: list[Any], values: list[Any], dim: int) -> sparse.csr_matrix:
    """Stack sparse vectors."""
    indptr = np.concatenate([[0], np.cumsum([len(each) for each in indices], dtype=np.int64)])
    parts = np.concatenate([*values, np.empty(0)]), np.concatenate([*indices, np.empty(0, int)])
    return sparse.csr_matrix((*parts, indptr), shape=(len(indices), dim))


def recipe(items: DataFrame, queries: DataFrame) -> pd.Series:
    """Collect the items, broadcast scikit-learn's index, and search in it in a map."""
    spark = items.sparkSession
    rows = [row.features for row in items.select("features").collect()]
    dim = rows[0].size
    matrix = as_csr([row.indices for row in rows], [row.values for row in rows], dim)
    fitted = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute").fit(matrix)
    shared = spark.sparkContext.broadcast(fitted)

    def search(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        with threadpool_limits(limits=1):
            for batch in batches:
                vectors = list(batch["features"])  # as dicts
                parts = ([each[part] for each in vectors] for part in ("indices", "values"))
                found = shared.value.kneighbors(as_csr(*parts, dim))
                yield pd.DataFrame({"id": batch["id"], "distances": list(found[0])})

    few = queries.select("id", "features").repartition(2)
    return answers(few.mapInPandas(search, "id long, distances array<double>"))


def by_jaccard(items: DataFrame, queries: DataFrame, few: int, n: int) -> list[list[object]]:
    """Search for similar sets: this library, and MLlib's MinHashLSH."""
    some, asked = (
        stored(each.where(F.col("id") < few).select("id", F.col("counts").alias("features")))
        for each in (items, queries)
    )
    knn = KNNEstimator(k=K, metric="jaccard", idCol="id", maxDistance=LSH_DISTANCE)

    def ours() -> set[tuple[int, int]]:
        found = knn.fit(some).kneighborsJoin(asked).select("id", "neighbor").toPandas()
        return set(found.itertuples(index=False, name=None))

    def theirs() -> set[tuple[int, int]]:
        model = MinHashLSH(
            inputCol="features", outputCol="hashes", numHashTables=LSH_TABLES, seed=1
        ).fit(some)
        joined = model.approxSimilarityJoin(asked, some, LSH_DISTANCE, "distance")
        found = joined.select("datasetA.id", F.col("datasetB.id").alias("neighbor")).toPandas()
        return set(found.itertuples(index=False, name=None))

    lsh, similar = seconds(theirs)
    exact, right = seconds(ours)
    scaled = lsh * (n / few) ** 2
    print(f"{len(right):,} neighbors within a Jaccard distance of {LSH_DISTANCE}")
    return [
        [
            f"pyspark_knn, jaccard, fit and search within {LSH_DISTANCE}",
            f"{few:,} x {few:,}",
            f"{exact:.1f}",
            "",
            "1",
        ],
        [
            f"MLlib MinHashLSH, {LSH_TABLES} tables, all pairs within {LSH_DISTANCE}",
            f"{few:,} x {few:,}",
            f"{lsh:.1f}",
            f"{scaled:,.0f} (extrapolated by pairs)",
            f"{len(right & similar) / max(1, len(right)):.2f}",
        ],
    ]
