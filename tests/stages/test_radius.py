"""Searches for all items within a radius: k=None with maxDistance or minSimilarity."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator, KNNModel
from tests.support import oracle
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RADIUS = 2.0
RANDOM = np.random.default_rng(4)
ITEMS = RANDOM.integers(-3, 4, (120, 3)).astype(np.float64)
NAMES = [f"n{i:03d}" for i in RANDOM.permutation(120)]
QUERIES = np.vstack([RANDOM.integers(-3, 4, (24, 3)), [[40.0, 0.0, 0.0]]]).astype(np.float64)
LABELS = RANDOM.integers(0, 3, 120).astype(np.float64)

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "hash": {"placement": "sharded", "numShards": 3},
    "kmeans": {"placement": "sharded", "numShards": 4, "shardBy": "kmeans"},
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Spark 3.5 warns of its own use of pandas.
        warnings.filterwarnings("ignore", "is_categorical_dtype")
        yield


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    frame = frame_of(spark, ITEMS, NAMES, id_type=T.StringType(), partitions=3)
    labels = dict(zip(NAMES, LABELS.tolist(), strict=True))
    label = F.create_map(*(F.lit(each) for pair in labels.items() for each in pair))[F.col("id")]
    return frame.withColumn("label", label).persist()


@pytest.fixture(scope="module", params=PLACEMENTS)
def model(request: pytest.FixtureRequest, items: DataFrame) -> KNNModel:
    settings = PLACEMENTS[request.param]
    return KNNEstimator(k=None, maxDistance=RADIUS, idCol="id", **settings).fit(items)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    """Valid queries, then one invalid, each with ids to exclude."""
    rows: list[Any] = [(i, row, NAMES[i : i + 3]) for i, row in enumerate(QUERIES.tolist())]
    rows.insert(5, (100, None, None))
    return spark.createDataFrame(rows, "id int, features array<double>, seen array<string>")


def expected(radius: float = RADIUS, *, exclude: bool = False) -> list[list[tuple[Any, float]]]:
    seen = [NAMES[i : i + 3] for i in range(len(QUERIES))] if exclude else None
    distances = oracle.direct_distances(QUERIES, ITEMS)
    return oracle.nearest(distances, NAMES, 1000, max_distance=radius, excluded=seen)


def valid(queries: DataFrame) -> DataFrame:
    return queries.where("features IS NOT NULL")


def test_transform_lists_all_items_within_the_distance(model: KNNModel, queries: DataFrame) -> None:
    found = answers(model.transform(valid(queries)))
    assert found == expected()
    assert max(map(len, found)) > 10
    assert found[-1] == []


def test_excluded_ids_invalid_queries_and_another_radius(
    model: KNNModel, queries: DataFrame
) -> None:
    other = model.copy(
        {model.excludeIdCol: "seen", model.handleInvalid: "keep", model.maxDistance: 1.0}
    )
    rows = other.transform(queries).where("id < 100").select("id", "neighbors", "distances")
    assert answers(rows) == expected(1.0, exclude=True)
    kept = other.transform(queries).where("id = 100").first()
    assert kept is not None
    assert kept.neighbors is None


def test_the_join_returns_a_row_for_each_pair(model: KNNModel, queries: DataFrame) -> None:
    pairs = model.copy({model.handleInvalid: "keep"}).kneighborsJoin(queries, how="left")
    rows = sorted(
        tuple(r)
        for r in pairs.select("id", "rank", "neighbor", "distance").collect()
        if r.rank is not None
    )
    wanted = [
        (query, rank, name, distance)
        for query, near in enumerate(expected())
        for rank, (name, distance) in enumerate(near, 1)
    ]
    assert rows == wanted
    alone = pairs.where("rank IS NULL").select("id").collect()
    assert sorted(row.id for row in alone) == [len(QUERIES) - 1, 100]


def all_pairs(radius: float, metric: str = "euclidean") -> list[tuple[Any, Any, float]]:
    distances = oracle.direct_distances(ITEMS, ITEMS, metric).tolist()
    return sorted(
        (*sorted((NAMES[i], NAMES[j])), distances[i][j])
        for i in range(len(ITEMS))
        for j in range(i)
        if distances[i][j] <= radius
    )


def test_each_pair_once(model: KNNModel) -> None:
    pairs = model.pairsWithin(1.0)
    assert pairs.dtypes == [("id", "string"), ("neighbor", "string"), ("distance", "double")]
    assert sorted(map(tuple, pairs.collect())) == all_pairs(1.0)
    assert model.pairsWithin().count() == len(all_pairs(RADIUS))
