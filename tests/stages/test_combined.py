"""Keys, a radius and new items together: the answers of a fit of all items, in both placements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn import KNNClassifier, KNNEstimator
from tests.support.frames import answers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VECTORS = np.random.default_rng(61).integers(-2, 3, (90, 3)).astype(float)
ROWS = [
    (i, row, ["a", "b", "c"][i % 3], float(i % 4 == 0)) for i, row in enumerate(VECTORS.tolist())
]
SCHEMA = "id long, features array<double>, kind string, label double"


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, SCHEMA).repartition(3).cache()


@pytest.fixture(scope="module", params=["replicated", "sharded"])
def placement(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_items_appended_and_removed_within_keys(items: DataFrame, placement: str) -> None:
    knn = KNNEstimator(k=None, maxDistance=2.0, idCol="id", keyCols="kind", placement=placement)
    whole = knn.fit(items.where("id % 5 != 1"))
    few = knn.fit(items.where("id < 60")).append(items.where("id >= 60"))
    model = few.remove([i for i in range(90) if i % 5 == 1])
    assert answers(model.transform(items)) == answers(whole.transform(items))
    pairs = sorted(map(tuple, model.pairsWithin(1.0).collect()))
    assert pairs == sorted(map(tuple, whole.pairsWithin(1.0).collect()))
    kinds = {i: kind for i, _, kind, _ in ROWS}
    assert pairs
    assert all(kinds[a] == kinds[b] for a, b, _ in pairs)


def test_the_most_frequent_class_is_that_of_all_items(
    spark: SparkSession, items: DataFrame, placement: str
) -> None:
    knn = KNNClassifier(
        k=None, maxDistance=0.5, outlierLabel="most_frequent", idCol="id", placement=placement
    )
    far = spark.createDataFrame([([99.0, 0.0, 0.0],)], "features array<double>")

    def guess(model: Any) -> float:
        return float(model.transform(far).first().prediction)

    model = knn.fit(items)
    assert guess(model) == 0.0
    rows = [(1000 + i, [0.0, 0.0, 0.0], "a", 1.0) for i in range(60)]
    more = model.append(spark.createDataFrame(rows, SCHEMA))
    assert (guess(model), guess(more)) == (0.0, 1.0)
    assert guess(more.remove(list(range(1000, 1060)))) == 0.0
