"""Params that are incompatible, or probably not what the user meant."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, np.arange(8.0)[:, None], ids=range(100, 108)).cache()


def test_excluded_ids_need_ids(items: DataFrame) -> None:
    """Without idCol, ids in the queries would exclude other items by position."""
    for stage in (KNNEstimator(excludeIdCol="id"), KNNClassifier(excludeIdCol="id", labelCol="id")):
        with pytest.raises(ValueError, match="excludeIdCol 'id' requires idCol"):
            stage.fit(items)
        with pytest.raises(ValueError, match="excludeIdCol 'id' requires idCol"):
            list(stage.fitMultiple(items, [{stage.k: 1}]))


def test_max_distance_with_the_default_k_warns(items: DataFrame) -> None:
    """Half of the items are within 4 of each query, and 5 are returned: `fit` warns once."""
    model = KNNEstimator(idCol="id", maxDistance=4.0).fit(items)
    with pytest.warns(UserWarning, match=r"maxDistance is 4\.0, but k is unset: .* the 5 nearest"):
        found = model.transform(items)
    assert max(len(row.neighbors) for row in found.collect()) == 5
    _is_silent(model, items)
    _is_silent(model.copy({model.distancesCol: "d"}), items)
    _is_silent(KNNEstimator(idCol="id", maxDistance=4.0, k=5).fit(items), items)
    _is_silent(KNNEstimator(idCol="id", maxDistance=4.0).fit(items).setK(5), items)
    _is_silent(KNNEstimator(idCol="id").fit(items), items)


def test_the_warning_points_at_the_line_of_the_caller(items: DataFrame) -> None:
    model: Any = KNNEstimator(idCol="id").fit(items).setMaxDistance(1.0)
    with pytest.warns(UserWarning, match="k is unset") as caught:
        model.transform(items)
    assert [each.filename for each in caught] == [__file__]


def test_a_max_distance_in_kilometers_warns_for_angles(spark: SparkSession) -> None:
    points = frame_of(spark, np.radians([[48.9, 2.4], [41.9, 12.5]]))
    knn = KNNEstimator(idCol="id", k=2, metric="haversine", maxDistance=500.0)
    with pytest.warns(UserWarning, match=r"between any two points .* is 3\.14159\. .*radians"):
        knn.fit(points).transform(points)
    _is_silent(knn.copy({knn.maxDistance: 3.1}).fit(points), points)
    _is_silent(knn.copy({knn.metricParams: {"radius": 6371.0088}}).fit(points), points)


def _is_silent(model: KNNModel, items: DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.transform(items)
        model.kneighborsJoin(items)
