"""How an index gets to the workers in local mode, and what stays of it (classic Spark alone)."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pyspark_knn import KNNEstimator, KNNModel
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pyspark_knn import KNNModel as Model

pytestmark = pytest.mark.usefixtures("classic")


@pytest.fixture(scope="module")
def classic(spark_kind: str) -> None:
    if spark_kind != "local":
        pytest.skip("looks at the files of local mode")


def _bundles(spark: SparkSession) -> set[Path]:
    return set(Path(spark.sparkContext._temp_dir).glob("knn-*"))


def _model(spark: SparkSession, seed: int) -> Model:
    matrix = np.random.default_rng(seed).normal(size=(20, 4))
    return KNNEstimator(k=2, idCol="id").fit(frame_of(spark, matrix))


def test_a_fit_ships_nothing_and_a_transform_one_private_file(spark: SparkSession) -> None:
    before = _bundles(spark)
    model = _model(spark, seed=1)
    assert _bundles(spark) == before
    model.transform(frame_of(spark, np.zeros((1, 4)))).collect()
    (made,) = _bundles(spark) - before
    assert made.stat().st_mode & 0o077 == 0


def test_models_of_equal_items_share_one_file(spark: SparkSession) -> None:
    before = _bundles(spark)
    queries = frame_of(spark, np.zeros((2, 4)))
    expected = None
    for i in range(30):
        found = _model(spark, seed=2).setK(1 + i % 3).transform(queries)
        if i % 10 == 0:
            rows = [row[:1] for row in answers(found)]
            assert rows == (expected or rows)
            expected = rows
    assert len(_bundles(spark) - before) == 1


def test_a_lazy_frame_outlives_its_model(spark: SparkSession) -> None:
    found = _model(spark, seed=3).transform(frame_of(spark, np.zeros((1, 4))))
    gc.collect()
    assert len(found.first()["neighbors"]) == 2


def test_a_copy_shares_the_index(spark: SparkSession) -> None:
    before = _bundles(spark)
    model = _model(spark, seed=4)
    queries = frame_of(spark, np.zeros((1, 4)))
    model.transform(queries)
    model.copy({model.k: 1}).transform(queries)
    KNNModel.transform(model, queries, {model.k: 3})
    assert len(_bundles(spark) - before) == 1
