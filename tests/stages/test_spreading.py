"""Repartitioning that gives every partition the same number of keys, checked against Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pyspark.sql import functions as F

from pyspark_knn.engine.spark.spreading import repartition_evenly

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.parametrize("partitions", [1, 2, 3, 8, 37])
def test_row_n_is_in_partition_n_modulo_partitions(spark: SparkSession, partitions: int) -> None:
    numbers = spark.range(3 * partitions).withColumn("number", F.col("id").cast("int"))
    spread = repartition_evenly(numbers, partitions, "number")
    assert spread.columns == ["id", "number"]
    rows = spread.select("number", F.spark_partition_id().alias("partition")).collect()
    assert sorted(rows) == [(n, n % partitions) for n in range(3 * partitions)]
