"""Saved models that are damaged or foreign: loading raises one error that names the cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyspark_knn import KNNClassificationModel, KNNClassifier, KNNEstimator, KNNModel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = "position long, id long, features array<double>, label double"
ROWS = [(i, 10 * i, [float(i), 1.0], float(i % 2)) for i in range(6)]


@pytest.fixture(scope="module")
def classes(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved classifier with two class names: copy it, do not change it."""
    names = {"ml_attr": {"type": "nominal", "name": "label", "vals": ["no", "yes"]}}
    items = spark.createDataFrame(ROWS, SCHEMA).withMetadata("label", names)
    folder = Path(tmp_path_factory.mktemp("saved")) / "classes"
    KNNClassifier(k=1, idCol="id").fit(items).save(folder.as_uri())
    return folder


@pytest.fixture(scope="module")
def positions(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model without ids."""
    folder = Path(tmp_path_factory.mktemp("saved")) / "positions"
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = KNNEstimator(k=1).fit(spark.createDataFrame(ROWS, SCHEMA).coalesce(1))
    model.save(folder.as_uri())
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "model"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the metadata; a string that `change` returns replaces all of it."""
    (part,) = (folder / "metadata").glob("part-*")
    metadata = json.loads(part.read_text())
    text = change(metadata)
    part.write_text(text if isinstance(text, str) else json.dumps(metadata))
    for checksum in (folder / "metadata").glob(".*.crc"):
        checksum.unlink()


def rewrite(folder: Path, items: DataFrame, *more: DataFrame) -> None:
    shutil.rmtree(folder / "items")
    for frame in (items, *more):
        frame.coalesce(1).write.mode("append").parquet(str(folder / "items"))


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(metadata: dict[str, Any]) -> None:
        for name in path[:-1]:
            metadata = metadata[name]
        del metadata[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(metadata: dict[str, Any]) -> None:
        for name in path[:-1]:
            metadata = metadata[name]
        metadata[path[-1]] = value

    return change


def nested(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata)[:-1] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}"


def nested_param(metadata: dict[str, Any]) -> str:
    metadata["paramMap"]["metricParams"] = {"V": "here"}
    return json.dumps(metadata).replace('"here"', "[" * 700 + "1" + "]" * 700)


def unnamed(metadata: dict[str, Any]) -> None:
    metadata["fit"] |= {"numClasses": 1_000_000, "classNames": None}


UID = "uid must have at most 128 characters, which are letters"
METADATA = {
    "no uid": (drop("uid"), "uid"),
    "no paramMap": (drop("paramMap"), "paramMap"),
    "no defaultParamMap": (drop("defaultParamMap"), "defaultParamMap"),
    "no sparkVersion": (drop("sparkVersion"), "sparkVersion"),
    "no fit": (drop("fit"), "fit"),
    "no numItems": (drop("numItems"), "numItems"),
    "paramMap is a list": (put([], "paramMap"), "paramMap must be an object"),
    "class is a number": (put(1, "class"), "class must be a string"),
    "sparkVersion is a word": (put("four", "sparkVersion"), "sparkVersion.*'four'"),
    "numItems is negative": (put(-6, "numItems"), "numItems must be an integer >= 1, got -6"),
    "numItems is true": (put(True, "numItems"), "numItems must be an integer >= 1, got True"),
    "numFeatures is a word": (put("2", "numFeatures"), "numFeatures must be"),
    "format is infinite": (put(float("inf"), "formatVersion"), "formatVersion.*inf"),
    "format is no number": (put(float("nan"), "formatVersion"), "formatVersion.*nan"),
    "format is huge": (put(10**200, "formatVersion"), "was saved by a newer release"),
    "format is a fraction": (put(1.5, "formatVersion"), "formatVersion.*1.5"),
    "deep nesting": (nested, "metadata is damaged"),
    "deep nesting in a Param": (nested_param, "metricParams"),
    "unknown Param": (put(1, "paramMap", "radius"), "KNNClassificationModel has no Param 'radius'"),
    "a property as a Param": (put(1, "paramMap", "numClasses"), "no Param 'numClasses'"),
    "unknown default": (put(1, "defaultParamMap", "radius"), "no Param 'radius'"),
    "k is a word": (put("5", "paramMap", "k"), "k must be an integer >= 1, got '5'"),
    "leafSize is null": (put(None, "paramMap", "leafSize"), "leafSize must be an integer >= 1"),
    "default leafSize is null": (put(None, "defaultParamMap", "leafSize"), "leafSize must be an"),
    "predictionCol is null": (put(None, "defaultParamMap", "predictionCol"), "predictionCol"),
    "k is huge": (put(10**30, "paramMap", "k"), "k must be at most"),
    "numReplicas": (
        put(200_000, "paramMap", "numReplicas"),
        "numReplicas must be at most",
    ),
    "numShards": (put(10**9, "paramMap", "numShards"), "numShards must be at most"),
    "numClasses": (unnamed, "numClasses must be at most 10000"),
    "numClasses is null": (put(None, "fit", "numClasses"), "numClasses must be an integer >= 2"),
    "numClasses is 1": (put(1, "fit", "numClasses"), "numClasses must be an integer >= 2"),
    "mostFrequentClass": (put(9, "fit", "mostFrequentClass"), "9, but numClasses is"),
    "no numClasses": (drop("fit", "numClasses"), "numClasses must be an integer >= 2"),
    "classNames too short": (put(["no"], "fit", "classNames"), "classNames must have one name"),
    "classNames of numbers": (put([0, 1], "fit", "classNames"), "classNames must be"),
    "numSkipped is negative": (put(-1, "fit", "numSkipped"), "numSkipped must be"),
    "numSkipped is a word": (put("none", "fit", "numSkipped"), "numSkipped must be"),
    "a reason is a number": (put(1, "fit", "algorithmReason"), "algorithmReason must be"),
    "featureNames": (
        put(["a"], "fit", "featureNames"),
        "one name for each of the 2 features, got 1",
    ),
    "thresholds": (put([0.1] * 3, "paramMap", "thresholds"), "thresholds must have one value"),
    "fit is a list": (put([], "fit"), "fit must be an object"),
    "uid leaves the folder": (put("x/../../../../escaped", "uid"), UID),
    "uid climbs": (put("..", "uid"), UID),
    "uid is empty": (put("", "uid"), UID),
    "uid is a pattern": (put("x*", "uid"), UID),
    "uid is long": (put("x" * 300, "uid"), UID),
    "uid is a number": (put(7, "uid"), "uid must be a string"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(spark: SparkSession, classes: Path, tmp_path: Path, name: str) -> None:
    change, message = METADATA[name]
    folder = copy_of(classes, tmp_path)
    edit(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        KNNClassificationModel.load(folder.as_uri())
    assert folder.as_uri() in str(caught.value)
    assert "damaged" in str(caught.value) or "newer release" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unknown_fields_are_ignored(spark: SparkSession, classes: Path, tmp_path: Path) -> None:
    """Unknown fields are ignored, and the nonce, which the first release lacks, is optional."""
    folder = copy_of(classes, tmp_path)
    edit(folder, put(0.98, "fit", "precision"))
    edit(folder, put({}, "trained"))
    edit(folder, drop("nonce"))
    assert KNNClassificationModel.load(folder.as_uri()).labels == ["no", "yes"]


COLUMNS = "position, id, features, label"
ITEMS = {
    "null ids": (
        ["position", "if(id = 0, null, id) id", "features", "label"],
        "id.* contains a null",
    ),
    "no ids": (["position", "features", "label"], "items column 'id' is missing"),
    "no labels": (["position", "id", "features"], "items column 'label' is missing"),
    "no features": (["position", "id", "label"], "items column 'features' is missing"),
    "labels of strings": (
        ["position", "id", "features", "string(label) label"],
        "items column 'label' must be double, got string",
    ),
    "features of strings": (
        ["position", "id", "array('a', 'b') features", "label"],
        r"items column 'features' must be array<double> or array<float>, got array<string>",
    ),
    "ids of arrays": (["position", "array(id) id", "features", "label"], "must be of an atomic"),
    "positions of strings": (
        ["string(position) position", "id", "features", "label"],
        "items column 'position' must be bigint, got string",
    ),
    "a fraction": (["position", "id", "features", "label / 2 label"], "label.* contains 0.5"),
    "a negative": (["position", "id", "features", "label - 1 label"], "label.* contains -1.0"),
    "too many classes": (
        ["position", "id", "features", "label + 1 label"],
        "contains 2.0, but numClasses is 2",
    ),
    "a null label": (["position", "id", "features", "nullif(label, 1) label"], "contains a null"),
    "NaN": (["position", "id", "array(double('NaN'), 1D) features", "label"], "NaN"),
}


@pytest.mark.parametrize("name", ITEMS)
def test_items(spark: SparkSession, classes: Path, tmp_path: Path, name: str) -> None:
    columns, message = ITEMS[name]
    folder = copy_of(classes, tmp_path)
    rewrite(folder, spark.createDataFrame(ROWS, SCHEMA).selectExpr(*columns))
    with pytest.raises(ValueError, match=f"model is damaged: .*{message}"):
        KNNClassificationModel.load(folder.as_uri())


def test_files_of_different_models(spark: SparkSession, classes: Path, tmp_path: Path) -> None:
    frame = spark.createDataFrame(ROWS, SCHEMA)
    some, others = frame.where("id < 30"), frame.where("id >= 30")
    mixed = {
        "no ids": others.drop("id"),
        "ids of another type": others.withColumn("id", others.id.cast("string")),
        "vectors of another type": others.selectExpr("position", "id", "id features", "label"),
    }
    for name, frame in mixed.items():
        folder = copy_of(classes, tmp_path / name)
        rewrite(folder, some, frame)
        with pytest.raises(ValueError, match="is damaged: ") as caught:
            KNNClassificationModel.load(str(folder))
        assert "An error occurred while calling" not in str(caught.value)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("position + 1", "items column 'position' must contain each of 0 to 5 once"),
        ("int(position / 2) * 2", "items column 'position' must contain each of 0 to 5 once"),
        ("nullif(position, 3)", "items column 'position' must contain each of 0 to 5 once"),
        ("-position", "items column 'position' must contain each of 0 to 5 once"),
    ],
)
def test_positions(
    spark: SparkSession, positions: Path, tmp_path: Path, position: str, message: str
) -> None:
    folder = copy_of(positions, tmp_path)
    frame = spark.createDataFrame(ROWS, SCHEMA)
    rewrite(folder, frame.selectExpr(f"bigint({position}) position", "features"))
    with pytest.raises(ValueError, match=f"is damaged: {message}"):
        KNNModel.load(folder.as_uri())


def test_ids_of_a_model_without_id_col(
    spark: SparkSession, positions: Path, tmp_path: Path
) -> None:
    folder = copy_of(positions, tmp_path)
    rewrite(folder, spark.createDataFrame(ROWS, SCHEMA).drop("label"))
    with pytest.raises(ValueError, match="is damaged: items column 'id' exists, but idCol"):
        KNNModel.load(folder.as_uri())


def test_a_stage_that_could_not_be_loaded_is_not_saved(spark: SparkSession, tmp_path: Path) -> None:
    knn = KNNEstimator()
    knn._resetUid("x/../../escaped")
    with pytest.raises(ValueError, match=UID):
        knn.save((tmp_path / "knn").as_uri())
    for uid in ("KNNEstimator_0a1b2c", "my-model.v2", "modèle_7"):
        named = KNNEstimator()
        named._resetUid(uid)
        named.write().overwrite().save((tmp_path / "named").as_uri())
        assert KNNEstimator.load((tmp_path / "named").as_uri()).uid == uid
    with pytest.raises(ValueError, match="numReplicas must be at most"):
        KNNEstimator(numReplicas=200_000).save((tmp_path / "knn").as_uri())
    assert not (tmp_path / "knn").exists()
