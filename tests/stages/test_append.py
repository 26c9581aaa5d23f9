"""Append and remove: the answers of a model are those of a fit of the same items."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNClassifier, KNNEstimator, KNNRegressor

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.filterwarnings("ignore:idCol.*:UserWarning")

COLUMNS = "id long, features array<double>, label double, weight double, key int"
OLD, NEW = 120, 40


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    """Items on a lattice, full of ties: the first `OLD` are fitted, and the others appended."""
    rng = np.random.default_rng(5)
    count = OLD + NEW
    vectors = rng.integers(-2, 3, (count, 3)).astype(float)
    # Some ids occur among the old and the new items, with other labels.
    ids = rng.permutation(count) - rng.integers(0, 2, count)
    labels = rng.integers(0, 3, count).astype(float)
    labels[-1] = 4.0
    parts = (ids, vectors, labels, rng.random(count), rng.integers(0, 4, count))
    rows = zip(*(part.tolist() for part in parts), strict=True)
    frame = spark.createDataFrame([(i, *row) for i, row in enumerate(rows)], f"n int, {COLUMNS}")
    return frame.persist()


def old(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") < OLD)


def new(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") >= OLD)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(6)
    vectors = rng.integers(-3, 4, (30, 3)).astype(float).tolist()
    rows = [(i, row, i % 5) for i, row in enumerate(vectors)]
    return spark.createDataFrame(rows, "q int, features array<double>, key int").persist()


def found(model: Any, queries: DataFrame) -> list[Any]:
    return sorted(model.transform(queries).collect(), key=lambda row: row.q)


VOTING = {"weightCol": "weight", "neighborsCol": "neighbors", "distancesCol": "distances"}
ESTIMATORS: dict[str, Any] = {
    "search": KNNEstimator(k=6, idCol="id"),
    "classification": KNNClassifier(k=6, idCol="id", weights="distance", **VOTING),
    "regression": KNNRegressor(k=6, idCol="id", **VOTING),
    "keys": KNNEstimator(k=6, idCol="id", keyCols="key"),
    "positions": KNNEstimator(k=6),
}
PLACEMENTS: dict[str, dict[str, Any]] = {
    "dense": {"placement": "replicated"},
    "sparse": {"placement": "replicated", "storage": "sparse"},
    "hash": {"placement": "sharded", "numShards": 3},
    "kmeans": {"placement": "sharded", "numShards": 3, "shardBy": "kmeans"},
}
CASES = [
    *(("search", each) for each in PLACEMENTS),
    *(("classification", each) for each in ("dense", "kmeans")),
    *(("regression", each) for each in ("sparse", "hash")),
    *(("keys", each) for each in ("dense", "sparse", "hash")),
    *(("positions", each) for each in ("sparse", "hash", "kmeans")),
]


@pytest.mark.parametrize(("name", "placement"), CASES)
def test_answers_are_those_of_a_fit_of_all_items(
    data: DataFrame, queries: DataFrame, name: str, placement: str
) -> None:
    estimator = ESTIMATORS[name].copy()._set(**PLACEMENTS[placement])
    if name == "positions":
        data = data.coalesce(1)
    first = estimator.fit(old(data))
    before = found(first, queries)
    both = first.append(new(data))
    union = estimator.fit(data)
    assert found(both, queries) == found(union, queries)
    if placement != "kmeans" and name != "keys":  # a fit counts duplicates within shards only
        assert both._summary.numDuplicates == union._summary.numDuplicates
    assert (both.uid, type(both), both.numItems) == (first.uid, type(first), OLD + NEW)
    assert both.ids.tolist() == union.ids.tolist()
    assert found(first, queries) == before
    del first, union
    gc.collect()
    assert len(found(both, queries)) == 30


@pytest.mark.parametrize(("name", "placement"), [each for each in CASES if each[0] != "positions"])
def test_answers_are_those_of_a_fit_without_the_removed_items(
    data: DataFrame, queries: DataFrame, name: str, placement: str
) -> None:
    estimator = ESTIMATORS[name].copy()._set(**PLACEMENTS[placement])
    first = estimator.fit(data)
    before = found(first, queries)
    removed = [*range(0, 30), 71, None, 10**6]
    rest = first.remove(removed)
    union = estimator.fit(data.where(~F.col("id").isin(removed[:31])))
    assert found(rest, queries) == found(union, queries)
    assert rest.ids.tolist() == union.ids.tolist()
    if placement != "kmeans" and name != "keys":
        assert rest._summary.numDuplicates == union._summary.numDuplicates
    assert found(first, queries) == before
    again = rest.append(data.where(F.col("id").isin(removed[:31])))
    del rest, first
    gc.collect()
    assert found(again, queries) == before
