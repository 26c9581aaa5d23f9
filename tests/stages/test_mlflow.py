"""MLflow: models are logged and loaded, pyfunc and Spark give the same answers, fits are logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyspark
import pytest
from pyspark.ml import Model, Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import SQLTransformer, StandardScaler, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

import pyspark_knn
from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNModel,
    KNNRegressor,
    LocalOutlierFactor,
)
from tests.support.mlflow import answers_of, store_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

mlflow = pytest.importorskip("mlflow")
flavor = pytest.importorskip("pyspark_knn.mlflow")

QUERIES = pd.DataFrame({"features": [[4.2, 1.0], [0.1, 0.0], [9.0, 0.0]], "x": [4.2, np.nan, 9.0]})


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with store_in(tmp_path_factory.mktemp("mlflow")):
        yield


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    rows = [(f"i{i}", [float(i), float(i % 3)], float(i), float(i % 2)) for i in range(12)]
    return spark.createDataFrame(rows, ["id", "features", "x", "label"]).cache()


@pytest.fixture(scope="module")
def search(items: DataFrame) -> KNNModel:
    return KNNEstimator(k=2, idCol="id").fit(items)


@pytest.fixture(scope="module")
def logged(search: KNNModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    more = tmp_path_factory.mktemp("requirements") / "more.txt"
    more.write_text("joblib\n")
    with mlflow.start_run():
        return flavor.log_model(
            search,
            "neighbors",
            input_example=QUERIES,
            registered_model_name="neighbors",
            extra_pip_requirements=str(more),
        )


def test_pyfunc_of_a_search_model(spark: SparkSession, search: KNNModel, logged: Any) -> None:
    found = mlflow.pyfunc.load_model(logged.model_uri).predict(QUERIES)
    assert found.columns.tolist() == ["neighbors", "distances"]
    assert found.to_dict("list") == answers_of(search, spark.createDataFrame(QUERIES))
    assert found.neighbors[0] == ["i4", "i5"]


def test_the_signature_of_a_search_model(logged: Any) -> None:
    inputs, outputs = logged.signature.inputs, logged.signature.outputs
    assert inputs.input_names() == ["features", "x"]
    shown = {name: str(kind) for name, kind in outputs.input_dict().items()}
    assert "Array(string)" in shown["neighbors"]
    assert "Array(double)" in shown["distances"]


def test_a_logged_model_is_loaded_with_its_class(
    spark: SparkSession, search: KNNModel, logged: Any
) -> None:
    queries = spark.createDataFrame(QUERIES)
    loaded = flavor.load_model("models:/neighbors/1")
    assert isinstance(loaded, KNNModel)
    assert answers_of(loaded, queries) == answers_of(search, queries)
    in_pipeline = mlflow.spark.load_model(logged.model_uri)
    assert [type(stage) for stage in in_pipeline.stages] == [KNNModel]


def test_requirements_name_this_package(logged: Any) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    ours = f"pyspark_knn=={pyspark_knn.__version__}"
    for name in ("requirements.txt", "conda.yaml"):
        text = (folder / name).read_text()
        assert ours in text, name
        assert f"pyspark=={pyspark.__version__}" in text, name
        assert "mlflow" in text, name
        assert "joblib" in text, name


def test_nothing_is_pickled(logged: Any) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    assert [path for path in folder.rglob("*") if "pkl" in path.name or "pickle" in path.name] == []
    conf = mlflow.models.get_model_info(logged.model_uri).flavors["python_function"]
    assert conf["loader_module"] == "pyspark_knn.mlflow"
    assert "cloudpickle_version" not in conf


def test_spark_udf(spark: SparkSession, spark_kind: str, search: KNNModel, logged: Any) -> None:
    if spark_kind == "connect":
        pytest.skip("the workers of a Spark Connect server cannot start a Spark")
    # Each Python worker starts a Spark of its own, which takes most of the time of this test.
    udf = mlflow.pyfunc.spark_udf(
        spark,
        logged.model_uri,
        result_type="neighbors array<string>, distances array<double>",
        env_manager="local",
    )
    queries = spark.createDataFrame(QUERIES.fillna(0.0)).coalesce(1)
    found = [
        row.found for row in queries.select(udf(F.struct("features", "x")).alias("found")).collect()
    ]
    for name, expected in answers_of(search, queries).items():
        assert [each[name] for each in found] == expected


ESTIMATORS: dict[str, Any] = {
    "classifier": lambda: KNNClassifier(k=3, idCol="id"),
    "imputer": lambda: KNNImputer(k=3, inputCols=["x"], outputCols=["imputed"]),
    "sharded": lambda: KNNEstimator(k=3, idCol="id", placement="sharded", numShards=2),
    "pipeline": lambda: Pipeline(
        stages=[
            VectorAssembler(inputCols=["x"], outputCol="raw", handleInvalid="keep"),
            KNNRegressor(k=3, idCol="id", neighborsCol="neighbors"),
            LocalOutlierFactor(k=3, featuresCol="raw", predictionCol="far", handleInvalid="keep"),
        ]
    ),
}


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_pyfunc_returns_what_the_last_stage_adds(
    spark: SparkSession, items: DataFrame, tmp_path: Path, kind: str
) -> None:
    model: Model = ESTIMATORS[kind]().fit(items)
    path = str(tmp_path / "saved")
    flavor.save_model(model, path)
    found = mlflow.pyfunc.load_model(path).predict(QUERIES)
    # A sharded search returns its answers in another order than the queries.
    numbered = spark.createDataFrame(QUERIES.assign(row=range(len(QUERIES))))
    expected = answers_of(model, numbered, order_by="row")
    assert set(found.columns) <= set(expected)
    shown = {name: expected[name] for name in found.columns}
    assert repr(found.to_dict("list")) == repr(shown), "NaN equals NaN"
    assert found.columns[-1] == list(expected)[-1]


def test_skipped_queries_are_missing_from_the_index(search: KNNModel, tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    flavor.save_model(search.copy().setHandleInvalid("skip"), path)
    queries = pd.DataFrame({"features": [[1.0, 0.0], [np.nan, 0.0], np.array([2.0, 0.0])]})
    found = mlflow.pyfunc.load_model(path).predict(queries)
    assert found.index.tolist() == [0, 2]


def test_queries_with_vectors(search: KNNModel, tmp_path: Path) -> None:
    # As toPandas returns them. The signature has arrays, and so has the file of the example.
    vectors = [Vectors.dense([4.2, 1.0]), Vectors.sparse(2, {0: 0.1})]
    queries = pd.DataFrame({"features": vectors})
    path = str(tmp_path / "saved")
    flavor.save_model(search, path, input_example=queries)
    info = mlflow.models.get_model_info(path)
    assert "Array(double)" in str(info.signature.inputs)
    plain = pd.DataFrame({"features": [each.toArray() for each in vectors]})
    served = mlflow.pyfunc.load_model(path)
    assert served.predict(plain)["neighbors"].tolist() == [["i4", "i5"], ["i0", "i1"]]
    flavor.save_model(search, path + "-without-signature")
    served = mlflow.pyfunc.load_model(path + "-without-signature")
    assert served.predict(queries)["neighbors"].tolist() == [["i4", "i5"], ["i0", "i1"]]


def test_a_signature_with_vectors(items: DataFrame, tmp_path: Path) -> None:
    # The first stage is of MLlib, which scales vectors only.
    vectors = items.select("id", array_to_vector("features").alias("raw"))
    scaler = StandardScaler(inputCol="raw", outputCol="features")
    model = Pipeline(stages=[scaler, KNNEstimator(k=1, idCol="id")]).fit(vectors)
    path = str(tmp_path / "saved")
    flavor.save_model(model, path, signature=mlflow.models.infer_signature(vectors.select("raw")))
    found = mlflow.pyfunc.load_model(path).predict(pd.DataFrame({"raw": [[7.0, 1.0]]}))
    assert found.to_dict("list") == {"neighbors": [["i7"]], "distances": [[0.0]]}


class TestOutputCols:
    """The columns that pyfunc returns can be chosen."""

    def test_some_columns(self, items: DataFrame, tmp_path: Path) -> None:
        path = str(tmp_path / "saved")
        flavor.save_model(
            KNNClassifier(k=1, idCol="id").fit(items), path, output_cols=["prediction"]
        )
        found = mlflow.pyfunc.load_model(path).predict(QUERIES)
        assert found.to_dict("list") == {"prediction": [0.0, 0.0, 1.0]}
        config = {"output_cols": ["probability", "x"]}
        found = mlflow.pyfunc.load_model(path, model_config=config).predict(QUERIES)
        assert found.columns.tolist() == config["output_cols"]
        # As of pandas: a name selects a Series, which the metrics of mlflow.models.evaluate need.
        config = {"output_cols": "prediction"}
        single = mlflow.pyfunc.load_model(path, model_config=config).predict(QUERIES)
        assert isinstance(single, pd.Series)
        assert single.tolist() == [0.0, 0.0, 1.0]

    def test_unknown_columns(self, search: KNNModel, tmp_path: Path) -> None:
        message = r"output_cols \['prediction'\] do not exist\. The last stage adds \['neighbors'"
        with pytest.raises(ValueError, match=message):
            flavor.save_model(
                search,
                str(tmp_path / "saved"),
                input_example=QUERIES,
                output_cols=["prediction"],
            )
        assert not (tmp_path / "saved").exists()

    def test_a_pipeline_that_drops_columns(self, search: KNNModel, tmp_path: Path) -> None:
        last = SQLTransformer(statement="SELECT neighbors FROM __THIS__")
        with pytest.raises(ValueError, match=r"drops columns.*Write SELECT \*"):
            flavor.save_model(
                PipelineModel([search, last]), str(tmp_path / "saved"), input_example=QUERIES
            )

    def test_a_last_stage_without_new_columns(self, search: KNNModel, tmp_path: Path) -> None:
        last = SQLTransformer(statement="SELECT * FROM __THIS__")
        with pytest.raises(ValueError, match="adds no column, so output_cols must be set"):
            flavor.save_model(
                PipelineModel([search, last]), str(tmp_path / "saved"), input_example=QUERIES
            )


@pytest.mark.parametrize(
    "queries", [QUERIES.to_dict("list"), np.ones((1, 2))], ids=["dict", "ndarray"]
)
def test_queries_of_another_type(search: KNNModel, tmp_path: Path, queries: Any) -> None:
    with pytest.raises(TypeError, match="input_example must be a pandas DataFrame, got "):
        flavor.save_model(search, str(tmp_path / "saved"), input_example=queries)


@pytest.fixture
def _autolog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # MLflow loads each model in another Spark to find its requirements, unless that takes too long.
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
    # To describe the data, MLflow counts them in a job that may still run during the fit.
    flavor.autolog(log_datasets=False)
    yield
    flavor.autolog(disable=True)


@pytest.mark.usefixtures("_autolog")
def test_autolog_logs_models_and_grid_searches(items: DataFrame) -> None:
    knn = KNNClassifier(k=5, idCol="id")
    grid = ParamGridBuilder().addGrid(knn.k, [1, 3]).build()
    judge = MulticlassClassificationEvaluator(metricName="accuracy")
    vectors = items.withColumn("features", array_to_vector("features"))
    CrossValidator(estimator=knn, estimatorParamMaps=grid, evaluator=judge, numFolds=2, seed=3).fit(
        vectors
    )

    run = mlflow.last_active_run()
    assert run.data.tags["estimator_name"] == "CrossValidator"
    logged = mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert sorted(logged["params.k"]) == ["1", "3"]
    best = run.data.params["best_KNNClassifier.k"]
    model = mlflow.spark.load_model(f"runs:/{run.info.run_id}/best_model")
    assert str(model.stages[0].getK()) == best
    signature = mlflow.models.get_model_info(f"runs:/{run.info.run_id}/model").signature
    assert signature.inputs.input_names() == ["features"]


def test_the_list_of_autolog(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[list[str]] = []
    monkeypatch.setattr(
        mlflow.pyspark.ml, "autolog", lambda log_model_allowlist: lists.append(log_model_allowlist)
    )
    flavor.autolog()
    flavor.autolog(log_model_allowlist=["other.*"])
    assert "pyspark.ml.pipeline.PipelineModel" in lists[0]
    assert lists[0][-1] == "pyspark_knn.*"
    assert lists[1] == ["other.*", "pyspark_knn.*"]
