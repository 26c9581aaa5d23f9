"""An index class from outside of the package: registered, fitted, shipped, saved and loaded."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.index.registry import register, unregister
from tests.support import toy_index
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def toy_class(
    spark: SparkSession, spark_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The class in a module of its own, sent to the workers as a user would send it."""
    name = "knn_toy_index"
    path = tmp_path_factory.mktemp("modules") / f"{name}.py"
    shutil.copy(toy_index.__file__, path)
    if spark_kind == "connect":
        spark.addArtifact(str(path), pyfile=True)
    else:
        spark.sparkContext.addPyFile(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        yield importlib.import_module(name).ToyIndex


@pytest.fixture
def toy(toy_class: Any) -> Iterator[Any]:
    register(toy_class)
    yield toy_class
    unregister(toy_class)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_a_registered_index_answers_as_brute_does(
    spark: SparkSession, toy: Any, placement: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    # A lattice: ties everywhere.
    names = [f"n{i:02d}" for i in range(60)]
    lattice = rng.integers(-2, 3, (60, 3))
    items = frame_of(spark, lattice, names, id_type=T.StringType(), partitions=3)
    queries = frame_of(spark, rng.integers(-3, 4, (20, 3)), partitions=2)
    shards = {"numShards": 3} if placement == "sharded" else {}
    estimator = KNNEstimator(
        k=6, idCol="id", metric="cityblock", maxDistance=4.0, placement=placement, **shards
    )
    brute = estimator.copy({estimator.algorithm: "brute"}).fit(items)
    expected = answers(brute.transform(queries))
    model = estimator.copy({estimator.algorithm: "toy"}).fit(items)
    assert model.getAlgorithm() == "toy"
    assert "toy" in model.algorithmReason
    assert answers(model.transform(queries)) == expected

    path = str(tmp_path / "model")
    model.save(path)
    loaded = KNNModel.load(path)
    assert (loaded.getAlgorithm(), loaded.getPlacement()) == ("toy", placement)
    assert answers(loaded.transform(queries)) == expected
    model.unpersist()
    loaded.unpersist()

    unregister(toy)
    with pytest.raises(ValueError, match=r"algorithm must be one of auto, brute, .* got 'toy'"):
        KNNModel.load(path)


@pytest.mark.replicated
@pytest.mark.usefixtures("toy")
def test_a_registered_index_leaves_for_scikit_learn_as_brute(spark: SparkSession) -> None:
    items = frame_of(spark, np.eye(4))
    model = KNNEstimator(k=2, idCol="id", algorithm="toy", leafSize=7).fit(items)
    assert model.toSklearn().algorithm == "brute"
