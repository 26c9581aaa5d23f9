"""Common mistakes: the error names the call to use instead."""

from __future__ import annotations

import datetime as dt
import re
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.ml.classification import OneVsRest
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.linalg import DenseVector, Vectors

from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNRegressor,
    NeighborsEvaluator,
    SharedPrefixPipeline,
)
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame, SparkSession

    from pyspark_knn import KNNClassificationModel, KNNModel, KNNRegressionModel

ITEMS = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0], [6.0, 5.0]])


@pytest.fixture(scope="module")
def model(spark: SparkSession) -> KNNModel:
    return KNNEstimator(k=1, idCol="id").fit(frame_of(spark, ITEMS))


def labeled(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, kind="dense").selectExpr("*", "double(id > 1) AS label")


@pytest.fixture(scope="module")
def classifier(spark: SparkSession) -> KNNClassificationModel:
    return KNNClassifier(k=1, idCol="id", placement="replicated").fit(labeled(spark))


@pytest.fixture(scope="module")
def regressor(spark: SparkSession) -> KNNRegressionModel:
    return KNNRegressor(k=1, idCol="id", placement="replicated").fit(labeled(spark))


# What is no DataFrame -> words of the error.
NO_FRAMES: dict[str, tuple[Any, str]] = {
    "pandas": (pd.DataFrame({"a": [1.0]}), "a pandas DataFrame: use spark.createDataFrame(frame)"),
    "series": (pd.Series([1.0]), "a pandas Series: use spark.createDataFrame(series.to_frame())"),
    "arrow": (
        pa.table({"a": [1]}),
        "a pyarrow Table: use spark.createDataFrame(table.to_pandas())",
    ),
    "matrix": (np.eye(2), "a numpy ndarray: use spark.createDataFrame([(Vectors.dense(row),) for"),
    "lists": ([[1.0, 2.0]], "a list: use spark.createDataFrame([(Vectors.dense(row),) for row in"),
    "tuples": ([(1, [2.0])], "a list: use spark.createDataFrame(rows, names)"),
    "empty": ([], "a list: use spark.createDataFrame(rows, names)"),
    "dict": ({"features": [1.0]}, "a dict: use spark.createDataFrame([row])"),
    "path": ("items.parquet", "a str: use spark.read.parquet(path)"),
    "none": (None, "None: use spark.createDataFrame(rows, names) or spark.read"),
    "vector": (Vectors.dense(1.0, 2.0), "a pyspark DenseVector: for a single query, use spark.cr"),
    "sparse": (Vectors.sparse(2, {0: 1.0}), "a pyspark SparseVector: for a single query, use spa"),
    "row": (np.ones(2), "a numpy ndarray: for a single query, use spark.createDataFrame"),
    "numbers": ([1.0, 2], "a list: for a single query, use spark.createDataFrame"),
}

CALLS: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "fit": (lambda model, good, bad: KNNEstimator().fit(bad), "dataset"),
    "fit several": (lambda model, good, bad: KNNEstimator().fit(bad, [{}]), "dataset"),
    "fit classifier": (lambda model, good, bad: KNNClassifier().fit(bad), "dataset"),
    "fit pipeline": (
        lambda model, good, bad: SharedPrefixPipeline(stages=[KNNEstimator()]).fit(bad),
        "dataset",
    ),
    "fit pipelines": (
        lambda model, good, bad: SharedPrefixPipeline(stages=[KNNEstimator()]).fit(bad, [{}]),
        "dataset",
    ),
    "transform": (lambda model, good, bad: model.transform(bad), "dataset"),
    "kneighborsJoin": (lambda model, good, bad: model.kneighborsJoin(bad), "queries"),
    "explainSearch": (lambda model, good, bad: model.explainSearch(bad), "queries"),
    "evaluate": (lambda model, good, bad: NeighborsEvaluator().evaluate(bad), "dataset"),
}


class TestNoFrame:
    """An object of another type in place of a DataFrame."""

    @pytest.mark.parametrize("call", CALLS)
    def test_every_call_names_its_argument(
        self, spark: SparkSession, model: KNNModel, call: str
    ) -> None:
        run, argument = CALLS[call]
        message = rf"^{argument} must be a Spark DataFrame, got a pandas DataFrame: use spark\."
        with pytest.raises(TypeError, match=message):
            run(model, frame_of(spark, ITEMS), pd.DataFrame({"a": [1.0]}))

    @pytest.mark.parametrize("kind", NO_FRAMES)
    def test_the_error_describes_the_argument(self, model: KNNModel, kind: str) -> None:
        value, words = NO_FRAMES[kind]
        message = f"^dataset must be a Spark DataFrame, got {re.escape(words)}"
        with pytest.raises(TypeError, match=message):
            model.transform(value)

    @pytest.mark.parametrize("items", [pd.DataFrame({"id": [1]}), "path", []], ids=str)
    def test_items_of_a_join(self, spark: SparkSession, model: KNNModel, items: Any) -> None:
        with pytest.raises(TypeError, match=r"^items must be a Spark DataFrame, got a "):
            model.kneighborsJoin(frame_of(spark, ITEMS), items=items)

    def test_the_recipes_work(self, spark: SparkSession, model: KNNModel) -> None:
        names: dict[str, Any] = {"spark": spark, "Vectors": Vectors}
        for value in (ITEMS[3], ITEMS, ITEMS.tolist()):
            with pytest.raises(TypeError) as raised:
                model.transform(value)
            code = re.search(r"spark\.createDataFrame\(.*\)$", str(raised.value))
            assert code is not None
            frame = eval(code[0], names | {"values": value, "rows": value})
            assert frame.count() == len(np.atleast_2d(value))
            assert 3 in [row.neighbors[0] for row in model.transform(frame).collect()]

    def test_an_rdd(self, spark: SparkSession, spark_kind: str, model: KNNModel) -> None:
        if spark_kind == "connect":
            pytest.skip("there are no RDDs")
        rows = spark.sparkContext.parallelize([(1, Vectors.dense(1.0, 2.0))])
        for rdd in (rows, rows.map(lambda row: row)):
            with pytest.raises(TypeError, match=r"got a pyspark \w*RDD: call toDF\(\) on it"):
                model.transform(rdd)

    @pytest.mark.filterwarnings("ignore")
    def test_pandas_on_spark(self, spark: SparkSession, model: KNNModel) -> None:
        frame = frame_of(spark, ITEMS).pandas_api()
        message = r"got a pyspark\.pandas DataFrame: call to_spark\(\) on it"
        with pytest.raises(TypeError, match=message):
            model.transform(frame)
        with pytest.raises(TypeError, match=r"Series: call to_frame\(\)\.to_spark\(\)"):
            model.transform(frame["id"])


# Type of a features column -> words of the hint.
FEATURES = {
    "array<boolean>": "transform(features, x -> int(x))",
    "array<string>": "CAST(features AS array<double>)",
    "array<date>": "transform(features, x -> unix_date(x))",
    "array<timestamp>": "transform(features, x -> unix_micros(x))",
    "array<timestamp_ntz>": "transform(features, x -> unix_micros(CAST(x AS timestamp)))",
    "array<array<double>>": "flatten(features)",
    "array<binary>": "decode",
    "binary": "numpy.frombuffer",
    "int": "VectorAssembler(inputCols=[...], outputCol='vector'), and set",
    "boolean": "VectorAssembler(inputCols=[...], outputCol='vector'), and set",
    "date": "unix_date(features)",
    "timestamp": "unix_micros(features)",
    "string": "StringIndexer and OneHotEncoder, and text with Tokenizer and HashingTF",
    "struct<a:double,b:double>": "array(features.*)",
    "map<string,double>": "VectorAssembler",
}


class TestFeatures:
    """A features column of another type, or none."""

    @pytest.mark.parametrize("kind", FEATURES)
    def test_each_type_has_a_hint(self, spark: SparkSession, model: KNNModel, kind: str) -> None:
        frame = spark.createDataFrame([], f"id long, features {kind}")
        for run in (KNNEstimator(idCol="id").fit, model.transform):
            with pytest.raises(TypeError, match=re.escape(FEATURES[kind])):
                run(frame)

    @pytest.mark.parametrize(
        ("value", "convert"),
        [
            ("array(true, false)", FEATURES["array<boolean>"]),
            ("array('1', '2.5')", FEATURES["array<string>"]),
            ("array(DATE'2020-01-01', DATE'2020-01-02')", FEATURES["array<date>"]),
            ("array(TIMESTAMP'2020-01-01', TIMESTAMP'2020-01-02')", FEATURES["array<timestamp>"]),
            (
                "array(TIMESTAMP_NTZ'2020-01-01', TIMESTAMP_NTZ'2020-01-02')",
                FEATURES["array<timestamp_ntz>"],
            ),
            ("array(array(1.0D), array(2.0D))", FEATURES["array<array<double>>"]),
        ],
    )
    def test_the_hint_works(
        self, spark: SparkSession, model: KNNModel, value: str, convert: str
    ) -> None:
        frame = spark.range(1).selectExpr(f"{value} AS features")
        with pytest.raises(TypeError, match="featuresCol 'features' must contain vectors"):
            model.transform(frame)
        found = model.transform(frame.selectExpr(f"{convert} AS features")).collect()
        assert len(found[0].neighbors) == 1

    @pytest.mark.parametrize("stage", [KNNEstimator, KNNClassifier, KNNRegressor])
    @pytest.mark.parametrize("names", [["a", "b"], ("a", "b")])
    def test_a_list_of_names(self, stage: Any, names: Any) -> None:
        message = r"featuresCol must be a string, got .*VectorAssembler\(inputCols=\['a', 'b'\], "
        with pytest.raises(TypeError, match=message):
            stage(featuresCol=names)

    def test_no_features_column(self, spark: SparkSession, model: KNNModel) -> None:
        numbers = spark.createDataFrame([(1, 2.0, 3.0, "x")], ["id", "a", "b", "c"])
        message = (
            r"featuresCol 'features' does not exist\. .*"
            r"VectorAssembler\(inputCols=\[\.\.\.\], outputCol='features'\)"
        )
        for run in (KNNEstimator(idCol="id").fit, model.transform):
            with pytest.raises(ValueError, match=message):
                run(numbers)
        with pytest.raises(ValueError, match=r"does not exist\. Input columns: \['c'\]$"):
            model.transform(numbers.select("c"))

    @pytest.mark.parametrize("param", ["featuresCol", "idCol", "keyCols"])
    def test_a_field_of_a_struct(self, spark: SparkSession, param: str) -> None:
        frame = spark.sql(
            "SELECT id AS number, named_struct('id', id, 'v', array(double(id))) AS row, "
            "array(double(id)) AS features FROM range(4)"
        )
        field = "row.v" if param == "featuresCol" else "row.id"
        with pytest.raises(ValueError, match=f"{param} '{field}' does not exist") as raised:
            KNNEstimator(**{"idCol": "number", param: field}).fit(frame)
        # The hint is Python to paste.
        remedy = re.search(r"df = (df.withColumn\(.*\))$", str(raised.value))
        assert remedy is not None
        mended = eval(remedy[1], {"df": frame})
        found = {"idCol": "number", param: mended.columns[-1]}
        model = KNNEstimator(k=1, **found).fit(mended)
        assert model.numItems == 4

    def test_a_field_that_the_struct_does_not_have(self, spark: SparkSession) -> None:
        frame = spark.sql("SELECT named_struct('id', id) AS row FROM range(4)")
        for name in ("row.other", "other.id", "row.id.more"):
            with pytest.raises(ValueError, match=r"does not exist\. Input columns: \['row'\]$"):
                KNNEstimator(idCol=name).fit(frame)

    def test_no_features_column_as_in_mllib(self, spark: SparkSession, model: KNNModel) -> None:
        # Tools such as the autologging of MLflow find the inputs of a stage by this error.
        other = VectorAssembler(inputCols=["features"], outputCol="vector")
        for stage in (other, model):
            with pytest.raises(IllegalArgumentException, match="features"):
                stage.transform(spark.range(1))


class TestLabels:
    """A label or a weight of another type."""

    @pytest.mark.parametrize(
        ("stage", "value", "words"),
        [
            (KNNClassifier, "a", "with pyspark.ml.feature.StringIndexer"),
            (KNNRegressor, "1.5", "cast it: CAST(label AS double)"),
            (KNNClassifier, True, "cast it: CAST(label AS int)"),
            (KNNRegressor, True, "cast it: CAST(label AS int)"),
            (KNNRegressor, [1.0, 2.0], "one number per item is supported; for several targets"),
            (
                KNNRegressor,
                Vectors.dense(1.0, 2.0),
                "one number per item is supported; for several targets",
            ),
            (KNNRegressor, dt.date(2020, 1, 1), "convert it to a number: unix_date(label)"),
            (KNNRegressor, dt.datetime(2020, 1, 1), "convert it to a number: unix_micros(label)"),
        ],
        ids=str,
    )
    def test_labels(self, spark: SparkSession, stage: Any, value: Any, words: str) -> None:
        frame = spark.createDataFrame([([1.0], value)], ["features", "label"])
        message = f"labelCol 'label' must be numeric .*{re.escape(words)}"
        with pytest.raises(TypeError, match=message):
            stage().fit(frame)

    def test_weights(self, spark: SparkSession) -> None:
        frame = labeled(spark).selectExpr("*", "'1' AS w")
        with pytest.raises(TypeError, match=r"weightCol 'w' must be numeric .*CAST\(w AS double\)"):
            KNNClassifier(idCol="id", weightCol="w").fit(frame)


def test_one_vs_rest_keeps_no_ids(spark: SparkSession) -> None:
    knn = KNNClassifier(k=1, idCol="id")
    with pytest.raises(ValueError, match=r"idCol 'id' does not exist.*OneVsRest passes only the l"):
        OneVsRest(classifier=knn).fit(labeled(spark))
    with pytest.raises(ValueError, match=r"idCol 'sku' does not exist\. Input columns: \[[^]]*\]$"):
        KNNClassifier(idCol="sku").fit(labeled(spark))


@pytest.mark.parametrize(
    "given",
    [DenseVector([0.5, 0.25]), np.array([0.5, 0.25]), (0.5, 0.25), array("d", [0.5, 0.25])],
    ids=lambda given: type(given).__name__,
)
def test_thresholds_of_all_kinds(given: Any) -> None:
    assert KNNClassifier(thresholds=given).getThresholds() == [0.5, 0.25]


def test_thresholds_of_a_range_and_of_a_sparse_vector() -> None:
    assert KNNClassifier(thresholds=range(1, 3)).getThresholds() == [1.0, 2.0]
    sparse = Vectors.sparse(2, {1: 0.5})
    assert KNNClassifier(thresholds=sparse).getThresholds() == [0.0, 0.5]
    for wrong in ("12", 0.5, {0.5}, np.eye(2)):
        with pytest.raises(TypeError, match="thresholds must be numbers >= 0"):
            KNNClassifier(thresholds=wrong)


class TestPredict:
    """One query on the driver."""

    @pytest.mark.parametrize(
        "query",
        [
            Vectors.dense(5.0, 4.0),
            Vectors.sparse(2, {0: 5.0, 1: 4.0}),
            [5.0, 4],
            (5, 4),
            np.array([5.0, 4.0], np.float32),
            np.array([5, 4]),
            array("d", [5.0, 4.0]),
        ],
        ids=lambda query: type(query).__name__,
    )
    def test_vectors_of_all_kinds(
        self,
        classifier: KNNClassificationModel,
        regressor: KNNRegressionModel,
        query: Any,
    ) -> None:
        assert regressor.predict(query) == 1.0
        assert classifier.predict(query) == 1.0
        assert classifier.predictRaw(query) == Vectors.dense(0.0, 1.0)
        assert classifier.predictProbability(query) == Vectors.dense(0.0, 1.0)

    @pytest.mark.parametrize(
        ("query", "got"),
        [
            (np.eye(2), "a numpy ndarray"),
            ([[1.0, 2.0]], "a list"),
            (pd.DataFrame({"a": [1.0]}), "a pandas DataFrame"),
            ("ab", "a str"),
            ([1.0, "b"], "a list"),
            (None, "None"),
            (1.5, "a float"),
        ],
        ids=str,
    )
    def test_other_types(self, regressor: KNNRegressionModel, query: Any, got: str) -> None:
        message = f"value must be one vector, .* got {got}. For several rows, call transform"
        with pytest.raises(TypeError, match=message):
            regressor.predict(query)

    def test_a_frame(self, spark: SparkSession, regressor: KNNRegressionModel) -> None:
        with pytest.raises(TypeError, match=r"DataFrame\. For several rows, call transform"):
            regressor.predict(labeled(spark))
        with pytest.raises(ValueError, match="value must have dimension 2, got dimension 3"):
            regressor.predict([1.0, 2.0, 3.0])


NO_PATHS: dict[str, tuple[Any, type[Exception], str]] = {
    "a Path": (Path("a") / "b", TypeError, r"a str, got a pathlib \w+\. Use str\(path\)"),
    "None": (None, TypeError, "path must be a str, got None"),
    "bytes": (b"a", TypeError, "path must be a str, got a bytes"),
    "an int": (3, TypeError, "path must be a str, got an int"),
    "empty": ("", ValueError, "path must not be empty"),
}


@pytest.mark.parametrize(("path", "error", "words"), NO_PATHS.values(), ids=NO_PATHS.keys())
def test_paths(model: KNNModel, path: Any, error: type[Exception], words: str) -> None:
    for stage in (model, KNNEstimator()):
        for call in (stage.save, stage.write().overwrite().save, type(stage).load):
            with pytest.raises(error, match=words):
                call(path)
    if not isinstance(path, Path):
        with pytest.raises(error, match=words):
            type(model).loadWithoutSpark(path)
