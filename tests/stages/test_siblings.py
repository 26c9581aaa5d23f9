"""Imputation, outlier scores and graphs on data sets of scikit-learn, beside its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.impute import KNNImputer as TheirImputer
from sklearn.neighbors import LocalOutlierFactor as TheirFactor

from pyspark_knn import KNNEstimator, KNNImputer, LocalOutlierFactor
from pyspark_knn.index.distances import resolve_metric
from tests.support import bundled
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "hash": {"placement": "sharded", "numShards": 3},
}


@pytest.fixture(params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PLACEMENTS[request.param]


def column(frame: DataFrame, name: str) -> NDArray[np.float64]:
    return np.array([row[0] for row in frame.orderBy("id").select(name).collect()])


@pytest.mark.parametrize(("name", "share"), [("wine", 0.2), ("iris", 0.6)])
def test_imputed_values(
    spark: SparkSession, placement: dict[str, Any], name: str, share: float
) -> None:
    rows = bundled.knocked_out(bundled.without_ties(bundled.load(name)), share, seed=1)
    items = frame_of(spark, rows, partitions=3)
    imputer = KNNImputer(featuresCol="features", outputCol="filled", idCol="id", **placement)
    filled = column(imputer.fit(items).transform(items), "filled")
    spread = np.nanstd(rows, axis=0)
    wanted = TheirImputer().fit_transform(rows / spread) * spread
    np.testing.assert_allclose(filled, wanted, rtol=1e-9)


def test_outlier_factors(spark: SparkSession, placement: dict[str, Any]) -> None:
    rows = bundled.without_ties(bundled.load("iris"))
    items = frame_of(spark, rows, partitions=3)
    model = LocalOutlierFactor(k=7, contamination=0.1, idCol="id", **placement).fit(items)
    theirs = TheirFactor(n_neighbors=7, contamination=0.1)
    outlier = theirs.fit_predict(rows) == -1
    scores = column(model.scores, "outlierScore")
    np.testing.assert_allclose(scores, -theirs.negative_outlier_factor_, rtol=1e-9)
    assert column(model.scores, "prediction").tolist() == outlier.tolist()


def test_graph_of_items_with_missing_values(spark: SparkSession, placement: dict[str, Any]) -> None:
    rows = bundled.knocked_out(bundled.load("iris")[:60], 0.4, seed=2)
    items = frame_of(spark, rows, partitions=3)
    model = KNNEstimator(k=3, metric="nan_euclidean", idCol="id", **placement).fit(items)
    count = len(rows)
    query, item = np.divmod(np.arange(count * count), count)
    distances = resolve_metric("nan_euclidean").distances(rows, rows, query, item)
    edges = []
    for i, row in enumerate(distances.reshape(count, count)):
        near = sorted((far, j) for j, far in enumerate(row.tolist()) if j != i and far < np.inf)
        edges += [(i, j, far) for far, j in near[:3]]
    found = sorted(map(tuple, model.kneighborsGraph().collect()))
    assert found == sorted(edges)
    assert len(edges) < 3 * count, "some items have nothing in common with any other"
