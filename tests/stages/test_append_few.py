"""Few items that are appended to a sharded model: one task packs them and builds their shards."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassifier, KNNEstimator
from pyspark_knn.engine.shards import appending
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.plans import is_small_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import DataFrame, SparkSession

OLD, NEW = 60, 30
KINDS: dict[str, dict[str, Any]] = {
    "hash": {"numShards": 3},
    "sparse": {"numShards": 2, "storage": "sparse"},
    "kmeans": {"numShards": 3, "shardBy": "kmeans"},
    "keys": {"numShards": 3, "keyCols": "key"},
}
WAYS = ("at once", "too many", "other plan")

pytestmark = pytest.mark.filterwarnings("ignore:idCol.*:UserWarning")


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> Iterator[DataFrame]:
    """Items on a lattice, full of ties and duplicate ids, in two partitions."""
    rng = np.random.default_rng(9)
    vectors = rng.integers(-2, 3, (OLD + NEW, 3)).astype(float)
    vectors[-1] /= 3
    ids, keys = rng.integers(0, 70, OLD + NEW), rng.integers(0, 4, OLD + NEW)
    columns = (range(OLD + NEW), ids.tolist(), vectors.tolist(), keys.tolist())
    rows = list(zip(*columns, strict=True))
    schema = "n int, id long, features array<double>, key int"
    frame = spark.createDataFrame(rows, schema).persist()
    frame.count()
    yield frame
    frame.unpersist()


@pytest.fixture(scope="module")
def old(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") < OLD)


@pytest.fixture(scope="module")
def new(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") >= OLD)


@pytest.fixture
def classic(spark: SparkSession) -> SparkSession:
    if compat.is_connect(spark):
        pytest.skip("a client of Spark Connect sees no plan")
    return spark


@pytest.fixture
def packed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many rows the tasks have read that pack few items."""
    notes = tmp_path / "rows"
    noted = functools.partial(_note, str(notes), appending.pack_and_build)
    monkeypatch.setattr(appending, "pack_and_build", noted)
    return lambda: sum(map(int, notes.read_text().split())) if notes.exists() else 0


def _note(path: str, run: Any, request: Any, batches: Any) -> Any:
    """In a worker: note the rows of each batch."""

    def noted() -> Any:
        for batch in batches:
            note = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(note, f"{batch.num_rows}\n".encode())
            os.close(note)
            yield batch

    return run(request, noted())


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `append` take one of `WAYS`."""
    if way == "too many":
        monkeypatch.setattr(appending, "_MOST_PACKED", 100)
    if way == "other plan":
        monkeypatch.setattr(appending, "_FEW_BYTES", -1)


def found(model: Any, queries: DataFrame) -> list[Any]:
    chosen = model.transform(queries.select("n", "features", "key"))
    return sorted(chosen.collect(), key=lambda row: row.n)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_a_fit(
    classic: SparkSession,
    data: DataFrame,
    old: DataFrame,
    new: DataFrame,
    kind: str,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
    packed_at_once: Callable[[], int],
) -> None:
    knn = KNNEstimator(k=5, idCol="id", placement="sharded", **KINDS[kind])
    first = knn.fit(old)
    take(way, monkeypatch)
    both = first.append(new)
    assert packed_at_once() == {"at once": NEW, "too many": NEW, "other plan": 0}[way]
    one = knn.copy()._set(placement="replicated").fit(data)
    assert found(both, data) == found(one, data)
    assert both._summary.numDuplicates == one._summary.numDuplicates > 0
    series = both._index._series[-1]
    assert (series.first, series.count) == (
        3 if kind != "sparse" else 2,
        3 if kind == "kmeans" else 1,
    )
    assert series.dtype == np.float64
    # A second append, and removal of items of each.
    more = new.withColumn("id", F.col("id") + 1000)
    again = both.append(more).remove([row.id for row in new.limit(4).collect()])
    union = one.append(more).remove([row.id for row in new.limit(4).collect()])
    assert found(again, data) == found(union, data)
    items = [each.items.select("id", "features").collect() for each in (again, union)]
    assert sorted(items[0], key=str) == sorted(items[1], key=str)


def test_few_items_take_few_jobs(
    classic: SparkSession, old: DataFrame, new: DataFrame, tmp_path: Path
) -> None:
    model = KNNEstimator(idCol="id", placement="sharded", numShards=2).fit(old)
    new.write.parquet(str(tmp_path / "new"))
    tracker = classic.sparkContext.statusTracker()
    files = classic.read.parquet(str(tmp_path / "new"))
    later = new.withColumn("id", F.col("id") + 1000)
    # One job packs the items and builds their shard, another one looks for their ids unless they
    # come after all old ones. Spark 3.5 runs one more of the first kind. Packing first, and then
    # building, takes five.
    for name, items, most in [("rows", new, 3), ("files", files, 3), ("later", later, 2)]:
        classic.sparkContext.setJobGroup(f"few_{name}", "append")
        try:
            model.append(items)
        finally:
            classic.sparkContext._jsc.clearJobGroup()
        assert len(tracker.getJobIdsForGroup(f"few_{name}")) <= most


def test_rejected_items_are_freed(classic: SparkSession, old: DataFrame, new: DataFrame) -> None:
    knn = KNNClassifier(idCol="id", labelCol="key", placement="sharded", numShards=2)
    declared = {"ml_attr": {"type": "nominal", "num_vals": 4}}
    model = knn.fit(old.withMetadata("key", declared))
    before = set(classic.sparkContext._jsc.getPersistentRDDs())
    for items, match in {
        new.withColumn("features", F.array(F.lit(1.0))): "a vector of dimension 1 instead of 3",
        new.withColumn("id", F.lit(None).cast("long")): "idCol 'id' contains a null",
        new.withColumn("key", F.lit(7)): "label 7, but the metadata at fit declared 4 classes",
    }.items():
        with pytest.raises(ValueError, match=match):
            model.append(items)
    none = model.append(new.where("n < 0"))
    assert none.numItems == OLD
    skipping = model.copy().setHandleInvalid("skip")
    none = skipping.append(new.withColumn("features", F.lit(None).cast("array<double>")))
    assert (none.numItems, none.numSkipped) == (OLD, NEW)
    # Those of models of other tests may be freed meanwhile.
    assert set(classic.sparkContext._jsc.getPersistentRDDs()) <= before


def test_a_small_scan(classic: SparkSession, data: DataFrame, tmp_path: Path) -> None:
    path = str(tmp_path / "items")
    data.write.parquet(path)
    files = classic.read.parquet(path)
    twice = F.udf(lambda value: 2 * value, T.LongType())
    lazy = files.where("n > 4").persist()
    frames = {
        "persisted": data,
        "filter": data.where("n > 3").select("id", (F.col("n") + 1).alias("n")),
        "files": files.where("n > 3"),
        "not computed yet": lazy.select("id"),
        "python": data.select(twice("id")),
        "shuffle": data.repartition(2),
        "join": data.join(files, "id"),
        "limit": data.limit(3),
        "query": data.where("n > (SELECT max(id) FROM range(3))"),
        "vectors": data.select(vector_to_array(array_to_vector("features"))),
        "rdd": classic.createDataFrame(data.rdd, data.schema),
    }
    small = {name for name, frame in frames.items() if is_small_scan(frame, 1 << 20)}
    assert small == {"persisted", "filter", "files"}
    assert not is_small_scan(data, 100)
    lazy.unpersist()
