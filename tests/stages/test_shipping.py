"""How an index is sent to workers in local mode, and what remains of it (classic Spark only)."""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyspark.errors import PySparkException

from pyspark_knn import KNNEstimator, KNNModel, supply_package
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


@pytest.mark.parametrize("gone", ["the file", "the folder"])
def test_a_removed_file_is_written_again(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gone: str
) -> None:
    """Cleaners of temporary files remove it from sessions that run for weeks."""
    queries = frame_of(spark, np.zeros((2, 4)))
    model, again = (_model(spark, seed=len(gone)) for _ in range(2))
    monkeypatch.setattr(spark.sparkContext, "_temp_dir", str(tmp_path / "session"))
    lazy = model.transform(queries)

    def remove() -> None:
        for path in _bundles(spark):
            path.unlink()
        if gone == "the folder":
            (tmp_path / "session").rmdir()

    remove()
    with pytest.raises(PySparkException, match="index file was deleted") as raised:
        lazy.collect()
    assert "Call model.transform(queries) again" in str(raised.value)
    expected = answers(model.transform(queries))
    assert answers(lazy) == expected
    remove()
    assert answers(again.transform(queries)) == expected
    # The items of a model are read from the same file.
    remove()
    assert model._fitted.items_frame(spark).count() == 20
    (made,) = _bundles(spark)
    assert made.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_written_to(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, queries = _model(spark, seed=6), frame_of(spark, np.zeros((2, 4)))
    (tmp_path / "file").touch()
    monkeypatch.setattr(spark.sparkContext, "_temp_dir", str(tmp_path / "file" / "session"))
    with pytest.raises(OSError, match=r"the index cannot be written.*Set spark\.local\.dir to"):
        model.transform(queries)


def test_the_package_is_sent_once_and_its_zip_is_restored(spark: SparkSession) -> None:
    def zips() -> list[Path]:
        return list(Path(spark.sparkContext._temp_dir).glob("pyspark_knn-*.zip"))

    path = list(sys.path)
    try:
        supply_package(spark)
        (made,) = zips()
        made.unlink()
        supply_package(spark)
        assert zips() == [made]
        assert spark.sparkContext._python_includes.count(made.name) == 1
    finally:
        sys.path[:] = path


def test_no_temporary_folder_on_the_driver(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OSError, match=r"the zip of this package cannot be written.*TMPDIR"):
        supply_package(spark)
