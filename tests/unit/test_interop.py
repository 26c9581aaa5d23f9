"""Conversion from and to scikit-learn for every metric and algorithm, without Spark."""

from __future__ import annotations

import math
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn
from pyspark.ml.linalg import Vectors
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from pyspark_knn import KNNClassificationModel, KNNModel, KNNRegressionModel
from pyspark_knn.engine.fit.counted import Gathered
from pyspark_knn.engine.placing import replicate
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.index.distances import METRICS, resolve_metric
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.models.fit_summary import FitSummary
from tests.support.algorithms import installed_classes

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
    for algorithm in ("auto", *installed_classes(resolve_metric(name, p, params)))
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
    model._hold(
        replicate(Gathered(Items(len(matrix), columns), matrix), model._spec(), None), summary
    )
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


def sparse_points(rng, count):
    return np.where(rng.random((count, 30)) < 0.2, rng.normal(size=(count, 30)), 0.0)


@pytest.mark.parametrize("metric", ["euclidean", "minkowski", "cosine", "l2"])
def test_scikit_learn_over_a_sparse_matrix_agrees_with_the_model(rng, metric):
    items, queries = sparse_points(rng, 60), sparse_points(rng, 9)
    items[0] = queries[0] = 0.0
    stored = SparseRows.from_dense(items)
    model = model_of(KNNModel, stored, k=7, metric=metric)
    assert model.getStorage() == "sparse"
    fitted = model.toSklearn()
    assert isinstance(fitted._fit_X, csr_matrix)
    assert not np.shares_memory(fitted._fit_X.data, stored.data)
    ours = model._fitted.searchable.index.kneighbors(SparseRows.from_dense(queries), 7)
    distances, positions = fitted.kneighbors(csr_matrix(queries))
    np.testing.assert_allclose(distances, ours.distances, rtol=1e-9, atol=1e-7)
    rows = np.repeat(np.arange(9), 7)
    theirs = resolve_metric(metric).distances(queries, items, rows, positions.ravel())
    np.testing.assert_allclose(theirs.reshape(-1, 7), ours.distances, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(
    ("metric", "params"),
    [
        ("sqeuclidean", {}),
        ("seuclidean", {"V": [2.0] * 30}),
        ("minkowski", {"w": [2.0] * 30}),
        ("jaccard", {}),
        ("dice", {}),
        ("inner_product", {}),
    ],
)
def test_scikit_learn_does_not_support_other_metrics_of_sparse_matrices(rng, metric, params):
    stored = SparseRows.from_dense(sparse_points(rng, 20))
    model = model_of(KNNModel, stored, k=3, metric=metric, metricParams=params or None)
    with pytest.raises(ValueError, match=rf"metric '{metric}' is not supported by scikit-learn"):
        model.toSklearn()


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_sparse_matrix_of_scikit_learn_stays_sparse(rng, form, dtype, metric):
    items = (10 * sparse_points(rng, 40)).astype(dtype)
    given = coo_matrix(items)
    # An explicit zero, and indices that are neither sorted nor unique.
    parts = (given.data, given.row, given.col), ([0, 2, -2], [0, 1, 1], [29, 3, 3])
    data, row, col = (np.concatenate([more, part]) for part, more in zip(*parts, strict=True))
    given = coo_matrix((data.astype(dtype), (row, col)), items.shape).asformat(form)
    fitted = NearestNeighbors(n_neighbors=4, metric=metric).fit(given)
    before = fitted._fit_X.data.copy()
    model = KNNModel.fromSklearn(fitted, ids=[f"{99 - i}" for i in range(40)])
    assert model.getStorage() == "sparse"
    assert "sparse matrix" in model.storageReason
    matrix = model._fitted.searchable.index.matrix
    assert matrix.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert (matrix.dense() == items[::-1]).all()
    assert (matrix.data != 0).all()
    assert (fitted._fit_X.data == before).all()
    ours = model._fitted.searchable.index.kneighbors(matrix[:5], 4)
    theirs = fitted.kneighbors(csr_matrix(items[::-1][:5]))[0]
    np.testing.assert_allclose(ours.distances, theirs, rtol=1e-5, atol=1e-3)


def test_a_sparse_matrix_becomes_dense_for_other_metrics(rng):
    items = sparse_points(rng, 40)
    model = KNNModel.fromSklearn(NearestNeighbors(metric="cityblock").fit(csr_matrix(items)))
    assert model.getStorage() == "dense"
    assert (model._fitted.searchable.index.matrix == items).all()


def test_a_wide_sparse_matrix_does_not_become_dense():
    wide = csr_matrix(([1.0], ([0], [5])), shape=(1000, 2**30))
    with pytest.raises(
        ValueError, match=r"metric 'cityblock' requires dense vectors.*8000\.00 GiB"
    ):
        KNNModel.fromSklearn(NearestNeighbors(metric="cityblock").fit(wide))
    model = KNNModel.fromSklearn(NearestNeighbors(metric="cosine").fit(wide))
    assert (model.getStorage(), model.numFeatures) == ("sparse", 2**30)


def test_nan_in_a_sparse_matrix_is_refused():
    fitted = NearestNeighbors().fit(csr_matrix(np.eye(3)))
    fitted._fit_X.data[1] = np.nan
    with pytest.raises(ValueError, match="the fitted matrix contains NaN or infinity"):
        KNNModel.fromSklearn(fitted)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_predict_is_the_same_with_sparse_items(rng, metric):
    items, queries = sparse_points(rng, 50), sparse_points(rng, 6)
    labels = rng.integers(0, 2, 50).astype(float)
    dense, stored = (
        model_of(KNNClassificationModel, matrix, labels, k=5, metric=metric)
        for matrix in (items, SparseRows.from_dense(items))
    )
    assert stored.getStorage() == "sparse"
    for row in queries:
        expected = dense.predict(row)
        places = np.flatnonzero(row)
        for query in (
            row,
            row.tolist(),
            Vectors.dense(row),
            Vectors.sparse(30, places, row[places]),
        ):
            assert stored.predict(query) == expected
    assert stored.predictRaw(Vectors.sparse(30, [3], [0.0])) is not None
    with pytest.raises(ValueError, match="value must have dimension 30, got dimension 31"):
        stored.predict(Vectors.sparse(31, [3], [1.0]))
    with pytest.raises(ValueError, match="value contains NaN"):
        stored.predict(Vectors.sparse(30, [3], [math.nan]))


def test_predict_allocates_no_dense_vector():
    items = SparseRows.from_entries(np.arange(4), np.arange(4), np.ones(4), (4, 2**31 - 1))
    model = model_of(KNNClassificationModel, items, np.arange(4) % 2.0, k=1, metric="cosine")
    query = Vectors.sparse(2**31 - 1, [3], [1.0])
    tracemalloc.start()
    try:
        assert model.predict(query) == 1.0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
