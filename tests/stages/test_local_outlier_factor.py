"""LocalOutlierFactor: scikit-learn's scores in every placement, of items and of new rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import functions as F
from sklearn.datasets import load_breast_cancer
from sklearn.neighbors import LocalOutlierFactor as Oracle

from pyspark_knn import LocalOutlierFactor, LocalOutlierFactorModel
from pyspark_knn.engine import item_scores
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ITEMS = load_breast_cancer().data[:300, :6]
ITEMS = (ITEMS - ITEMS.mean(axis=0)) / ITEMS.std(axis=0)
NEW = ITEMS[::10] + np.random.default_rng(7).normal(size=(30, 6))
K, SHARE = 10, 0.07

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 3},
    "cells": {"placement": "sharded", "numShards": 3, "shardBy": "kmeans"},
}


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, partitions=2).cache()


@pytest.fixture(scope="module")
def new(spark: SparkSession) -> DataFrame:
    return frame_of(spark, NEW).cache()


@pytest.fixture(scope="module", params=PLACEMENTS)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PLACEMENTS[request.param]


@pytest.fixture(scope="module")
def model(settings: dict[str, Any], items: DataFrame) -> LocalOutlierFactorModel:
    return LocalOutlierFactor(k=K, contamination=SHARE, idCol="id", **settings).fit(items)


@pytest.fixture(scope="module")
def inside() -> Oracle:
    return Oracle(K, contamination=SHARE).fit(ITEMS)


def table(found: DataFrame, key: str = "id") -> list[tuple[float, float]]:
    """The scores and the predictions, in the order of the ids."""
    rows = found.select(key, "outlierScore", "prediction").collect()
    return [tuple(row[1:]) for row in sorted(rows)]


def scores_of(found: DataFrame, key: str = "id") -> np.ndarray:
    return np.array([score for score, _ in table(found, key)])


class TestScores:
    def test_of_the_items(self, model: LocalOutlierFactorModel, inside: Oracle) -> None:
        scores, predictions = zip(*table(model.scores), strict=True)
        np.testing.assert_allclose(scores, -inside.negative_outlier_factor_, rtol=1e-9)
        assert model.threshold == pytest.approx(-inside.offset_, rel=1e-12)
        assert list(predictions) == (inside.fit_predict(ITEMS) == -1).tolist()
        assert model.scores.columns == ["id", "outlierScore", "prediction"]

    def test_of_the_items_with_the_id_excluded(
        self, model: LocalOutlierFactorModel, items: DataFrame
    ) -> None:
        found = model.transform(items, {model.excludeIdCol: "id"})
        assert table(found) == table(model.scores)

    def test_of_new_rows(self, model: LocalOutlierFactorModel, new: DataFrame) -> None:
        oracle = Oracle(K, contamination=SHARE, novelty=True).fit(ITEMS)
        found = model.transform(new)
        np.testing.assert_allclose(scores_of(found), -oracle.score_samples(NEW), rtol=1e-9)
        assert [p for _, p in table(found)] == (oracle.predict(NEW) == -1).tolist()
        assert found.schema["prediction"].metadata == {
            "ml_attr": {"type": "nominal", "num_vals": 2}
        }

    def test_saved_and_loaded(
        self, model: LocalOutlierFactorModel, new: DataFrame, tmp_path: Path
    ) -> None:
        path = (tmp_path / "model").as_uri()
        model.save(path)
        loaded = LocalOutlierFactorModel.load(path)
        assert loaded.threshold == model.threshold
        assert table(loaded.scores) == table(model.scores)
        assert table(loaded.transform(new)) == table(model.transform(new))


@pytest.mark.parametrize("settings", ["sharded"], indirect=True)
def test_shards_that_are_lost_are_built_again(
    model: LocalOutlierFactorModel, new: DataFrame
) -> None:
    expected = table(model.scores), table(model.transform(new))
    model.unpersist()
    assert (table(model.scores), table(model.transform(new))) == expected


@pytest.fixture(scope="module")
def replicated(items: DataFrame) -> LocalOutlierFactorModel:
    return LocalOutlierFactor(k=K, idCol="id", placement="replicated").fit(items)


def test_bits_do_not_depend_on_the_placement(
    model: LocalOutlierFactorModel, replicated: LocalOutlierFactorModel, new: DataFrame
) -> None:
    assert scores_of(model.scores).tolist() == scores_of(replicated.scores).tolist()
    assert scores_of(model.transform(new)).tolist() == scores_of(replicated.transform(new)).tolist()


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_very_many_items(
    replicated: LocalOutlierFactorModel,
    items: DataFrame,
    placement: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are scored in several tasks, fetched column by column, and ranked by Spark."""
    monkeypatch.setattr(item_scores, "_TASK_NEIGHBORS", 900)
    monkeypatch.setattr(item_scores, "_FETCHED_TOGETHER", 0)
    monkeypatch.setattr(item_scores, "_FETCHED_SCORES", 0)
    detector = LocalOutlierFactor(k=K, idCol="id", placement=placement, contamination=SHARE)
    model = detector.fit(items)
    expected = scores_of(replicated.scores)
    assert scores_of(model.scores).tolist() == expected.tolist()
    assert model.threshold in expected
    assert (expected > model.threshold).mean() == pytest.approx(SHARE, abs=1 / len(ITEMS))


def test_auto_is_a_factor_above_one_and_a_half(replicated: LocalOutlierFactorModel) -> None:
    assert replicated.threshold == 1.5
    assert all(p == (score > 1.5) for score, p in table(replicated.scores))


@pytest.mark.parametrize("score", ["kth", "mean"])
def test_distances_as_scores(spark: SparkSession, score: str) -> None:
    frame = frame_of(spark, np.array([[0.0], [1.0], [3.0], [10.0]]))
    detector = LocalOutlierFactor(k=2, score=score, contamination=0.25, placement="sharded")
    model = detector.setIdCol("id").fit(frame)
    expected = {"kth": [3.0, 2.0, 3.0, 9.0], "mean": [2.0, 1.5, 2.5, 8.0]}[score]
    assert table(model.scores) == [(each, float(each > 5)) for each in expected]
    assert set(model.items.columns) == {"id", "features", "score"}
    single = {"kth": 2.0, "mean": 1.5}[score]
    assert table(model.transform(frame.where("id = 1"), {model.excludeIdCol: "id"})) == [
        (single, 0.0)
    ]


def test_without_ids_and_sparse(spark: SparkSession) -> None:
    random = np.random.default_rng(8)
    matrix = random.integers(0, 3, (60, 12)) * (random.random((60, 12)) < 0.3) + np.eye(60, 12)
    frame = frame_of(spark, matrix.astype(float), kind="sparse").coalesce(1)
    settings = {"k": 5, "metric": "cosine", "scoreCol": "s"}
    models = [
        LocalOutlierFactor(storage=each, **settings).fit(frame) for each in ("sparse", "dense")
    ]
    first, second = (model.scores.orderBy("position").collect() for model in models)
    assert first == second
    assert models[0].scores.columns == ["position", "s", "prediction"]
    assert [row.position for row in first] == list(range(60))


# --- within groups --------------------------------------------------------------------------------

GROUPS = [*[0] * 20, *[1] * 9, *[2] * 3, 3]
"""The group of each item; some have fewer than k + 1 items."""


@pytest.fixture(scope="module")
def grouped(spark: SparkSession) -> DataFrame:
    vectors = np.random.default_rng(9).normal(size=(len(GROUPS), 2)).tolist()
    rows = [(i, vector, f"g{GROUPS[i]}") for i, vector in enumerate(vectors)]
    return spark.createDataFrame(rows, "id long, features array<double>, kind string").cache()


def test_within_groups(spark: SparkSession, grouped: DataFrame, tmp_path: Path) -> None:
    """The answer is that of a fit on the items of the group alone, for items and for new rows."""
    detector = LocalOutlierFactor(k=6, idCol="id", keyCols="kind")
    models = [
        detector.copy({detector.placement: "replicated"}).fit(grouped),
        detector.copy({detector.placement: "sharded", detector.numShards: 3}).fit(grouped),
    ]
    path = (tmp_path / "model").as_uri()
    models[1].save(path)
    models[1] = LocalOutlierFactorModel.load(path)
    queries = grouped.select((F.col("id") + 0).alias("id"), "kind").crossJoin(
        spark.createDataFrame([([0.5, 2.0],)], "features array<double>")
    )
    matrix = np.array([row.features for row in grouped.orderBy("id").collect()])
    for model in models:
        assert model.scores.columns == ["id", "kind", "outlierScore", "prediction"]
        scores, found = scores_of(model.scores), scores_of(model.transform(queries))
        excluded = model.transform(grouped, {model.excludeIdCol: "id"})
        np.testing.assert_array_equal(scores_of(excluded), scores)
        for group in range(3):
            rows = np.flatnonzero(np.array(GROUPS) == group)
            k = min(6, len(rows) - 1)
            inside = Oracle(k).fit(matrix[rows])
            np.testing.assert_allclose(scores[rows], -inside.negative_outlier_factor_, rtol=1e-9)
            novelty = Oracle(k, novelty=True).fit(matrix[rows])
            expected = -novelty.score_samples([[0.5, 2.0]])[0]
            np.testing.assert_allclose(found[rows], expected, rtol=1e-9)
        # An item that is alone in its group has nothing to be compared with.
        assert np.isnan([scores[-1], found[-1]]).all()
        assert np.isnan(table(model.scores)[-1][1])
        assert np.isnan(table(model.transform(queries))[-1][1])
    np.testing.assert_array_equal(scores_of(models[0].scores), scores_of(models[1].scores))


def test_items_that_are_all_alone_in_their_groups(spark: SparkSession) -> None:
    frame = frame_of(spark, np.eye(3)).withColumn("kind", F.col("id"))
    model = LocalOutlierFactor(k=1, idCol="id", keyCols="kind", contamination=0.1).fit(frame)
    assert model.threshold is None
    assert np.isnan(table(model.scores)).all()
    found = model.transform(frame, {model.excludeIdCol: "id"})
    assert np.isnan(table(found)).all()


# --- data that deserves a warning -----------------------------------------------------------------


def test_duplicates(spark: SparkSession) -> None:
    matrix = np.concatenate([np.zeros((5, 2)), np.random.default_rng(10).normal(size=(15, 2))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # since release 1.6, scikit-learn warns of duplicates
        expected = -Oracle(3).fit(matrix).negative_outlier_factor_
    frame = frame_of(spark, matrix)
    for placement in ("replicated", "sharded"):
        detector = LocalOutlierFactor(k=3, idCol="id", placement=placement)
        with pytest.warns(UserWarning, match="^5 items have 3 or more duplicates"):
            model = detector.fit(frame)
        np.testing.assert_allclose(scores_of(model.scores), expected, rtol=1e-9)


def test_equal_ids_are_separate_items(spark: SparkSession, tmp_path: Path) -> None:
    """Also where they are equally far from a query, and have different densities."""
    side = np.array([[1.0, 0.0], [1.5, 0.0], [1.5, 0.2], [1.2, 0.1]])
    matrix = np.concatenate([side, -3 * side + np.array([2.0, 0.0]), [[0.0, 4.0], [0.0, -4.0]]])
    ids = [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    query = frame_of(spark, np.zeros((1, 2)))
    found = []
    for placement in ("replicated", "sharded"):
        for partitions in (1, 3):
            frame = frame_of(spark, matrix, ids).repartition(partitions)
            detector = LocalOutlierFactor(k=1, idCol="id", placement=placement)
            with pytest.warns(UserWarning, match="idCol 'id' contains duplicates: 4 items"):
                model = detector.fit(frame)
            found.append((sorted(table(model.scores)), table(model.transform(query))))
    path = (tmp_path / "model").as_uri()
    model.save(path)
    loaded = LocalOutlierFactorModel.load(path)
    found.append((sorted(table(loaded.scores)), table(loaded.transform(query))))
    assert found == found[:1] * len(found)
    np.testing.assert_allclose(
        sorted(score for score, _ in found[0][0]),
        sorted(-Oracle(1).fit(matrix).negative_outlier_factor_),
        rtol=1e-9,
    )


def test_ties_of_equal_ids_do_not_depend_on_the_order_of_the_items(spark: SparkSession) -> None:
    rows = [(1, [1.0, 0.0]), (1, [-1.0, 0.0]), (2, [1.1, 0.0]), (3, [-1.5, 0.0]), (9, [0.0, 0.0])]
    found = []
    for placement, ordered in (("replicated", rows), ("replicated", rows[::-1]), ("sharded", rows)):
        frame = spark.createDataFrame(ordered, "id long, features array<double>").coalesce(1)
        detector = LocalOutlierFactor(k=1, idCol="id", placement=placement)
        with pytest.warns(UserWarning, match="idCol 'id' contains duplicates"):
            found.append(sorted(table(detector.fit(frame).scores)))
    assert found == found[:1] * 3


def test_fewer_items_than_k(spark: SparkSession) -> None:
    matrix = np.random.default_rng(11).normal(size=(5, 2))
    with pytest.warns(UserWarning, match=r"k is 20, but there are only 5 items: k = 4 is used"):
        model = LocalOutlierFactor(idCol="id").fit(frame_of(spark, matrix))
    expected = Oracle(4, novelty=True).fit(matrix)
    np.testing.assert_allclose(
        scores_of(model.scores), -expected.negative_outlier_factor_, rtol=1e-9
    )
    query = np.array([[1.0, 1.0]])
    found = scores_of(model.transform(frame_of(spark, query)))
    np.testing.assert_allclose(found, -expected.score_samples(query), rtol=1e-9)
    assert model.getK() == 20
    with pytest.warns(UserWarning, match="only one item"):
        single = LocalOutlierFactor(idCol="id").fit(frame_of(spark, query))
    assert np.isnan(table(single.scores)).all()


def test_fitted_rows_scored_as_new_rows_give_one_warning(
    items: DataFrame, replicated: LocalOutlierFactorModel
) -> None:
    model = LocalOutlierFactorModel.copy(replicated)
    model._warned = set()
    with pytest.warns(UserWarning, match="model.scores has the scores of the items"):
        model.transform(items)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.transform(items)
        replicated._warned = set()
        replicated.transform(items, {replicated.excludeIdCol: "id"})
        replicated.transform(items.where("id < 7"))


# --- Params and columns ---------------------------------------------------------------------------


def test_mistakes(items: DataFrame, new: DataFrame, replicated: LocalOutlierFactorModel) -> None:
    for value in (0, -0.1, 0.51, float("nan")):
        with pytest.raises(ValueError, match=r"contamination must be 'auto' or a number in \(0, 0"):
            LocalOutlierFactor(contamination=value)
    with pytest.raises(TypeError, match="contamination must be 'auto' or a number"):
        LocalOutlierFactor(contamination="10%")
    for value in (0, 1.5):
        with pytest.raises(ValueError, match="k must be an integer >= 1"):
            LocalOutlierFactor(k=value)
    with pytest.raises(TypeError, match="k must be an integer >= 1, got None"):
        LocalOutlierFactor(k=None)
    with pytest.raises(ValueError, match="score must be one of lof, kth, mean, got 'knn'"):
        LocalOutlierFactor(score="knn")
    with pytest.raises(ValueError, match="contamination 'auto' is a threshold for score 'lof'"):
        LocalOutlierFactor(score="kth").fit(items)
    with pytest.raises(ValueError, match="score 'lof' does not support metric 'inner_product'"):
        LocalOutlierFactor(metric="inner_product").fit(items)
    with pytest.raises(ValueError, match="k cannot be changed on a fitted LocalOutlierFactorModel"):
        replicated.copy({replicated.k: 3})
    with pytest.raises(ValueError, match="scoreCol, predictionCol are all empty"):
        replicated.transform(new, {replicated.scoreCol: "", replicated.predictionCol: ""})


def test_scores_have_no_two_columns_of_one_name(
    replicated: LocalOutlierFactorModel, grouped: DataFrame
) -> None:
    for param, name in (("scoreCol", "id"), ("predictionCol", "ID"), ("scoreCol", "prediction")):
        other = replicated.copy({replicated.getParam(param): name})
        with pytest.raises(ValueError, match=rf"Col '{name}' already exists"):
            other.scores  # noqa: B018
    twice = LocalOutlierFactor(k=2, idCol="kind", keyCols="kind", predictionCol="")
    with pytest.warns(UserWarning, match="contains duplicates"):
        model = twice.fit(grouped)
    assert model.scores.columns == ["kind", "outlierScore"]


def test_scores_without_a_threshold(items: DataFrame, new: DataFrame) -> None:
    detector = LocalOutlierFactor(k=3, score="kth", idCol="id", predictionCol="")
    model = detector.fit(items)
    assert model.threshold is None
    assert model.scores.columns == ["id", "outlierScore"]
    assert model.transform(new).columns == ["id", "features", "outlierScore"]
    with pytest.raises(ValueError, match="predictionCol requires a threshold"):
        model.transform(new, {model.predictionCol: "prediction"})


def test_invalid_queries_that_are_kept_have_no_score(
    spark: SparkSession, replicated: LocalOutlierFactorModel
) -> None:
    broken = spark.createDataFrame([(0, [1.0]), (1, [0.0] * 6)], "id long, features array<double>")
    found = table(replicated.transform(broken, {replicated.handleInvalid: "keep"}))
    assert np.isnan(found).tolist() == [[True, True], [False, False]]


def test_models_of_a_grid_have_their_own_scores(items: DataFrame, new: DataFrame) -> None:
    detector = LocalOutlierFactor(idCol="id", placement="replicated")
    maps = [{detector.k: 3}, {detector.k: 8}, {detector.k: 3, detector.scoreCol: "other"}]
    models = [model for _, model in sorted(detector.fitMultiple(items, maps))]
    for k, model in zip((3, 8), models, strict=False):
        expected = Oracle(k, novelty=True).fit(ITEMS)
        np.testing.assert_allclose(
            scores_of(model.scores), -expected.negative_outlier_factor_, rtol=1e-9
        )
        np.testing.assert_allclose(
            scores_of(model.transform(new)), -expected.score_samples(NEW), rtol=1e-9
        )
    assert models[0]._index is models[2]._index
    assert "other" in models[2].transform(new).columns


def test_in_a_pipeline(items: DataFrame, inside: Oracle, tmp_path: Path) -> None:
    wide = items.select("id", *(F.col("features")[i].alias(f"x{i}") for i in range(6)))
    assembler = VectorAssembler(inputCols=[f"x{i}" for i in range(6)], outputCol="features")
    fitted = Pipeline(stages=[assembler, LocalOutlierFactor(k=K, idCol="id")]).fit(wide)
    np.testing.assert_allclose(
        scores_of(fitted.stages[1].scores), -inside.negative_outlier_factor_, rtol=1e-9
    )
    assert fitted.transform(wide).columns[-2:] == ["outlierScore", "prediction"]


def test_a_stream(
    spark: SparkSession, replicated: LocalOutlierFactorModel, new: DataFrame, tmp_path: Path
) -> None:
    folder, target = str(tmp_path / "new"), str(tmp_path / "found")
    new.write.parquet(folder)
    found = replicated.transform(spark.readStream.schema(new.schema).parquet(folder))
    writer = found.writeStream.format("parquet").option("path", target)
    writer = writer.option("checkpointLocation", str(tmp_path / "checkpoint"))
    assert writer.trigger(availableNow=True).start().awaitTermination(120)
    assert table(spark.read.parquet(target)) == table(replicated.transform(new))
