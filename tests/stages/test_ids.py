"""Ids of every type come back exactly, through both ways that Spark hands columns to Python."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.engine import compat
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Berlin, the session's time zone, has the hour from 2 to 3 twice on 2023-10-29, and the hour from 2
# to 3 on 2023-03-26 not at all.
SUMMER, WINTER = "2023-10-29T00:30:00Z", "2023-10-29T01:30:00Z"

# Type -> SQL literals in ascending order.
TYPES: dict[str, Sequence[str]] = {
    "bigint": ("-9223372036854775808L", "-1L", "0L", "9007199254740993L", "9223372036854775807L"),
    "int": ("-2147483648", "0", "2147483647"),
    "smallint": ("-32768S", "32767S"),
    "tinyint": ("-128Y", "127Y"),
    "float": ("-1.5F", "0.1F"),
    "double": ("-1.5D", "0.1D"),
    "string": ("''", "'Z'", "'a'", "'ä'", "'\U0001f600'"),
    "decimal(38,18)": ("CAST('-12345678901234567890.123456789012345678' AS decimal(38,18))", "0BD"),
    "date": ("DATE'0001-01-01'", "DATE'1969-12-31'", "DATE'2023-10-29'", "DATE'9999-12-31'"),
    "timestamp": (
        "TIMESTAMP'0001-01-03T00:00:00Z'",
        f"TIMESTAMP'{SUMMER}'",
        f"TIMESTAMP'{WINTER}'",
        "TIMESTAMP'2500-01-01T00:00:00.123456Z'",
    ),
    "timestamp_ntz": (
        "TIMESTAMP_NTZ'0001-01-03T00:00:00'",
        "TIMESTAMP_NTZ'2023-03-26T02:30:00'",
        "TIMESTAMP_NTZ'2023-10-29T02:30:00.000001'",
        "TIMESTAMP_NTZ'9999-12-31T23:59:59.999999'",
    ),
    "binary": ("X''", "X'00'", "X'00FF'", "X'FF'"),
    "boolean": ("false", "true"),
}


@pytest.fixture(params=["arrow", "pandas"])
def udf_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Spark 4.1 and later have the Arrow way; the pandas way works everywhere."""
    if request.param == "pandas":
        monkeypatch.setattr(compat, "has_arrow_udf", lambda: False)
    elif not compat.has_arrow_udf():
        pytest.skip("this Spark has no arrow_udf")
    return str(request.param)


@pytest.mark.parametrize("id_type", list(TYPES))
def test_ids_are_exact(spark: SparkSession, udf_path: str, id_type: str) -> None:
    """All items are one point, so that the neighbours come in the order of the ids."""
    values = [f"CAST({value} AS {id_type})" for value in reversed(TYPES[id_type])]
    items = spark.sql(f"SELECT explode(array({', '.join(values)})) AS key").repartition(2)
    items = items.selectExpr("key", "array(1.0D, 2.0D) AS features")
    assert items.schema["key"].dataType.simpleString() == id_type
    model = KNNEstimator(k=len(values), idCol="key").fit(items)
    queries = items.selectExpr("key AS query", "features")
    found = model.transform(queries)
    assert found.schema["neighbors"].dataType.simpleString() == f"array<{id_type}>"
    # What is compared is compared by Spark: collecting would send it through Python's own types.
    ordered = f"neighbors = array_sort(array({', '.join(values)}))"
    others = model.copy({model.excludeIdCol: "query"}).transform(queries)
    rest = "neighbors = array_except(array_sort(array({})), array(query))".format(", ".join(values))
    right = found.selectExpr(ordered + " AS right").union(others.selectExpr(rest + " AS right"))
    assert [row.right for row in right.collect()] == [True] * (2 * len(values))
    joined = model.kneighborsJoin(queries, items=items.selectExpr("key", "key AS same"))
    assert joined.where("neighbor <=> item.same").count() == len(values) ** 2


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("long", [1, 5, 9]),
        ("string", ["a", "b", "ü"]),
        ("date", [dt.date(2020, 1, 1), dt.date(2020, 1, 2), dt.date(2021, 5, 6)]),
        ("decimal(5,2)", [Decimal("1.25"), Decimal("3.00"), Decimal("4.00")]),
        ("timestamp_ntz", [dt.datetime(2020, 1, 1, 3), dt.datetime(2023, 3, 26, 2, 30)]),
    ],
)
def test_model_ids(spark: SparkSession, id_type: str, ids: list[Any]) -> None:
    rows = [(name, [0.0]) for name in reversed(ids)]
    items = spark.createDataFrame(rows, f"id {id_type}, features array<double>")
    assert KNNEstimator(k=1, idCol="id").fit(items).ids.tolist() == ids


@pytest.mark.parametrize("id_type", ["array<int>", "struct<a:int>", "map<string,int>"])
def test_compound_ids_are_refused(spark: SparkSession, id_type: str) -> None:
    items = spark.createDataFrame([], f"id {id_type}, features array<double>")
    with pytest.raises(TypeError, match="idCol 'id' must be of an atomic type"):
        KNNEstimator(idCol="id").fit(items)


def test_a_null_id_is_an_error(spark: SparkSession) -> None:
    items = spark.createDataFrame([(1, [1.0]), (None, [2.0])], "id int, features array<double>")
    for how in ("error", "skip", "keep"):
        with pytest.raises(ValueError, match="idCol 'id' holds a null"):
            KNNEstimator(idCol="id", handleInvalid=how).fit(items)


def test_ids_of_queries_are_a_space_of_their_own(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[0.0], [1.0]]), [1, 2])
    model: KNNModel = KNNEstimator(k=2, idCol="id").fit(items)
    queries = spark.createDataFrame([("x", [0.0])], "id string, features array<double>")
    assert model.transform(queries).first()["neighbors"] == [1, 2]


@pytest.fixture
def large_offsets(spark: SparkSession) -> Iterator[None]:
    """Arrow's types for strings and binaries beyond 2 GiB a batch."""
    name = "spark.sql.execution.arrow.useLargeVarTypes"
    spark.conf.set(name, "true")
    yield
    spark.conf.unset(name)


@pytest.mark.usefixtures("large_offsets")
@pytest.mark.parametrize("placement", ["replicated", "sharded"])
@pytest.mark.parametrize("id_type", ["binary", "string"])
def test_ids_with_large_offsets(spark: SparkSession, placement: str, id_type: str) -> None:
    keys = [b"\xff\x01", b"", b"a"] if id_type == "binary" else ["\U0001f600", "", "a"]
    rows = [(key, [float(n)]) for n, key in enumerate(keys)]
    items = spark.createDataFrame(rows, f"key {id_type}, features array<double>")
    model = KNNEstimator(k=2, idCol="key", placement=placement).fit(items)
    kind = type(keys[0])  # Spark 3.5 has bytearrays
    found = {kind(row["key"]): row["neighbors"] for row in model.transform(items).collect()}
    assert {key: list(map(kind, row)) for key, row in found.items()} == {
        keys[0]: [keys[0], keys[1]],
        keys[1]: [keys[1], keys[2]],
        keys[2]: [keys[2], keys[1]],
    }
