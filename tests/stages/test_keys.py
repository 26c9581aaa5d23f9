"""The nearest of the items with the same key: keyCols and queryKeyCols."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNModel,
    KNNRegressor,
)
from pyspark_knn.engine.shards.key_shards import shards_of_query
from tests.support.frames import answers
from tests.support.oracle import direct_distances, nearest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TENANTS = ["ada", "bob", "cyd", None]
ITEMS = np.random.default_rng(16).integers(-2, 3, (160, 3)).astype(float)
# One key has half of the items, and is divided over several shards.
KEYS = [("ada" if i % 2 else TENANTS[i % 7 % 4], int(i % 3)) for i in range(160)]
IDS = np.random.default_rng(17).permutation(1000)[:160].tolist()
QUERIES = np.random.default_rng(18).integers(-3, 4, (40, 3)).astype(float)
ASKED = [([*TENANTS, "eve"][i % 5], int(i % 4)) for i in range(40)]

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 5},
}

ITEM_SCHEMA = "id long, features array<double>, tenant string, day int, label double, weight double"


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    rows = [
        (IDS[i], ITEMS[i].tolist(), *KEYS[i], float(i % 4), float(i % 3)) for i in range(len(IDS))
    ]
    return spark.createDataFrame(rows, ITEM_SCHEMA).repartition(3).cache()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    rows = [(i, QUERIES[i].tolist(), *ASKED[i]) for i in range(len(ASKED))]
    return spark.createDataFrame(
        rows, "id long, features array<double>, tenant string, day long"
    ).repartition(3)


@pytest.fixture(scope="module", params=PLACEMENTS)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PLACEMENTS[request.param]


@pytest.fixture(scope="module")
def model(items: DataFrame, settings: dict[str, Any]) -> KNNModel:
    return KNNEstimator(k=4, idCol="id", keyCols=["tenant", "day"], **settings).fit(items)


def within(
    asked: list[tuple[list[Any], list[Any]]], k: int = 4, **limits: Any
) -> list[list[tuple[Any, float]]]:
    """The k nearest items of each query whose tenant and day are in the lists."""
    distances = direct_distances(QUERIES, ITEMS)
    for row, (tenants, days) in zip(distances, asked, strict=True):
        for i, (tenant, day) in enumerate(KEYS):
            if tenant is None or tenant not in tenants or day not in days:
                row[i] = np.inf
    limits = {"max_distance": 1e300, **limits}
    return nearest(distances, IDS, k, **limits)


ONE_KEY = [([tenant], [day]) for tenant, day in ASKED]


def test_neighbors_have_the_key_of_the_query(model: KNNModel, queries: DataFrame) -> None:
    expected = within(ONE_KEY)
    assert answers(model.transform(queries)) == expected
    assert any(expected), "queries find neighbors"
    assert [] in expected, "and queries of unknown keys and nulls do not"


def test_limits_apply_within_the_key(model: KNNModel, queries: DataFrame) -> None:
    excluded = [[name for name, _ in found[:2]] for found in within(ONE_KEY)]
    banned = F.transform("neighbors", lambda each: each)
    seen = model.transform(queries).select("id", F.slice(banned, 1, 2).alias("seen"))
    again = model.copy({model.excludeIdCol: "seen", model.maxDistance: 3.0, model.k: 2})
    found = answers(again.transform(queries.join(seen, "id")))
    assert found == within(ONE_KEY, 2, max_distance=3.0, excluded=excluded)


def test_all_within_a_distance_have_the_key(model: KNNModel, queries: DataFrame) -> None:
    near = model.copy({model.k: None, model.maxDistance: 2.0})
    assert answers(near.transform(queries)) == within(ONE_KEY, len(IDS), max_distance=2.0)
    pairs = near.kneighborsJoin(queries.withColumn("tenant", F.array(F.lit("cyd"), F.lit("ada"))))
    asked = [(["cyd", "ada"], [day]) for _, day in ASKED]
    expected = within(asked, len(IDS), max_distance=2.0)
    assert pairs.count() == sum(map(len, expected)) > sum(map(len, within(ONE_KEY)))


def test_pairs_have_one_key(model: KNNModel) -> None:
    distances = direct_distances(ITEMS, ITEMS)
    expected = sorted(
        (min(IDS[i], IDS[j]), max(IDS[i], IDS[j]), distances[i, j])
        for i in range(len(IDS))
        for j in range(i)
        if KEYS[i] == KEYS[j] and KEYS[i][0] is not None and distances[i, j] <= 1.5
    )
    assert sorted(map(tuple, model.pairsWithin(1.5).collect())) == expected


def test_an_array_of_keys_searches_all_of_them(model: KNNModel, queries: DataFrame) -> None:
    tenants = F.array("tenant", F.lit("cyd"), F.lit("cyd"), F.lit("who"), F.lit(None))
    asked = [([tenant, "cyd"], [day]) for tenant, day in ASKED]
    assert answers(model.transform(queries.withColumn("tenant", tenants))) == within(asked)
    days = F.array("day", F.lit(1))
    both = queries.withColumns({"tenant": tenants, "day": days})
    asked = [([tenant, "cyd"], [day, 1]) for tenant, day in ASKED]
    assert answers(model.transform(both)) == within(asked)
    nothing = queries.withColumn("tenant", F.lit(None).cast("array<string>"))
    assert answers(model.transform(nothing)) == [[]] * len(ASKED)


def test_a_join_has_a_row_for_each_neighbor(model: KNNModel, queries: DataFrame) -> None:
    expected = within(ONE_KEY)
    assert model.kneighborsJoin(queries).count() == sum(map(len, expected))
    left = model.kneighborsJoin(queries, how="left").where("neighbor IS NULL").count()
    assert left == expected.count([])


def test_a_saved_model_keeps_its_keys(model: KNNModel, queries: DataFrame, tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    model.save(path)
    loaded = KNNModel.load(path)
    assert loaded.getKeyCols() == ["tenant", "day"]
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    assert {field.name: field.dataType for field in loaded.items.schema}["key1"] == T.IntegerType()
    keys = loaded.items.select("id", "key0", "key1").collect()
    known = {IDS[i]: KEYS[i] for i in range(len(IDS)) if KEYS[i][0] is not None}
    assert {row.id: (row.key0, row.key1) for row in keys} == known


def test_explain_search_tells_the_groups(model: KNNModel, queries: DataFrame) -> None:
    counts: dict[Any, int] = {}
    for key in KEYS:
        if key[0] is not None:
            counts[key] = counts.get(key, 0) + 1
    (tenant, day), size = max(counts.items(), key=lambda each: each[1])
    report = model.explainSearch(queries)
    assert f"keys       {len(counts)} groups of" in report
    assert f"the largest: {tenant}, {day}: {size}" in report
    pairs = sum(size * size for size in counts.values()) / sum(counts.values()) * len(ASKED)
    assert f"4 neighbors each: {pairs:.3g} pairs" in report


def test_items_with_a_null_key_are_skipped(items: DataFrame, model: KNNModel) -> None:
    nulls = sum(tenant is None for tenant, _ in KEYS)
    assert (model.numItems, model.numSkipped) == (len(KEYS) - nulls, nulls)
    nobody = items.withColumn("tenant", F.lit(None).cast("string"))
    with pytest.raises(ValueError, match=r"160 rows with invalid vectors or null keys were skip"):
        KNNEstimator(idCol="id", keyCols="tenant").fit(nobody)


@pytest.mark.parametrize("estimator", [KNNClassifier, KNNRegressor])
def test_votes_are_those_of_a_model_of_each_key(
    items: DataFrame, queries: DataFrame, settings: dict[str, Any], estimator: Any
) -> None:
    chosen = {"idCol": "id", "weightCol": "weight", "weights": "distance", "k": 3}
    found = estimator(keyCols="tenant", **chosen, **settings).fit(items).transform(queries)
    got = {row.id: row.prediction for row in found.collect()}
    alone = estimator(placement="replicated", **chosen)
    for tenant in ("ada", "cyd"):
        own = F.col("tenant") == tenant
        for row in alone.fit(items.where(own)).transform(queries.where(own)).collect():
            # A query whose neighbors all have weight 0 gets NaN.
            assert repr(got[row.id]) == repr(row.prediction)
    assert all(np.isnan(got[i]) for i, (tenant, _) in enumerate(ASKED) if tenant in ("eve", None))


# --- types of keys --------------------------------------------------------------------------------

TYPES: dict[str, tuple[str, list[Any]]] = {
    "s": ("string", ["a", "A"]),
    "b": ("binary", [b"a", b"\x00"]),
    "t": ("boolean", [True, False]),
    "i": ("smallint", [-5, 5]),
    "l": ("bigint", [2**40, -(2**40)]),
    "m": ("decimal(10,2)", [Decimal("1.10"), Decimal("-1.10")]),
    "d": ("date", [datetime.date(1600, 1, 1), datetime.date(2026, 11, 26)]),
    "z": ("timestamp", [datetime.datetime(2026, 11, 1, 1), datetime.datetime(2026, 11, 1, 2)]),
    "n": ("timestamp_ntz", [datetime.datetime(1600, 1, 1), datetime.datetime(2400, 1, 1)]),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_keys_of_all_atomic_types(spark: SparkSession, tmp_path: Path, placement: str) -> None:
    fields = ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
    schema = f"id int, features array<float>, {fields}"
    firsts = [values[0] for _, values in TYPES.values()]
    rows = [(0, [0.0], *firsts)]
    for number, (_, values) in enumerate(TYPES.values()):
        changed = [*firsts[:number], values[1], *firsts[number + 1 :]]
        rows.append((number + 1, [0.0], *changed))
    frame = spark.createDataFrame(rows, schema)
    model = KNNEstimator(idCol="id", keyCols=list(TYPES), **PLACEMENTS[placement]).fit(frame)
    alone = [[(number, 0.0)] for number in range(len(rows))]
    assert answers(model.transform(frame)) == alone
    model.save(str(tmp_path / "model"))
    loaded = KNNModel.load(str(tmp_path / "model"))
    assert answers(loaded.transform(frame)) == alone


def test_integers_are_widened_and_narrowed(spark: SparkSession) -> None:
    items = spark.createDataFrame(
        [(1, [0.0], 5), (2, [0.0], -5)], "id int, features array<float>, key int"
    )
    model = KNNEstimator(k=1, idCol="id", keyCols="key").fit(items)
    wide = spark.createDataFrame(
        [(0, [0.0], 5), (1, [0.0], 5 + 2**32), (2, [0.0], -5)],
        "id int, features array<float>, key bigint",
    )
    assert answers(model.transform(wide)) == [[(1, 0.0)], [], [(2, 0.0)]]
    narrow = wide.where("key < 10").withColumn("key", F.col("key").cast("tinyint"))
    assert answers(model.transform(narrow)) == [[(1, 0.0)], [(2, 0.0)]]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "double"])
def test_keys_of_fractions_are_refused(items: DataFrame, kind: str) -> None:
    fractions = items.withColumn("day", F.col("day").cast(kind))
    with pytest.raises(TypeError, match=rf"^keyCols 'day' must not be {kind}: rounding .* Cast"):
        KNNEstimator(idCol="id", keyCols=["tenant", "day"]).fit(fractions)


def test_keys_of_other_types_are_refused(
    model: KNNModel, items: DataFrame, queries: DataFrame
) -> None:
    with pytest.raises(TypeError, match=r"^keyCols 'features' must be of an atomic type"):
        KNNEstimator(idCol="id", keyCols="features").fit(items)
    with pytest.raises(ValueError, match=r"^keyCols 'nobody' does not exist"):
        KNNEstimator(idCol="id", keyCols="nobody").fit(items)
    other = queries.withColumn("day", F.col("day").cast("string"))
    with pytest.raises(
        TypeError,
        match=r"^keyCols 'day' must be of the type of the items' keys, int or array<int>, but was "
        r"actually string\. Cast the column\.",
    ):
        model.transform(other)
    renamed = model.copy({model.queryKeyCols: ["who", "day"]})
    with pytest.raises(ValueError, match=r"^queryKeyCols 'who' does not exist"):
        renamed.transform(queries)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"queryKeyCols": "tenant"}, r"^queryKeyCols \['tenant'\] requires keyCols"),
        (
            {"keyCols": ["tenant", "day"], "queryKeyCols": "tenant"},
            r"^queryKeyCols must have one column for each of keyCols \['tenant', 'day'\], got",
        ),
        ({"keyCols": "tenant", "shardBy": "kmeans"}, r"^keyCols does not support shardBy 'kmeans'"),
    ],
)
def test_params_that_conflict_are_refused(
    items: DataFrame, chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        KNNEstimator(idCol="id", **chosen).fit(items)


def test_what_has_no_keys_is_refused(items: DataFrame) -> None:
    model = KNNClassifier(keyCols="tenant").fit(items)
    with pytest.raises(ValueError, match=r"^keyCols is \['tenant'\], but one vector has no key"):
        model.predict([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"^keyCols \['tenant'\] is not supported by scikit-learn"):
        model.toSklearn()


# --- beside other features ------------------------------------------------------------------------


def test_query_columns_may_have_other_names(model: KNNModel, queries: DataFrame) -> None:
    renamed = queries.withColumnRenamed("tenant", "Who?").withColumnRenamed("day", "a.day")
    copy = model.copy({model.queryKeyCols: ["Who?", "a.day"]})
    assert answers(copy.transform(renamed)) == within(ONE_KEY)
    assert model.getQueryKeyCols() is None


def test_models_of_a_grid_share_the_search_but_not_its_keys(
    items: DataFrame, queries: DataFrame
) -> None:
    knn = KNNEstimator(idCol="id", keyCols="tenant")
    cached = queries.withColumn("other", F.lit("bob")).cache()
    maps = [{knn.k: 4}, {knn.k: 2}, {knn.k: 4, knn.queryKeyCols: ["other"]}]
    models = dict(knn.fitMultiple(items, maps))
    assert models[0]._fitted is models[2]._fitted
    days = list(range(4))
    assert answers(models[0].transform(cached)) == within([([name], days) for name, _ in ASKED])
    assert answers(models[1].transform(cached)) == within([([name], days) for name, _ in ASKED], 2)
    assert answers(models[2].transform(cached)) == within([(["bob"], days)] * len(ASKED))
    cached.unpersist()


def test_sparse_items_and_queries_from_parquet(
    spark: SparkSession, items: DataFrame, queries: DataFrame, tmp_path: Path
) -> None:
    from pyspark.ml.functions import array_to_vector

    for name, frame in (("items", items), ("queries", queries)):
        vectors = frame.withColumn("features", array_to_vector("features"))
        vectors.write.parquet(str(tmp_path / name))
    read = spark.read.parquet(str(tmp_path / "items"))
    asked = spark.read.parquet(str(tmp_path / "queries"))
    for placement in PLACEMENTS.values():
        model = KNNEstimator(
            k=4, idCol="id", keyCols=["tenant", "day"], storage="sparse", **placement
        ).fit(read)
        assert answers(model.transform(asked)) == within(ONE_KEY)


def test_a_stream_of_queries(
    spark: SparkSession, model: KNNModel, queries: DataFrame, tmp_path: Path
) -> None:
    if model.getPlacement() == "sharded":
        pytest.skip("a sharded model takes streams batch by batch, as DataFrames")
    queries.write.parquet(str(tmp_path / "queries"))
    stream = spark.readStream.schema(queries.schema).parquet(str(tmp_path / "queries"))
    found, folder = model.transform(stream).select("id", "neighbors", "distances"), "found"
    writer = found.writeStream.option("checkpointLocation", str(tmp_path / "state"))
    query = writer.trigger(availableNow=True).start(str(tmp_path / folder), format="parquet")
    assert query.awaitTermination(120)
    assert answers(spark.read.parquet(str(tmp_path / folder))) == within(ONE_KEY)


def test_without_ids_positions_count_the_items_that_have_a_key(
    spark: SparkSession,
) -> None:
    rows = [([float(i)], None if i == 1 else i % 2) for i in range(6)]
    items = spark.createDataFrame(rows, "features array<double>, key int").coalesce(1)
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = KNNEstimator(k=2, keyCols="key").fit(items)
    query = spark.createDataFrame([(0, [3.0], 1)], "id int, features array<double>, key int")
    assert answers(model.transform(query)) == [[(2, 0.0), (4, 2.0)]]


def test_a_query_is_sent_to_the_shards_of_its_key_alone(
    items: DataFrame, queries: DataFrame
) -> None:
    model = KNNEstimator(k=4, idCol="id", keyCols="tenant", placement="sharded", numShards=5)
    plan = model.fit(items)._fitted.plan()  # type: ignore[attr-defined]
    many = sum(tenant == "ada" for tenant, _ in KEYS)
    ways = -(-many // -(-sum(tenant is not None for tenant, _ in KEYS) // 5))
    assert [len(own) for own in plan.key_shards[0].large.values()] == [ways]
    numbered = queries.select(F.col("id").alias("query"), "tenant")
    hashes = F.array(F.xxhash64("tenant"))
    route = shards_of_query(plan.key_shards, hashes, sorted(plan.digests))
    sent = {
        row.tenant: row.n for row in numbered.select("tenant", F.size(route).alias("n")).collect()
    }
    assert sent == {"ada": ways, "bob": 1, "cyd": 1, "eve": 1, None: 1}
