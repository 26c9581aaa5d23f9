"""How many queries are searched, for any operations after `transform`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator
from tests.support.counting import SearchCounter
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pyspark_knn import KNNModel

N = 200
Write = Callable[["DataFrame"], "DataFrame"]


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    return KNNEstimator(k=3, idCol="id").fit(frame_of(spark, np.eye(20)))


@pytest.fixture(scope="module")
def counter(model: KNNModel, tmp_path_factory: pytest.TempPathFactory) -> SearchCounter:
    return SearchCounter(model, Path(tmp_path_factory.mktemp("counted")))


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    # From a file, because the driver filters rows that are part of the plan.
    return frame_of(spark, np.random.default_rng(1).normal(size=(N, 20)), partitions=2).cache()


@pytest.mark.parametrize(
    ("write", "searched"),
    [
        pytest.param(lambda found: found, N, id="plain"),
        pytest.param(lambda found: found.where("id < 10"), 10, id="filter on another column"),
        pytest.param(lambda found: found.where("distances[0] > 0"), N, id="filter on an output"),
        pytest.param(
            lambda found: found.where("size(neighbors) > 1 AND distances[0] > 0"),
            N,
            id="filter on both outputs",
        ),
        pytest.param(lambda found: found.na.drop(), N, id="na.drop"),
        pytest.param(lambda found: found.select("id", F.explode("neighbors")), N, id="explode"),
        pytest.param(
            lambda found: found.select(F.explode(F.arrays_zip("neighbors", "distances"))),
            N,
            id="explode both",
        ),
        pytest.param(lambda found: found.select("neighbors", "distances"), N, id="two outputs"),
        pytest.param(
            lambda found: found.withColumn("a", F.col("neighbors")).withColumn(
                "b", F.get("neighbors", F.lit(0))
            ),
            N,
            id="outputs used over again",
        ),
        pytest.param(lambda found: found.groupBy().agg(F.max("distances")), N, id="aggregate"),
    ],
)
def test_each_query_is_searched_once(
    model: KNNModel, counter: SearchCounter, queries: DataFrame, write: Write, searched: int
) -> None:
    counter.take()
    write(model.transform(queries)).collect()
    assert counter.take() == searched


def test_count_and_ids_alone_cost_no_more_than_one_search(
    model: KNNModel, counter: SearchCounter, queries: DataFrame
) -> None:
    counter.take()
    assert model.transform(queries).count() == N
    assert counter.take() <= N
    assert len(model.transform(queries).select("id").collect()) == N
    assert counter.take() <= N


def test_a_join_searches_each_query_once(
    model: KNNModel, counter: SearchCounter, queries: DataFrame, spark: SparkSession
) -> None:
    counter.take()
    titles = spark.range(20).withColumn("title", F.concat(F.lit("t"), "id"))
    pairs = model.kneighborsJoin(queries.withColumnRenamed("id", "q"), items=titles)
    assert len(pairs.where("distance > 0 AND item.title != ''").collect()) == 3 * N
    assert counter.take() == N


def test_transform_starts_no_job(model: KNNModel, spark: SparkSession, tmp_path: Path) -> None:
    """A job would have to compute the queries, which fails."""
    broken = spark.range(3).selectExpr("id", "transform(array(id), x -> raise_error('run'))")
    queries = broken.toDF("id", "features").selectExpr(
        "id", "cast(features AS array<double>) features"
    )
    found = model.transform(queries)
    pairs = model.kneighborsJoin(queries)
    assert found.columns == ["id", "features", "neighbors", "distances"]
    assert pairs.columns == ["id", "features", "neighbor", "rank", "distance"]
