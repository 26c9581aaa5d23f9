"""Conversion from and to scikit-learn for every metric and algorithm, without Spark."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from pyspark_knn import KNNClassificationModel, KNNModel, KNNRegressionModel
from pyspark_knn.engine.placing import replicate
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.fit_summary import FitSummary
from pyspark_knn.index.distances import METRICS, resolve_metric
from pyspark_knn.index.registry import classes_for

DIM = 4
OLD = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 4)
NEEDED: dict[str, list[dict[str, Any]]] = {
    "seuclidean": [{"V": [0.5, 1.0, 2.0, 3.0]}],
    "mahalanobis": [
        {"VI": (np.eye(DIM) + 0.2).tolist()},
        {"V": np.linalg.inv(np.eye(DIM) + 0.2).tolist()},
    ],
    "minkowski": [{}, {"w": [0.0, 1.0, 2.0, 0.5]}],
    "p": [{}, {"w": [0.0, 1.0, 2.0, 0.5]}],
}
POWERS = {"minkowski": (0.5, 1.0, 2.0, 3.0, math.inf), "p": (1.0, 2.0, math.inf)}
CASES = [
    pytest.param(name, p, params, algorithm, id=f"{name}-{p:g}-{'-'.join(params)}-{algorithm}")
    for name in METRICS
    if name != "inner_product"
    for p in POWERS.get(name, (2.0,))
    for params in NEEDED.get(name, [{}])
    for algorithm in ("auto", *classes_for(resolve_metric(name, p, params)))
]


def points(rng: np.random.Generator, metric: str, count: int) -> np.ndarray:
    if metric == "haversine":
        return rng.uniform([-1.5, -3.0], [1.5, 3.0], (count, 2))
    if resolve_metric(metric, params=NEEDED.get(metric, [{}])[0]).compares_sets:
        # Every value other than 0 counts as 1, and some rows are all 0.
        rows = (rng.random((count, 12)) < 0.4) * 1.0
        # Two empty sets are equal, but 0 / 0 for scikit-learn by two of the formulas.
        rows[0] = 0.0
        rows[rows.sum(axis=1) == 0, 0] = 1.0 if metric in ("dice", "sokalsneath") else 0.0
        return rows
    rows = rng.normal(size=(count, DIM)).round(1)
    # For negative values scikit-learn and scipy differ; this package agrees with scipy.
    return np.abs(rows) if metric == "braycurtis" else rows


def model_of(kind: Any, matrix: np.ndarray, labels: Any = None, **settings: Any) -> Any:
    model = kind()._set(**settings)
    summary = FitSummary(numClasses=2)
    columns = {} if labels is None else {"label": pa.array(labels)}
    model._hold(replicate(Items(len(matrix), columns), matrix, model._spec(), None), summary)
    return model


@pytest.mark.parametrize(("metric", "p", "params", "algorithm"), CASES)
def test_scikit_learn_agrees_with_the_model(rng, metric, p, params, algorithm):
    items, queries = points(rng, metric, 60), points(rng, metric, 9)
    model = model_of(
        KNNModel, items, k=7, metric=metric, p=p, metricParams=params, algorithm=algorithm
    )
    if p < 1 and OLD:
        pytest.skip("scikit-learn 1.3 fits such a metric and cannot search by it")
    ours = model._fitted.searchable.index.kneighbors(queries, 7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mind that for 0 < p < 1", UserWarning)
        fitted = model.toSklearn()
    with warnings.catch_warnings():
        # scikit-learn warns unless sets are booleans.
        warnings.simplefilter("error")
        asked = queries != 0 if resolve_metric(metric, p, params).compares_sets else queries
        distances, positions = fitted.kneighbors(asked)
    np.testing.assert_allclose(distances, ours.distances, rtol=1e-9, atol=1e-7)
    # scikit-learn breaks ties arbitrarily: its neighbors must be at the same distances.
    rows = np.repeat(np.arange(len(queries)), 7)
    figures = resolve_metric(metric, p, params).distances(queries, items, rows, positions.ravel())
    np.testing.assert_allclose(figures.reshape(-1, 7), ours.distances, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("metric", ["infinity", "p", "sokalmichener", "sqeuclidean"])
@pytest.mark.parametrize(
    ("kind", "theirs"),
    [(KNNClassificationModel, KNeighborsClassifier), (KNNRegressionModel, KNeighborsRegressor)],
)
def test_scikit_learn_predicts_with_the_models_metric(rng, metric, kind, theirs):
    items = points(rng, metric, 30)
    labels = rng.integers(0, 2, 30).astype(float)
    fitted = model_of(kind, items, labels, k=1, metric=metric).toSklearn()
    assert isinstance(fitted, theirs)
    query = items[3:4] != 0 if metric == "sokalmichener" else items[3:4]
    assert fitted.predict(query)[0] in (0.0, 1.0)


@pytest.mark.parametrize("metric", ["braycurtis", "dice", "sokalsneath"])
def test_a_ball_tree_that_is_not_exact_becomes_brute(rng, metric):
    """scikit-learn has these trees, but they miss neighbors: see tests/unit/test_trees.py."""
    items = (rng.random((40, 8)) < 0.5) * 1.0
    fitted = NearestNeighbors(metric=metric, algorithm="ball_tree").fit(items)
    model = KNNModel.fromSklearn(fitted)
    assert model.getAlgorithm() == "brute"
    assert "scikit-learn's ball_tree" in model.algorithmReason
    assert metric in model.algorithmReason


def test_an_exact_tree_is_kept():
    fitted = NearestNeighbors(metric="jaccard", algorithm="ball_tree").fit(np.eye(3))
    model = KNNModel.fromSklearn(fitted)
    assert model.getAlgorithm() == "ball_tree"
    assert model.algorithmReason == "algorithm 'ball_tree' was requested"


def test_a_ball_tree_of_mahalanobis_by_its_covariance(rng):
    items = points(rng, "euclidean", 50)
    covariance = np.cov(items, rowvar=False)
    fitted = NearestNeighbors(
        n_neighbors=3, algorithm="ball_tree", metric="mahalanobis", metric_params={"V": covariance}
    ).fit(items)
    model = KNNModel.fromSklearn(fitted)
    found = model._fitted.searchable.index.kneighbors(items[:5], 3)
    np.testing.assert_allclose(found.distances, fitted.kneighbors(items[:5])[0], atol=1e-9)


def test_items_in_degrees_are_refused():
    fitted = NearestNeighbors(metric="haversine").fit(np.array([[48.9, 2.3], [51.5, -0.1]]))
    with pytest.raises(ValueError, match=r"got latitude 51\.5\. Convert degrees"):
        KNNModel.fromSklearn(fitted)
