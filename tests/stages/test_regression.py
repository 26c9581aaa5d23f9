"""KNNRegressor: weighted means, and the behavior of an MLlib regressor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.ml.regression import RegressionModel, Regressor
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.neighbors import KNeighborsRegressor

from pyspark_knn import KNNRegressionModel, KNNRegressor
from tests.support import oracle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

QUERIES = [[0.0, 0.0], [1.5, 2.0], [4.0, 4.0], [2.5, 0.5], [9.0, 9.0]]


def _items() -> list[tuple[str, list[float], float, float]]:
    """A lattice, so that many distances are equal: id, features, label, weight."""
    random = np.random.default_rng(8)
    cells = [[float(x), float(y)] for x in range(5) for y in range(5)]
    labels = random.normal(0, 100, len(cells)).tolist()
    weights = random.choice([0.0, 0.5, 1.0, 3.0], len(cells)).tolist()
    names = [f"item {i:02}" for i in range(len(cells))]
    return list(zip(names, cells, labels, weights, strict=True))


ITEMS = _items()
LABELS = {item[0]: item[2] for item in ITEMS}
WEIGHTS = {item[0]: item[3] for item in ITEMS}


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    schema = "id string, features array<double>, label double, weight double"
    return spark.createDataFrame(ITEMS[::-1], schema).cache()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    rows = list(enumerate(QUERIES))
    return spark.createDataFrame(rows, "query int, features array<double>").cache()


@pytest.fixture(scope="module")
def model(items: DataFrame) -> KNNRegressionModel:
    return KNNRegressor(k=4, idCol="id").fit(items)


@pytest.fixture(scope="module")
def weighed(items: DataFrame) -> KNNRegressionModel:
    return KNNRegressor(k=4, idCol="id", weightCol="weight").fit(items)


def found(k: int, **limits: Any) -> list[list[tuple[Any, float]]]:
    matrix = np.array([item[1] for item in ITEMS])
    distances = oracle.direct_distances(np.array(QUERIES), matrix)
    return oracle.nearest(distances, list(LABELS), k, **limits)


def test_the_classes_are_those_of_mllib(model: KNNRegressionModel) -> None:
    assert isinstance(KNNRegressor(), Regressor)
    assert isinstance(model, RegressionModel)
    assert model.uid.startswith("KNNRegressor_")
    assert (model.numFeatures, model.numItems) == (2, len(ITEMS))


def test_columns(model: KNNRegressionModel, queries: DataFrame) -> None:
    schema = model.transform(queries).schema
    assert schema.names == ["query", "features", "prediction"]
    assert schema["prediction"].dataType == T.DoubleType()
    explained = model.copy({model.neighborsCol: "who", model.distancesCol: "how far"})
    schema = explained.transform(queries).schema
    assert schema.names == ["query", "features", "prediction", "who", "how far"]
    assert schema["who"].dataType == T.ArrayType(T.StringType())
    explained.setPredictionCol("").setDistancesCol("")
    assert explained.transform(queries).columns == ["query", "features", "who"]
    with pytest.raises(ValueError, match=r"predictionCol, .* are all empty"):
        model.copy().setPredictionCol("").transform(queries)


def test_means_and_weights(
    model: KNNRegressionModel, weighed: KNNRegressionModel, queries: DataFrame
) -> None:
    frame = queries
    for kind, fitted in (("plain", model), ("weighed", weighed)):
        for weights in ("uniform", "distance"):
            output = fitted.copy()._set(predictionCol=f"{kind}_{weights}", weights=weights)
            frame = output.transform(frame)
    near = model.copy()._set(
        predictionCol="near", neighborsCol="who", distancesCol="far", maxDistance=2.0
    )
    rows = near.transform(frame).orderBy("query").collect()
    for row, four in zip(rows, found(4), strict=True):
        for kind in ("plain", "weighed"):
            for weights in ("uniform", "distance"):
                mean = oracle.mean(
                    four,
                    LABELS,
                    by_distance=weights == "distance",
                    weights=WEIGHTS if kind == "weighed" else None,
                )
                assert row[f"{kind}_{weights}"] == pytest.approx(mean, rel=1e-9, nan_ok=True)
    for row, few in zip(rows, found(4, max_distance=2.0), strict=True):
        assert row.near == pytest.approx(oracle.mean(few, LABELS), rel=1e-9, nan_ok=True)
        assert list(zip(row.who, row.far, strict=True)) == few
    assert math.isnan(rows[-1].near), "there is a query without neighbors"


@pytest.mark.replicated
def test_predict_of_one_vector(weighed: KNNRegressionModel, queries: DataFrame) -> None:
    fitted = weighed.copy().setWeights("distance")
    for row in fitted.transform(queries).collect():
        prediction = fitted.predict(Vectors.dense(row.features))
        assert prediction == pytest.approx(row.prediction, rel=0, nan_ok=True)
    with pytest.raises(ValueError, match="value must have dimension 2, got dimension 1"):
        fitted.predict(Vectors.dense(1.0))


def test_invalid_queries(spark: SparkSession, model: KNNRegressionModel) -> None:
    rows = [(0, [1.0, 1.0]), (1, None), (2, [1.0, math.nan])]
    broken = spark.createDataFrame(rows, "query int, features array<double>")
    kept = model.copy().setHandleInvalid("keep").transform(broken).orderBy("query").collect()
    assert [math.isnan(row.prediction) for row in kept] == [False, True, True]
    skipped = model.copy().setHandleInvalid("skip").transform(broken).collect()
    assert [row.query for row in skipped] == [0]


@pytest.mark.parametrize(
    ("given", "said"),
    [("null", "a null"), ("double('nan')", "nan"), ("double('-Infinity')", "-inf")],
)
def test_labels_must_be_numbers(items: DataFrame, given: str, said: str) -> None:
    broken = items.withColumn("label", F.expr(f"if(id = 'item 07', {given}, label)"))
    with pytest.raises(ValueError, match=f"labelCol 'label' contains {said}.*finite numbers"):
        KNNRegressor().fit(broken)


def test_incompatible_params(items: DataFrame) -> None:
    with pytest.raises(ValueError, match="weights='distance' is not supported for metric 'inner"):
        KNNRegressor(metric="inner_product", weights="distance").fit(items)
    with pytest.raises(TypeError, match="labelCol 'id' must be numeric"):
        KNNRegressor(labelCol="id").fit(items)


def test_saved_and_loaded(weighed: KNNRegressionModel, queries: DataFrame, tmp_path: Path) -> None:
    fitted = weighed.copy().setWeights("distance")
    path = (tmp_path / "model").as_uri()
    fitted.save(path)
    loaded = KNNRegressionModel.load(path)
    assert loaded.uid == fitted.uid
    frame = loaded.setPredictionCol("again").transform(fitted.transform(queries))
    for row in frame.collect():
        assert row.again == pytest.approx(row.prediction, rel=0, nan_ok=True)
    estimator = KNNRegressor(k=7, weights="distance", weightCol="w")
    estimator.save((tmp_path / "estimator").as_uri())
    again = KNNRegressor.load((tmp_path / "estimator").as_uri())
    assert again.extractParamMap() == estimator.extractParamMap()


def test_from_and_to_scikit_learn(queries: DataFrame, weighed: KNNRegressionModel) -> None:
    random = np.random.default_rng(7)
    matrix, target = random.normal(size=(40, 2)), random.normal(size=40)
    fitted = KNeighborsRegressor(5, weights="distance").fit(matrix, target)
    ids = [f"{i:02}" for i in range(40)][::-1]
    model = KNNRegressionModel.fromSklearn(fitted, ids=ids)
    rows = model.transform(queries).orderBy("query").collect()
    expected = fitted.predict(QUERIES)
    np.testing.assert_allclose([row.prediction for row in rows], expected, rtol=1e-9)
    np.testing.assert_allclose(model.toSklearn().predict(QUERIES), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="weightCol is not supported by scikit-learn"):
        weighed.toSklearn()
    with pytest.raises(ValueError, match="several targets"):
        KNNRegressionModel.fromSklearn(KNeighborsRegressor(1).fit([[0.0]], [[1.0, 2.0]]))
    with pytest.raises(TypeError, match="must be a fitted KNeighborsRegressor or"):
        KNNRegressionModel.fromSklearn("model")
