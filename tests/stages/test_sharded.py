"""Sharded placement: many indexes give the answers of one."""

from __future__ import annotations

import datetime as dt
import functools
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from pyspark_knn.engine import sharded
from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.searchable import EXACT
from pyspark_knn.engine.search.self_search import HeldOutSearch
from pyspark_knn.engine.shards import cell_plan
from pyspark_knn.engine.shards.plan import ShardPlan, numbered
from pyspark_knn.engine.shards.self_plan import held_out_search
from pyspark_knn.engine.ship.shard_rows import first_numbers
from pyspark_knn.engine.spark.spreading import int_array, spreading_keys
from tests.support.counting import counted_shards
from tests.support.frames import Matrix, answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def _lattice() -> tuple[Matrix, list[str], Matrix]:
    """Items with ties everywhere, ids that repeat, and queries."""
    rng = np.random.default_rng(11)
    items = rng.integers(-2, 3, (150, 3)).astype(np.float64)
    names = [f"n{i:03d}" for i in rng.integers(0, 130, 150)]
    return items, names, rng.integers(-3, 4, (40, 3)).astype(np.float64)


ITEMS, NAMES, QUERIES = _lattice()

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
    """Valid and invalid queries, with ids to exclude."""
    rows: list[Any] = [
        (i, row, [NAMES[i], NAMES[i + 1]] if i % 3 else None)
        for i, row in enumerate(QUERIES.tolist())
    ]
    rows[7] = (7, None, None)
    rows[8] = (8, [1.0, 2.0], None)
    rows[9] = (9, [1.0, float("inf"), 2.0], None)
    return spark.createDataFrame(rows, "n int, features array<double>, seen array<string>")


def test_params_of_a_sharded_model(models: tuple[KNNModel, KNNModel]) -> None:
    cut = models[1]
    assert cut.getPlacement() == "sharded"
    assert cut.getNumShards() == 3
    assert cut.getAlgorithm() in ("brute", "kd_tree", "ball_tree")
    assert "placement 'sharded' was requested" in cut.placementReason
    assert "of 3 shards" in cut.algorithmReason


def test_counts_and_ids_are_those_of_one_index(models: tuple[KNNModel, KNNModel]) -> None:
    one, cut = models
    assert (cut.numItems, cut.numFeatures) == (one.numItems, one.numFeatures) == (150, 3)
    assert cut._summary.numDuplicates == one._summary.numDuplicates == 150 - len(set(NAMES))
    assert cut.ids.tolist() == one.ids.tolist() == sorted(NAMES)


def test_to_sklearn_gathers_the_items_of_all_shards(models: tuple[KNNModel, KNNModel]) -> None:
    assert models[1].toSklearn().n_samples_fit_ == 150


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
    with pytest.raises(PySparkException, match="featuresCol 'features' contains a"):
        found.collect()


@pytest.mark.parametrize(
    ("id_type", "make"),
    [
        (T.IntegerType(), lambda i: 7 * i - 300),
        (T.BinaryType(), lambda i: bytes([255 - i, 0, i % 7])),
        (T.DecimalType(20, 3), lambda i: Decimal(i) / 8),
        (T.DateType(), lambda i: dt.date(1500 + 9 * i, 2, 3)),
        # Hours that occur twice in the time zone of the tests.
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
def test_without_id_col_positions_name_the_neighbors(spark: SparkSession, kind: str) -> None:
    items = frame_of(spark, ITEMS, kind=kind, partitions=None).select("features")
    queries = frame_of(spark, QUERIES, kind="dense")
    one = KNNEstimator(k=9).fit(items)
    cut = KNNEstimator(k=9, placement="sharded", numShards=4).fit(items)
    assert cut.ids.tolist() == list(range(150))
    assert answers(cut.transform(queries)) == answers(one.transform(queries))
    assert set(cut.items.columns) == {"position", "features"}


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics(spark: SparkSession, rng: np.random.Generator, metric: str) -> None:
    items = frame_of(spark, ITEMS, rng.permutation(150).tolist())
    queries = frame_of(spark, QUERIES)
    make = functools.partial(KNNEstimator, idCol="id", metric=metric, k=7)
    one = make().fit(items).transform(queries)
    cut = make(placement="sharded", numShards=5).fit(items).transform(queries)
    assert answers(cut) == answers(one)


def test_there_are_no_more_shards_than_items(spark: SparkSession) -> None:
    few = frame_of(spark, ITEMS[:3], [5, 6, 7])
    with pytest.warns(UserWarning, match="k is 5"):
        model = KNNEstimator(idCol="id", placement="sharded", numShards=50).fit(few)
    assert model.getNumShards() == 3
    assert [len(row) for row in answers(model.transform(frame_of(spark, QUERIES)))] == [3] * 40


def test_among_equal_items_the_smallest_ids_are_returned(spark: SparkSession) -> None:
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


def test_parts_of_columns_can_be_selected_afterwards(
    spark: SparkSession, models: tuple[KNNModel, KNNModel]
) -> None:
    """Spark removes from a plan the columns, and the fields of them, that nothing uses."""
    queries = frame_of(spark, QUERIES).select(
        F.col("id").alias("n"),
        F.create_map(F.lit("n"), F.col("id")).alias("m"),
        F.struct("id", F.lit("x").alias("x")).alias("s"),
        "features",
    )
    found, expected = (
        model.transform(queries)
        .withColumn("m", F.col("m")["n"])
        .select("n", "m", "s.id", F.col("neighbors")[0], F.element_at("distances", -1))
        .collect()
        for model in reversed(models)
    )
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


SQL_SETTINGS = {
    "spark.sql.ansi.enforceReservedKeywords": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.parser.quotedRegexColumnNames": "true",
    "spark.sql.caseSensitive": "true",
}


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_settings_of_sql_change_no_answer(
    spark: SparkSession, models: tuple[KNNModel, KNNModel], ansi: str
) -> None:
    queries = frame_of(spark, QUERIES)
    expected = answers(models[0].transform(queries))
    settings = {**SQL_SETTINGS, "spark.sql.ansi.enabled": ansi}
    before = {name: spark.conf.get(name) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        assert answers(models[1].transform(queries)) == expected
    finally:
        for name, old in before.items():
            spark.conf.set(name, old)


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


def test_spreading_keys_fill_one_partition_each(spark: SparkSession) -> None:
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
    copies = index.plan(4).copies(numbered(queries, {}))
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
        assert "time       less than a second on 2 cores (estimated from " in report
        assert "storage    dense: " in report
        assert "advice" not in report


class Voters(NamedTuple):
    """A replicated and a sharded model that vote, with queries and what `one` returns for them."""

    one: Any
    cut: Any
    queries: DataFrame
    expected: list[str]


@pytest.fixture(scope="module", params=[KNNClassifier, KNNRegressor])
def voters(spark: SparkSession, request: pytest.FixtureRequest) -> Voters:
    # Ids that repeat with other labels, and weights: what breaks a tie decides the vote.
    rows = [
        (i % 50, row, float(i % 3), float(1 + i % 4)) for i, row in enumerate(ITEMS[:110].tolist())
    ]
    columns = "id int, features array<double>, label double, weight double"
    items = spark.createDataFrame(rows, columns)
    queries = frame_of(spark, QUERIES, id_col="n")
    make = functools.partial(
        request.param, k=4, idCol="id", weightCol="weight", weights="distance", neighborsCol="near"
    )
    with pytest.warns(UserWarning, match="60 items have the same id as another"):
        one = make(placement="replicated").fit(items)
    with pytest.warns(UserWarning, match="60 items have the same id as another"):
        cut = make(placement="sharded", numShards=3).fit(items)
    return Voters(one, cut, queries, sorted(map(str, one.transform(queries).collect())))


def test_shards_vote_as_one_index(voters: Voters) -> None:
    assert sorted(map(str, voters.cut.transform(voters.queries).collect())) == voters.expected


def test_a_loaded_sharded_model_votes_as_the_saved_one(voters: Voters, tmp_path: Path) -> None:
    voters.cut.write().save(str(tmp_path / "model"))
    loaded = type(voters.cut).load(str(tmp_path / "model"))
    assert sorted(map(str, loaded.transform(voters.queries).collect())) == voters.expected


def test_predict_is_refused_by_a_sharded_model(voters: Voters) -> None:
    with pytest.raises(ValueError, match="on the executors"):
        voters.cut.predict(Vectors.dense([0.0, 0.0, 0.0]))


def test_models_of_one_fit_multiple_share_one_search_of_shards(items: DataFrame) -> None:
    knn = KNNEstimator(idCol="id", placement="sharded", numShards=3)
    maps = [{knn.k: 2}, {knn.k: 5}, {knn.k: 5, knn.maxDistance: 1.5}]
    queries = items.limit(20)
    cached = queries.persist()
    siblings = dict(knn.fitMultiple(items, maps))
    found = [siblings[i].transform(cached) for i in range(len(maps))]
    alone = [knn.copy(each).fit(items).transform(queries) for each in maps]
    for mine, other in zip(found, alone, strict=True):
        assert sorted(map(str, mine.collect())) == sorted(map(str, other.collect()))
    # All are derived from one search, which is cached as one DataFrame.
    assert len(siblings[0]._shared._searches[cached]) == 1
    cached.unpersist()


def test_a_stream_is_refused(spark: SparkSession, models: tuple[KNNModel, KNNModel]) -> None:
    stream = spark.readStream.format("rate").load()
    stream = stream.select(F.array(*[F.lit(0.0)] * 3).alias("features"))
    with pytest.raises(ValueError, match="foreachBatch"):
        models[1].transform(stream)


@pytest.fixture(scope="module")
def saved(
    models: tuple[KNNModel, KNNModel], tmp_path_factory: pytest.TempPathFactory
) -> tuple[KNNModel, str]:
    """The sharded model, saved and loaded, and its path."""
    path = str(tmp_path_factory.mktemp("saved") / "model")
    models[1].write().save(path)
    return KNNModel.load(path), path


def test_a_loaded_model_has_the_same_shards(
    models: tuple[KNNModel, KNNModel], saved: tuple[KNNModel, str]
) -> None:
    loaded, _ = saved
    assert (loaded.getPlacement(), loaded.getNumShards()) == ("sharded", 3)
    assert loaded.placementReason == models[1].placementReason
    assert loaded.ids.tolist() == sorted(NAMES)


def test_a_loaded_model_answers_as_the_saved_one(
    models: tuple[KNNModel, KNNModel], saved: tuple[KNNModel, str], queries: DataFrame
) -> None:
    loaded, cut = saved[0], models[1]
    keep = {cut.handleInvalid: "keep"}
    assert answers_or_none(loaded.copy(keep), queries) == answers_or_none(cut.copy(keep), queries)


def test_a_loaded_model_cannot_overwrite_its_own_files(saved: tuple[KNNModel, str]) -> None:
    """Spark rebuilds lost shards from these files."""
    loaded, path = saved
    with pytest.raises(ValueError, match="cannot be overwritten by the sharded model"):
        loaded.write().overwrite().save(path)
    assert loaded.items.count() == 150


def answers_or_none(model: KNNModel, queries: DataFrame) -> list[Any]:
    rows = model.transform(queries).select("n", "neighbors", "distances").collect()
    return sorted((tuple(row) for row in rows), key=lambda row: row[0])


def test_unpersisted_shards_are_rebuilt(items: DataFrame, spark: SparkSession) -> None:
    model = KNNEstimator(idCol="id", placement="sharded", numShards=2).fit(items)
    queries = frame_of(spark, QUERIES)
    before = answers(model.transform(queries))
    frame = model._index._frame  # type: ignore[union-attr]
    assert frame.storageLevel.useMemory
    assert model.unpersist() is model
    assert not frame.storageLevel.useMemory
    assert answers(model.transform(queries)) == before
    model.unpersist()


def test_unpersist_of_an_equal_model_keeps_the_shards(items: DataFrame) -> None:
    """As in a notebook whose cell is run again: Spark caches equal plans once."""
    knn = KNNEstimator(idCol="id", placement="sharded", numShards=2)
    former, model = knn.fit(items), knn.fit(items)
    frame = model._index._frame  # type: ignore[union-attr]
    former.unpersist()
    assert frame.storageLevel.useMemory
    model.unpersist()


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placing.AUTO_BYTES", 1000)


@pytest.mark.usefixtures("small_limit")
def test_auto_shards_items_that_are_too_large_to_replicate(items: DataFrame) -> None:
    model = KNNEstimator(idCol="id").fit(items)
    assert model.getPlacement() == "sharded"
    assert "150 items of 3 dimensions in float32 take" in model.placementReason
    assert "more than the" in model.placementReason


def _clusters() -> tuple[Matrix, Matrix]:
    """Items in six clusters, and queries near every ninth item."""
    rng = np.random.default_rng(11)
    centers = rng.uniform(-9, 9, (6, 2))
    items = np.concatenate([rng.normal(center, 0.05, (80, 2)) for center in centers])
    return items, items[::9] + rng.normal(0, 0.02, items[::9].shape)


CLUSTERED, NEAR = _clusters()


class Cells(NamedTuple):
    """A replicated and a k-means sharded model, and what both return for `queries`."""

    one: KNNModel
    cut: KNNModel
    queries: DataFrame
    expected: list[Any]
    found: list[Any]
    searched: int | None
    """How many queries all shards together searched for `found`; None if that is not known."""


@pytest.fixture(scope="module")
def cells(
    spark: SparkSession,
    spark_kind: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cells]:
    """The models of one metric: see `METRICS` and `EUCLIDEAN`."""
    items = frame_of(spark, CLUSTERED, partitions=3)
    asked: list[Any] = [(i, row, [i * 9]) for i, row in enumerate(NEAR.tolist())]
    asked[INVALID] = (INVALID, None, None)
    asked[4] = (4, [100.0, 50.0], None)
    queries = spark.createDataFrame(asked, "n int, features array<double>, seen array<long>")
    make = functools.partial(KNNEstimator, k=4, idCol="id", excludeIdCol="seen")
    make = functools.partial(make, metric=request.param, handleInvalid="keep")
    one = make(placement="replicated").fit(items)
    cut = make(placement="sharded", shardBy="kmeans", numShards=12).fit(items)
    with pytest.MonkeyPatch.context() as patch:
        # Workers of a Spark Connect server write their counts elsewhere.
        countable = spark_kind != "connect"
        take = counted_shards(patch, tmp_path_factory.mktemp("cells")) if countable else None
        found = answers_or_none(cut, queries)
        searched = take() if take else None
    yield Cells(one, cut, queries, answers_or_none(one, queries), found, searched)
    cut.unpersist()


INVALID = 3
METRICS = pytest.mark.parametrize("cells", ["euclidean", "cityblock", "sqeuclidean"], indirect=True)
EUCLIDEAN = pytest.mark.parametrize("cells", ["euclidean"], indirect=True)


@METRICS
def test_cells_answer_as_one_index(cells: Cells) -> None:
    assert cells.cut.numItems == len(CLUSTERED)
    assert cells.found == cells.expected


@METRICS
def test_most_cells_are_not_searched(cells: Cells) -> None:
    if cells.searched is None:
        pytest.skip("the server's workers write elsewhere")
    # Hash shards would have searched every query in every shard.
    assert cells.searched < len(NEAR) * cells.cut.getNumShards() / 2


@EUCLIDEAN
@pytest.mark.parametrize("few", [0, 1000], ids=["in turn", "at once"])
def test_cells_are_searched_in_turn_or_at_once(
    cells: Cells, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(cell_plan, "_FEW_CELLS", few)
    searches = []
    searched = ShardPlan.searched

    def counted(*given: Any) -> DataFrame:
        searches.append(given)
        return searched(*given)

    monkeypatch.setattr(ShardPlan, "searched", counted)
    assert answers_or_none(cells.cut, cells.queries) == cells.expected
    assert len(searches) == (2 if few == 0 else 1)


def test_clusters_far_apart_are_searched_at_once(spark: SparkSession) -> None:
    rng = np.random.default_rng(5)
    far = 1000.0 * np.repeat(np.arange(6.0), 40)[:, None] + rng.normal(size=(240, 2))
    items = frame_of(spark, far)
    make = functools.partial(KNNEstimator, k=3, idCol="id", excludeIdCol="id")
    cut = make(placement="sharded", shardBy="kmeans", numShards=6).fit(items)
    index: Any = cut._index
    plan = index.plan()
    count = len(plan.sample)
    opened = plan.cells.within(plan.sample, np.full(count, np.inf), np.full(count, 4))
    assert opened.sum(axis=1).mean() <= 2
    one = make(placement="replicated").fit(items)
    assert answers(cut.transform(items)) == answers(one.transform(items))


@EUCLIDEAN
@pytest.mark.parametrize("changes", [{"k": 500}, {"maxDistance": 0.03}], ids=str)
def test_cells_answer_as_one_index_with_changed_params(
    cells: Cells, changes: dict[str, Any]
) -> None:
    expected, found = (
        answers_or_none(
            model.copy({model.getParam(name): value for name, value in changes.items()}),
            cells.queries,
        )
        for model in (cells.one, cells.cut)
    )
    assert found == expected


@EUCLIDEAN
def test_one_probe_finds_most_neighbors(cells: Cells) -> None:
    cut = cells.cut
    found = answers_or_none(cut.copy({cut.numProbes: 1}), cells.queries)
    assert [row[0] for row in found] == [row[0] for row in cells.expected]
    assert found[INVALID] == cells.expected[INVALID]
    shares = [
        len(set(a[1]) & set(b[1])) / 4
        for a, b in zip(found, cells.expected, strict=True)
        if a[1] is not None
    ]
    assert 0.5 < np.mean(shares) <= 1


@EUCLIDEAN
def test_as_many_probes_as_cells_are_exact(cells: Cells) -> None:
    cut = cells.cut
    assert answers_or_none(cut.copy({cut.numProbes: 12}), cells.queries) == cells.expected


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_cells_need_the_triangle_inequality(items: DataFrame, metric: str) -> None:
    estimator = KNNEstimator(idCol="id", shardBy="kmeans", metric=metric)
    with pytest.raises(ValueError, match="shardBy 'kmeans' does not support metric"):
        estimator.fit(items)


def test_a_large_cell_is_split(spark: SparkSession) -> None:
    equal = frame_of(spark, np.concatenate([np.ones((60, 2)), 9 * np.eye(2)]), range(62))
    make = functools.partial(KNNEstimator, k=3, idCol="id")
    model = make(placement="sharded", shardBy="kmeans", numShards=6).fit(equal)
    assert max(shard.rows for shard in model._index.shards) < 60  # type: ignore[union-attr]
    one = make(placement="replicated").fit(equal)
    assert answers(model.transform(equal)) == answers(one.transform(equal))


@pytest.mark.filterwarnings("ignore:k is 2147483647")
def test_the_largest_k_counts_excluded_items(spark: SparkSession) -> None:
    """`k` and the excluded items together exceed an int."""
    items = frame_of(spark, np.array([[0.0], [1.0], [9.0], [8.0]]), range(4), partitions=1)
    model = KNNEstimator(
        k=2**31 - 1, idCol="id", placement="sharded", shardBy="kmeans", numShards=2
    ).fit(items)
    found = model.transform(items, {model.excludeIdCol: "id"}).select("id", "neighbors").collect()
    assert {row["id"]: list(row["neighbors"]) for row in found}[0] == [1, 3, 2]
    assert model.kneighborsGraph().count() == 12


@pytest.mark.parametrize(("count", "searches"), [(2, 1), (6, 2)])
def test_a_recall_is_measured_against_all_visible_items(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, count: int, searches: int
) -> None:
    """Half of each cell is held out, so that the nearest items that are left are in two cells.

    A few cells are searched at once, more of them in turn.
    """
    pytest.importorskip("faiss")
    places = np.arange(40.0)[:, None] + np.where(np.arange(40) < 20, 0.0, 1000.0)[:, None]
    items = frame_of(spark, places, range(40), partitions=1)
    settings = {"placement": "sharded", "shardBy": "kmeans", "numShards": count}
    model = KNNEstimator(k=12, idCol="id", algorithm="hnsw", **settings).fit(items)
    placed = model._index
    assert isinstance(placed, sharded.Sharded)
    held_out = np.flatnonzero(np.arange(40) % 2)
    wanted = HeldOutSearch(12, held_out, [EXACT])
    done = []
    search = ShardPlan.searched
    monkeypatch.setattr(ShardPlan, "searched", lambda *given: done.append(1) or search(*given))
    found = held_out_search(placed.plan(), first_numbers(placed.shards), wanted).collect()
    assert (len(done), len(found)) == (searches, 20)
    assert {len(row[DISTANCE]) for row in found} == {12}
