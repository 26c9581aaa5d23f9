"""Measure grid search: rows searched, and wall time with and without sharing.

    python benchmarks/tuning.py [--rows 40000] [--features 64] [--rounds 3]

- Rows searched, counted in the workers, for a CrossValidator with 3 folds and 16 values of k, with
  the estimator alone and with a whole Pipeline.
- Wall time of the same, against candidates that share nothing ("plain"), as in a plain
  `pyspark.ml.Pipeline`. The plain time is measured with fewer values of k and extrapolated, since
  each of its candidates costs the same.
- Wall time of the classifier's transform against the search alone.

The tables are in Markdown. All times are medians of interleaved rounds in one session: compare
ratios rather than seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _harness import consume, medians, start
from pyspark.ml import Pipeline
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StandardScaler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNClassifier, KNNEstimator, SharedPrefixPipeline

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.counting import AllSearches

FOLDS = 3
NEIGHBORS = list(range(1, 32, 2))
PLAIN = 2
"""Number of plain candidates that are measured."""


class Alone(KNNClassifier):
    """A classifier that fits each candidate separately, without sharing in fitMultiple."""

    def fitMultiple(self, dataset: DataFrame, paramMaps: Any) -> Any:
        """Fit one candidate after the other."""
        return ((i, self.copy(params).fit(dataset)) for i, params in enumerate(paramMaps))


class _Patch:
    """The part of pytest's monkeypatch that `AllSearches` needs."""

    setattr = staticmethod(setattr)


def points(spark: SparkSession, rows: int, features: int) -> DataFrame:
    """Return random clusters of four classes, with a fixed seed."""
    random = np.random.default_rng(5)
    centers = random.normal(size=(40, features))
    which = random.integers(0, 40, rows)
    matrix = (centers[which] + 1.2 * random.normal(size=(rows, features))).astype(np.float32)
    data = [(i, matrix[i].tolist(), int(which[i] % 4), i % FOLDS) for i in range(rows)]
    schema = "id int, values array<float>, label int, fold int"
    frame = spark.createDataFrame(data, schema).repartition(4)
    vectors = frame.withColumn("raw", array_to_vector(F.col("values").cast("array<double>")))
    cached = vectors.drop("values").cache()
    cached.count()
    return cached


def search(estimator: Any, knn: Any, values: list[int], dataset: DataFrame) -> list[float]:
    """Cross-validate and return the average metrics."""
    validator = CrossValidator(
        estimator=estimator,
        estimatorParamMaps=ParamGridBuilder().addGrid(knn.k, values).build(),
        evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
        numFolds=FOLDS,
        foldCol="fold",
    )
    return validator.fit(dataset).avgMetrics


def piped(kind: type, knn: Any) -> Any:
    """Return a pipeline of a scaler and the classifier."""
    return kind(stages=[StandardScaler(inputCol="raw", outputCol="features"), knn])


def print_rows_searched(dataset: DataFrame) -> None:
    """Print how many rows the workers search."""
    total = dataset.count()
    print("| rows searched | plain | shared | ratio |\n|---|---:|---:|---:|")
    bare = dataset.withColumnRenamed("raw", "features")
    with tempfile.TemporaryDirectory() as folder:
        searches = AllSearches(Path(folder), _Patch)
        for name, share in (("the estimator", False), ("a Pipeline", True)):
            knn = KNNClassifier(idCol="id")
            estimator = piped(SharedPrefixPipeline, knn) if share else knn
            search(estimator, knn, NEIGHBORS, dataset if share else bare)
            shared = searches.take()
            plain = total * len(NEIGHBORS)
            print(f"| CrossValidator with {name} | {plain:,} | {shared:,} | {plain / shared:g} |")


def print_grid_search(dataset: DataFrame, rounds: int) -> None:
    """Print the wall time of 3 folds x 16 values of k, shared and plain."""
    bare = dataset.withColumnRenamed("raw", "features")
    knn, alone = KNNClassifier(idCol="id"), Alone(idCol="id")
    few = NEIGHBORS[len(NEIGHBORS) // 2 :][:PLAIN]
    found = medians(
        {
            "bare": lambda: search(knn, knn, NEIGHBORS, bare),
            "bare, plain": lambda: search(alone, alone, few, bare),
            "piped": lambda: search(piped(SharedPrefixPipeline, knn), knn, NEIGHBORS, dataset),
            "piped, plain": lambda: search(piped(Pipeline, knn), knn, few, dataset),
        },
        rounds,
    )
    print("\n| 3 folds x 16 values of k | plain | shared | ratio |\n|---|---:|---:|---:|")
    for name, form in (("the estimator", "bare"), ("a Pipeline", "piped")):
        # All candidates cost the same; the final fit of the best one happens once in both.
        plain = found[f"{form}, plain"] * (FOLDS * len(NEIGHBORS) + 1) / (FOLDS * PLAIN + 1)
        shared = found[form]
        print(f"| {name} | {plain:.1f} s | {shared:.1f} s | {plain / shared:.1f} |")


def print_transform(dataset: DataFrame, rounds: int) -> None:
    """Print the time of the classifier's transform against the search alone."""
    bare = dataset.withColumnRenamed("raw", "features")
    items, queries = bare.where("fold > 0").cache(), bare.where("fold = 0").cache()
    alone = KNNEstimator(k=10, idCol="id").fit(items)
    voting = KNNClassifier(k=10, idCol="id").fit(items)

    consume(alone.transform(queries))
    consume(voting.transform(queries))
    found = medians(
        {
            "search": lambda: consume(alone.transform(queries)),
            "classifier": lambda: consume(voting.transform(queries)),
        },
        7 * rounds,  # the runs are short, so repeat them
    )
    print(
        f"\n| transform of {queries.count():,} queries, k = 10 | seconds | ratio |\n|---|---:|---:|"
    )
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.2f} | {seconds / found['search']:.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    spark = start(spark__driver__memory="3g")
    dataset = points(spark, given.rows, given.features)
    print(f"{given.rows:,} rows of {given.features} features, {spark.version}, 2 cores\n")
    print_transform(dataset, given.rounds)
    print_grid_search(dataset, given.rounds)
    print()
    print_rows_searched(points(spark, 3_000, 8))
    spark.stop()


if __name__ == "__main__":
    main()
