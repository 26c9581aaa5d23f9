"""kneighbors on the driver, of models that are converted from scikit-learn, without Spark."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest
import sklearn
from pyspark.ml.linalg import Vectors
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from pyspark_knn import KNNModel
from pyspark_knn.models.on_driver import _BLOCK

ITEMS = np.random.default_rng(3).normal(size=(50, 4)).round(2)
QUERIES = np.random.default_rng(4).normal(size=(7, 4)).round(2)
NAMES = [f"item {i}" for i in range(len(ITEMS))]


def model_of(items: Any = ITEMS, ids: Any = None, **settings: Any) -> KNNModel:
    return KNNModel.fromSklearn(NearestNeighbors(**settings).fit(items), ids)


MODELS = [
    {"algorithm": "brute", "metric": "euclidean"},
    {"algorithm": "kd_tree", "metric": "manhattan"},
    {"algorithm": "ball_tree", "metric": "euclidean"},
    {"algorithm": "brute", "metric": "cosine"},
]


@pytest.mark.parametrize("settings", MODELS, ids=lambda each: "-".join(each.values()))
def test_equals_scikit_learn(settings: dict[str, Any]) -> None:
    model = model_of(n_neighbors=3, **settings)
    theirs = NearestNeighbors(n_neighbors=3, **settings).fit(ITEMS)
    for k in (None, 1, 6):
        ids, distances = model.kneighbors(QUERIES, k)
        expected, positions = theirs.kneighbors(QUERIES, k)
        assert ids.tolist() == positions.tolist()
        np.testing.assert_allclose(distances, expected, atol=1e-12)
        assert distances.dtype == np.float64


ROW = QUERIES[0]
SINGLE = [
    Vectors.dense(ROW),
    Vectors.sparse(4, range(4), ROW),
    ROW,
    ROW.tolist(),
    tuple(ROW.tolist()),
]
SEVERAL = [
    QUERIES,
    QUERIES.tolist(),
    [Vectors.dense(row) for row in QUERIES],
    [Vectors.sparse(4, range(4), row) for row in QUERIES],
    [Vectors.dense(QUERIES[0]), *(Vectors.sparse(4, range(4), row) for row in QUERIES[1:])],
    list(QUERIES),
    np.asfortranarray(QUERIES),
]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_vectors_of_all_kinds(sparse: bool) -> None:
    items = csr_matrix(ITEMS) if sparse else ITEMS
    model = model_of(items, NAMES, n_neighbors=3, algorithm="brute")
    assert model.getStorage() == ("sparse" if sparse else "dense")
    ids, distances = model.kneighbors(QUERIES)
    assert ids.shape == distances.shape == (7, 3)
    assert set(ids.ravel().tolist()) <= set(NAMES)
    for value in SINGLE:
        found = model.kneighbors(value)
        assert [each.tolist() for each in found] == [ids[0].tolist(), distances[0].tolist()]
    for value in SEVERAL:
        found = model.kneighbors(value)
        assert [each.tolist() for each in found] == [ids.tolist(), distances.tolist()]


def test_fewer_items_than_k_and_no_queries() -> None:
    model = model_of(ITEMS[:2], n_neighbors=9)
    assert [each.shape for each in model.kneighbors(QUERIES)] == [(7, 2), (7, 2)]
    assert [each.shape for each in model.kneighbors(QUERIES[:0])] == [(0, 2), (0, 2)]


def test_more_queries_than_a_block() -> None:
    queries = np.random.default_rng(5).normal(size=(_BLOCK + 3, 4))
    model = model_of(n_neighbors=2)
    ids, distances = model.kneighbors(queries)
    for part in (slice(0, 5), slice(_BLOCK - 2, None)):
        found = model.kneighbors(queries[part])
        assert [each.tolist() for each in found] == [ids[part].tolist(), distances[part].tolist()]
    lists, _ = model.setMaxDistance(0.5).kneighbors(queries)
    assert [len(each) for each in lists] == (distances <= 0.5).sum(axis=1).tolist()


def test_within_a_distance() -> None:
    model = model_of(n_neighbors=3).setK(None).setMaxDistance(2.0)
    theirs = NearestNeighbors(radius=2.0).fit(ITEMS)
    expected, positions = theirs.radius_neighbors(QUERIES, sort_results=True)
    ids, distances = model.kneighbors(QUERIES)
    assert ids.shape == distances.shape == (7,)
    for i in range(7):
        assert ids[i].tolist() == positions[i].tolist()
        np.testing.assert_allclose(distances[i], expected[i], atol=1e-12)
    assert model.kneighbors(QUERIES[0])[0].tolist() == ids[0].tolist()
    assert [len(each) for each in model.kneighbors(QUERIES, k=1)[0]] == [
        min(1, len(each)) for each in ids
    ]


OLD = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 4)


@pytest.mark.skipif(OLD, reason="scikit-learn 1.3 does not fit NaN")
def test_missing_values() -> None:
    items = [[1.0, math.nan], [math.nan, 2.0], [3.0, 4.0]]
    model = model_of(items, n_neighbors=3, metric="nan_euclidean", algorithm="brute")
    ids, _ = model.kneighbors([[1.0, None], [math.nan, 2.0]])
    assert [each.tolist() for each in ids] == [[0, 2], [1, 2]]
    assert model.kneighbors([1.0, None])[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([dt.date(2020, 1, i) for i in range(1, 6)], "datetime64[D]"),
        ([dt.datetime(2020, 1, i) for i in range(1, 6)], "datetime64[us]"),
        ([10, 20, 30, 40, 50], "int64"),
        (list("abcde"), "object"),
    ],
    ids=["date", "datetime", "int", "str"],
)
def test_ids_have_the_types_of_the_ids_of_the_model(ids: list[Any], dtype: str) -> None:
    model = model_of(ITEMS[:5], ids, n_neighbors=1)
    found, _ = model.kneighbors(ITEMS[:5])
    assert found.dtype == model.ids.dtype == dtype
    assert found.ravel().tolist() == model.ids.tolist() == ids


@pytest.mark.parametrize(
    ("vectors", "got"),
    [
        ("abcd", "a str"),
        (1.5, "a float"),
        (None, "None"),
        ([[1.0, "b"]], "a list"),
        (np.zeros((1, 1, 4)), "a numpy ndarray"),
        ([[[1.0]]], "a list"),
        (csr_matrix(ITEMS), "a scipy csr_matrix"),
    ],
    ids=str,
)
def test_other_types(vectors: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"^vectors must be one vector .*, got {got}\. For a Data"):
        model_of().kneighbors(vectors)


def test_invalid_vectors() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="vectors must have dimension 4, got dimension 3"):
        model.kneighbors([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"same dimension, got dimensions \[3, 4\]"):
        model.kneighbors([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    with pytest.raises(ValueError, match=r"vectors contains NaN or infinity: \[ 1\. +2\. +nan"):
        model.kneighbors([ROW.tolist(), [1.0, 2.0, math.nan, 4.0]])
    haversine = model_of(ITEMS[:, :2] / 9, metric="haversine", algorithm="ball_tree")
    with pytest.raises(ValueError, match="haversine"):
        haversine.kneighbors([100.0, 200.0])


@pytest.mark.parametrize("k", [0, 1.5, "3", True])
def test_invalid_k(k: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="k must be an integer >= 1, got "):
        model_of().kneighbors(ROW, k)


def test_a_model_without_an_index() -> None:
    with pytest.raises(ValueError, match="KNNModel has no index"):
        KNNModel().kneighbors(ROW)


NO_NUMBERS = {
    "complex": np.array([1j, 2, 3, 4]),
    "datetime64": np.array([1, 2, 3, 4], "M8[s]"),
    "timedelta64": np.array([1, 2, 3, 4], "m8[s]"),
    "strings": np.array(["1", "2", "3", "4"]),
    "a list of strings": ["1", "2", "3", "4"],
    "a list of lists": [["1", "2", "3", "4"]],
    "a matrix": np.array([[1j, 2, 3, 4]]),
}


@pytest.mark.parametrize("vectors", NO_NUMBERS.values(), ids=NO_NUMBERS.keys())
def test_what_is_no_number_is_not_converted(vectors: Any) -> None:
    with pytest.raises(TypeError, match="vectors must be one vector"):
        model_of().kneighbors(vectors)


def test_an_integer_beyond_float64() -> None:
    with pytest.raises(ValueError, match="an integer that is too large for float64"):
        model_of().kneighbors([10**400, 1, 2, 3])


def test_a_masked_number_is_missing() -> None:
    masked = np.ma.masked_array([[1, 2, 3, 4]], [[True, False, False, False]])
    for vectors in (masked, masked[0], [masked[0]]):
        with pytest.raises(ValueError, match=r"contains NaN or infinity: \[nan"):
            model_of().kneighbors(vectors)
    theirs = model_of(metric="nan_euclidean").kneighbors([math.nan, 2, 3, 4])
    assert model_of(metric="nan_euclidean").kneighbors(masked[0])[0].tolist() == theirs[0].tolist()
