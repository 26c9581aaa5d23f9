"""Attributes and repr of a model, and conversion from and to scikit-learn."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
from pathlib import Path
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyspark_knn import KNNEstimator, KNNModel
from tests.support.frames import Matrix, answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def _data() -> tuple[Matrix, list[int]]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(40, 3)), rng.permutation(100)[:40].tolist()


ITEMS, IDS = _data()


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    knn = KNNEstimator(k=4, idCol="id", algorithm="kd_tree", leafSize=7)
    return knn.fit(frame_of(spark, ITEMS, IDS, partitions=3))


def test_counts_params_and_reasons(model: KNNModel) -> None:
    assert (model.numItems, model.numFeatures, model.numSkipped) == (40, 3, 0)
    assert (model.getAlgorithm(), model.getPlacement()) == ("kd_tree", "replicated")
    assert "requested" in model.algorithmReason
    assert "40 items of 3 dimensions in float64" in model.placementReason
    assert model.getStorage() == "dense"
    assert "3.0 of 3 values" in model.storageReason
    assert model.ids.tolist() == sorted(IDS)


def test_items(model: KNNModel) -> None:
    assert dict(model.items.dtypes) == {
        "position": "bigint",
        "id": "bigint",
        "features": "array<double>",
    }
    rows = sorted(model.items.collect(), key=lambda row: row.position)
    order = np.argsort(IDS)
    assert [row.position for row in rows] == list(range(40))
    assert [row.id for row in rows] == sorted(IDS)
    assert [row.features for row in rows] == ITEMS[order].tolist()


def test_repr_and_explain_params(model: KNNModel) -> None:
    said = repr(model)
    for part in ("KNNModel", "kd_tree", "replicated", "numItems=40", "numFeatures=3", "k=4"):
        assert part in said
    assert repr(KNNModel()).endswith("without an index")
    assert (
        "number of neighbors (items) per query, >= 1; None for all items within maxDistance "
        "(default: 5, current: 4)"
    ) in model.explainParams()
    assert "k: number of neighbors" in KNNEstimator().explainParam("k")
    assert repr(KNNEstimator()).startswith("KNNEstimator_")


def test_an_empty_model_raises(spark: SparkSession, tmp_path: Path) -> None:
    for use in (
        lambda: KNNModel().transform(frame_of(spark, ITEMS)),
        lambda: KNNModel().numItems,
        lambda: KNNModel().save((tmp_path / "none").as_uri()),
    ):
        with pytest.raises(ValueError, match=r"has no index\. Create it with fit\(\)"):
            use()
    assert not (tmp_path / "none").exists()


def test_to_sklearn(spark: SparkSession, rng: np.random.Generator, model: KNNModel) -> None:
    fitted = model.toSklearn()
    assert isinstance(fitted, NearestNeighbors)
    assert (fitted.n_neighbors, fitted.algorithm, fitted.leaf_size) == (4, "kd_tree", 7)
    queries = rng.normal(size=(9, 3))
    distances, positions = fitted.kneighbors(queries)
    found = answers(model.transform(frame_of(spark, queries)))
    assert [[i for i, _ in row] for row in found] == model.ids[positions].tolist()
    assert np.array([[d for _, d in row] for row in found]) == pytest.approx(distances, rel=1e-12)


def test_to_sklearn_refuses_metrics_that_sklearn_lacks(spark: SparkSession) -> None:
    model = KNNEstimator(idCol="id", metric="inner_product").fit(frame_of(spark, ITEMS))
    with pytest.raises(ValueError, match="metric 'inner_product' is not supported"):
        model.toSklearn()


@pytest.mark.parametrize(
    "settings",
    [
        {"n_neighbors": 3},
        {"n_neighbors": 6, "metric": "cosine"},
        {"metric": "minkowski", "p": 3, "algorithm": "ball_tree", "leaf_size": 4},
        {"metric": "seuclidean", "metric_params": {"V": np.array([1.0, 2.0, 3.0])}},
    ],
    ids=str,
)
def test_from_sklearn_with_joblib(
    spark: SparkSession, rng: np.random.Generator, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """A scikit-learn estimator that was saved with joblib, searched on Spark."""
    joblib.dump(NearestNeighbors(**settings).fit(ITEMS), tmp_path / "index")
    fitted = joblib.load(tmp_path / "index")
    queries = rng.normal(size=(6, 3))
    distances, positions = fitted.kneighbors(queries)
    names = [f"item {i:02}" for i in rng.permutation(40)]
    model = KNNModel.fromSklearn(fitted, ids=names)
    assert model.getIdCol() == "id"
    found = answers(model.transform(frame_of(spark, queries)))
    assert [[i for i, _ in row] for row in found] == [[names[i] for i in row] for row in positions]
    assert np.array([[d for _, d in row] for row in found]) == pytest.approx(distances, rel=1e-9)
    unnamed = answers(KNNModel.fromSklearn(fitted).transform(frame_of(spark, queries)))
    assert [[i for i, _ in row] for row in unnamed] == positions.tolist()


def test_from_sklearn_accepts_ids_of_many_types() -> None:
    fitted = NearestNeighbors(n_neighbors=1).fit([[0.0], [1.0]])
    for ids in (
        np.array([5, 4], dtype=np.int32),
        pd.Series(["b", "a"]),
        [dt.date(2021, 1, 1), dt.date(2020, 1, 1)],
        [b"z", b"y"],
    ):
        assert KNNModel.fromSklearn(fitted, ids=ids).ids.tolist() == sorted(list(ids))


def test_from_sklearn_checks_its_arguments(spark: SparkSession) -> None:
    fitted = NearestNeighbors().fit(ITEMS)
    with pytest.raises(
        ValueError, match="ids must have one id for each of the 40 fitted rows, got 2"
    ):
        KNNModel.fromSklearn(fitted, ids=[1, 2])
    with pytest.raises(ValueError, match="ids contains a null"):
        KNNModel.fromSklearn(fitted, ids=[None, *IDS[1:]])
    with pytest.raises(TypeError, match="ids"):
        KNNModel.fromSklearn(fitted, ids=[[1]] * 40)
    with pytest.raises(TypeError, match=r"a scikit-learn Pipeline cannot run on Spark. Transform"):
        KNNModel.fromSklearn(make_pipeline(StandardScaler(), NearestNeighbors()).fit(ITEMS))
    with pytest.raises(TypeError, match="must be a fitted NearestNeighbors, got a StandardScaler"):
        KNNModel.fromSklearn(StandardScaler())
    with pytest.raises(ValueError, match="not fitted"):
        KNNModel.fromSklearn(NearestNeighbors())
    with pytest.raises(ValueError, match="metric must be a string, got a function"):
        KNNModel.fromSklearn(NearestNeighbors(metric=lambda a, b: 0.0).fit(ITEMS[:3]))
    squares = np.zeros((3, 3))
    with pytest.raises(ValueError, match="'precomputed' is not supported"):
        KNNModel.fromSklearn(NearestNeighbors(metric="precomputed").fit(squares))


def test_from_sklearn_checks_feature_names(spark: SparkSession) -> None:
    from pyspark.ml.feature import VectorAssembler

    fitted = NearestNeighbors(n_neighbors=1).fit(pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 5.0]}))
    model = KNNModel.fromSklearn(fitted)
    numbers = spark.createDataFrame([(2.0, 5.0)], ["a", "b"])
    right = VectorAssembler(inputCols=["a", "b"], outputCol="features").transform(numbers)
    assert model.transform(right).first()["neighbors"] == [1]
    wrong = VectorAssembler(inputCols=["b", "a"], outputCol="features").transform(numbers)
    with pytest.raises(ValueError, match=r"feature 0 is 'b' instead of 'a' .*2 of 2"):
        model.transform(wrong)


def test_pickling_raises_and_names_save(spark: SparkSession, model: KNNModel) -> None:
    says = r"KNNModel cannot be pickled.*model\.transform\(queries\).*model\.save\(path\)"
    with pytest.raises(TypeError, match=says):
        pickle.dumps(model)
    with pytest.raises(TypeError, match=says):
        pickle.dumps(PipelineModel([model]))
    captures = F.udf(lambda value: value + model.numItems, "long")
    # Spark wraps the error in one of its own.
    with pytest.raises(PicklingError, match=says):
        spark.range(1).select(captures("id")).collect()


def test_copies_share_the_index(spark: SparkSession, model: KNNModel) -> None:
    for made in (copy.copy(model), copy.deepcopy(model), model.copy()):
        assert type(made) is KNNModel
        assert made._index is model._index
        assert (made.uid, made.numItems) == (model.uid, 40)
    deep = copy.deepcopy([model])[0].setK(1)
    assert (deep.getK(), model.getK()) == (1, 4)
    assert answers(deep.transform(frame_of(spark, ITEMS[:1]))) == [[(IDS[0], 0.0)]]


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_explain_search_of_sparse_items_counts_stored_values(
    spark: SparkSession, placement: str
) -> None:
    dim = 1 << 20
    rows = [(i, Vectors.sparse(dim, [i, i + 1, dim - 1], [1.0, 2.0, 3.0])) for i in range(40)]
    items = spark.createDataFrame(rows, ["id", "features"])
    estimator = KNNEstimator(k=3, idCol="id", metric="cosine", storage="sparse")
    report = estimator.setPlacement(placement).fit(items).explainSearch(items)
    assert "storage    sparse: storage 'sparse' was requested" in report
    assert "40 of 1,048,576 dimensions" in report
    assert "(estimated from " in report
    if placement == "sharded":
        transfer = next(line for line in report.splitlines() if line.startswith("transfer"))
        assert "MiB of query vectors" not in transfer
        assert "GiB" not in transfer
