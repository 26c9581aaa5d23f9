"""Saving and loading: the files, every file system, and errors at load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import Normalizer, SQLTransformer, VectorAssembler

from pyspark_knn import (
    KNNClassificationModel,
    KNNClassifier,
    KNNEstimator,
    KNNModel,
)
from pyspark_knn.engine.spark import compat
from pyspark_knn.persistence import stages
from pyspark_knn.persistence.stages import ModelReader, ModelWriter
from tests.support.frames import Matrix, answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def _data() -> tuple[Matrix, list[int], Matrix]:
    """Items, their ids, and queries."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(30, 2)), rng.permutation(30).tolist(), rng.normal(size=(5, 2))


ITEMS, IDS, QUERIES = _data()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return frame_of(spark, QUERIES)


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    knn = KNNEstimator(k=3, idCol="id", metric="cityblock", algorithm="kd_tree", maxDistance=9.0)
    return knn.fit(frame_of(spark, ITEMS, IDS, partitions=2))


@pytest.fixture(scope="module")
def saved(model: KNNModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model: copy it, do not change it."""
    folder = Path(tmp_path_factory.mktemp("saved")) / "model"
    model.save(folder.as_uri())
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def _edit_metadata(folder: Path, text: str | None = None, **changes: Any) -> None:
    (part,) = (folder / "metadata").glob("part-*")
    metadata = json.loads(part.read_text()) | changes
    part.write_text(json.dumps(metadata) if text is None else text)
    # Otherwise Hadoop's checksum would raise first.
    for checksum in (folder / "metadata").glob(".*.crc"):
        checksum.unlink()


def _parts(folder: Path) -> list[Path]:
    return list((folder / "items").glob("part-*"))


def test_a_loaded_model_is_the_same(
    spark: SparkSession, model: KNNModel, saved: Path, queries: DataFrame
) -> None:
    loaded = KNNModel.load(saved.as_uri())
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    assert loaded.uid == model.uid
    assert repr(loaded) == repr(model)
    assert loaded.explainParams() == model.explainParams()
    assert loaded.ids.tolist() == model.ids.tolist()
    assert loaded.algorithmReason == model.algorithmReason
    assert loaded.placementReason == model.placementReason
    assert loaded.storageReason == model.storageReason
    read = KNNModel.read().load(saved.as_uri())
    assert repr(read) == repr(model)


def test_the_files_of_a_saved_model(spark: SparkSession, saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["items", "metadata"]
    items = spark.read.parquet((saved / "items").as_uri())
    assert dict(items.dtypes) == {
        "position": "bigint",
        "id": "bigint",
        "features": "array<double>",
    }
    rows = sorted(items.collect(), key=lambda row: row.position)
    assert [row.features for row in rows] == ITEMS[np.argsort(IDS)].tolist()
    (part,) = (saved / "metadata").glob("part-*")
    metadata = json.loads(part.read_text())
    assert metadata["class"] == "pyspark_knn.neighbors.KNNModel"
    assert metadata["formatVersion"] == 1
    assert metadata["paramMap"]["algorithm"] == "kd_tree"
    # No pickle: nothing but JSON and Parquet.
    for path in saved.rglob("*"):
        if path.is_file() and path.suffix != ".crc":
            assert path.read_bytes()[:1] in (b"", b"{", b"P"), path


@pytest.mark.dense
def test_counts_of_the_fit_are_saved(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(1, [1.0]), (1, [2.0]), (2, None)]
    items = spark.createDataFrame(rows, "id int, features array<float>")
    with pytest.warns(UserWarning, match="same id as another"):
        model = KNNEstimator(k=1, idCol="id", handleInvalid="skip").fit(items)
    path = (tmp_path / "model").as_uri()
    model.save(path)
    loaded = KNNModel.load(path)
    assert (loaded.numItems, loaded.numSkipped) == (2, 1)
    assert dict(loaded.items.dtypes)["features"] == "array<float>"


def test_a_model_without_ids_is_saved_and_loaded(
    spark: SparkSession, tmp_path: Path, queries: DataFrame
) -> None:
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = KNNEstimator(k=2).fit(frame_of(spark, ITEMS, partitions=3))
    path = (tmp_path / "model").as_uri()
    model.save(path)
    assert answers(KNNModel.load(path).transform(queries)) == answers(model.transform(queries))


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_positions_stay_where_items_have_labels(
    spark: SparkSession, tmp_path: Path, placement: str
) -> None:
    """They name the neighbors and break ties, whatever the labels are."""
    rows = [([float(i // 2), 1.0], float((7 * i) % 3)) for i in range(24)]
    items = spark.createDataFrame(rows, ["features", "label"]).coalesce(1)
    knn = KNNClassifier(k=3, neighborsCol="near", placement=placement)
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = knn.fit(items)
    model.save(str(tmp_path / "model"))
    loaded = KNNClassificationModel.load(str(tmp_path / "model"))
    assert sorted(loaded.transform(items).collect()) == sorted(model.transform(items).collect())
    assert loaded.ids.tolist() == list(range(24))


def test_an_estimator_is_saved_and_loaded(spark: SparkSession, tmp_path: Path) -> None:
    knn = KNNEstimator(k=9, metric="seuclidean", metricParams={"V": np.array([1.0, 2.0])})
    path = (tmp_path / "estimator").as_uri()
    knn.save(path)
    loaded = KNNEstimator.load(path)
    assert loaded.uid == knn.uid
    assert loaded.explainParams() == knn.explainParams()
    assert loaded.getMetricParams() == {"V": [1.0, 2.0]}
    with pytest.raises(FileExistsError, match=r"use write\(\).overwrite\(\).save\(path\)"):
        knn.save(path)
    knn.setK(2).write().overwrite().save(path)
    assert KNNEstimator.load(path).getK() == 2


def test_overwriting_a_model_with_itself_does_not_lose_it(
    spark: SparkSession, copied: Path, model: KNNModel, queries: DataFrame
) -> None:
    path = copied.as_uri()
    with pytest.raises(FileExistsError, match="already contains a saved stage"):
        model.save(path)
    KNNModel.load(path).setK(2).write().overwrite().save(path)
    again = KNNModel.load(path)
    assert again.getK() == 2
    assert answers(again.setK(3).transform(queries)) == answers(model.transform(queries))


def test_pipelines_with_stages_of_mllib_before_and_after(
    spark: SparkSession, tmp_path: Path
) -> None:
    items = spark.createDataFrame(
        [(i, *row) for i, row in enumerate(ITEMS.tolist())], "id int, a double, b double"
    )
    stages = [
        VectorAssembler(inputCols=["a", "b"], outputCol="raw"),
        Normalizer(inputCol="raw", outputCol="features"),
        KNNEstimator(k=2, idCol="id"),
        SQLTransformer(statement="SELECT id, neighbors[1] AS second FROM __THIS__"),
    ]
    pipeline = Pipeline(stages=stages)
    path = (tmp_path / "pipeline").as_uri()
    pipeline.save(path)
    model = Pipeline.load(path).fit(items)
    path = (tmp_path / "model").as_uri()
    model.write().overwrite().save(path)
    model.write().overwrite().save(path)
    loaded = PipelineModel.load(path)
    assert isinstance(loaded.stages[2], KNNModel)
    expected = sorted(map(tuple, model.transform(items).collect()))
    assert sorted(map(tuple, loaded.transform(items).collect())) == expected


class TestLoadRefuses:
    """Damaged or missing files: each error names the cause."""

    def test_a_path_that_does_not_exist(self, spark: SparkSession, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no saved KNNModel exists at"):
            KNNModel.load((tmp_path / "none").as_uri())

    def test_another_class(self, spark: SparkSession, saved: Path) -> None:
        message = (
            r"contains a pyspark_knn.neighbors.KNNModel, not a pyspark_knn.neighbors.KNNEstimator"
        )
        with pytest.raises(ValueError, match=message):
            KNNEstimator.load(saved.as_uri())

    def test_a_newer_format(self, spark: SparkSession, copied: Path) -> None:
        _edit_metadata(copied, formatVersion=2)
        with pytest.raises(ValueError, match=r"has format version 2, but.*saved by a newer"):
            KNNModel.load(copied.as_uri())

    def test_no_items(self, spark: SparkSession, copied: Path) -> None:
        shutil.rmtree(copied / "items")
        with pytest.raises(ValueError, match="is damaged"):
            KNNModel.load(copied.as_uri())

    def test_a_truncated_file(self, spark: SparkSession, copied: Path) -> None:
        for part in _parts(copied):
            part.write_bytes(part.read_bytes()[:-40])
            (part.parent / f".{part.name}.crc").unlink(missing_ok=True)
        with pytest.raises(ValueError, match="is damaged"):
            KNNModel.load(copied.as_uri())

    @pytest.mark.dense
    def test_a_lost_file_among_several(self, spark: SparkSession, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        KNNEstimator(k=1, idCol="id").fit(frame_of(spark, ITEMS)).save(folder.as_uri())
        items = spark.read.parquet((folder / "items").as_uri()).collect()
        shutil.rmtree(folder / "items")
        schema = "position long, id long, features array<double>"
        fewer = spark.createDataFrame(items[:-1], schema)
        fewer.write.parquet((folder / "items").as_uri())
        with pytest.raises(
            ValueError, match=r"is damaged: expected 30 items of dimension 2, got 29"
        ):
            KNNModel.load(folder.as_uri())

    @pytest.mark.parametrize("text", ["not JSON", "", "[]", "{}"])
    def test_invalid_metadata(self, spark: SparkSession, copied: Path, text: str) -> None:
        _edit_metadata(copied, text=text)
        with pytest.raises(ValueError, match="metadata is damaged"):
            KNNModel.load(copied.as_uri())


def test_a_failed_save_leaves_nothing_that_loads(
    spark: SparkSession, model: KNNModel, tmp_path: Path
) -> None:
    """A file has the name of the folder of the items."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "items").write_text("in the way")
    with pytest.raises(Exception, match="items"):
        model.save(folder.as_uri())
    assert not (folder / "metadata").exists()
    with pytest.raises(FileNotFoundError, match="no saved KNNModel exists"):
        KNNModel.load(folder.as_uri())


def test_a_failed_overwrite_keeps_the_old_model(
    spark: SparkSession, model: KNNModel, copied: Path, queries: DataFrame
) -> None:
    """The items cannot be written, because the files that they are rebuilt from were deleted."""
    path = copied.as_uri()
    doomed = _lost_its_files(spark, copied.parent / "other")
    with pytest.raises(Exception, match="part-"):
        doomed.write().overwrite().save(path)
    assert answers(KNNModel.load(path).transform(queries)) == answers(model.transform(queries))
    assert [each.name for each in copied.parent.iterdir()] == ["model"]
    # A successful overwrite leaves no other folder either.
    model.copy({model.k: 1}).write().overwrite().save(path)
    assert KNNModel.load(path).getK() == 1
    KNNEstimator(k=7).write().overwrite().save(path)
    assert KNNEstimator.load(path).getK() == 7
    assert [each.name for each in copied.parent.iterdir()] == ["model"]


def test_a_new_folder_that_cannot_be_moved_into_place(
    spark: SparkSession, model: KNNModel, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, smaller = copied.as_uri(), model.copy({model.k: 1})
    if compat.can_rename(spark):
        rename = compat.rename_folder

        def fail_to_place(session: SparkSession, source: str, target: str) -> bool:
            if "saving" in source:
                raise OSError("no room")
            return rename(session, source, target)

        monkeypatch.setattr(compat, "rename_folder", fail_to_place)
        with pytest.raises(OSError, match="no room"):
            smaller.write().overwrite().save(path)
        assert KNNModel.load(path).getK() == 3
        return

    def fail_to_copy(self: ModelWriter, source: str, target: str) -> None:
        raise OSError("no room")

    monkeypatch.setattr(ModelWriter, "_copy", fail_to_copy)
    with pytest.raises(RuntimeError, match="no room") as caught:
        smaller.write().overwrite().save(path)
    (beside,) = copied.parent.iterdir()
    assert beside.name in str(caught.value)
    assert KNNModel.load(beside.as_uri()).getK() == 1


def _sharded(spark: SparkSession, folder: Path) -> KNNModel:
    knn = KNNEstimator(k=3, idCol="id", placement="sharded", numShards=2)
    knn.fit(frame_of(spark, ITEMS, IDS)).save(folder.as_uri())
    return KNNModel.load(folder.as_uri())


def _lost_its_files(spark: SparkSession, folder: Path) -> KNNModel:
    """A sharded model without shards in memory and without files to rebuild them from."""
    model = _sharded(spark, folder).unpersist()
    shutil.rmtree(folder)
    return model


ALIASES = ["file://{}", "file:{}", "{}", "{}/", "{}/.", "{}/../sh", "//{}", "{}/items", "{}/.."]


def test_a_sharded_model_does_not_overwrite_its_own_files(
    spark: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "sh"
    model = _sharded(spark, folder).unpersist()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(folder)
    given = [alias.format(folder) for alias in ALIASES]
    given += [os.path.relpath(folder), str(tmp_path / "link"), (tmp_path / "models").as_uri()]
    for path in given:
        with pytest.raises(
            ValueError, match=r"cannot be overwritten by the sharded model .*another"
        ):
            model.write().overwrite().save(path)
    (tmp_path / "link").unlink()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    model.write().overwrite().save((tmp_path / "models" / "sh2").as_uri())
    assert KNNModel.load((tmp_path / "models" / "sh2").as_uri()).numItems == 30


def test_a_pipeline_that_deletes_the_files_of_its_stage(
    spark: SparkSession, tmp_path: Path
) -> None:
    """The writer of MLlib's PipelineModel deletes the folder before it saves any stage."""
    path = (tmp_path / "pipeline").as_uri()
    knn = KNNEstimator(k=3, idCol="id", placement="sharded", numShards=2)
    PipelineModel([knn.fit(frame_of(spark, ITEMS, IDS))]).save(path)
    loaded = PipelineModel.load(path)
    loaded.write().overwrite().save(path)  # all shards are in memory
    again = PipelineModel.load(path)
    assert again.stages[0].numItems == 30
    again.stages[0].unpersist()
    with pytest.raises(ValueError, match=r"were deleted.*save a PipelineModel.*a path other than"):
        again.write().overwrite().save(path)


@pytest.mark.parametrize("step", ["_instance", "saved_source"])
def test_a_model_that_is_overwritten_while_it_is_loaded(
    spark: SparkSession,
    model: KNNModel,
    copied: Path,
    queries: DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """Overwrite it once its metadata was read, before and after its files are listed."""
    other = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, -ITEMS, IDS))
    path, place = copied.as_uri(), ModelReader if step == "_instance" else stages
    waiting, plain = [other], getattr(place, step)

    def overwrite_first(*args: Any, **options: Any) -> Any:
        found = plain(*args, **options)
        if waiting:
            waiting.pop().write().overwrite().save(path)
        return found

    monkeypatch.setattr(place, step, overwrite_first)
    found = KNNModel.load(path)
    assert not waiting
    assert found.getK() == 2
    assert answers(found.transform(queries)) == answers(other.transform(queries))
    waiting.extend([model, other, model, other])
    with pytest.raises(ValueError, match="was overwritten during each of 3 attempts to load it"):
        KNNModel.load(path)


@pytest.mark.parametrize("name", ["x[1]", "x{a,b}", "x*", "x?", "x\\y", "x y%20#"])
def test_paths_with_glob_characters(
    spark: SparkSession, model: KNNModel, tmp_path: Path, name: str
) -> None:
    path = str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no saved KNNModel exists"):
        KNNModel.load(path)
    model.save(path)
    (tmp_path / "x1").mkdir()
    with pytest.raises(FileExistsError):
        model.save(path)
    model.write().overwrite().save(path)
    assert KNNModel.load(path).uid == model.uid
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_system_that_python_cannot_see(
    spark: SparkSession, model: KNNModel, queries: DataFrame, tmp_path: Path
) -> None:
    """A viewfs:// mount table over a local folder."""
    if compat.is_connect(spark):
        pytest.skip("the mount table is set in the JVM's own configuration")
    mounts = spark.sparkContext._jsc.hadoopConfiguration()
    mounts.set("fs.viewfs.mounttable.shelf.link./models", tmp_path.as_uri())
    path = "viewfs://shelf/models/ours"
    pipeline = PipelineModel([model])
    pipeline.save(path)
    pipeline.write().overwrite().save(path)
    loaded = PipelineModel.load(path)
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    assert (tmp_path / "ours" / "stages").is_dir()
