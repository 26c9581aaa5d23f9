"""Measure searches for all items within a radius on Spark, and check the answers.

    python benchmarks/radius.py [--items 200000] [--dim 64] [--rounds 3]

A self-join of clustered items with about 10 neighbors each: with k=10, with k=None, and as pairs.
scikit-learn and MLlib's LSH take part with fewer rows, as the table says. The contestants take
turns, so that other work on the machine slows all of them equally.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from _harness import as_mllib, check, consume, matrix_of, median, ratio, show, start, take_turns
from pyspark.ml.feature import BucketedRandomProjectionLSH
from pyspark.sql import functions as F
from sklearn.neighbors import NearestNeighbors

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

K, RADIUS, CLUSTER, SPREAD = 10, 1.5, 10, 0.1
SKLEARN_QUERIES, LSH_ITEMS = 10_000, 20_000
LSH_TABLES, BUCKET = 5, 0.1

FEW, ALL, PAIRS = "join, k=10", "join, k=None", "pairsWithin"


def clustered(spark: SparkSession, rows: int, dim: int) -> DataFrame:
    """Return a persisted DataFrame of ids and vectors in clusters of about `CLUSTER` items."""
    centers = rows // CLUSTER

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            for begin in range(0, len(ids), 1000):
                part = ids[begin : begin + 1000]
                random = np.random.default_rng([1, int(part[0])])
                values = SPREAD * random.standard_normal((len(part), dim), np.float32)
                for i, cluster in enumerate(random.integers(0, centers, len(part)).tolist()):
                    seed = np.random.default_rng([2, cluster])
                    values[i] += seed.standard_normal(dim, np.float32)
                ends = np.arange(0, values.size + 1, dim, dtype=np.int32)
                lists = pa.ListArray.from_arrays(ends, values.ravel())
                yield pa.RecordBatch.from_arrays([pa.array(part), lists], ["id", "features"])

    made = spark.range(0, rows, 1, 8)
    frame = made.mapInArrow(make, "id long, features array<float>").persist()
    frame.count()
    return frame


def ours(items: DataFrame, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Time the self-joins of this library in turns; return the times and the number of pairs."""
    model = KNNEstimator(k=K, idCol="id").fit(items)
    within = model.copy({model.k: None, model.maxDistance: RADIUS})
    runs: dict[str, Callable[[], DataFrame]] = {
        FEW: lambda: model.kneighborsJoin(items.select("id", "features")),
        ALL: lambda: within.kneighborsJoin(items.select("id", "features")),
        PAIRS: lambda: within.pairsWithin(),
    }
    consume(within.kneighborsJoin(items.limit(1000)))
    pairs = within.pairsWithin().count()
    hits = within.kneighborsJoin(items).count()
    check(hits == 2 * pairs + items.count(), "the pairs and the join differ")
    seconds, _ = take_turns(
        {name: lambda run=run: consume(run()) for name, run in runs.items()}, rounds, warm=False
    )
    return seconds, pairs


def sklearn(items: DataFrame, model: Any) -> tuple[float, int]:
    """Return the seconds of scikit-learn per query, and the items in the radius of a query."""
    matrix = matrix_of(items)
    fitted = NearestNeighbors(radius=RADIUS, algorithm="brute").fit(matrix)
    begin = time.perf_counter()
    found = fitted.radius_neighbors(matrix[:SKLEARN_QUERIES], return_distance=True)[1]
    took = time.perf_counter() - begin
    few = items.where(F.col("id") < SKLEARN_QUERIES)
    rows = model.transform(few).select("id", "neighbors").toPandas().sort_values("id")
    same = zip(rows["neighbors"], found, strict=True)
    check(all(set(a) == set(b) for a, b in same), "the neighbors of scikit-learn")
    return took / len(found), sum(map(len, found))


def lsh(items: DataFrame, rows: int) -> tuple[float, float, float]:
    """Return the seconds of LSH and of this library for the pairs of some items, and the recall."""
    some = items.where(F.col("id") < rows)
    hashed = as_mllib(some)
    projection = BucketedRandomProjectionLSH(
        inputCol="features",
        outputCol="hashes",
        bucketLength=BUCKET,
        numHashTables=LSH_TABLES,
        seed=1,
    )
    begin = time.perf_counter()
    joined = projection.fit(hashed).approxSimilarityJoin(hashed, hashed, RADIUS, "distance")
    found = joined.where("datasetA.id < datasetB.id").count()
    took = time.perf_counter() - begin
    begin = time.perf_counter()
    model = KNNEstimator(k=None, maxDistance=RADIUS, idCol="id").fit(some)
    pairs = model.pairsWithin().count()
    return took, time.perf_counter() - begin, found / pairs


def main() -> None:
    """Run the contestants, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    spark = start()
    items = clustered(spark, given.items, given.dim)
    seconds, pairs = ours(items, given.rounds)
    model = KNNEstimator(k=None, maxDistance=RADIUS, idCol="id").fit(items)
    per_query, _ = sklearn(items, model)
    few = min(LSH_ITEMS, given.items)
    by_hashes, exact, recall = lsh(items, few)
    print(f"{2 * pairs / given.items:.1f} other items within {RADIUS} of an item")
    rows: list[list[object]] = [
        [
            f"pyspark_knn, {name}",
            f"{given.items:,}",
            f"{median(times):.1f}",
            f"{median(times):.1f}",
            f"{ratio(times, seconds[FEW]):.2f}",
            f"{ratio(times, seconds[ALL]):.2f}",
            "1",
        ]
        for name, times in seconds.items()
    ]
    whole = per_query * given.items
    once, every = median(seconds[FEW]), median(seconds[ALL])
    rows.append(
        [
            "scikit-learn `radius_neighbors`, all cores",
            f"{SKLEARN_QUERIES:,} queries",
            f"{per_query * SKLEARN_QUERIES:.1f}",
            f"{whole:.0f} (extrapolated)",
            f"{whole / once:.2f}",
            f"{whole / every:.2f}",
            "1",
        ]
    )
    scale = (given.items / few) ** 2
    rows.append(["pyspark_knn, fit and pairsWithin", f"{few:,}", f"{exact:.1f}", "", "", "", "1"])
    rows.append(
        [
            f"MLlib approxSimilarityJoin, {LSH_TABLES} tables",
            f"{few:,}",
            f"{by_hashes:.1f}",
            f"{by_hashes * scale:,.0f} (extrapolated by pairs)",
            f"{by_hashes * scale / once:.1f}",
            f"{by_hashes * scale / every:.1f}",
            f"{recall:.2f}",
        ]
    )
    show(
        f"A self-join of {given.items:,} x {given.dim} items within {RADIUS}, local[2]",
        [
            "tool",
            "run with",
            "seconds",
            "seconds for all",
            "relative to k=10",
            "relative to k=None",
            "recall",
        ],
        rows,
    )
    spark.stop()


if __name__ == "__main__":
    main()
