"""Items whose vectors are stored sparse: fitted, searched, shown, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import SparseVector, Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DIM = 300
PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 3},
}
placed = pytest.mark.parametrize("placement", PLACEMENTS)


def _matrix(rows: int, seed: int) -> np.ndarray:
    """Rows of about four values, which often share a feature; one row of zeros."""
    random = np.random.default_rng(seed)
    matrix = np.zeros((rows, DIM))
    at = np.minimum(random.zipf(1.3, (rows, 4)), DIM) - 1
    matrix[np.arange(rows)[:, None], at] = random.integers(1, 9, (rows, 4)) / 8
    matrix[3] = 0
    return matrix


ITEMS, QUERIES = _matrix(60, 0), _matrix(15, 1)
IDS = np.random.default_rng(2).permutation(1000)[:60].tolist()


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    """Dense and sparse vectors in one column."""
    return frame_of(spark, ITEMS, IDS, kind="mixed", partitions=3).cache()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return frame_of(spark, QUERIES, kind="mixed").cache()


def _in_python(frame: DataFrame, key: str) -> dict[Any, Any]:
    """The features of each row, by a column."""
    return {row[key]: row.features for row in frame.select(key, "features").collect()}


# --- fit and search ---


@placed
@pytest.mark.parametrize(
    ("metric", "dtype"), [("cosine", "float64"), ("euclidean", "float32"), ("dice", "float32")]
)
@pytest.mark.filterwarnings("ignore:metric 'dice' compares sets")
def test_the_answers_are_those_of_dense_storage(
    spark: SparkSession, queries: DataFrame, placement: str, metric: str, dtype: str
) -> None:
    """To the last bit, whatever the kinds of vectors in the columns."""
    matrix = ITEMS / 10 if dtype == "float64" else ITEMS
    frame = frame_of(spark, matrix, IDS, kind="mixed", partitions=2)
    found = {}
    for storage in ("dense", "sparse"):
        knn = KNNEstimator(k=4, idCol="id", metric=metric, storage=storage)
        model = knn.setParams(**PLACEMENTS[placement]).fit(frame)
        assert (model.getStorage(), model.numItems, model.numFeatures) == (storage, 60, DIM)
        assert dtype in model.placementReason
        found[storage] = answers(model.transform(queries))
    assert found["sparse"] == found["dense"]


@placed
def test_positions_are_ids_without_id_col(
    items: DataFrame, queries: DataFrame, placement: str
) -> None:
    ordered = items.coalesce(1)
    dense, sparse = (
        KNNEstimator(k=3, metric="cosine", storage=storage, neighborsCol="n", distancesCol="d")
        for storage in ("dense", "sparse")
    )
    with pytest.warns(UserWarning, match="idCol is unset"):
        models = [each.setParams(**PLACEMENTS[placement]).fit(ordered) for each in (dense, sparse)]
    first, second = (answers(each.transform(queries), "n", "d") for each in models)
    assert first == second


@placed
def test_labels_and_weights_go_with_their_vectors(
    items: DataFrame, queries: DataFrame, placement: str
) -> None:
    labeled = items.withColumn("label", F.col("id") % 3).withColumn("mass", F.col("id") % 5)
    for stage in (
        KNNClassifier(k=3, idCol="id", weightCol="mass", rawPredictionCol="out"),
        KNNRegressor(k=3, idCol="id", weightCol="mass", weights="distance", predictionCol="out"),
    ):
        found = []
        for storage in ("dense", "sparse"):
            model = stage.setParams(storage=storage, **PLACEMENTS[placement]).fit(labeled)
            found.append({row.id: row.out for row in model.transform(queries).collect()})
        assert found[0] == found[1]


@placed
def test_equal_ids_are_separate_items(
    spark: SparkSession, queries: DataFrame, placement: str
) -> None:
    """A lost shard must be built again as it was, so the order of equal ids is defined."""
    frame = frame_of(spark, ITEMS, [n % 7 for n in range(60)], kind="sparse", partitions=4)
    found = []
    for storage in ("dense", "sparse"):
        knn = KNNEstimator(k=5, idCol="id", storage=storage)
        with pytest.warns(UserWarning, match="53 items have the same id"):
            model = knn.setParams(**PLACEMENTS[placement]).fit(frame)
        found.append(answers(model.transform(queries)))
    assert found[0] == found[1]


@placed
def test_invalid_items_are_skipped_or_refused(
    spark: SparkSession, queries: DataFrame, placement: str
) -> None:
    cells = [
        Vectors.sparse(DIM, {1: 1.0}),
        Vectors.sparse(DIM, {1: 1.0, 7: float("nan")}),
        Vectors.dense([float("inf")] + [0.0] * (DIM - 1)),
        None,
        Vectors.sparse(DIM, {1: 1.0, 2: 0.0}),
    ]
    schema = T.StructType([T.StructField("id", T.LongType()), T.StructField("v", VectorUDT())])
    frame = spark.createDataFrame(list(enumerate(cells)), schema).withColumnRenamed("v", "features")
    knn = KNNEstimator(k=2, idCol="id", storage="sparse", handleInvalid="skip")
    model = knn.setParams(**PLACEMENTS[placement]).fit(frame)
    assert (model.numItems, model.numSkipped) == (2, 3)
    assert {tuple(row.neighbors) for row in model.transform(queries).collect()} == {(0, 4)}
    with pytest.raises(ValueError, match="featuresCol 'features' contains a"):
        knn.setHandleInvalid("error").fit(frame)


@placed
def test_the_largest_dimension(spark: SparkSession, placement: str) -> None:
    """Nothing has as many numbers as there are features."""
    size = 2**31 - 1
    cells = [{0: 1.0}, {0: 1.0, size - 1: 1.0}, {5: 1.0}]
    rows = [(n, Vectors.sparse(size, cell)) for n, cell in enumerate(cells)]
    frame = spark.createDataFrame(rows, ["id", "features"])
    model = KNNEstimator(k=3, idCol="id", metric="cosine", **PLACEMENTS[placement]).fit(frame)
    assert (model.getStorage(), model.numFeatures) == ("sparse", size)
    found = answers(model.transform(frame))
    assert [[n for n, _ in each] for each in found] == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]
    assert found[0][1][1] == pytest.approx(1 - 0.5**0.5)
    assert found[2][1:] == [(0, 1.0), (1, 1.0)]


# --- the choice ---


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of "auto", also in a run with --sparse."""
    monkeypatch.setattr("pyspark_knn.engine.storing.MIN_FEATURES", 256)
    monkeypatch.setattr("pyspark_knn.engine.storing.SPARSE_SHARE", 16)


@pytest.mark.usefixtures("usual")
def test_auto_counts_the_stored_values(
    spark: SparkSession, items: DataFrame, queries: DataFrame
) -> None:
    knn = KNNEstimator(k=2, idCol="id", metric="cosine")
    sparse = knn.fit(frame_of(spark, ITEMS, IDS, kind="sparse"))
    assert sparse.getStorage() == "sparse"
    stored = np.count_nonzero(ITEMS) / 60
    assert f"{stored:.1f} of 300 values" in sparse.storageReason
    assert "sparse float32" in sparse.placementReason
    assert "storage=sparse" in repr(sparse)
    # Arrays are dense, however many of their values are 0.
    dense = knn.fit(frame_of(spark, ITEMS, IDS, kind="double"))
    assert dense.getStorage() == "dense"
    assert "300.0 of 300 values" in dense.storageReason
    assert "storage=dense" in repr(dense)
    assert answers(sparse.transform(queries)) == answers(dense.transform(queries))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metric": "cityblock"}, "metric 'cityblock' requires dense vectors"),
        ({"algorithm": "kd_tree"}, "algorithm 'kd_tree' requires dense vectors"),
        (
            {"placement": "sharded", "numShards": 2, "shardBy": "kmeans"},
            "shardBy 'kmeans' requires dense vectors",
        ),
        ({"storage": "dense"}, "storage 'dense' was requested"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_auto_is_dense_where_sparse_is_not_supported(
    spark: SparkSession, options: dict[str, Any], reason: str
) -> None:
    model = KNNEstimator(idCol="id", **options).fit(frame_of(spark, ITEMS, IDS, kind="sparse"))
    assert model.getStorage() == "dense"
    assert model.storageReason.startswith(reason)


@pytest.mark.usefixtures("usual")
def test_few_features_are_dense(spark: SparkSession) -> None:
    model = KNNEstimator(k=1, idCol="id").fit(frame_of(spark, np.eye(100), kind="sparse"))
    assert model.getStorage() == "dense"
    assert "1.0 of 100 values" in model.storageReason
    assert "fewer than 256 features" in model.storageReason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": "cityblock"},
            r"storage 'sparse' does not support metric 'cityblock'\. Supported: cosine, dice, "
            "euclidean",
        ),
        ({"metric": "minkowski", "p": 3.0}, "storage 'sparse' does not support metric 'minkowski'"),
        (
            {"algorithm": "kd_tree"},
            "algorithm 'kd_tree' does not support metric 'euclidean' with storage 'sparse'",
        ),
        ({"shardBy": "kmeans"}, "storage 'sparse' does not support shardBy 'kmeans'"),
    ],
)
def test_sparse_that_is_not_supported_is_refused_before_data_is_read(
    spark: SparkSession, options: dict[str, Any], message: str
) -> None:
    unread = spark.range(3).select("id", F.raise_error(F.lit("read")).alias("features"))
    knn = KNNEstimator(idCol="id", storage="sparse", **options)
    for fit in (knn.fit, lambda frame: list(knn.fitMultiple(frame, [{knn.k: 1}]))):
        with pytest.raises(ValueError, match=message):
            fit(unread)


def test_storage_of_a_model_is_fixed(items: DataFrame) -> None:
    model = KNNEstimator(k=1, idCol="id", storage="sparse").fit(items)
    with pytest.raises(ValueError, match="storage cannot be changed on a fitted KNNModel"):
        model.set(model.storage, "dense")


def test_grids_over_storage(items: DataFrame, queries: DataFrame) -> None:
    knn = KNNEstimator(k=2, idCol="id")
    maps = [{knn.storage: "dense"}, {knn.storage: "sparse"}, {knn.storage: "sparse", knn.k: 1}]
    models = dict(knn.fitMultiple(items, maps))
    assert [models[n].getStorage() for n in range(3)] == ["dense", "sparse", "sparse"]
    first, second, third = (answers(models[n].transform(queries)) for n in range(3))
    assert first == second
    assert third == [each[:1] for each in second]


# --- shown, saved and loaded ---


@placed
def test_items_are_mllib_vectors(items: DataFrame, placement: str) -> None:
    model = KNNEstimator(k=1, idCol="id", storage="sparse", **PLACEMENTS[placement]).fit(items)
    assert model.items.schema["features"].dataType == VectorUDT()
    found = _in_python(model.items, "id")
    assert all(isinstance(vector, SparseVector) for vector in found.values())
    assert {key: vector.toArray().tolist() for key, vector in found.items()} == dict(
        zip(IDS, ITEMS.tolist(), strict=True)
    )
    assert sum(len(vector.values) for vector in found.values()) == np.count_nonzero(ITEMS)
    assert sorted(model.ids.tolist()) == sorted(IDS)


@placed
@pytest.mark.parametrize("named", [True, False], ids=["ids", "positions"])
@pytest.mark.filterwarnings("ignore:idCol is unset")
def test_a_saved_model_loads_and_answers_alike(
    spark: SparkSession,
    items: DataFrame,
    queries: DataFrame,
    tmp_path: Path,
    placement: str,
    named: bool,
) -> None:
    knn = KNNEstimator(k=3, metric="cosine", storage="sparse", idCol="id" if named else None)
    model = knn.setParams(**PLACEMENTS[placement]).fit(items.coalesce(1))
    path = (tmp_path / "model").as_uri()
    model.save(path)
    saved = spark.read.parquet(f"{path}/items")
    assert saved.schema["features"].dataType == VectorUDT()
    assert saved.count() == 60
    loaded = KNNModel.load(path)
    assert repr(loaded) == repr(model)
    assert loaded.storageReason == model.storageReason
    assert "storage 'sparse' was requested" in loaded.storageReason
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))


def test_saved_items_of_the_other_storage_are_damaged(items: DataFrame, tmp_path: Path) -> None:
    folders = {}
    for storage in ("dense", "sparse"):
        folders[storage] = tmp_path / storage
        model = KNNEstimator(k=1, idCol="id", storage=storage).fit(items)
        model.save(folders[storage].as_uri())
    (folders["dense"] / "items").rename(tmp_path / "arrays")
    (folders["sparse"] / "items").rename(folders["dense"] / "items")
    (tmp_path / "arrays").rename(folders["sparse"] / "items")
    for storage, wanted in (("dense", "array<double> or array<float>"), ("sparse", "vector")):
        with pytest.raises(ValueError, match=f"items column 'features' must be {wanted}, got"):
            KNNModel.load(folders[storage].as_uri())


# --- memory ---


def test_items_too_large_for_the_driver_say_what_they_need(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placing.available_memory", lambda: 1 << 10)
    frame = frame_of(spark, ITEMS, IDS, kind="sparse")
    size = "60 items of 300 dimensions in sparse float32 take 0.00 GiB"
    with pytest.raises(ValueError, match=f"placement 'replicated' needs too much memory: {size}"):
        KNNEstimator(idCol="id", placement="replicated", storage="sparse").fit(frame)
    model = KNNEstimator(idCol="id", storage="sparse").fit(frame)
    assert model.getPlacement() == "sharded"
    assert size in model.placementReason
