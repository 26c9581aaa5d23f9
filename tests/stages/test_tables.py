"""Tables of Delta Lake and Iceberg, as far as Python packages read them without a JVM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

N = 60
TABLE = pa.table(
    {
        "id": np.arange(N),
        "features": np.random.default_rng(0).normal(size=(N, 3)).tolist(),
        "day": [f"2026-11-{1 + i % 2:02}" for i in range(N)],
    }
)


def neighbors(spark: SparkSession, table: pa.Table) -> list[tuple[int, list[int]]]:
    items = spark.createDataFrame(table)
    found = KNNEstimator(k=2, idCol="id").fit(items).transform(items)
    return sorted((row.id, row.neighbors) for row in found.collect())


def test_a_delta_table_after_an_append_and_a_delete(spark: SparkSession, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    path = str(tmp_path / "items")
    deltalake.write_deltalake(path, TABLE.slice(0, 40), partition_by=["day"])
    deltalake.write_deltalake(path, TABLE.slice(40), mode="append")
    table = deltalake.DeltaTable(path)
    table.delete("id = 7")
    kept = TABLE.filter(pa.array(np.arange(N) != 7))
    assert neighbors(spark, table.to_pyarrow_table()) == neighbors(spark, kept)


def test_a_part_of_an_iceberg_table(spark: SparkSession, tmp_path: Path) -> None:
    sql = pytest.importorskip("pyiceberg.catalog.sql")
    places = {"uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": tmp_path.as_uri()}
    catalog = sql.SqlCatalog("default", **places)
    catalog.create_namespace("db")
    table = catalog.create_table("db.items", schema=TABLE.schema)
    table.append(TABLE)
    part = table.scan(row_filter="id < 50").to_arrow()
    assert neighbors(spark, part) == neighbors(spark, TABLE.slice(0, 50))
