"""Votes of all items within a radius, compared with and converted from and to scikit-learn."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import (
    KNeighborsClassifier,
    NearestNeighbors,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)

from pyspark_knn import KNNClassificationModel, KNNModel, KNNRegressionModel
from pyspark_knn.engine.fit.counted import Gathered
from pyspark_knn.engine.placing import replicate
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.models.fit_summary import FitSummary

RADIUS = 0.8


def _data() -> tuple[NDArray[Any], ...]:
    """Items, their classes and values, and queries, of which the last is far from all items."""
    rng = np.random.default_rng(6)
    items, labels = rng.normal(size=(80, 2)), rng.choice([0, 0, 2, 3], 80)
    values = rng.normal(size=80)
    return items, labels, values, np.vstack([rng.normal(size=(15, 2)), [[50.0, 50.0]]])


ITEMS, LABELS, VALUES, QUERIES = _data()


def predicted(model: Any) -> NDArray[np.float64]:
    return np.array([model.predict(query) for query in QUERIES])


def model_of(kind: Any, labels: Any = None, matrix: Any = ITEMS, **settings: Any) -> Any:
    model = kind()._set(**settings)
    columns = {} if labels is None else {"label": pa.array(labels, pa.float64())}
    summary = FitSummary(numClasses=4)
    gathered = Gathered(Items(len(matrix), columns), matrix)
    model._hold(replicate(gathered, model._spec(), None), summary)
    return model


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("label", [0, 3, "most_frequent"])
def test_the_votes_are_those_of_scikit_learn(weights, label):
    settings = {"weights": weights, "outlier_label": label, "metric": "euclidean"}
    fitted = RadiusNeighborsClassifier(RADIUS, **settings).fit(ITEMS, LABELS)
    model = KNNClassificationModel.fromSklearn(fitted)
    assert (model.getK(), model.getMaxDistance()) == (None, RADIUS)
    assert model.getOutlierLabel() == label
    assert predicted(model).tolist() == fitted.predict(QUERIES).tolist()
    ours = np.array([model.predictProbability(query).toArray() for query in QUERIES])
    assert np.allclose(ours[:, fitted.classes_], fitted.predict_proba(QUERIES))
    back = model.toSklearn()
    assert isinstance(back, RadiusNeighborsClassifier)
    assert back.get_params() == fitted.get_params() | {"algorithm": model.getAlgorithm()}
    assert (back.predict(QUERIES) == fitted.predict(QUERIES)).all()


def test_without_an_outlier_label_there_is_no_prediction():
    fitted = RadiusNeighborsClassifier(RADIUS).fit(ITEMS, LABELS)
    model = KNNClassificationModel.fromSklearn(fitted)
    assert model.getOutlierLabel() is None
    assert math.isnan(model.predict(QUERIES[-1]))
    assert model.predictRaw(QUERIES[-1]).toArray().tolist() == [0.0] * 4
    assert model.setOutlierLabel(1).predict(QUERIES[-1]) == 1.0
    assert model.predictRaw(QUERIES[-1]).toArray().tolist() == [0.0, 1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="one of the 4 classes, 0 to 3, got 4"):
        model.setOutlierLabel(4).predict(QUERIES[0])


def test_names_of_classes():
    names = np.array(["ant", "bee", "cat", "dog"])
    fitted = RadiusNeighborsClassifier(RADIUS, outlier_label="cat").fit(ITEMS, names[LABELS])
    model = KNNClassificationModel.fromSklearn(fitted)
    known = fitted.classes_.tolist()
    assert model.labels == known
    assert model.getOutlierLabel() == known.index("cat")
    assert [known[int(each)] for each in predicted(model)] == fitted.predict(QUERIES).tolist()
    assert (model.toSklearn().predict(QUERIES) == fitted.predict(QUERIES)).all()


def test_an_outlier_label_that_is_no_class_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = RadiusNeighborsClassifier(RADIUS, outlier_label=7).fit(ITEMS, LABELS)
    with pytest.raises(ValueError, match="outlier_label must be one of the classes, got 7"):
        KNNClassificationModel.fromSklearn(fitted)


def test_the_outlier_label_also_holds_with_k():
    model = model_of(
        KNNClassificationModel, LABELS, k=3, maxDistance=RADIUS, outlierLabel="most_frequent"
    )
    assert model.predict(QUERIES[-1]) == 0.0
    assert isinstance(model.toSklearn(), KNeighborsClassifier)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_the_means_are_those_of_scikit_learn(weights):
    fitted = RadiusNeighborsRegressor(RADIUS, weights=weights).fit(ITEMS, VALUES)
    model = KNNRegressionModel.fromSklearn(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = fitted.predict(QUERIES)
    found = predicted(model)
    assert math.isnan(wanted[-1])
    assert np.allclose(found, wanted, equal_nan=True)
    assert isinstance(model.toSklearn(), RadiusNeighborsRegressor)
    assert model.toSklearn().radius == RADIUS


def test_a_search_model_keeps_its_radius():
    model = model_of(KNNModel, k=None, maxDistance=RADIUS)
    fitted = model.toSklearn()
    assert isinstance(fitted, NearestNeighbors)
    found = fitted.radius_neighbors(QUERIES, return_distance=False)
    distances = np.sqrt(((QUERIES[:, None] - ITEMS) ** 2).sum(axis=2))
    assert [sorted(each) for each in found] == [
        np.flatnonzero(row <= RADIUS).tolist() for row in distances
    ]


def test_a_similarity_becomes_a_radius():
    model = model_of(KNNModel, k=None, minSimilarity=0.8, metric="cosine")
    assert model.toSklearn().radius == pytest.approx(0.2, abs=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": None}, "k is None, .* but maxDistance is unset"),
        ({"k": None, "maxDistance": -1.0}, "maxDistance must be >= 0, got -1.0"),
        (
            {"maxDistance": 1.0, "minSimilarity": 0.5, "metric": "cosine"},
            "maxDistance .1.0. and minSimilarity .0.5. are both set",
        ),
        ({"minSimilarity": 0.5}, "minSimilarity does not support metric 'euclidean'"),
        ({"minSimilarity": 80.0, "metric": "cosine"}, "between -1 and 1 for metric 'cosine'"),
    ],
)
def test_limits_that_conflict(settings, message):
    model = model_of(KNNRegressionModel, VALUES, **settings)
    with pytest.raises(ValueError, match=message):
        model.predict(QUERIES[0])
