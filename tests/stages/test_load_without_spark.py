"""`loadWithoutSpark`: the model that `load` returns, in a process that has no Spark."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyarrow import fs
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

from pyspark_knn import KNNClassificationModel, KNNClassifier, KNNEstimator, KNNModel, KNNRegressor

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

N, DIM = 200, 4
DAY = datetime.date(1969, 7, 20)
QUERIES = np.random.default_rng(1).normal(size=(7, DIM))


def _rows(holes: bool = False) -> list[list[float]]:
    rows: NDArray[np.float64] = np.random.default_rng(0).normal(size=(N, DIM))
    rows[50:60] = rows[:10]  # ties go to the smaller id
    if holes:
        rows[::3, 1] = np.nan
    return rows.tolist()


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    """Vectors, ids in reverse order, labels and weights."""
    rows = [(N - i, row, i % 3, 1.0 + i % 5) for i, row in enumerate(_rows())]
    return spark.createDataFrame(rows, "id int, features array<double>, label int, weight double")


IDS: dict[str, Any] = {
    "int": F.col,
    "string": lambda name: F.concat(F.lit("n°"), name),
    "binary": lambda name: F.col(name).cast("string").cast("binary"),
    "date": lambda name: F.date_add(F.lit(DAY), F.col(name)),
    "timestamp": lambda name: F.timestamp_seconds(F.col(name) * 1e-3 - 1e9),
    "timestamp_ntz": lambda name: F.timestamp_seconds(F.col(name)).cast("timestamp_ntz"),
    "decimal": lambda name: F.col(name).cast("decimal(20,3)") / Decimal(8),
    "float": lambda name: (F.col(name) - 100).cast("float"),
}
"""Columns of ids by their types, made of a column of numbers."""


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_type(spark: SparkSession, items: DataFrame, tmp_path: Path, kind: str) -> None:
    make: Column = IDS[kind]("id")
    model = KNNEstimator(k=6, idCol="key").fit(items.select("features", make.alias("key")))
    path = str(tmp_path / "model")
    model.write().save(path)
    found = KNNModel.loadWithoutSpark(path).kneighbors(QUERIES)
    for ours, wanted in zip(found, model.kneighbors(QUERIES), strict=True):
        assert ours.dtype == wanted.dtype
        assert ours.tolist() == wanted.tolist()


MODELS: dict[str, dict[str, Any]] = {
    "positions": {"algorithm": "kd_tree"},
    "sparse": {"storage": "sparse", "metric": "cosine", "idCol": "id"},
    "missing values": {"metric": "nan_euclidean", "idCol": "id"},
    "sharded": {"placement": "sharded", "numShards": 3, "idCol": "id"},
    "sharded positions": {"placement": "sharded", "numShards": 3},
    "cells": {"placement": "sharded", "shardBy": "kmeans", "numShards": 3, "idCol": "id"},
    "limits": {"k": None, "maxDistance": 1.5, "idCol": "id"},
}


@pytest.mark.filterwarnings("ignore:idCol is unset")
@pytest.mark.parametrize("kind", MODELS)
def test_models_of_any_kind(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    vectors = _rows(holes=kind == "missing values")
    rows = [(N - i, Vectors.dense(row)) for i, row in enumerate(vectors)]
    items = spark.createDataFrame(rows, ["id", "features"]).coalesce(1)
    model = KNNEstimator(**{"k": 6, **MODELS[kind]}).fit(items)
    path = str(tmp_path / "model")
    model.write().save(path)
    loaded = KNNModel.loadWithoutSpark(path)
    assert loaded.uid == model.uid
    assert loaded.getPlacement() == "replicated"
    queries = [(i, Vectors.dense(row)) for i, row in enumerate(QUERIES)]
    found = model.transform(spark.createDataFrame(queries, ["n", "features"])).collect()
    wanted = sorted(found, key=lambda row: row.n)
    for row, ids, distances in zip(wanted, *loaded.kneighbors(QUERIES), strict=True):
        assert (ids.tolist(), distances.tolist()) == (row.neighbors, row.distances)


def test_predictions(items: DataFrame, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"k": 7, "weights": "distance", "weightCol": "weight"}
    knn = KNNClassifier(thresholds=[0.5, 0.2, 0.3], outlierLabel="most_frequent", **settings)
    for fitted in (knn.fit(items), KNNRegressor(**settings).fit(items)):
        path = str(tmp_path / fitted.uid)
        fitted.write().save(path)
        loaded = type(fitted).loadWithoutSpark(path)
        assert [loaded.predict(q) for q in QUERIES] == [fitted.predict(q) for q in QUERIES]
        if isinstance(fitted, KNNClassificationModel):
            for q in QUERIES:
                assert loaded.predictProbability(q) == fitted.predictProbability(q)


def test_approximate_models(items: DataFrame, tmp_path: Path) -> None:
    knn = KNNEstimator(k=3, idCol="id", algorithm="ivf", targetRecall=0.9)
    model = knn.fit(items)
    path = str(tmp_path / "model")
    model.write().save(path)
    loaded = KNNModel.loadWithoutSpark(path)
    assert loaded.algorithmReason == model.algorithmReason
    assert loaded.recall == model.recall
    for ours, wanted in zip(loaded.kneighbors(QUERIES), model.kneighbors(QUERIES), strict=True):
        assert ours.tolist() == wanted.tolist()
    for file in Path(path, "index").glob("part-*"):
        rows = pq.read_table(file)
        pq.write_table(rows.set_column(4, "items", rows["digest"]), file)
    for crc in Path(path, "index").glob(".*"):
        crc.unlink()
    with pytest.warns(UserWarning, match="does not belong to the items"):
        KNNModel.loadWithoutSpark(path)
    sharded = knn.setPlacement("sharded").fit(items)
    sharded.write().save(f"{path}2")
    with pytest.raises(ValueError, match=r"whose recall holds for its shards only\. Load it with"):
        KNNModel.loadWithoutSpark(f"{path}2")


@pytest.fixture(scope="module")
def saved(spark: SparkSession, items: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier."""
    path = tmp_path_factory.mktemp("saved") / "model"
    KNNClassifier(k=3, idCol="id").fit(items.coalesce(1)).write().save(str(path))
    return path


def rewritten(path: Path, column: str, change: Any) -> None:
    """Change a column of the saved items."""
    for file in (path / "items").glob(".*"):
        file.unlink()
    (file,) = (path / "items").glob("part-*")
    rows = pq.read_table(file)
    at = rows.schema.get_field_index(column)
    pq.write_table(rows.set_column(at, column, [change(rows[column].to_pylist())]), file)


def truncate(path: Path) -> None:
    (file,) = (path / "items").glob("part-*")
    file.write_bytes(file.read_bytes()[:-30])


DAMAGE: dict[str, tuple[Any, str]] = {
    "no items": (lambda p: shutil.rmtree(p / "items"), "contains no files"),
    "truncated": (truncate, "Parquet"),
    "metadata": (lambda p: next((p / "metadata").glob("part-*")).write_text("{"), "Expecting"),
    "a row less": (lambda p: _drop_row(p), "expected 200 items of dimension 4, got 199 items"),
    "NaN": (
        lambda p: rewritten(p, "features", lambda rows: [[float("nan")] * DIM, *rows[1:]]),
        "contains a NaN",
    ),
    "no id": (lambda p: rewritten(p, "id", lambda rows: [None, *rows[1:]]), "contains a null"),
    "label": (lambda p: rewritten(p, "label", lambda rows: [7.0, *rows[1:]]), "contains 7"),
    "type": (lambda p: rewritten(p, "label", lambda rows: [str(r) for r in rows]), "be double"),
}


def _drop_row(path: Path) -> None:
    for file in (path / "items").glob(".*"):
        file.unlink()
    (file,) = (path / "items").glob("part-*")
    pq.write_table(pq.read_table(file).slice(1), file)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_models_raise_what_load_raises(saved: Path, tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    path = Path(shutil.copytree(saved, tmp_path / "model"))
    damage(path)
    with pytest.raises(ValueError, match=rf"{path}.* is damaged: .*{message}"):
        KNNClassificationModel.loadWithoutSpark(str(path))


def test_where_a_model_is(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no saved KNNModel exists at"):
        KNNModel.loadWithoutSpark(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"not a pyspark_knn\.neighbors\.KNNModel"):
        KNNModel.loadWithoutSpark(str(saved))
    inside = fs.SubTreeFileSystem(str(saved.parent), fs.LocalFileSystem())
    places: list[tuple[str, Any]] = [(saved.as_uri(), None), (f"file:{saved}", None)]
    for path, filesystem in [*places, ("model", inside), (f"{saved}/", None)]:
        assert KNNClassificationModel.loadWithoutSpark(path, filesystem).numItems == N


SCRIPT = """
import sys
from pyspark_knn import KNNClassificationModel
model = KNNClassificationModel.loadWithoutSpark(sys.argv[1])
print(model.predict([0.0] * 4), model.kneighbors if hasattr(model, "kneighbors") else "")
from pyspark import SparkContext
from pyspark.sql import SparkSession
assert SparkContext._gateway is None and SparkSession.getActiveSession() is None
"""


def test_no_java_is_needed(saved: Path) -> None:
    env = {**os.environ, "JAVA_HOME": "/nowhere", "PATH": "/nowhere"}
    env.pop("SPARK_REMOTE", None)
    run = [sys.executable, "-W", "error", "-c", SCRIPT, str(saved)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = KNNClassificationModel.load(str(saved)).predict([0.0] * DIM)
    assert done.stdout.split() == [str(expected)]
