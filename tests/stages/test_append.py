"""Append and remove: the answers of a model are those of a fit of the same items."""

from __future__ import annotations

import functools
import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.evaluation import RankingEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassificationModel, KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = "n int, id long, features array<double>, label double, weight double, key int"
OLD, NEW = 90, 40


def _rows() -> list[tuple[Any, ...]]:
    """Items on a lattice, full of ties, the first `OLD` with other ids than the rest."""
    rng = np.random.default_rng(5)
    count = OLD + NEW
    vectors = rng.integers(-2, 3, (count, 3)).astype(float)
    ids = 2 * rng.integers(0, 80, count)
    ids[OLD:] += 1
    labels = rng.integers(0, 3, count).astype(float)
    labels[-1] = 4.0
    parts = (np.arange(count), ids, vectors, labels, rng.random(count), rng.integers(0, 4, count))
    return list(zip(*(part.tolist() for part in parts), strict=True))


ROWS = _rows()
NEW_IDS = [row[1] for row in ROWS[OLD:]]

pytestmark = pytest.mark.filterwarnings("ignore:idCol.*:UserWarning")


@pytest.fixture(scope="module")
def data(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, COLUMNS).coalesce(1).persist()


@pytest.fixture(scope="module")
def old(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") < OLD)


@pytest.fixture(scope="module")
def new(data: DataFrame) -> DataFrame:
    return data.where(F.col("n") >= OLD)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    vectors = np.random.default_rng(6).integers(-3, 4, (30, 3)).astype(float).tolist()
    rows = [(i, row, i % 5) for i, row in enumerate(vectors)]
    schema = "q int, features array<double>, key int"
    return spark.createDataFrame(rows, schema).coalesce(1).persist()


def found(model: Any, queries: DataFrame) -> list[Any]:
    return sorted(model.transform(queries).collect(), key=lambda row: row.q)


VOTING = {"weightCol": "weight", "neighborsCol": "neighbors", "distancesCol": "distances"}
ESTIMATORS: dict[str, Any] = {
    "search": KNNEstimator(k=6, idCol="id"),
    "classification": KNNClassifier(k=6, idCol="id", weights="distance", **VOTING),
    "regression": KNNRegressor(k=6, idCol="id", **VOTING),
    "keys": KNNEstimator(k=6, idCol="id", keyCols="key"),
    "positions": KNNEstimator(k=6),
}
PLACEMENTS: dict[str, dict[str, Any]] = {
    "dense": {"placement": "replicated"},
    "sparse": {"placement": "replicated", "storage": "sparse"},
    "hash": {"placement": "sharded", "numShards": 3},
    "sparse_hash": {"placement": "sharded", "numShards": 2, "storage": "sparse"},
    "kmeans": {"placement": "sharded", "numShards": 3, "shardBy": "kmeans"},
}


REMOVED = [*range(0, 40, 3), *range(41, 90, 5)]
FRAMES = {
    "old": f"n < {OLD}",
    "all": "true",
    "rest": f"NOT array_contains(array{tuple(REMOVED)}, id)",
}


@pytest.fixture(scope="module")
def fitted(data: DataFrame, queries: DataFrame) -> Any:
    """A model fitted on some of the items, and its answers, which no placement changes."""

    @functools.cache
    def of(name: str, which: str) -> tuple[Any, list[Any]]:
        model = ESTIMATORS[name].copy()._set(placement="replicated").fit(data.where(FRAMES[which]))
        return model, found(model, queries)

    return of


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        ("search", "kmeans"),
        ("search", "sparse_hash"),
        ("classification", "dense"),
        ("classification", "hash"),
        ("regression", "sparse"),
        ("keys", "dense"),
        ("keys", "hash"),
        ("positions", "dense"),
        ("positions", "hash"),
    ],
)
def test_answers_are_those_of_a_fit_of_the_same_items(
    old: DataFrame, new: DataFrame, queries: DataFrame, fitted: Any, name: str, placement: str
) -> None:
    first = ESTIMATORS[name].copy()._set(**PLACEMENTS[placement]).fit(old)
    both = first.append(new)
    made = {"old": first, "all": both}
    if name != "positions":
        made["rest"] = both.remove([*REMOVED, None, 10**12])
    del both
    gc.collect()
    for which in reversed(list(made)):
        model = made.pop(which)
        union, answer = fitted(name, which)
        assert found(model, queries) == answer
        assert model.ids.tolist() == union.ids.tolist()
        assert model._summary.numClasses == union._summary.numClasses
        assert model._summary.numDuplicates == union._summary.numDuplicates
        assert (model.uid, type(model)) == (first.uid, type(first))
        if (placement, which) == ("sparse_hash", "all"):
            near = [each.pairsWithin(1.0) for each in (model, union)]
            assert sorted(near[0].collect()) == sorted(near[1].collect())
            within = [each.copy().setK(None).setMaxDistance(1.5) for each in (model, union)]
            assert found(within[0], queries) == found(within[1], queries)


# --- what the new model has in common with the old one --------------------------------------------


@pytest.fixture(scope="module")
def pair(old: DataFrame, new: DataFrame) -> tuple[KNNModel, KNNModel]:
    """A replicated model, and the one with the new items."""
    first = KNNEstimator(k=6, idCol="id", placement="replicated").fit(old)
    return first, first.append(new)


def test_params_are_carried_over(
    pair: tuple[KNNModel, KNNModel], data: DataFrame, new: DataFrame, queries: DataFrame
) -> None:
    first = pair[0].copy().setK(2).setNeighborsCol("near").setFeaturesCol("vector")
    renamed = new.withColumnRenamed("features", "vector")
    both = first.append(renamed)
    assert (both.getK(), both.getNeighborsCol(), both.getFeaturesCol()) == (2, "near", "vector")
    asked = queries.withColumnRenamed("features", "vector")
    # As CrossValidator does: the value that was requested is accepted.
    again = both.transform(asked, {both.getParam("algorithm"): "auto"})
    fitted = KNNEstimator(k=2, idCol="id", neighborsCol="near").fit(data)
    wanted = fitted.transform(queries).select("q", "near", "distances").collect()
    assert sorted(again.select("q", "near", "distances").collect()) == sorted(wanted)
    assert pair[0].getK() == 6


def test_items_and_conversions_contain_all_items(
    pair: tuple[KNNModel, KNNModel], data: DataFrame, queries: DataFrame
) -> None:
    both = pair[1]
    assert both.items.count() == both.toSklearn().n_samples_fit_ == OLD + NEW
    joined = both.setK(1).kneighborsJoin(queries, data.select("id", "n"))
    assert joined.where(F.col("item").isNull()).count() == 0
    assert both.setK(6).copy().numItems == OLD + NEW


def test_a_search_is_not_shared_with_models_of_a_grid(
    old: DataFrame, new: DataFrame, data: DataFrame, queries: DataFrame
) -> None:
    knn = KNNEstimator(idCol="id", placement="replicated")
    grid = [{knn.k: 2}, {knn.k: 4}]
    models = dict(knn.fitMultiple(old, grid))
    before = found(models[0], queries)  # cached queries: the result is shared
    both = models[0].append(new)
    assert found(both, queries) == found(knn.copy({knn.k: 2}).fit(data), queries)
    assert found(models[0], queries) == before


def test_no_items_change_nothing(
    pair: tuple[KNNModel, KNNModel], new: DataFrame, queries: DataFrame
) -> None:
    first = pair[0]
    same = first.append(new.where("n < 0"))
    assert (same.numItems, same.uid) == (first.numItems, first.uid)
    assert first.remove([]).numItems == first.remove([-5]).numItems == OLD
    assert same._index is first._index


def test_invalid_items_are_skipped_and_counted(pair: tuple[KNNModel, KNNModel]) -> None:
    first = pair[0].copy().setHandleInvalid("skip")
    session = first.items.sparkSession
    vectors: list[Any] = [[1.0, 2.0, 3.0], None, [1.0, 2.0], [1.0, float("nan"), 2.0]]
    rows = session.createDataFrame(
        list(enumerate(vectors, 1000)), "id long, features array<double>"
    )
    both = first.append(rows)
    assert (both.numItems, both.numSkipped) == (OLD + 1, 3)
    none = both.append(rows.where("id > 1000"))
    assert (none.numItems, none.numSkipped) == (OLD + 1, 6)
    with pytest.raises(ValueError, match="featuresCol 'features' contains a null"):
        pair[0].append(rows)
    with pytest.raises(ValueError, match="a vector of dimension 2 instead of 3"):
        pair[0].append(rows.where("id = 1002"))


@pytest.mark.parametrize("placement", ["dense", "hash"])
def test_wider_values_widen_the_items(
    old: DataFrame, new: DataFrame, queries: DataFrame, placement: str, tmp_path: Path
) -> None:
    wide = new.withColumn("features", F.transform("features", lambda each: each / 3))
    knn = KNNEstimator(k=6, idCol="id", **PLACEMENTS[placement])
    both = knn.fit(old).append(wide)
    after = found(knn.fit(old.union(wide)), queries)
    assert found(both, queries) == after
    assert both.items.schema["features"].dataType == T.ArrayType(T.DoubleType())
    both.write().save(str(tmp_path / "model"))
    assert found(KNNModel.load(str(tmp_path / "model")), queries) == after
    if placement == "dense":
        rounded = knn.copy().setDtype("float32")
        again = rounded.fit(old).append(wide)
        assert found(again, queries) == found(rounded.fit(old.union(wide)), queries)


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_type", "expression"),
    [
        ("string", "concat('n', id)"),
        ("date", "date_add(date'1960-01-01', cast(id as int))"),
        ("timestamp", "timestamp_seconds(id * 1000)"),
        ("decimal(20,2)", "cast(id / 4 as decimal(20,2))"),
    ],
)
def test_ids_of_any_type(
    data: DataFrame, queries: DataFrame, id_type: str, expression: str
) -> None:
    named = data.withColumn("id", F.expr(expression).cast(id_type))
    first = KNNEstimator(k=6, idCol="id").fit(named.where(F.col("n") < OLD))
    both = first.append(named.where(F.col("n") >= OLD))
    assert found(both, queries) == found(KNNEstimator(k=6, idCol="id").fit(named), queries)
    by_frame = both.remove(named.where(F.col("n") >= OLD))
    by_values = both.remove([row.id for row in named.where(F.col("n") >= OLD).collect()])
    by_array = both.remove(np.setdiff1d(both.ids, first.ids))
    for rest in (by_frame, by_values, by_array):
        assert rest.ids.tolist() == first.ids.tolist()
    assert found(by_array, queries) == found(first, queries)


def test_integers_may_be_narrower_when_appended_and_any_when_removed(
    pair: tuple[KNNModel, KNNModel], new: DataFrame
) -> None:
    first, both = pair
    narrow = new.withColumn("id", F.col("id").cast("short"))
    assert first.append(narrow).ids.tolist() == both.ids.tolist()
    small = KNNEstimator(idCol="id").fit(narrow)
    rest = small.remove(
        new.select(F.explode(F.array(F.col("id"), F.lit(2**40))).alias("x")).limit(6)
    )
    assert rest.numItems < NEW
    with pytest.raises(TypeError, match=r"type that it had at fit, smallint or a narrower integer"):
        small.append(new)


@pytest.mark.parametrize("placement", ["dense", "hash", "join"])
def test_ids_that_occur_before_are_duplicates(
    data: DataFrame, queries: DataFrame, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if placement == "join":
        monkeypatch.setattr("pyspark_knn.engine.shards.jobs._FETCHED_IDS", 0)
        monkeypatch.setattr("pyspark_knn.engine.shards.appending._FEW_BYTES", -1)
    settings = PLACEMENTS[placement if placement == "dense" else "hash"]
    mixed = data.withColumn("id", F.col("id") % 17)
    knn = KNNEstimator(k=6, idCol="id", **settings)
    first = knn.fit(mixed.where(F.col("n") < OLD))
    with pytest.warns(UserWarning, match=f"contains duplicates: {OLD + NEW - 17} items") as caught:
        both = first.append(mixed.where(F.col("n") >= OLD))
    places = [each.filename for each in caught if "duplicates" in str(each.message)]
    assert places == [__file__]
    union = knn.fit(mixed)
    assert found(both, queries) == found(union, queries)
    rest = both.remove([3, 4])
    assert rest.numItems == mixed.where("id NOT IN (3, 4)").count()
    assert rest._summary.numDuplicates == rest.numItems - 15
    assert found(rest, queries) == found(union.remove([4, 3]), queries)


# --- labels ---------------------------------------------------------------------------------------


def test_classes_are_those_of_a_fit(new: DataFrame, old: DataFrame) -> None:
    knn = KNNClassifier(idCol="id")
    three = knn.fit(old)
    assert (three.numClasses, three.append(new).numClasses) == (3, 5)
    with pytest.raises(
        ValueError, match="thresholds must have one value for each of the 5 classes"
    ):
        three.copy().setThresholds([1.0, 1.0, 1.0]).append(new)

    def declared(frame: DataFrame, attribute: dict[str, Any]) -> DataFrame:
        return frame.withMetadata("label", {"ml_attr": {"type": "nominal", **attribute}})

    for attribute in ({"num_vals": 4}, {"vals": ["a", "b", "c", "d"]}):
        four = knn.fit(declared(old, attribute))
        assert four.append(new.where("label < 4")).numClasses == four.numClasses == 4
        assert four.remove(old.where("label > 0").select("id")).numClasses == 4
        with pytest.raises(ValueError, match="label 4, but the metadata at fit declared 4 classes"):
            four.append(new)
    others = declared(new.where("label < 4"), {"vals": ["d", "c", "b", "a"]})
    with pytest.raises(ValueError, match="labelCol 'label' has other classes than the model"):
        four.append(others)


# --- shards ---------------------------------------------------------------------------------------


def _frames(model: Any) -> list[DataFrame]:
    return [source.shared.frame for source in model._index._sources]


def test_unpersist_keeps_the_shards_of_other_models(
    old: DataFrame, new: DataFrame, queries: DataFrame
) -> None:
    first = KNNEstimator(idCol="id", placement="sharded", numShards=2).fit(old)
    both = first.append(new)
    rest = both.remove([*NEW_IDS, ROWS[0][1]])
    answers_of = [found(each, queries) for each in (first, both, rest)]
    shared, own = _frames(both)
    rebuilt = _frames(rest)[-1]
    for model in (first, both):
        assert shared.storageLevel.useMemory
        model.unpersist()
    assert shared.storageLevel.useMemory
    assert not own.storageLevel.useMemory
    rest.unpersist()
    assert not shared.storageLevel.useMemory
    assert not rebuilt.storageLevel.useMemory
    # All shards are built again, those of `rest` from those of `first`.
    assert [found(each, queries) for each in (first, both, rest)] == answers_of


def test_shards_are_freed_with_the_last_model(old: DataFrame, new: DataFrame) -> None:
    first = KNNEstimator(idCol="id", placement="sharded", numShards=2).fit(old)
    both = first.append(new)
    (shared,) = _frames(first)
    del first
    gc.collect()
    time.sleep(0.5)
    assert shared.storageLevel.useMemory
    del both
    gc.collect()
    for _ in range(100):
        if not shared.storageLevel.useMemory:
            break
        time.sleep(0.1)
    assert not shared.storageLevel.useMemory


def test_many_appended_shards_are_reported(old: DataFrame, new: DataFrame) -> None:
    model = KNNEstimator(idCol="id", placement="sharded", numShards=1).fit(old)
    parts = [new.where(F.col("n") % 2 == part) for part in (0, 1)]
    model = model.append(parts[0])
    assert "fit again" not in model.explainSearch(new)
    model = model.append(parts[1])
    assert model.getNumShards() == 1
    advice = f"advice     fit again, or save and load the model: {NEW} items in 2 of 3 shards"
    assert advice in model.explainSearch(new)


def test_probes_count_cells_and_not_appended_shards(
    spark: SparkSession, queries: DataFrame
) -> None:
    matrix = np.array([[100.0 * (i % 4), i // 4, 0.0] for i in range(80)])
    first = KNNEstimator(
        k=20, idCol="id", placement="sharded", numShards=4, shardBy="kmeans", numProbes=1
    ).fit(frame_of(spark, matrix[:40], partitions=1))
    both = first.append(frame_of(spark, matrix[40:], range(40, 80), partitions=1))
    asked = frame_of(spark, matrix[:4], partitions=1)
    assert [len(row) for row in answers(both.transform(asked))] == [20] * 4
    assert "of which at most 25.0% are compared" in both.explainSearch(asked)


# --- saving ---------------------------------------------------------------------------------------


def test_a_nightly_job_appends_to_the_model_that_it_loads(
    old: DataFrame, new: DataFrame, data: DataFrame, queries: DataFrame, tmp_path: Path
) -> None:
    path = str(tmp_path / "model")
    knn = KNNClassifier(k=6, idCol="id", **VOTING)
    knn.fit(old).write().save(path)
    for part in (0, 1):
        model = KNNClassificationModel.load(path)
        grown = model.append(new.where(F.col("n") % 2 == part))
        grown.write().overwrite().save(path)
    assert found(KNNClassificationModel.load(path), queries) == found(knn.fit(data), queries)


def test_a_sharded_model_is_saved_beside_the_one_it_was_loaded_from(
    old: DataFrame, new: DataFrame, data: DataFrame, queries: DataFrame, tmp_path: Path
) -> None:
    knn = KNNEstimator(k=6, placement="sharded", numShards=2)
    path, other = str(tmp_path / "monday"), str(tmp_path / "tuesday")
    knn.fit(old).write().save(path)
    both = KNNModel.load(path).append(new)
    with pytest.raises(ValueError, match="lost shards are rebuilt from its files"):
        both.write().overwrite().save(path)
    both.write().save(other)
    again = KNNModel.load(other)
    assert (again.numItems, again.getNumShards()) == (OLD + NEW, 2)
    assert found(both, queries) == found(again, queries) == found(knn.fit(data), queries)


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes(pair: tuple[KNNModel, KNNModel], new: DataFrame, data: DataFrame) -> None:
    first = pair[0]
    with pytest.raises(TypeError, match="items must be a Spark DataFrame"):
        first.append([[1.0, 2.0, 3.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="idCol 'id' does not exist"):
        first.append(new.drop("id"))
    with pytest.raises(TypeError, match="idCol 'id' must have the type that it had at fit, bigint"):
        first.append(new.withColumn("id", F.col("id").cast("string")))
    with pytest.raises(ValueError, match="idCol 'id' contains a null"):
        first.append(new.withColumn("id", F.lit(None).cast("long")))
    with pytest.raises(ValueError, match=f"ids contains the ids of all {OLD} items"):
        first.remove(data)
    with pytest.raises(TypeError, match="ids must be of the type of the model's ids, bigint or"):
        first.remove(["7"])
    with pytest.raises(TypeError, match="column 'name' of ids must be of the type of the model's"):
        first.remove(data.select(F.lit("7").alias("name")))
    with pytest.raises(ValueError, match="idCol 'id' does not exist"):
        first.remove(data.drop("id"))
    with pytest.raises(ValueError, match="KNNModel has no index"):
        KNNModel().append(new)


def test_too_many_items_for_the_driver_are_refused(
    pair: tuple[KNNModel, KNNModel], new: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_knn.engine.placing.available_memory", lambda: 1000)
    match = rf"placement 'replicated' needs too much memory: {OLD + NEW} items take 0\.00 GiB"
    with pytest.raises(ValueError, match=match):
        pair[0].append(new)


def test_positions_cannot_be_removed(new: DataFrame) -> None:
    with pytest.raises(ValueError, match="remove requires idCol"):
        KNNEstimator().fit(new).remove([0])


def test_features_must_have_the_same_names(new: DataFrame, old: DataFrame) -> None:
    from pyspark.ml.feature import VectorAssembler

    def assembled(frame: DataFrame, names: list[str]) -> DataFrame:
        plain = frame.select("id", F.col("n").alias("a"), F.col("key").alias("b"))
        return VectorAssembler(inputCols=names, outputCol="features").transform(plain)

    model = KNNEstimator(idCol="id").fit(assembled(old, ["a", "b"]))
    assert model.append(assembled(new, ["a", "b"])).numItems == OLD + NEW
    with pytest.raises(ValueError, match=r"feature 0 is 'b' instead of 'a'.*Assemble the new"):
        model.append(assembled(new, ["b", "a"]))


def test_the_best_model_of_a_grid_accepts_items(data: DataFrame, new: DataFrame) -> None:
    knn = KNNEstimator(idCol="id", excludeIdCol="id")
    truth = data.withColumn("truth", F.array(F.col("id").cast("double")))
    evaluator = RankingEvaluator(labelCol="truth", metricName="precisionAtK", k=1)
    real = truth.withColumn("id", F.col("id").cast("double"))
    grid = ParamGridBuilder().addGrid(knn.k, [1, 2]).build()
    validator = CrossValidator(
        estimator=knn.setNeighborsCol("prediction"),
        estimatorParamMaps=grid,
        evaluator=evaluator,
        numFolds=2,
    )
    best = validator.fit(real).bestModel
    grown = best.append(new.withColumn("id", F.col("id").cast("double")))  # type: ignore[attr-defined]
    assert grown.numItems == OLD + 2 * NEW
