"""How `fit` reads the items, and what it leaves persisted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import StorageLevel
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator
from pyspark_knn.engine import storing
from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import item_source
from pyspark_knn.engine.sharded import Sharded
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def _watched(frame: DataFrame, note: Path) -> DataFrame:
    """The same rows; whenever a batch is computed, its number of rows is written to `note`."""
    path = str(note)

    def count(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            with open(path, "a") as file:
                file.write(f"{batch.num_rows}\n")
            yield batch

    return frame.mapInArrow(count, frame.schema)


def test_the_input_is_read_once(
    spark: SparkSession, rng: np.random.Generator, tmp_path: Path
) -> None:
    items = _watched(frame_of(spark, rng.normal(size=(200, 3)), partitions=3), tmp_path / "read")
    model = KNNEstimator(idCol="id").fit(items)
    read = [int(line) for line in (tmp_path / "read").read_text().split()]
    assert sum(read) == 200
    model.transform(frame_of(spark, np.zeros((1, 3)))).collect()
    assert len((tmp_path / "read").read_text().split()) == len(read)


def test_nothing_stays_persisted(spark: SparkSession) -> None:
    items = frame_of(spark, np.eye(3))
    before = _persisted(spark)
    KNNEstimator(k=1, idCol="id").fit(items)
    with pytest.raises(ValueError, match="featuresCol"):
        KNNEstimator(idCol="id").fit(items.selectExpr("id", "array(double('NaN')) AS features"))
    assert items.storageLevel == StorageLevel.NONE
    assert _persisted(spark) <= before


def test_nothing_stays_persisted_after_a_failed_build_of_shards(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(frame: DataFrame, **_: bool) -> None:
        frame.count()
        raise KeyboardInterrupt

    monkeypatch.setattr("pyspark_knn.engine.shards.jobs.summaries_of", fail)
    before = _persisted(spark)
    with pytest.raises(KeyboardInterrupt):
        KNNEstimator(idCol="id", placement="sharded").fit(frame_of(spark, np.eye(3)))
    assert _persisted(spark) <= before


def test_fits_of_equal_items_at_once_do_not_free_each_others_chunks(
    spark: SparkSession, rng: np.random.Generator
) -> None:
    items = frame_of(spark, rng.normal(size=(20, 2)))
    with _packed(items) as packed:
        with _packed(items) as other:
            assert other.num_items == 20
        assert packed.frame.storageLevel.useMemory


def _packed(items: DataFrame, *, named: bool = False, **sizes: int) -> PackedItems:
    declared = [ItemColumn("id", "idCol", "id", kind="id")] if named else []
    source = item_source(items, "features", declared, "error", "auto")
    return PackedItems(items, source, **sizes)


def _persisted(spark: SparkSession) -> set[int]:
    """The ids of persisted RDDs; empty for Spark Connect, whose clients cannot see them."""
    if not hasattr(spark, "_jsparkSession"):
        return set()
    return set(spark.sparkContext._jsc.getPersistentRDDs())


def test_chunks_are_fetched_in_slices_and_sorted(
    spark: SparkSession, rng: np.random.Generator
) -> None:
    """Chunks and slices are small here, so that there are many of both."""
    items = rng.integers(-50, 50, (400, 3)).astype(np.float64)
    items[::3, 1] = 0.1  # some chunks are float64, and sparse vectors among dense ones
    ids = rng.permutation(400).tolist()
    frame = frame_of(spark, items, ids, kind="mixed", partitions=5)
    with _packed(frame, named=True, chunk_bytes=500, slice_bytes=4_000) as packed:
        assert len(packed.chunks) > 10
        assert sum(chunk.size for chunk in packed.chunks) > 2 * 4_000
        found, matrix, _ = packed.gather("dense")
        _, sparse, _ = packed.gather("sparse")
    assert found.columns["id"].to_pylist() == list(range(400))
    np.testing.assert_array_equal(matrix, items[np.argsort(ids)])
    np.testing.assert_array_equal(sparse.dense(), matrix)
    assert (sparse.dtype, sparse.size) == (matrix.dtype, np.count_nonzero(matrix))


def _changing(spark: SparkSession, what: str) -> DataFrame:
    """40 items whose `what` changes whenever they are computed."""

    def change(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        random = np.random.default_rng()
        for batch in batches:
            ids = batch.column(0).to_numpy()
            vectors = np.repeat(ids.astype(float), 2)
            if what == "rows":
                # The number of rows may equal that of the other reading, or not.
                ids = ids[random.random(len(ids)) < 0.5]
                vectors = vectors[: 2 * len(ids)]
            elif what == "vectors":
                vectors = random.normal(size=2 * len(ids))
            elif what == "ids":
                ids = random.integers(0, 1 << 40, len(ids))
            elif what == "order":
                ids = random.permutation(ids)
                vectors = np.repeat(ids.astype(float), 2)
            ends = np.arange(len(ids) + 1, dtype=np.int32) * 2
            yield pa.RecordBatch.from_arrays(
                [pa.array(ids), pa.ListArray.from_arrays(ends, vectors)], ["id", "features"]
            )

    return spark.range(0, 40, 1, 2).mapInArrow(change, "id long, features array<double>")


@pytest.mark.parametrize(
    ("what", "slices", "named"),
    [
        ("rows", "one slice", True),
        ("rows", "one slice", False),
        ("vectors", "one slice", True),
        ("vectors", "several slices", False),
        ("ids", "several slices", True),
        ("order", "several slices", True),
        ("nothing", "several slices", True),
    ],
)
def test_items_that_change_between_readings_are_refused(
    spark: SparkSession, slices: str, named: bool, what: str
) -> None:
    """If persisted chunks are lost, items that are not deterministic may have other rows."""
    sizes = {"chunk_bytes": 100, "slice_bytes": 400} if slices == "several slices" else {}
    with _packed(_changing(spark, what), named=named, **sizes) as packed:
        packed.frame.unpersist(blocking=True)
        if what == "nothing":
            assert packed.gather("dense")[1][:, 0].tolist() == list(range(40))
            return
        with pytest.raises(RuntimeError, match=r"items DataFrame is not deterministic.*Persist"):
            packed.gather("dense")


@pytest.mark.parametrize("what", ["rows", "vectors", "ids", "order", "nothing"])
def test_shards_of_items_that_change_between_readings_are_refused(
    spark: SparkSession, what: str
) -> None:
    """Another order alone is allowed: a shuffle has it after an executor was lost."""
    with _packed(_changing(spark, what), named=True) as packed:
        packed.frame.unpersist(blocking=True)
        spec = IndexSpec(resolve_metric("euclidean"))
        if what in ("order", "nothing"):
            assert Sharded.build(packed, spec, "dense", 2).num_items == 40
            return
        with pytest.raises(Exception, match="items DataFrame is not deterministic"):
            Sharded.build(packed, spec, "dense", 2)


def _hashed(spark: SparkSession, rows: int, dim: int, stored: int) -> DataFrame:
    """Sparse vectors as HashingTF and IDF make them."""
    places = f"transform(sequence(1, {stored}), i -> int(i * 7 + id % 13))"
    values = f"transform(sequence(1, {stored}), i -> i / 10D)"
    vector = f"named_struct('type', 0Y, 'size', {dim}, 'indices', {places}, 'values', {values})"
    schema = T.StructType(
        [T.StructField("id", T.LongType()), T.StructField("features", VectorUDT())]
    )
    plain = spark.range(0, rows, 1, 2).selectExpr("id", f"{vector} AS features")
    return plain.mapInArrow(lambda batches: batches, schema)


@pytest.mark.parametrize("placement", ["auto", "replicated", "sharded"])
def test_wide_sparse_items_are_refused_before_they_are_made_dense(
    spark: SparkSession, placement: str
) -> None:
    items = _hashed(spark, 3376, 1 << 18, 14)
    for options, ways in (
        ({"storage": "dense"}, ["storage='sparse'"]),
        ({"metric": "cityblock"}, ["Metric 'cityblock'", "supports cosine, dice, euclidean"]),
        ({"algorithm": "kd_tree"}, ["Algorithm 'kd_tree'"]),
    ):
        knn = KNNEstimator(idCol="id", placement=placement, **options)
        with pytest.raises(ValueError, match=r"featuresCol 'features' .* 3,376 items") as raised:
            knn.fit(items)
        text = str(raised.value)
        assert "would grow from 0.6 MiB to 6.59 GiB" in text
        assert "of 262,144 dimensions" in text
        for way in (*ways, "numFeatures of HashingTF", "vocabSize", "PCA", "vector_to_array"):
            assert way in text


def test_sparse_items_that_are_few_or_grow_little_are_accepted(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    knn = KNNEstimator(k=1, idCol="id", storage="dense")
    assert knn.fit(_hashed(spark, 10, 1 << 18, 14)).numItems == 10
    monkeypatch.setattr(storing, "GROWN_BYTES", 1000)
    # A one-hot of 400 categories beside a few numbers.
    assert knn.fit(_hashed(spark, 20, 420, 6)).numItems == 20
    with pytest.raises(ValueError, match="if they were stored dense"):
        knn.fit(_hashed(spark, 20, 42_000, 6))


def test_fit_does_not_change_the_estimator(spark: SparkSession) -> None:
    knn = KNNEstimator(k=2, idCol="id")
    before = knn.explainParams()
    first, second = (knn.fit(frame_of(spark, np.eye(n))) for n in (3, 4))
    assert knn.explainParams() == before
    assert (first.uid, second.uid) == (knn.uid, knn.uid)
    assert (first.numItems, second.numItems) == (3, 4)


def test_param_maps(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[0.0], [3.0]]))
    knn = KNNEstimator(k=1, idCol="id")
    one, two = knn.fit(items, [{knn.metric: "sqeuclidean"}, {knn.k: 2}])
    queries = frame_of(spark, np.array([[5.0]]))
    assert answers(one.transform(queries)) == [[(1, 4.0)]]
    assert answers(two.transform(queries)) == [[(1, 2.0), (0, 5.0)]]


def test_workers_exclude_their_imports_from_garbage_collection(
    spark: SparkSession,
) -> None:
    """Spark's daemon collects garbage after each task, while the next one waits for the worker."""

    def report(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import gc

        for _ in batches:
            yield pa.RecordBatch.from_pydict({"objects": [gc.get_freeze_count()]})

    KNNEstimator(idCol="id").fit(frame_of(spark, np.eye(8), partitions=4))
    rows = spark.range(0, 8, 1, 8).mapInArrow(report, "objects long").collect()
    assert max(row.objects for row in rows) > 1000
