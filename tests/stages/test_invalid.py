"""Invalid input: a clear error, or the documented behavior."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame, SparkSession

    from pyspark_knn import KNNModel

NAN, INF = float("nan"), float("inf")

# What is wrong with a cell -> the cell, and the words of the error.
BAD_ARRAYS: dict[str, tuple[Any, str]] = {
    "null": (None, "a null"),
    "null element": ([1.0, None], "a NaN (or a null element)"),
    "NaN": ([NAN, 1.0], "a NaN (or a null element)"),
    "infinity": ([1.0, -INF], "an infinity"),
    "too long": ([1.0, 2.0, 3.0], "dimension"),
    "empty": ([], "dimension"),
}
BAD_VECTORS: dict[str, tuple[Any, str]] = {
    "null": (None, "a null"),
    "NaN": (Vectors.dense([NAN, 1.0]), "a NaN (or a null element)"),
    "sparse infinity": (Vectors.sparse(2, {1: INF}), "an infinity"),
    "too long": (Vectors.sparse(3, {0: 1.0}), "dimension"),
}
CASES = [
    *(
        pytest.param("array<double>", *case, id=f"array-{name}")
        for name, case in BAD_ARRAYS.items()
    ),
    *(pytest.param("vector", *case, id=f"vector-{name}") for name, case in BAD_VECTORS.items()),
]


def _frame(spark: SparkSession, kind: str, cells: list[Any]) -> DataFrame:
    features: T.DataType = VectorUDT() if kind == "vector" else T.ArrayType(T.DoubleType())
    fields = [T.StructField("id", T.LongType()), T.StructField("features", features)]
    return spark.createDataFrame(list(enumerate(cells)), T.StructType(fields))


def _good(kind: str, *values: float) -> Any:
    return Vectors.dense(values) if kind == "vector" else list(values)


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    return KNNEstimator(k=1, idCol="id").fit(frame_of(spark, np.array([[0.0, 0.0], [5.0, 0.0]])))


class TestRows:
    """A vector is null, holds null, NaN or infinity, or is of another dimension."""

    @pytest.mark.parametrize(("kind", "bad", "words"), CASES)
    def test_items(self, spark: SparkSession, kind: str, bad: Any, words: str) -> None:
        cells = [_good(kind, 0.0, 0.0), bad, _good(kind, 5.0, 0.0), _good(kind, 6.0, 1.0)]
        items = _frame(spark, kind, cells)
        with pytest.raises(ValueError, match=rf"featuresCol 'features'.*{re.escape(words)}"):
            KNNEstimator(idCol="id").fit(items)
        for how in ("skip", "keep"):
            fitted = KNNEstimator(k=1, idCol="id", handleInvalid=how).fit(items)
            assert (fitted.numItems, fitted.numSkipped, fitted.ids.tolist()) == (3, 1, [0, 2, 3])

    @pytest.mark.parametrize(("kind", "bad", "words"), CASES)
    def test_queries(
        self, spark: SparkSession, model: KNNModel, kind: str, bad: Any, words: str
    ) -> None:
        queries = _frame(spark, kind, [_good(kind, 1.0, 0.0), bad, _good(kind, 4.0, 0.0)])
        right = [[(0, 1.0)], [(1, 1.0)]]
        with pytest.raises(Exception, match=re.escape(words)) as raised:
            model.transform(queries).collect()
        assert "featuresCol 'features' contains" in str(raised.value)
        skipping = model.copy({model.handleInvalid: "skip"})
        assert answers(skipping.transform(queries)) == right
        keeping = model.copy({model.handleInvalid: "keep"})
        rows = sorted(keeping.transform(queries).collect(), key=lambda row: row.id)
        assert [(row.neighbors, row.distances) for row in rows] == [
            ([0], [1.0]),
            (None, None),
            ([1], [1.0]),
        ]

    @pytest.mark.replicated
    def test_only_rows_that_are_searched_can_fail(
        self, spark: SparkSession, model: KNNModel
    ) -> None:
        queries = _frame(spark, "array<double>", [[1.0, 0.0], None, [4.0, 0.0]])
        found = model.transform(queries).where("id != 1")
        assert answers(found) == [[(0, 1.0)], [(1, 1.0)]]

    def test_a_partition_of_invalid_rows(self, spark: SparkSession, model: KNNModel) -> None:
        queries = _frame(spark, "array<double>", [None, None])
        assert model.copy({model.handleInvalid: "skip"}).transform(queries).collect() == []
        kept = model.copy({model.handleInvalid: "keep"}).transform(queries).collect()
        assert [row.neighbors for row in kept] == [None, None]


def test_mixed_dimensions_are_listed(spark: SparkSession) -> None:
    items = _frame(spark, "array<double>", [[1.0], [2.0], [1.0, 2.0]])
    message = r"vectors of different dimensions: 1 \(2 rows\), 2 \(1 rows\)"
    with pytest.raises(ValueError, match=message):
        KNNEstimator(idCol="id").fit(items)
    fitted = KNNEstimator(k=1, idCol="id", handleInvalid="skip").fit(items)
    assert (fitted.numFeatures, fitted.numItems, fitted.numSkipped) == (1, 2, 1)


def test_no_items(spark: SparkSession) -> None:
    with pytest.raises(ValueError, match="featuresCol 'features' contains no vectors to fit"):
        KNNEstimator(idCol="id").fit(_frame(spark, "vector", []))
    with pytest.raises(ValueError, match=r"no vectors to fit.*2 invalid rows were skipped"):
        KNNEstimator(idCol="id", handleInvalid="skip").fit(_frame(spark, "vector", [None, None]))


def test_queries_of_another_dimension(spark: SparkSession, model: KNNModel) -> None:
    with pytest.raises(Exception, match="a vector of dimension 3 instead of 2"):
        model.transform(frame_of(spark, np.zeros((1, 3)))).collect()


def test_a_dimension_in_the_schema_is_checked_before_any_job(
    spark: SparkSession, model: KNNModel
) -> None:
    from pyspark.ml.feature import VectorAssembler

    assembler = VectorAssembler(inputCols=["a", "b", "c"], outputCol="features")
    queries = assembler.transform(spark.createDataFrame([(1.0, 2.0, 3.0)], ["a", "b", "c"]))
    with pytest.raises(ValueError, match="vectors of dimension 3 instead of 2"):
        model.transform(queries)


@pytest.mark.parametrize("where", ["fit", "transform"])
class TestFeaturesColumn:
    """Missing, or of a wrong type."""

    def _run(self, model: KNNModel, where: str, frame: DataFrame) -> None:
        if where == "fit":
            KNNEstimator(idCol="id").fit(frame)
        else:
            model.transform(frame)

    def test_missing(self, spark: SparkSession, model: KNNModel, where: str) -> None:
        with pytest.raises(ValueError, match=r"featuresCol 'features' does not exist.*'id'"):
            self._run(model, where, spark.range(3))

    @pytest.mark.parametrize("kind", ["string", "double", "array<string>", "struct<a:double>"])
    def test_wrong_type(self, spark: SparkSession, model: KNNModel, where: str, kind: str) -> None:
        frame = spark.createDataFrame([], f"id long, features {kind}")
        message = rf"featuresCol 'features' must contain vectors.*actually {re.escape(kind)}"
        with pytest.raises(TypeError, match=message):
            self._run(model, where, frame)


def test_id_column_missing(spark: SparkSession) -> None:
    with pytest.raises(ValueError, match=r"idCol 'sku' does not exist\. Input columns:"):
        KNNEstimator(idCol="sku").fit(frame_of(spark, np.eye(2)))


def test_an_existing_output_column_is_refused(spark: SparkSession, model: KNNModel) -> None:
    queries = frame_of(spark, np.eye(2))
    taken = queries.withColumnRenamed("id", "Neighbors")
    with pytest.raises(ValueError, match="neighborsCol 'neighbors' already exists"):
        model.transform(taken)
    same = model.copy({model.distancesCol: "features"})
    with pytest.raises(ValueError, match="distancesCol 'features' already exists"):
        same.transform(queries)
    twice = model.copy({model.distancesCol: "neighbors"})
    with pytest.raises(ValueError, match="distancesCol 'neighbors' already exists"):
        twice.transform(queries)
    with pytest.raises(ValueError, match="'rank' already exists"):
        model.kneighborsJoin(queries.withColumnRenamed("id", "rank"))


@pytest.mark.parametrize("setting", ["true", "TRUE"])
def test_names_that_differ_only_in_case(spark: SparkSession, model: KNNModel, setting: str) -> None:
    queries = frame_of(spark, np.eye(2)).withColumnRenamed("id", "Neighbors")
    spark.conf.set("spark.sql.caseSensitive", setting)
    try:
        assert model.transform(queries).columns[-2:] == ["neighbors", "distances"]
    finally:
        spark.conf.unset("spark.sql.caseSensitive")


def test_names_with_dots_spaces_and_backticks(spark: SparkSession) -> None:
    names = {"id_col": "the id.no", "features_col": "my `features`.v1"}
    items = frame_of(spark, np.array([[0.0], [2.0]]), kind="dense", **names)
    knn = KNNEstimator(
        k=2,
        idCol="the id.no",
        featuresCol="my `features`.v1",
        neighborsCol="near.by ones",
        distancesCol="`far`",
        excludeIdCol="the id.no",
    )
    model = knn.fit(items)
    found = model.transform(items)
    assert found.columns == ["the id.no", "my `features`.v1", "near.by ones", "`far`"]
    rows = sorted(found.collect(), key=lambda row: row["the id.no"])
    assert [(row["near.by ones"], row["`far`"]) for row in rows] == [([1], [2.0]), ([0], [2.0])]
    pairs = model.kneighborsJoin(items, items=items.withColumnRenamed("my `features`.v1", "a.b"))
    assert sorted((row["the id.no"], row.item["the id.no"]) for row in pairs.collect()) == [
        (0, 1),
        (1, 0),
    ]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"metric": "seuclidean"}, r"metric 'seuclidean' requires metricParams\['V'\]"),
        (
            {"metric": "mahalanobis"},
            r"metric 'mahalanobis' requires metricParams\['V'\].*or metricParams\['VI'\]",
        ),
        (
            {"metric": "cosine", "algorithm": "kd_tree"},
            "algorithm 'kd_tree' does not support metric 'cosine'. Supported: 'auto', 'brute'.",
        ),
        (
            {"metric": "mahalanobis", "metricParams": {"VI": [[1.0]]}},
            r"metricParams\['VI'\] is for 1 features, but the vectors have 2",
        ),
    ],
)
def test_incompatible_params_fail_at_fit(
    spark: SparkSession, params: dict[str, Any], message: str
) -> None:
    knn = KNNEstimator(idCol="id", **params)
    with pytest.raises(ValueError, match=message):
        knn.fit(frame_of(spark, np.eye(2)))


def test_haversine_needs_two_features(spark: SparkSession) -> None:
    with pytest.raises(ValueError, match="metric 'haversine' requires 2 features"):
        KNNEstimator(idCol="id", metric="haversine").fit(frame_of(spark, np.eye(3)))


@pytest.mark.dense
def test_items_that_do_not_fit_in_memory_are_refused_with_their_size(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placing.available_memory", lambda: 1 << 10)
    size = "placement 'replicated' .* 100 items of 40 dimensions in float32 take 0.00 GiB"
    for kind, way in (
        ("double", "or vectors of fewer"),
        ("sparse", r"or storage='sparse' \(about"),
    ):
        items = frame_of(spark, np.eye(100, 40), kind=kind)
        with pytest.raises(ValueError, match=f"{size}.*{way}"):
            KNNEstimator(idCol="id", placement="replicated").fit(items)


def test_items_that_are_sparse_already_are_not_advised_to_be(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placing.available_memory", lambda: 1 << 10)
    items = frame_of(spark, np.eye(100, 40), kind="sparse")
    knn = KNNEstimator(idCol="id", placement="replicated", storage="sparse")
    with pytest.raises(ValueError, match=r"in sparse float32 .* fewer items, or vectors of"):
        knn.fit(items)


def test_sparse_queries_are_made_dense_block_by_block(spark: SparkSession) -> None:
    """2,000 queries of 100,000 dimensions would take 1.5 GiB at once."""
    size = 100_000
    items = spark.createDataFrame(
        [(0, Vectors.sparse(size, {5: 1.0})), (1, Vectors.sparse(size, {7: 1.0}))],
        ["id", "features"],
    )
    model = KNNEstimator(k=1, idCol="id").fit(items)
    cells = [Vectors.sparse(size, {5 + 2 * (i % 2): 1.0}) for i in range(2000)]
    queries = spark.createDataFrame(list(enumerate(cells)), ["id", "features"]).coalesce(1)
    found = model.transform(queries).selectExpr("neighbors[0] = id % 2 AS right").distinct()
    assert [row.right for row in found.collect()] == [True]


DAMAGED: dict[str, tuple[int | None, list[int | None] | None, list[float]]] = {
    "negative": (3, [-1, 1], [1.0, 2.0]),
    "repeated": (3, [1, 1], [1.0, 2.0]),
    "too many values": (3, [0], [1.0, 2.0]),
    "a null index": (3, [0, None], [1.0, 2.0]),
    "no indices": (3, None, [1.0, 2.0, 3.0]),
    "no size": (None, [0, 1, 2], [1.0, 2.0, 3.0]),
}


def written(spark: SparkSession, folder: Path, bad: list[Any]) -> DataFrame:
    """Vectors, of which the last are damaged, as a Parquet file of MLlib's type holds them."""
    vectors = [(1, None, None, [0.0, 1.0, 2.0]), (0, 3, [0, 2], [1.0, 2.0])]
    vectors += [(0, size, indices, values) for size, indices, values in bad]
    kind = "struct<type:tinyint,size:int,indices:array<int>,values:array<double>>"
    plain = spark.createDataFrame(list(enumerate(vectors)), f"id long, features {kind}")
    plain.coalesce(1).write.parquet(str(folder / "plain"))
    schema = T.StructType(
        [T.StructField("id", T.LongType()), T.StructField("features", VectorUDT())]
    )
    return spark.read.schema(schema).parquet(str(folder / "plain"))


class TestDamagedVectors:
    """Sparse vectors that MLlib refuses to make, but reads from a file.

    tests/unit/test_columns.py has all kinds of them.
    """

    @pytest.mark.parametrize("bad", DAMAGED.values(), ids=DAMAGED)
    def test_items(self, spark: SparkSession, tmp_path: Path, bad: Any) -> None:
        items = written(spark, tmp_path, [bad])
        message = "featuresCol 'features' contains a damaged sparse vector"
        for storage, how in (("dense", "error"), ("sparse", "skip")):
            estimator = KNNEstimator(k=1, idCol="id", handleInvalid=how, storage=storage)
            with pytest.raises(ValueError, match=message):
                estimator.fit(items)

    @pytest.mark.parametrize("storage", ["dense", "sparse"])
    def test_queries(self, spark: SparkSession, tmp_path: Path, storage: str) -> None:
        good = written(spark, tmp_path / "good", [])
        model = KNNEstimator(k=1, idCol="id", storage=storage, handleInvalid="keep").fit(good)
        assert sorted(answers(model.transform(good))) == [[(0, 0.0)], [(1, 0.0)]]
        for name, bad in DAMAGED.items():
            queries = written(spark, tmp_path / name, [bad])
            with pytest.raises(Exception, match="contains a damaged sparse vector"):
                model.transform(queries).collect()
        with pytest.raises(ValueError, match="contains a damaged sparse vector"):
            model.explainSearch(queries)
