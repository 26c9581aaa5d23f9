"""The heap of a task, by the settings of Spark, checked against its JVM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.heap import heap_per_task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_the_heap_of_a_task_is_that_of_the_jvm_shared_by_its_tasks(spark: SparkSession) -> None:
    cores = compat.parallelism(spark)
    heap = heap_per_task(spark, cores)
    assert heap >= 32 << 20
    if not compat.is_local(spark):
        return
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    most = jvm.java.lang.Runtime.getRuntime().maxMemory()
    assert heap * cores == pytest.approx(most, rel=0.05)
