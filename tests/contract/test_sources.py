"""Every stage fits and transforms DataFrames of files, tables, caches and streams."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyspark
import pytest
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vector
from pyspark.sql import functions as F

from tests.support.stages import CASES, Case, common_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Outputs = list[tuple[Any, ...]]
Source = Callable[["SparkSession", "DataFrame", str], "DataFrame"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:transform scores the rows that the model was fitted"
)

SPARK_4 = int(pyspark.__version__.split(".")[0]) >= 4


def _vectors(frame: DataFrame) -> DataFrame:
    return frame.withColumn("features", array_to_vector("features"))


def _parquet(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _vectors(frame).write.parquet(path)
    return spark.read.parquet(path)


def _parquet_partitioned(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _vectors(frame).withColumn("part", F.col("label")).write.partitionBy("part").parquet(path)
    return spark.read.parquet(path)


def _parquet_nested(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _vectors(frame).select(F.struct("features").alias("inside"), "*").write.parquet(path)
    return spark.read.parquet(path).drop("features").select("inside.features", "*")


def _parquet_arrays_beside_vectors(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    inside = F.struct(array_to_vector("features").alias("v"))
    frame.withColumns({"inside": inside, "vector": array_to_vector("features")}).write.parquet(path)
    return spark.read.parquet(path)


def _parquet_void(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    frame.write.parquet(path)
    return spark.read.schema(f"{_ddl(frame)}, nothing void").parquet(path)


def _orc(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _vectors(frame).write.orc(path)
    return spark.read.orc(path)


def _orc_sparse(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    from pyspark.ml.feature import VectorAssembler

    parts = frame.select("*", F.lit(0.0).alias("zero"), array_to_vector("features").alias("dense"))
    # Five zeros in a row: the assembler then makes sparse vectors.
    wide = VectorAssembler(inputCols=["dense", *["zero"] * 5], outputCol="wide").transform(parts)
    renamed = wide.drop("features", "dense", "zero").withColumnRenamed("wide", "features")
    renamed.write.orc(path)
    return spark.read.orc(path)


def _json_arrays(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    frame.write.json(path)
    return spark.read.json(path)


def _json_vectors(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _vectors(frame).write.json(path)
    return spark.read.json(path)


def _csv(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    texts = {name: F.to_json(name) for name in ("features", "truth")}
    frame.withColumns(texts).write.csv(path, header=True)
    read = spark.read.csv(path, header=True, inferSchema=True)
    arrays = {name: F.from_json(name, "array<double>") for name in texts}
    return read.withColumns(arrays)


def _table(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    spark.sql("DROP TABLE IF EXISTS knn_source")
    _vectors(frame).write.option("path", path).saveAsTable("knn_source")
    return spark.table("knn_source")


def _view(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    _parquet(spark, frame, path).createOrReplaceTempView("knn_view")
    return spark.sql("SELECT * FROM knn_view WHERE id >= 0")


def _cached(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    return _parquet(spark, frame, path).cache()


def _checkpointed(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    return _parquet(spark, frame, path).localCheckpoint()


def _range(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    known = F.map_from_entries(F.collect_list(F.struct("id", F.struct("*").alias("row"))))
    rows = frame.agg(known.alias("rows"))
    numbers = spark.range(frame.count()).select(F.col("id").cast("double").alias("key"))
    return _vectors(
        numbers.crossJoin(rows).select(F.col("rows")[F.col("key")].alias("r")).select("r.*")
    )


def _pandas(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    return spark.createDataFrame(frame.toPandas(), frame.schema)


def _arrow(spark: SparkSession, frame: DataFrame, path: str) -> DataFrame:
    return spark.createDataFrame(frame.toArrow())


def _ddl(frame: DataFrame) -> str:
    return ", ".join(f"{each.name} {each.dataType.simpleString()}" for each in frame.schema)


SOURCES: dict[str, Source] = {
    "parquet": _parquet,
    "parquet, partitioned": _parquet_partitioned,
    "parquet, nested": _parquet_nested,
    "parquet, arrays beside vectors": _parquet_arrays_beside_vectors,
    "orc": _orc,
    "orc, sparse": _orc_sparse,
    "json": _json_arrays,
    "json, vectors": _json_vectors,
    "csv": _csv,
    "table": _table,
    "view": _view,
    "cached": _cached,
    "checkpointed": _checkpointed,
    "range": _range,
    "pandas": _pandas,
    # Spark 3.5 knows neither.
    **({"parquet, void": _parquet_void, "arrow": _arrow} if SPARK_4 else {}),
}
"""Ways to write the common frame to a new path and to read it back."""


@pytest.fixture(scope="module", params=list(SOURCES))
def source(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> DataFrame:
    path = (tmp_path_factory.mktemp("source") / "data").as_uri()
    return SOURCES[request.param](spark, common_frame(spark), path)


# Not of the module: pytest would then change the source more often than once per source.
@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def answers(spark: SparkSession) -> Callable[[str], Outputs]:
    """The outputs of each stage for the common frame itself, computed once."""

    @functools.cache
    def of(name: str) -> Outputs:
        case, frame = CASES[name], common_frame(spark)
        return outputs(case, case.make(k=3).fit(frame).transform(frame))

    return of


@pytest.fixture
def expected(request: pytest.FixtureRequest, answers: Callable[[str], Outputs]) -> Outputs:
    return answers(request.node.callspec.params["case"])


def outputs(case: Case, found: DataFrame) -> Outputs:
    # All columns, because Spark would not read the others.
    rows = sorted(found.collect(), key=lambda row: row.id)
    return [tuple(_plain(row[name]) for name in ("id", *case.outputs.values())) for row in rows]


def _plain(value: Any) -> Any:
    """The first features of a vector, since an output may be of the type of the features.

    Some sources have more features, which are 0.
    """
    return value.toArray()[:2].tolist() if isinstance(value, Vector) else value


def test_fit_and_transform(case: Case, expected: Outputs, source: DataFrame) -> None:
    model = case.make(k=3).fit(source)
    found = model.transform(source)
    assert found.columns[: len(source.columns)] == source.columns
    assert outputs(case, found) == expected


def test_parquet_without_the_vectorized_reader(
    case: Case, expected: Outputs, spark: SparkSession, tmp_path: Path
) -> None:
    """With Spark's vectorized reader off."""
    name = "spark.sql.parquet.enableVectorizedReader"
    source = _parquet(spark, common_frame(spark), (tmp_path / "data").as_uri())
    before = spark.conf.get(name)
    spark.conf.set(name, "false")
    try:
        assert outputs(case, case.make(k=3).fit(source).transform(source)) == expected
    finally:
        spark.conf.set(name, before)


def test_parquet_with_pruned_columns_and_rows(spark: SparkSession, tmp_path: Path) -> None:
    """Spark prunes the columns and rows of a scan, and all of these plans must work."""
    source = _parquet(spark, common_frame(spark), (tmp_path / "data").as_uri())
    model: Any = CASES["search"].make(k=3).fit(source)
    found = model.transform(source)
    assert found.count() == 60
    assert len(found.select("neighbors").collect()) == 60
    assert found.where("id < 3").count() == 3
    assert found.where("size(neighbors) > 3").count() == 0
    # Columns of the queries can still be used with the result.
    assert found.where(source["id"] < 3).select(source["features"]).count() == 3
    assert model.kneighborsJoin(source).count() == 180
    assert model.kneighborsJoin(source, items=source).where("item.id IS NULL").count() == 0


def test_a_stream_of_parquet(
    case: Case, expected: Outputs, spark: SparkSession, tmp_path: Path
) -> None:
    source = _parquet(spark, common_frame(spark), (tmp_path / "data").as_uri())
    model = case.make(k=3).fit(source)
    stream = spark.readStream.schema(source.schema).parquet((tmp_path / "data").as_uri())
    sink = (tmp_path / "sink").as_uri()
    query = (
        model.transform(stream)
        .writeStream.option("checkpointLocation", (tmp_path / "kept").as_uri())
        .trigger(availableNow=True)
        .format("parquet")
        .start(sink)
    )
    query.awaitTermination()
    assert outputs(case, spark.read.parquet(sink)) == expected
