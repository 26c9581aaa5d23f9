"""Structured Streaming over files: the same answers as for a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.engine.ship import shipping
from tests.support.frames import answers, frame_of
from tests.support.oracle import direct_distances, nearest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ITEMS = np.random.default_rng(5).integers(-3, 4, (40, 3)).astype(float)
QUERIES = np.random.default_rng(6).integers(-3, 4, (16, 3)).astype(float)
EXPECTED = nearest(direct_distances(QUERIES, ITEMS), range(40), 4)


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    return KNNEstimator(k=4, idCol="id").fit(frame_of(spark, ITEMS))


@pytest.fixture
def arriving(spark: SparkSession, tmp_path: Path) -> DataFrame:
    """A stream of queries: two files, each of them one batch."""
    folder = str(tmp_path / "arriving")
    queries = frame_of(spark, QUERIES)
    queries.where("id < 9").coalesce(1).write.parquet(folder)
    queries.where("id >= 9").coalesce(1).write.mode("append").parquet(folder)
    stream = spark.readStream.schema(queries.schema).option("maxFilesPerTrigger", 1)
    return stream.parquet(folder)


def run_to_end(writer: Any, folder: Path) -> None:
    query = writer.option("checkpointLocation", str(folder)).trigger(availableNow=True).start()
    assert query.awaitTermination(120)
    assert query.exception() is None


def test_transform_of_a_stream(
    spark: SparkSession, model: KNNModel, arriving: DataFrame, tmp_path: Path
) -> None:
    found = model.transform(arriving)
    assert found.isStreaming
    target = str(tmp_path / "found")
    writer = found.writeStream.format("parquet").option("path", target)
    run_to_end(writer, tmp_path / "checkpoint")
    assert answers(spark.read.parquet(target)) == EXPECTED


def test_a_large_index_refuses_a_stream_on_servers_that_accept_no_files(
    spark: SparkSession,
    spark_kind: str,
    model: KNNModel,
    arriving: DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shipping, "_INLINE_BYTES", 1 << 10)
    if spark_kind == "connect":
        with pytest.raises(ValueError, match=r"at most .*foreachBatch"):
            model.transform(arriving)
    else:
        assert model.transform(arriving).isStreaming
    assert answers(model.transform(frame_of(spark, QUERIES))) == EXPECTED


def test_foreach_batch(
    spark: SparkSession, model: KNNModel, arriving: DataFrame, tmp_path: Path
) -> None:
    model.write().overwrite().save(str(tmp_path / "model"))
    run = _searcher(str(tmp_path / "model"), str(tmp_path / "found"))
    run_to_end(arriving.writeStream.foreachBatch(run), tmp_path / "checkpoint")
    assert answers(spark.read.parquet(str(tmp_path / "found"))) == EXPECTED


def _searcher(saved: str, target: str) -> Callable[[DataFrame, int], None]:
    def search(batch: DataFrame, number: int) -> None:
        # On Spark Connect this runs in a process of the server, so it loads the model itself.
        from pyspark_knn import KNNModel

        loaded = KNNModel.read().session(batch.sparkSession).load(saved)
        loaded.transform(batch).write.mode("append").parquet(target)

    return search
