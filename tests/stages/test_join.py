"""kneighborsJoin: one row for each pair of a query and a neighbor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pyspark_knn import KNNEstimator
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pyspark_knn import KNNModel


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, np.array([[0.0], [1.0], [3.0]]), ["a", "b", "c"], id_type=_string())


def _string() -> object:
    from pyspark.sql.types import StringType

    return StringType()


@pytest.fixture(scope="module")
def model(items: DataFrame) -> KNNModel:
    return KNNEstimator(k=2, idCol="id").fit(items)


def test_rows(spark: SparkSession, model: KNNModel) -> None:
    queries = spark.createDataFrame(
        [(1, {"m": 1}, [0.0]), (2, {"m": 2}, [9.0])],
        "q int, attributes map<string,int>, features array<double>",
    )
    pairs = model.kneighborsJoin(queries)
    kinds = dict(pairs.dtypes)
    assert [kinds[name] for name in ("neighbor", "rank", "distance")] == ["string", "int", "double"]
    rows = sorted((r.q, r.rank, r.neighbor, r.distance, r.attributes) for r in pairs.collect())
    assert rows == [
        (1, 1, "a", 0.0, {"m": 1}),
        (1, 2, "b", 1.0, {"m": 1}),
        (2, 1, "c", 6.0, {"m": 2}),
        (2, 2, "b", 8.0, {"m": 2}),
    ]


def test_items_join_by_id(spark: SparkSession, model: KNNModel) -> None:
    titles = spark.createDataFrame([("A", "a"), ("B", "b"), ("B2", "b")], ["title", "id"])
    pairs = model.kneighborsJoin(frame_of(spark, np.array([[0.9]])), items=titles)
    assert pairs.columns == ["id", "features", "neighbor", "rank", "distance", "item"]
    assert sorted((row.rank, row.item.title) for row in pairs.collect()) == [
        (1, "B"),
        (1, "B2"),
        (2, "A"),
    ]
    lacking = model.kneighborsJoin(
        frame_of(spark, np.array([[3.0]])), items=titles.where("id != 'c'")
    )
    assert [(row.neighbor, row.item) for row in lacking.where("rank = 1").collect()] == [
        ("c", None)
    ]


def test_self_join(model: KNNModel, items: DataFrame) -> None:
    pairs = model.copy({model.excludeIdCol: "id"}).kneighborsJoin(items, items=items)
    rows = sorted((row.id, row.rank, row.neighbor, row.item.id) for row in pairs.collect())
    assert rows == [
        ("a", 1, "b", "b"),
        ("a", 2, "c", "c"),
        ("b", 1, "a", "a"),
        ("b", 2, "c", "c"),
        ("c", 1, "b", "b"),
        ("c", 2, "a", "a"),
    ]


def test_a_query_without_neighbors_has_no_row(spark: SparkSession, model: KNNModel) -> None:
    near = model.copy({model.maxDistance: 0.5, model.handleInvalid: "keep"})
    queries = spark.createDataFrame(
        [(1, [0.0]), (2, [99.0]), (3, None)], "q int, features array<double>"
    )
    assert [(r.q, r.neighbor) for r in near.kneighborsJoin(queries).collect()] == [(1, "a")]


def test_the_join_does_not_depend_on_the_names_of_the_outputs(
    spark: SparkSession, model: KNNModel
) -> None:
    queries = frame_of(spark, np.array([[0.0]])).withColumnRenamed("id", "neighbors")
    silent = model.copy({model.neighborsCol: "", model.distancesCol: ""})
    assert [row.neighbor for row in silent.kneighborsJoin(queries).collect()] == ["a", "b"]


def test_names_that_collide_are_refused(spark: SparkSession, model: KNNModel) -> None:
    queries = frame_of(spark, np.array([[0.0]]))
    for name in ("neighbor", "Rank", "distance"):
        with pytest.raises(ValueError, match=f"{name.lower()!r} already exists"):
            model.kneighborsJoin(queries.withColumnRenamed("id", name))
    taken = queries.withColumnRenamed("id", "item")
    assert "item" in model.kneighborsJoin(taken).columns
    with pytest.raises(ValueError, match="'item' already exists"):
        model.kneighborsJoin(taken, items=queries)


def test_items_need_the_id_column(spark: SparkSession, model: KNNModel) -> None:
    queries = frame_of(spark, np.array([[0.0]]))
    with pytest.raises(ValueError, match="idCol 'id' does not exist"):
        model.kneighborsJoin(queries, items=spark.range(1).toDF("key"))
    with pytest.warns(UserWarning, match="idCol is unset"):
        unnamed = KNNEstimator(k=1).fit(queries)
    with pytest.raises(ValueError, match=r"idCol is unset, .* Set idCol and fit again"):
        unnamed.kneighborsJoin(queries, items=queries)


def test_a_left_join_keeps_queries_without_neighbors(
    spark: SparkSession, model: KNNModel, items: DataFrame
) -> None:
    near = model.copy({model.maxDistance: 0.5, model.handleInvalid: "keep"})
    queries = spark.createDataFrame(
        [(1, [0.0]), (2, [99.0]), (3, None)], "q int, features array<double>"
    )
    pairs = near.kneighborsJoin(queries, items=items, how="left")
    found = pairs.orderBy("q").collect()
    rows = [(r.q, r.neighbor, r.rank, r.distance, r.item and r.item.id) for r in found]
    assert rows == [(1, "a", 1, 0.0, "a"), (2, None, None, None, None), (3, None, None, None, None)]
    assert near.kneighborsJoin(queries, items=items, how="inner").count() == 1
    for how in ("outer", "LEFT", None):
        with pytest.raises(ValueError, match="how must be one of inner, left, got"):
            near.kneighborsJoin(queries, how=how)  # type: ignore[arg-type]


def test_names_of_the_new_columns(spark: SparkSession, model: KNNModel, items: DataFrame) -> None:
    queries = spark.createDataFrame(
        [([0.0], 1, 2, 3, 4)],
        "features array<double>, neighbor int, rank int, distance int, item int",
    )
    pairs = model.kneighborsJoin(
        queries, items=items, neighborCol="n", rankCol="r.1", distanceCol="d", itemCol="i"
    )
    assert pairs.columns == [*queries.columns, "n", "r.1", "d", "i"]
    assert [tuple(row)[1:8] for row in pairs.orderBy("d").collect()] == [
        (1, 2, 3, 4, "a", 1, 0.0),
        (1, 2, 3, 4, "b", 2, 1.0),
    ]
    few = model.kneighborsJoin(
        queries, items=items, neighborCol="", rankCol="", distanceCol="d", itemCol=""
    )
    assert few.columns == [*queries.columns, "d"]
    assert sorted(row.d for row in few.collect()) == [0.0, 1.0]
    with pytest.raises(ValueError, match="rankCol 'rank' already exists"):
        model.kneighborsJoin(queries, neighborCol="n", distanceCol="d")
    with pytest.raises(ValueError, match="distanceCol 'n' already exists"):
        model.kneighborsJoin(queries, neighborCol="n", rankCol="r", distanceCol="n")


def test_queries_with_duplicate_names(
    spark: SparkSession, model: KNNModel, items: DataFrame
) -> None:
    """Joins produce such columns, and `transform` accepts them too."""
    queries = frame_of(spark, np.array([[0.0]])).selectExpr("id", "7 AS id", "features", "8 AS x")
    assert [tuple(row) for row in model.transform(queries).collect()] == [
        (0, 7, [0.0], 8, ["a", "b"], [0.0, 1.0])
    ]
    pairs = model.kneighborsJoin(queries, items=items)
    assert pairs.columns == ["id", "id", "features", "x", "neighbor", "rank", "distance", "item"]
    assert sorted(tuple(row)[:7] for row in pairs.collect()) == [
        (0, 7, [0.0], 8, "a", 1, 0.0),
        (0, 7, [0.0], 8, "b", 2, 1.0),
    ]
