"""The parts `--only imputer,large` of benchmarks/missing.py: KNNImputer beside scikit-learn's."""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
import pyarrow as pa
from _harness import check, consume, show, start
from _sparse_memory import Watch, sum_of_pss
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from sklearn.impute import KNNImputer as SklearnImputer

from pyspark_knn import KNNImputer

SIZES, LARGE, DIM, SHARE = (20_000, 50_000), 500_000, 20, 0.1
NAMES = [f"x{i}" for i in range(DIM)]


def values(rows: int) -> NDArray[np.float64]:
    """Return rows in twenty clusters, of which a tenth of the values is missing."""
    random = np.random.default_rng(0)
    centers = 1.5 * random.normal(size=(20, DIM))
    matrix = centers[random.integers(0, 20, rows)] + random.normal(size=(rows, DIM))
    matrix[random.random(matrix.shape) < SHARE] = np.nan
    return matrix


def frame_of(spark: SparkSession, matrix: NDArray[np.float64]) -> DataFrame:
    """Return a persisted DataFrame of the rows."""
    columns = {"id": pa.array(np.arange(len(matrix)))}
    columns |= {name: pa.array(matrix[:, i]) for i, name in enumerate(NAMES)}
    frame = spark.createDataFrame(pa.table(columns).to_pandas()).repartition(8).persist()
    frame.count()
    return frame


def timed(frame: DataFrame, placement: str) -> tuple[float, float, float, DataFrame]:
    """Return the seconds of the fit and of the transform, the workers' MiB, and the result."""
    imputer = KNNImputer(
        inputCols=NAMES, outputCols=NAMES, idCol="id", standardization=False, placement=placement
    )
    with Watch(sum_of_pss) as watch:
        begin = time.perf_counter()
        model = imputer.fit(frame)
        fitted = time.perf_counter()
        found = model.transform(frame)
        consume(found)
        end = time.perf_counter()
    return fitted - begin, end - fitted, watch.peak, found


def beside_sklearn(given: argparse.Namespace) -> None:
    """Print the table of both imputers, which impute the rows that they are fitted on."""
    spark, rows = start(), []
    # Not timed: the start of the workers, and the compilation of the JVM.
    timed(frame_of(spark, values(2000)), "replicated")
    for size in SIZES:
        matrix = values(size)
        frame = frame_of(spark, matrix)
        timed(frame.limit(1000), "replicated")
        for placement in ("replicated", "sharded"):
            fit, transform, _, found = timed(frame, placement)
            if placement == "replicated":
                begin = time.perf_counter()
                known = SklearnImputer(n_neighbors=5).fit_transform(matrix)
                theirs = time.perf_counter() - begin
            ours = found.orderBy("id").select(*NAMES).toPandas().to_numpy()
            check(np.allclose(ours, known, rtol=1e-9, atol=1e-12), "the values of scikit-learn")
            rows.append(
                [
                    f"{size:,}",
                    placement,
                    f"{fit:.1f}",
                    f"{transform:.1f}",
                    f"{theirs:.1f}",
                    f"{theirs / (fit + transform):.1f}",
                ]
            )
    headers = ["rows", "placement", "fit, s", "transform, s", "scikit-learn, s", "times as fast"]
    show(f"Imputation of {SHARE:.0%} of {DIM} columns, {os.cpu_count()} cores", headers, rows)


def large(given: argparse.Namespace) -> None:
    """Print the time and the memory of many rows, which take too long in scikit-learn."""
    spark = start()
    frame = frame_of(spark, values(LARGE))
    fit, transform, peak, _ = timed(frame, "replicated")
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = [f"{fit:.0f}", f"{transform:.0f}", f"{driver:.0f}", f"{peak:.0f}"]
    headers = ["fit, s", "transform, s", "driver, MiB", "workers together, MiB"]
    show(f"{LARGE:,} rows of {DIM} columns, {os.cpu_count()} cores", headers, [row])
