"""Ids of every type are returned exactly, with Arrow UDFs and with pandas UDFs."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyspark
import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.engine.fit.determinism import is_nondeterministic
from pyspark_knn.engine.spark import compat
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SPARK = int(pyspark.__version__.split(".")[0])

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
    """Spark 4.1 and later have Arrow UDFs; pandas UDFs work in every version."""
    if request.param == "pandas":
        monkeypatch.setattr(compat, "has_arrow_udf", lambda: False)
    elif not compat.has_arrow_udf():
        pytest.skip("this Spark has no arrow_udf")
    return str(request.param)


@pytest.mark.parametrize("id_type", list(TYPES))
def test_ids_are_exact(spark: SparkSession, udf_path: str, id_type: str) -> None:
    """All items are equal, so that the neighbors are in the order of the ids."""
    values = [f"CAST({value} AS {id_type})" for value in reversed(TYPES[id_type])]
    items = spark.sql(f"SELECT explode(array({', '.join(values)})) AS key").repartition(2)
    items = items.selectExpr("key", "array(1.0D, 2.0D) AS features")
    assert items.schema["key"].dataType.simpleString() == id_type
    model = KNNEstimator(k=len(values), idCol="key").fit(items)
    queries = items.selectExpr("key AS query", "features")
    found = model.transform(queries)
    assert found.schema["neighbors"].dataType.simpleString() == f"array<{id_type}>"
    # Spark compares the ids, because collecting would convert them to Python's types.
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
    with pytest.raises(
        TypeError, match=r"idCol 'id' must be of an atomic type.*concat_ws, to_json"
    ):
        KNNEstimator(idCol="id").fit(items)


def test_several_id_columns_are_refused() -> None:
    for names in (["a", "b"], ("a", "b")):
        with pytest.raises(TypeError, match=r"idCol must be a string.*'b'.*concat_ws"):
            KNNEstimator(idCol=names)  # type: ignore[arg-type]


PLACEMENTS = pytest.mark.parametrize("placement", ["replicated", "sharded"])


@PLACEMENTS
@pytest.mark.parametrize("id_type", ["double", "float"])
def test_signed_zeros_are_one_id(spark: SparkSession, placement: str, id_type: str) -> None:
    """As in Spark's joins and groups. All items are equal."""
    ids = [0.0, -0.0, 2.0, -1.0]
    rows = [(key, [1.0]) for key in ids]
    items = spark.createDataFrame(rows, f"id {id_type}, features array<double>").repartition(3)
    knn = KNNEstimator(k=4, idCol="id", placement=placement)
    with pytest.warns(UserWarning, match="idCol 'id'"):
        model = knn.fit(items)
    query = spark.createDataFrame(
        [([1.0], [-0.0]), ([1.0], [float("nan")])], f"features array<double>, seen array<{id_type}>"
    )
    (found, _) = model.transform(query).collect()
    assert list(map(str, found.neighbors)) == ["-1.0", "0.0", "0.0", "2.0"]
    excluding = model.copy({model.excludeIdCol: "seen"}).transform(query)
    rest = [[str(each) for each in row.neighbors] for row in excluding.collect()]
    assert sorted(rest) == [["-1.0", "0.0", "0.0", "2.0"], ["-1.0", "2.0"]]
    joined = model.setK(1).setExcludeIdCol("seen").kneighborsJoin(query, items=items)
    assert {row.item is None for row in joined.collect()} == {False}


@pytest.mark.parametrize(
    ("id_type", "given", "wanted"),
    [
        ("bigint", "int", [1, 1 << 40]),
        ("int", "bigint", [-(1 << 40), 1, 1 + (1 << 32)]),
        ("tinyint", "smallint", [1, 257]),
        ("bigint", "tinyint", [1, None]),
    ],
)
def test_ids_to_exclude_may_be_other_integers(
    spark: SparkSession, id_type: str, given: str, wanted: list[Any]
) -> None:
    """Values beyond the range of the id type exclude nothing and do not wrap around."""
    items = spark.sql(f"SELECT CAST(id AS {id_type}) AS id, array(0D) AS features FROM range(1, 4)")
    model = KNNEstimator(k=3, idCol="id").fit(items)
    limit = 1 << {"tinyint": 7, "smallint": 15, "int": 31, "bigint": 63}[given]
    lists = [value for value in wanted if value is None or -limit <= value < limit]
    kind = f"features array<double>, one {given}, many array<{given}>"
    queries = spark.createDataFrame([([0.0], lists[0], lists)], kind)
    for name, left in (("one", [1, 2, 3] if lists[0] != 1 else [2, 3]), ("many", [2, 3])):
        found = model.copy({model.excludeIdCol: name}).transform(queries).first()
        assert found.neighbors == left
    other = queries.selectExpr("features", "CAST(one AS string) AS one")
    with pytest.raises(TypeError, match="excludeIdCol 'one' must be of the items' id type"):
        model.copy({model.excludeIdCol: "one"}).transform(other)


@pytest.mark.skipif(SPARK < 4, reason="strings have collations since Spark 4")
def test_collated_ids_are_refused(spark: SparkSession) -> None:
    """Spark's joins call "ann" and "ANN" equal under UTF8_LCASE, and the search does not."""
    items = spark.sql("SELECT explode(array('ann', 'ANN')) AS id, array(0D) AS features")
    collated = items.selectExpr("id COLLATE UTF8_LCASE AS id", "features")
    hint = "has collation UTF8_LCASE.*COLLATE UTF8_BINARY"
    with pytest.raises(TypeError, match=f"idCol 'id' {hint}"):
        KNNEstimator(idCol="id").fit(collated)
    model = KNNEstimator(k=1, idCol="id", excludeIdCol="id").fit(items)
    for queries in (collated, collated.selectExpr("array(id) AS id", "features")):
        with pytest.raises(TypeError, match=f"excludeIdCol 'id' {hint}"):
            model.transform(queries)
    with pytest.raises(TypeError, match=f"idCol 'id' of items {hint}"):
        model.kneighborsJoin(items, items=collated)
    plain = items.selectExpr("id COLLATE UTF8_BINARY AS id", "features")
    assert KNNEstimator(k=1, idCol="id").fit(plain).ids.tolist() == ["ANN", "ann"]


@pytest.mark.parametrize("kind", ["char(3)", "varchar(3)"])
def test_ids_of_bounded_strings(spark: SparkSession, kind: str) -> None:
    spark.sql(f"CREATE TABLE bounded (id {kind}, features array<double>) USING parquet")
    try:
        spark.sql("INSERT INTO bounded VALUES ('abc', array(0D)), ('xyz', array(1D))")
        items = spark.table("bounded")
        model = KNNEstimator(k=2, idCol="id", excludeIdCol="id").fit(items)
        found = {row.id: row.neighbors for row in model.transform(items).collect()}
        assert found == {"abc": ["xyz"], "xyz": ["abc"]}
        joined = model.kneighborsJoin(items, items=items)
        assert {row.item.id for row in joined.collect()} == {"abc", "xyz"}
    finally:
        spark.sql("DROP TABLE bounded")


def _functions() -> tuple[Any, Any]:
    """A nondeterministic Python function and a deterministic one, not marked as such in Spark."""
    # Functions with type hints become Arrow UDFs in some Sparks and warn in others.
    return (
        F.udf(lambda: str(uuid.uuid4()), "string"),
        F.udf(lambda value: str(value), "string"),
    )


def _drawn(spark: SparkSession) -> dict[str, DataFrame]:
    """Items whose column "key" is not deterministic, in ways that are hard to see."""
    plain = spark.range(0, 4, 1, 2).selectExpr("id", "array(double(id)) AS features")
    blind, text = _functions()
    uuids = plain.withColumn("key", F.expr("uuid()"))
    return {
        "uuid": uuids,
        "rand": plain.withColumn("key", F.rand()),
        "monotonic": plain.withColumn("key", F.monotonically_increasing_id()),
        "blind function": plain.withColumn("key", blind()),
        "told function": plain.withColumn("key", text.asNondeterministic()("id")),
        "derived": uuids.withColumn("key", F.concat(F.lit("a"), F.upper("key"))),
        "behind a function": plain.withColumn("key", text(F.monotonically_increasing_id())),
        "union": plain.withColumn("key", F.lit("a")).union(uuids),
        "join": plain.join(uuids.select("id", "key"), "id"),
        "window": plain.withColumn("key", F.expr("row_number() OVER (ORDER BY rand())")),
        "explode": plain.withColumn("key", F.explode(F.array(F.expr("uuid()")))),
        "aggregate": uuids.groupBy("id", "features").agg(F.max("key").alias("key")),
        "a cached one beside": plain.cache().withColumn("key", F.expr("uuid()")),
    }


def _steady(spark: SparkSession) -> dict[str, DataFrame]:
    """Items whose column "key" is deterministic, though other columns are not."""
    blind, text = _functions()
    plain = spark.range(0, 4, 1, 2).selectExpr("id", "id AS key", "array(double(id)) AS features")
    drawn = plain.withColumn("key", F.expr("uuid()"))
    beside = plain.withColumn("chance", F.rand(1))
    return {
        "plain": plain,
        "cached": drawn.cache(),
        "cached and more": drawn.cache().withColumn("key", F.upper("key")).where("id < 9"),
        "checkpointed": drawn.localCheckpoint(),
        "beside": beside,
        "filtered": beside.where("chance < 2").drop("chance"),
        "sampled": plain.sample(fraction=1.0, seed=1),
        "split": plain.randomSplit([1.0, 0.0], seed=3)[0],
        "shuffled": plain.orderBy(F.rand()),
        "hashed": plain.withColumn("key", F.xxhash64("features")),
        "function": plain.withColumn("key", text("key")),
        "blind function beside": plain.withColumn("more", blind()),
        "union": plain.union(plain),
        "vectors": plain.withColumn("features", F.array(F.rand())),
    }


@pytest.fixture
def classic(spark: SparkSession) -> Iterator[SparkSession]:
    """Spark Connect does not show its plans."""
    if compat.is_connect(spark):
        pytest.skip("a client of Spark Connect sees no plan")
    yield spark
    spark.catalog.clearCache()


def test_nondeterministic_ids_are_found_in_the_plan(classic: SparkSession) -> None:
    found = {name: is_nondeterministic(frame, "key") for name, frame in _drawn(classic).items()}
    assert [name for name, drawn in found.items() if not drawn] == []
    found = {name: is_nondeterministic(frame, "key") for name, frame in _steady(classic).items()}
    assert [name for name, drawn in found.items() if drawn] == []


def test_fit_warns_of_nondeterministic_ids(classic: SparkSession) -> None:
    knn = KNNEstimator(k=1, idCol="key")
    for name in ("blind function", "uuid"):
        items = _drawn(classic)[name]
        with pytest.warns(
            UserWarning, match=r"idCol 'key' is computed by a nondet.*Persist"
        ) as noted:
            knn.fit(items)
        assert noted[0].filename == __file__
        knn.fit(items.cache())  # warnings are errors


def test_a_null_id_is_an_error(spark: SparkSession) -> None:
    items = spark.createDataFrame([(1, [1.0]), (None, [2.0])], "id int, features array<double>")
    for how in ("error", "skip", "keep"):
        with pytest.raises(ValueError, match="idCol 'id' contains a null"):
            KNNEstimator(idCol="id", handleInvalid=how).fit(items)
    missing = items.selectExpr("IF(id IS NULL, double('NaN'), double(id)) AS id", "features")
    with pytest.raises(ValueError, match=r"idCol 'id' contains a NaN\. Every item needs an id"):
        KNNEstimator(idCol="id").fit(missing)


def test_ids_of_queries_may_have_another_type(spark: SparkSession) -> None:
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
