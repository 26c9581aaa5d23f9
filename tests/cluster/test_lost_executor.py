"""An executor is lost during a search, and the answers stay the same."""

from __future__ import annotations

import functools
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.shards import block_plan
from pyspark_knn.engine.shards import jobs as shard_jobs
from pyspark_knn.engine.shards import plan as shard_plan
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def search_and_die(marker: str, search: Any, *given: Any) -> Any:
    """In a worker: the first task kills its executor halfway, and all that it wrote is lost."""
    for answer in search(*given):
        yield answer
        # Not after a part of a shard, or a query that passes through.
        found = sum(each is not None for each in answer.flatten().to_pylist())
        if found and not os.path.exists(marker):
            # Let the tasks of the other executor finish before this one is lost.
            time.sleep(4)
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(_executor(), signal.SIGKILL)


def _executor() -> int:
    """The JVM that started the daemon that started this worker."""
    daemon = os.getppid()
    return int(Path(f"/proc/{daemon}/stat").read_text().rsplit(")", 1)[1].split()[1])


def rows_of(found: DataFrame) -> list[Any]:
    return sorted(tuple(row) for row in found.select("n", "m", "neighbors", "distances").collect())


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the executor by /proc")
@pytest.mark.parametrize("settings", [{}, {"algorithm": "ivf", "searchParams": {"nprobe": 1}}])
def test_a_lost_executor_changes_no_answer(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    items = frame_of(spark, np.random.default_rng(5).normal(size=(600, 2)), partitions=4)
    knn = KNNEstimator(k=5, idCol="id", placement="sharded", numShards=6, **settings)
    model = knn.fit(items)
    # Out of a shuffle: the rows of a partition come in another order when it is read again.
    numbers = spark.range(0, 6000, 1, 12).repartition(5, F.col("id") % 1009)
    queries = numbers.select(
        F.col("id").alias("n"),
        F.create_map(F.lit("n"), F.col("id")).alias("m"),
        F.array(F.sin("id"), F.cos(F.col("id") * 7)).alias("features"),
    )

    def answers() -> list[Any]:
        return rows_of(model.transform(queries).withColumn("m", F.col("m")["n"]))

    calm = answers()
    assert len(calm) == 6000
    marker = tmp_path / "died"
    for module, name in ((shard_plan, "search_shards"), (block_plan, "search_blocks")):
        search = functools.partial(search_and_die, str(marker), getattr(module, name))
        monkeypatch.setattr(module, name, search)
    assert answers() == calm
    assert marker.exists()


def build_and_die(marker: str, build: Any, request: Any, batches: Any) -> Any:
    """In a worker: the first task kills its executor when it has built a shard."""
    for row in build(request, batches):
        yield row
        if not os.path.exists(marker):
            time.sleep(4)
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(_executor(), signal.SIGKILL)


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the executor by /proc")
def test_an_executor_is_lost_while_it_builds_an_approximate_index(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not repartitioned: Spark fails a job whose input may come in another order when it is retried.
    items = frame_of(spark, np.random.default_rng(6).normal(size=(900, 4)))
    queries = items.where("id < 50").selectExpr("id AS n", "id AS m", "features")
    knn = KNNEstimator(k=5, idCol="id", placement="sharded", numShards=4, algorithm="ivf")
    calm = knn.fit(items)
    expected = rows_of(calm.transform(queries))
    marker = tmp_path / "died"
    build = functools.partial(build_and_die, str(marker), shard_jobs.build_shards)
    monkeypatch.setattr(shard_jobs, "build_shards", build)
    model = knn.fit(items)
    assert marker.exists()
    assert model.recall == calm.recall
    assert rows_of(model.transform(queries)) == expected
