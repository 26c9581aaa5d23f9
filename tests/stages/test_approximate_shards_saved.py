"""The structures of approximate shards in saved models: round trips, damage, other layouts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, KNNModel
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.dense

ITEMS = np.random.default_rng(31).normal(size=(400, 5)).astype(np.float32)
SHARDS = 3


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, kind="float", partitions=2).cache()


def fitted(items: DataFrame, algorithm: str = "hnsw", **settings: Any) -> KNNModel:
    known = {"k": 3, "idCol": "id", "placement": "sharded", "numShards": SHARDS, "numReplicas": 1}
    return KNNEstimator(algorithm=algorithm, **{**known, **settings}).fit(items)


def restored(model: KNNModel) -> int:
    return sum(each.reason == "the index was saved" for each in model._index.shards)


@pytest.fixture(scope="module")
def saved(items: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[KNNModel, Path]:
    model, path = fitted(items), tmp_path_factory.mktemp("saved") / "model"
    model.save(path.as_uri())
    return model, path


def test_the_structures_of_all_shards_are_restored(
    saved: tuple[KNNModel, Path], items: DataFrame, tmp_path: Path
) -> None:
    model, path = saved
    loaded = KNNModel.load(path.as_uri())
    assert restored(loaded) == SHARDS
    assert loaded.algorithmReason == model.algorithmReason
    queries = items.limit(20)
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    # A loaded model is saved with its structures, too.
    loaded.save((tmp_path / "again").as_uri())
    assert restored(KNNModel.load((tmp_path / "again").as_uri())) == SHARDS


def test_damaged_or_missing_structures(saved: tuple[KNNModel, Path], tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(saved[1], path)
    rows = saved[0]._index._frame.sparkSession.read.parquet((saved[1] / "index").as_uri()).cache()

    def load_with(frame: DataFrame) -> KNNModel:
        shutil.rmtree(path / "index", ignore_errors=True)
        frame.write.parquet((path / "index").as_uri())
        return KNNModel.load(path.as_uri())

    in_one = (F.col("shard") == 1) & (F.col("name") == "links")
    flipped = F.when(in_one, F.overlay("bytes", F.lit(b"\1\7"), F.lit(1))).otherwise(F.col("bytes"))
    changed = "index: shard 1: array 'links' differs from what was saved.*Delete this folder"
    with pytest.raises(ValueError, match=f"is damaged: .*{changed}"):
        load_with(rows.withColumn("bytes", flipped))
    with pytest.raises(ValueError, match=r"shard 1: .*'links' is missing"):
        load_with(rows.where(~in_one))
    with pytest.raises(ValueError, match="'digest' is missing or has another type"):
        load_with(rows.drop("digest"))
    with pytest.warns(UserWarning, match="lacks the structure of 1 of 3 shards"):
        assert restored(load_with(rows.where("shard != 1"))) == SHARDS - 1
    other = F.when(F.col("shard") == 2, "0").otherwise(F.col("items"))
    with pytest.warns(UserWarning, match="lacks the structure of 1 of 3 shards"):
        assert restored(load_with(rows.withColumn("items", other))) == SHARDS - 1
    shutil.rmtree(path / "index")  # as in models of earlier releases
    assert restored(KNNModel.load(path.as_uri())) == 0


def test_cells_and_items_without_ids(items: DataFrame, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = fitted(items, "ivf", idCol=None, shardBy="kmeans")
    model.save((tmp_path / "cells").as_uri())
    loaded = KNNModel.load((tmp_path / "cells").as_uri())
    assert restored(loaded) == len(model._index.shards)


@pytest.mark.filterwarnings("ignore:idCol 'id' contains duplicates")
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("hnsw", {}),
        ("ivf", {"shardBy": "kmeans"}),
        pytest.param(
            *("ivf", {"idCol": None}), marks=pytest.mark.filterwarnings("ignore:idCol is unset")
        ),
    ],
)
def test_appended_shards_are_restored(
    spark: SparkSession, algorithm: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    # The appended items need float64, those of the fit do not.
    old, new = ITEMS[:300], ITEMS[300:360].astype(np.float64) / 3
    model = fitted(frame_of(spark, old, kind="float", partitions=2), algorithm, **settings)
    model = model.append(frame_of(spark, new, range(1000, 1060)))
    if algorithm == "hnsw":
        model = model.remove([3, 1001]).append(frame_of(spark, new[:2] + 1, (5, 6)))
        assert model._summary.numDuplicates == 2
    model.save((tmp_path / "model").as_uri())
    loaded = KNNModel.load((tmp_path / "model").as_uri())
    assert restored(loaded) == len(model._index.shards) > SHARDS
    assert loaded._summary.numDuplicates == model._summary.numDuplicates
    assert loaded.getNumShards() == model.getNumShards() == loaded._index.num_shards
    queries = frame_of(spark, ITEMS[:30], kind="float")
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    assert "series" not in loaded.items.columns
    if "shardBy" in settings:
        return  # with one more shard in each cell, there would be too many
    again = loaded.append(frame_of(spark, new[:5] + 2, range(2000, 2005)))
    again.save((tmp_path / "again").as_uri())
    twice = KNNModel.load((tmp_path / "again").as_uri())
    assert restored(twice) == len(again._index.shards)
    assert answers(twice.transform(queries)) == answers(again.transform(queries))


def test_too_many_appended_shards_are_divided_anew(items: DataFrame, tmp_path: Path) -> None:
    model = fitted(items.where("id < 100"), "ivf")
    for start in range(100, 100 + 100 * SHARDS, 100):
        model = model.append(items.where(f"id >= {start} and id < {start + 100}"))
    assert model._index.structure_frame(items.sparkSession)
    model = model.append(items.withColumn("id", F.col("id") + 1000).limit(9))
    model.save((tmp_path / "appended").as_uri())
    assert not (tmp_path / "appended" / "index").exists()
    loaded = KNNModel.load((tmp_path / "appended").as_uri())
    assert (loaded.numItems, len(loaded._index.shards)) == (len(ITEMS) + 9, SHARDS)
    assert restored(loaded) == 0
    assert not fitted(items, "brute")._index.structure_frame(items.sparkSession)


def test_damaged_series(items: DataFrame, tmp_path: Path) -> None:
    model = fitted(items.where("id % 2 = 0"), "ivf").append(items.where("id % 2 = 1"))
    model.save((tmp_path / "first").as_uri())
    path = tmp_path / "model"
    shutil.copytree(tmp_path / "first", path)
    saved = items.sparkSession.read.parquet((tmp_path / "first" / "items").as_uri())
    assert {row[0] for row in saved.select("series").distinct().collect()} == {0, 1}

    def load_with(frame: DataFrame) -> KNNModel:
        shutil.rmtree(path / "items", ignore_errors=True)
        frame.write.parquet((path / "items").as_uri())
        return KNNModel.load(path.as_uri())

    with pytest.raises(ValueError, match=r"is damaged: .*index: the items have no column 'series'"):
        load_with(saved.drop("series"))
    for wrong in (F.lit(2), F.lit(None).cast("int")):
        with pytest.raises(ValueError, match=r"'series' must contain integers from 0 to 1"):
            load_with(saved.withColumn("series", F.when(F.col("id") == 7, wrong).otherwise(0)))
    # An item in a shard that it was not in: the shards that differ are built again.
    moved = F.when(F.col("id") == 7, 0).otherwise(F.col("series"))
    with pytest.warns(UserWarning, match="lacks the structure of 2 of 4 shards"):
        assert load_with(saved.withColumn("series", moved)).numItems == len(ITEMS)
    shutil.rmtree(path / "index")
    assert restored(load_with(saved)) == 0
