"""Sharded placement: the answers of one index, out of many."""

from __future__ import annotations

import datetime as dt
import functools
import warnings
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from pyspark_knn.engine import sharded
from pyspark_knn.engine.shard_plan import numbered
from pyspark_knn.engine.spreading import int_array, spreading_keys
from tests.support.counting import counted_shards
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RANDOM = np.random.default_rng(11)
# A lattice, so that ties are everywhere, and ids that repeat.
ITEMS = RANDOM.integers(-2, 3, (150, 3)).astype(np.float64)
NAMES = [f"n{i:03d}" for i in RANDOM.integers(0, 130, 150)]
QUERIES = RANDOM.integers(-3, 4, (40, 3)).astype(np.float64)

pytestmark = pytest.mark.filterwarnings("ignore:idCol.*:UserWarning")


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, NAMES, id_type=T.StringType(), partitions=4)


@pytest.fixture(scope="module")
def models(items: DataFrame) -> tuple[KNNModel, KNNModel]:
    """The same items, replicated and in three shards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = functools.partial(KNNEstimator, k=6, idCol="id")
        return (
            make(placement="replicated").fit(items),
            make(placement="sharded", numShards=3).fit(items),
        )


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    """Valid and invalid ones, with ids to leave out, in two partitions of one size and a small."""
    rows: list[Any] = [
        (i, row, [NAMES[i], NAMES[i + 1]] if i % 3 else None)
        for i, row in enumerate(QUERIES.tolist())
    ]
    rows[7] = (7, None, None)
    rows[8] = (8, [1.0, 2.0], None)
    rows[9] = (9, [1.0, float("inf"), 2.0], None)
    return spark.createDataFrame(rows, "n int, features array<double>, seen array<string>")


def test_what_the_model_tells(models: tuple[KNNModel, KNNModel]) -> None:
    one, cut = models
    assert cut.getPlacement() == "sharded"
    assert cut.getNumShards() == 3
    assert cut.getAlgorithm() in ("brute", "kd_tree", "ball_tree")
    assert (cut.numItems, cut.numFeatures) == (one.numItems, one.numFeatures) == (150, 3)
    assert cut._summary.numDuplicates == one._summary.numDuplicates == 150 - len(set(NAMES))
    assert "sharded was asked for" in cut.placementReason
    assert "of 3 shards" in cut.algorithmReason
    assert cut.ids.tolist() == one.ids.tolist() == sorted(NAMES)
    assert cut.toSklearn().n_samples_fit_ == 150


@pytest.mark.parametrize(
    "changes",
    [
        {"handleInvalid": "keep"},
        {"handleInvalid": "skip", "k": 200},
        {"handleInvalid": "keep", "excludeIdCol": "seen", "maxDistance": 1.5},
    ],
    ids=str,
)
def test_answers_are_those_of_one_index(
    models: tuple[KNNModel, KNNModel], queries: DataFrame, changes: dict[str, Any]
) -> None:
    found = []
    for model in models:
        changed = model.copy({model.getParam(name): value for name, value in changes.items()})
        rows = changed.transform(queries)
        assert rows.columns == [*queries.columns, "neighbors", "distances"]
        found.append(sorted(rows.collect(), key=lambda row: row.n))
    assert found[0] == found[1]
    assert len(found[0]) == (37 if changes["handleInvalid"] == "skip" else 40)


def test_an_invalid_query_is_an_error(
    models: tuple[KNNModel, KNNModel], queries: DataFrame
) -> None:
    found = models[1].transform(queries)
    with pytest.raises(PySparkException, match="featuresCol 'features' holds a"):
        found.collect()


@pytest.mark.parametrize(
    ("id_type", "make"),
    [
        (T.IntegerType(), lambda i: 7 * i - 300),
        (T.BinaryType(), lambda i: bytes([255 - i, 0, i % 7])),
        (T.DecimalType(20, 3), lambda i: Decimal(i) / 8),
        (T.DateType(), lambda i: dt.date(1500 + 9 * i, 2, 3)),
        # Hours that come twice in the time zone of the tests, and years that pandas has not.
        (T.TimestampType(), lambda i: dt.datetime(2024, 10, 27, tzinfo=dt.timezone.utc)
            + dt.timedelta(minutes=10 * i)),
    ],
    ids=lambda value: value.simpleString() if isinstance(value, T.DataType) else "",
)  # fmt: skip
def test_types_of_ids(spark: SparkSession, id_type: T.DataType, make: Any) -> None:
    items = frame_of(spark, ITEMS[:60], [make(i) for i in range(60)], id_type=id_type)
    asked = [(i, row, make(i)) for i, row in enumerate(QUERIES.tolist())]
    schema = T.StructType(
        [
            T.StructField("n", T.IntegerType()),
            T.StructField("features", T.ArrayType(T.DoubleType())),
            T.StructField("self", id_type),
        ]
    )
    queries = spark.createDataFrame(asked, schema)
    estimator = KNNEstimator(k=4, idCol="id", excludeIdCol="self")
    one = estimator.fit(items).transform(queries)
    cut = estimator.setPlacement("sharded").setNumShards(2).fit(items).transform(queries)
    assert cut.schema["neighbors"].dataType == T.ArrayType(id_type)
    assert answers(cut, key="n") == answers(one, key="n")


@pytest.mark.parametrize("kind", ["sparse", "float"])
def test_positions_stand_for_ids_in_shards_too(spark: SparkSession, kind: str) -> None:
    items = frame_of(spark, ITEMS, kind=kind, partitions=None).select("features")
    queries = frame_of(spark, QUERIES, kind="dense")
    one = KNNEstimator(k=9).fit(items)
    cut = KNNEstimator(k=9, placement="sharded", numShards=4).fit(items)
    assert cut.ids.tolist() == list(range(150))
    assert answers(cut.transform(queries)) == answers(one.transform(queries))
    assert set(cut.items.columns) == {"position", "features"}


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics(spark: SparkSession, metric: str) -> None:
    items = frame_of(spark, ITEMS, RANDOM.permutation(150).tolist())
    queries = frame_of(spark, QUERIES)
    make = functools.partial(KNNEstimator, idCol="id", metric=metric, k=7)
    one = make().fit(items).transform(queries)
    cut = make(placement="sharded", numShards=5).fit(items).transform(queries)
    assert answers(cut) == answers(one)


def test_few_items_and_equal_ones(spark: SparkSession) -> None:
    few = frame_of(spark, ITEMS[:3], [5, 6, 7])
    with pytest.warns(UserWarning, match="k is 5"):
        model = KNNEstimator(idCol="id", placement="sharded", numShards=50).fit(few)
    assert model.getNumShards() == 3
    assert [len(row) for row in answers(model.transform(frame_of(spark, QUERIES)))] == [3] * 40
    equal = frame_of(spark, np.ones((40, 2)), range(40))
    model = KNNEstimator(idCol="id", placement="sharded", numShards=4).fit(equal)
    found = answers(model.transform(equal))
    assert found == [[(i, 0.0) for i in range(5)]] * 40


def test_queries_keep_columns_of_any_type(
    spark: SparkSession, models: tuple[KNNModel, KNNModel]
) -> None:
    schema = T.StructType(
        [
            T.StructField("n", T.IntegerType(), metadata={"ml_attr": {"type": "nominal"}}),
            T.StructField("features", VectorUDT(), metadata={"ml_attr": {"num_attrs": 3}}),
            T.StructField("map", T.MapType(T.StringType(), T.IntegerType())),
            T.StructField("deep", T.ArrayType(T.MapType(T.IntegerType(), T.BinaryType()))),
            T.StructField(
                "struct",
                T.StructType([T.StructField("m", T.MapType(T.DateType(), T.FloatType()))]),
            ),
            T.StructField("a.b", T.DecimalType(5, 1)),
        ]
    )
    rows = [
        (i, Vectors.dense(row), {"a": i}, [{i: b"x"}, None], ({dt.date(2000, 1, 1): 0.5},), None)
        for i, row in enumerate(QUERIES.tolist())
    ]
    frame = spark.createDataFrame(rows, schema)
    # Spark allows two columns of one name.
    queries = (
        frame.withColumn("more", F.lit(1))
        .withColumn("other", F.lit(2))
        .toDF(*frame.columns, "same", "same")
    )
    found = models[1].transform(queries)
    assert found.columns == [*queries.columns, "neighbors", "distances"]
    for before, after in zip(queries.schema.fields, found.schema.fields, strict=False):
        assert after.dataType == before.dataType
        assert after.metadata == before.metadata
    got = sorted((tuple(row) for row in found.collect()), key=lambda row: row[0])
    expected = sorted((tuple(row) for row in queries.collect()), key=lambda row: row[0])
    assert [row[:-2] for row in got] == expected
    plain = models[0].transform(frame_of(spark, QUERIES))
    assert [list(zip(*row[-2:], strict=True)) for row in got] == answers(plain)


def test_each_query_is_searched_once(
    spark: SparkSession,
    spark_kind: str,
    models: tuple[KNNModel, KNNModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if spark_kind == "connect":
        pytest.skip("the server's workers write elsewhere")
    take = counted_shards(monkeypatch, tmp_path)
    found = models[1].transform(frame_of(spark, QUERIES))
    every = 40 * 3
    near = F.get("distances", F.lit(0)) < 1
    for result in (
        found.where(near),
        found.where(near & (F.size("neighbors") > 1)).select("id", "neighbors"),
        found.select("id", F.explode("neighbors").alias("one")).where("one > 'n'"),
        found.na.drop(),
        found.select("*", F.col("distances").alias("d")).where("size(d) > 2").orderBy("id"),
    ):
        result.collect()
        assert take() == every


def test_the_spread_of_keys(spark: SparkSession) -> None:
    for count in (1, 2, 3, 8, 37):
        key = F.element_at(int_array(spreading_keys(count)), (F.col("id") + 1).cast("int"))
        rows = spark.range(count).repartition(count, key)
        places = rows.select("id", F.spark_partition_id().alias("place")).collect()
        assert [(row.id, row.place) for row in sorted(places)] == [(i, i) for i in range(count)]


def test_fewer_shards_than_cores_are_replicated(
    spark: SparkSession, models: tuple[KNNModel, KNNModel]
) -> None:
    index = models[1]._index
    assert isinstance(index, sharded.Sharded)
    assert index.plan().replicas * 3 >= index._cores
    queries = frame_of(spark, QUERIES, partitions=20)
    copies = index.plan(4).copies(numbered(queries, []))
    per_target = copies.groupBy("target").agg(F.count("*").alias("n"), F.count("rest").alias("own"))
    rows = per_target.orderBy("target").collect()
    assert [row.target for row in rows] == list(range(12))
    assert sum(row.n for row in rows) == 3 * 40
    assert sum(row.own for row in rows) == 40
    model = models[1].copy({models[1].numReplicas: 4})
    assert answers(model.transform(queries)) == answers(models[0].transform(queries))


def test_explain_search(models: tuple[KNNModel, KNNModel], queries: DataFrame) -> None:
    one, cut = (model.explainSearch(queries) for model in models)
    assert "150 of 3 dimensions" in one
    assert "40, 6 neighbors each: 6e+03 pairs" in one
    assert "placement  replicated" in one
    assert "placement  sharded: 3 shards" in cut
    for report in (one, cut):
        assert "core-hours" in report
        assert "advice" not in report


@pytest.mark.parametrize("estimator", [KNNClassifier, KNNRegressor])
def test_shards_vote_as_one_index(
    spark: SparkSession, tmp_path: Path, estimator: type[Any]
) -> None:
    # Ids that repeat with other labels, and weights: what breaks a tie decides the vote.
    rows = [
        (i % 50, row, float(i % 3), float(1 + i % 4)) for i, row in enumerate(ITEMS[:110].tolist())
    ]
    columns = "id int, features array<double>, label double, weight double"
    items = spark.createDataFrame(rows, columns)
    queries = frame_of(spark, QUERIES, id_col="n")
    make = functools.partial(
        estimator, k=4, idCol="id", weightCol="weight", weights="distance", neighborsCol="near"
    )
    with pytest.warns(UserWarning, match="60 items have the id of another"):
        one = make(placement="replicated").fit(items)
    with pytest.warns(UserWarning, match="60 items have the id of another"):
        cut = make(placement="sharded", numShards=3).fit(items)
    expected = sorted(map(str, one.transform(queries).collect()))
    assert sorted(map(str, cut.transform(queries).collect())) == expected
    cut.write().save(str(tmp_path / "model"))
    loaded = type(cut).load(str(tmp_path / "model"))
    assert sorted(map(str, loaded.transform(queries).collect())) == expected
    with pytest.raises(ValueError, match="on the executors"):
        cut.predict(Vectors.dense([0.0, 0.0, 0.0]))


def test_siblings_share_one_search_of_shards(items: DataFrame) -> None:
    knn = KNNEstimator(idCol="id", placement="sharded", numShards=3)
    maps = [{knn.k: 2}, {knn.k: 5}, {knn.k: 5, knn.maxDistance: 1.5}]
    queries = items.limit(20)
    cached = queries.persist()
    siblings = dict(knn.fitMultiple(items, maps))
    found = [siblings[i].transform(cached) for i in range(len(maps))]
    alone = [knn.copy(each).fit(items).transform(queries) for each in maps]
    for mine, other in zip(found, alone, strict=True):
        assert sorted(map(str, mine.collect())) == sorted(map(str, other.collect()))
    # All are cut out of one search, which is cached as one DataFrame.
    assert len(siblings[0]._shared._made[cached]) == 1
    cached.unpersist()


def test_a_stream_is_refused(spark: SparkSession, models: tuple[KNNModel, KNNModel]) -> None:
    stream = spark.readStream.format("rate").load()
    stream = stream.select(F.array(*[F.lit(0.0)] * 3).alias("features"))
    with pytest.raises(ValueError, match="foreachBatch"):
        models[1].transform(stream)


def test_save_and_load_stay_sharded(
    models: tuple[KNNModel, KNNModel], queries: DataFrame, tmp_path: Path
) -> None:
    cut = models[1]
    path = str(tmp_path / "model")
    cut.write().save(path)
    loaded = KNNModel.load(path)
    assert (loaded.getPlacement(), loaded.getNumShards()) == ("sharded", 3)
    assert loaded.placementReason == cut.placementReason
    assert loaded.ids.tolist() == sorted(NAMES)
    keep = {cut.handleInvalid: "keep"}
    assert answers_or_none(loaded.copy(keep), queries) == answers_or_none(cut.copy(keep), queries)
    # Its shards are built again from these files, should they get lost.
    with pytest.raises(ValueError, match="cannot be overwritten by the sharded model"):
        loaded.write().overwrite().save(path)
    assert loaded.items.count() == 150


def answers_or_none(model: KNNModel, queries: DataFrame) -> list[Any]:
    rows = model.transform(queries).select("n", "neighbors", "distances").collect()
    return sorted((tuple(row) for row in rows), key=lambda row: row[0])


def test_shards_can_be_freed_and_come_back(items: DataFrame, spark: SparkSession) -> None:
    model = KNNEstimator(idCol="id", placement="sharded", numShards=2).fit(items)
    queries = frame_of(spark, QUERIES)
    before = answers(model.transform(queries))
    frame = model._index._frame  # type: ignore[union-attr]
    assert frame.storageLevel.useMemory
    assert model.unpersist() is model
    assert not frame.storageLevel.useMemory
    assert answers(model.transform(queries)) == before
    model.unpersist()


def test_a_model_keeps_its_shards_when_one_of_an_equal_fit_goes(items: DataFrame) -> None:
    """As in a notebook whose cell is run again: Spark takes equal plans for one."""
    knn = KNNEstimator(idCol="id", placement="sharded", numShards=2)
    former, model = knn.fit(items), knn.fit(items)
    frame = model._index._frame  # type: ignore[union-attr]
    former.unpersist()
    assert frame.storageLevel.useMemory
    model.unpersist()


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placement.AUTO_BYTES", 1000)


@pytest.mark.usefixtures("small_limit")
def test_auto_shards_what_is_too_large_to_replicate(items: DataFrame) -> None:
    model = KNNEstimator(idCol="id").fit(items)
    assert model.getPlacement() == "sharded"
    assert "150 items of 3 dimensions in float32 take" in model.placementReason
    assert "more than the" in model.placementReason


CLUSTERED = np.concatenate(
    [RANDOM.normal(center, 0.05, (80, 2)) for center in RANDOM.uniform(-9, 9, (6, 2))]
)
NEAR = CLUSTERED[::9] + RANDOM.normal(0, 0.02, CLUSTERED[::9].shape)


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "sqeuclidean"])
def test_cells_answer_exactly_and_pass_over_others(
    spark: SparkSession,
    spark_kind: str,
    metric: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = frame_of(spark, CLUSTERED, partitions=3)
    asked: list[Any] = [(i, row, [i * 9]) for i, row in enumerate(NEAR.tolist())]
    asked[3] = (3, None, None)
    asked[4] = (4, [100.0, 50.0], None)
    queries = spark.createDataFrame(asked, "n int, features array<double>, seen array<long>")
    make = functools.partial(
        KNNEstimator, k=4, idCol="id", metric=metric, handleInvalid="keep", excludeIdCol="seen"
    )
    one = make(placement="replicated").fit(items)
    cut = make(placement="sharded", shardBy="kmeans", numShards=12).fit(items)
    assert cut.numItems == len(CLUSTERED)
    expected = answers_or_none(one, queries)
    if spark_kind == "connect":
        assert answers_or_none(cut, queries) == expected
    else:
        take = counted_shards(monkeypatch, tmp_path)
        assert answers_or_none(cut, queries) == expected
        # Hash shards would have searched every query in every shard.
        assert take() < len(NEAR) * cut.getNumShards() / 2
    if metric != "euclidean":
        return
    for changes in ({"k": 500}, {"maxDistance": 0.03}):
        found = [
            answers_or_none(m.copy({m.getParam(n): v for n, v in changes.items()}), queries)
            for m in (one, cut)
        ]
        assert found[0] == found[1]
    few = cut.setNumProbes(1)
    close = answers_or_none(few, queries)
    assert [row[0] for row in close] == [row[0] for row in expected]
    assert close[3] == expected[3]
    shares = [
        len(set(a[1]) & set(b[1])) / 4
        for a, b in zip(close, expected, strict=True)
        if a[1] is not None
    ]
    assert 0.5 < np.mean(shares) <= 1
    assert answers_or_none(few.setNumProbes(12), queries) == expected


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_cells_need_the_triangle_inequality(items: DataFrame, metric: str) -> None:
    estimator = KNNEstimator(idCol="id", shardBy="kmeans", metric=metric)
    with pytest.raises(ValueError, match="shardBy 'kmeans' needs the triangle inequality"):
        estimator.fit(items)


def test_a_giant_cell_is_cut(spark: SparkSession) -> None:
    equal = frame_of(spark, np.concatenate([np.ones((60, 2)), 9 * np.eye(2)]), range(62))
    make = functools.partial(KNNEstimator, k=3, idCol="id")
    model = make(placement="sharded", shardBy="kmeans", numShards=6).fit(equal)
    assert max(shard.rows for shard in model._index.shards) < 60  # type: ignore[union-attr]
    one = make(placement="replicated").fit(equal)
    assert answers(model.transform(equal)) == answers(one.transform(equal))
