"""KNNClassifier: votes, probabilities, predictions, and the behavior of an MLlib classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.classification import (
    ClassificationModel,
    OneVsRest,
    OneVsRestModel,
    ProbabilisticClassificationModel,
    ProbabilisticClassifier,
)
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import IndexToString, StringIndexer
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sklearn.neighbors import KNeighborsClassifier

from pyspark_knn import KNNClassificationModel, KNNClassifier
from tests.support import oracle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CLASSES = 3
QUERIES = [[0.0, 0.0], [1.5, 2.0], [4.0, 4.0], [2.5, 0.5], [9.0, 9.0]]


def _items() -> list[tuple[int, list[float], float, float]]:
    """A lattice, so that many distances are equal: id, features, label, weight."""
    random = np.random.default_rng(4)
    cells = [[float(x), float(y)] for x in range(5) for y in range(5)]
    labels = random.integers(0, CLASSES, len(cells)).tolist()
    weights = random.choice([0.0, 0.5, 1.0, 3.0], len(cells)).tolist()
    return list(zip(range(len(cells)), cells, map(float, labels), weights, strict=True))


ITEMS = _items()
LABELS = {item[0]: item[2] for item in ITEMS}
WEIGHTS = {item[0]: item[3] for item in ITEMS}


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    schema = "id long, features array<double>, label double, weight double"
    return spark.createDataFrame(ITEMS[::-1], schema).cache()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    rows = list(enumerate(QUERIES))
    return spark.createDataFrame(rows, "query int, features array<double>").cache()


@pytest.fixture(scope="module")
def model(items: DataFrame) -> KNNClassificationModel:
    return KNNClassifier(k=4, idCol="id").fit(items)


@pytest.fixture(scope="module")
def weighed(items: DataFrame) -> KNNClassificationModel:
    return KNNClassifier(k=4, idCol="id", weightCol="weight").fit(items)


def found(k: int, **limits: Any) -> list[list[tuple[Any, float]]]:
    matrix = np.array([item[1] for item in ITEMS])
    distances = oracle.direct_distances(np.array(QUERIES), matrix)
    return oracle.nearest(distances, list(LABELS), k, **limits)


def expected(cast: list[float]) -> tuple[list[float], list[float], float]:
    """Votes, probabilities, prediction."""
    total = math.fsum(cast)
    if not total:
        return cast, [0.0] * len(cast), math.nan
    return cast, [each / total for each in cast], float(cast.index(max(cast)))


def named(model: KNNClassificationModel, suffix: str, **params: Any) -> KNNClassificationModel:
    """A copy with other output columns, so that one DataFrame can hold those of several models."""
    outputs = {
        "rawPredictionCol": f"raw_{suffix}",
        "probabilityCol": f"share_{suffix}",
        "predictionCol": f"class_{suffix}",
    }
    return model.copy()._set(**outputs, **params)


def check(row: Any, suffix: str, cast: list[float]) -> None:
    raw, shares, best = expected(cast)
    assert row[f"raw_{suffix}"].toArray() == pytest.approx(raw, rel=1e-12)
    assert row[f"share_{suffix}"].toArray() == pytest.approx(shares, rel=1e-12)
    if suffix != "clear":
        # Sums in another order may break a tie of votes that are not whole numbers.
        top = sorted(raw)[-2:]
        if top[1] - top[0] < 1e-9 and 0 < top[1] != int(top[1]):
            return
    assert row[f"class_{suffix}"] == pytest.approx(best, nan_ok=True)


def test_the_classes_are_those_of_mllib(model: KNNClassificationModel) -> None:
    assert isinstance(KNNClassifier(), ProbabilisticClassifier)
    assert isinstance(model, ProbabilisticClassificationModel)
    assert isinstance(model, ClassificationModel)
    assert model.uid.startswith("KNNClassifier_")
    assert (model.numClasses, model.numFeatures, model.numItems) == (CLASSES, 2, len(ITEMS))
    assert model.labels is None


def test_columns(model: KNNClassificationModel, queries: DataFrame) -> None:
    schema = model.transform(queries).schema
    assert schema.names == ["query", "features", "rawPrediction", "probability", "prediction"]
    assert isinstance(schema["rawPrediction"].dataType, VectorUDT)
    assert isinstance(schema["probability"].dataType, VectorUDT)
    assert schema["prediction"].dataType == T.DoubleType()
    assert schema["rawPrediction"].metadata["ml_attr"]["num_attrs"] == CLASSES
    assert schema["probability"].metadata["ml_attr"]["num_attrs"] == CLASSES
    assert schema["prediction"].metadata["ml_attr"] == {"type": "nominal", "num_vals": CLASSES}
    explained = model.copy({model.neighborsCol: "who", model.distancesCol: "how far"})
    schema = explained.transform(queries).schema
    assert schema.names[-2:] == ["who", "how far"]
    assert schema["who"].dataType == T.ArrayType(T.LongType())


def test_an_empty_name_omits_the_column(model: KNNClassificationModel, queries: DataFrame) -> None:
    one = model.copy().setRawPredictionCol("").setProbabilityCol("")
    assert one.transform(queries).columns == ["query", "features", "prediction"]
    other = model.copy().setPredictionCol("").setRawPredictionCol("")
    assert other.transform(queries).columns == ["query", "features", "probability"]
    assert other.transform(queries).first().probability.size == CLASSES
    with pytest.raises(ValueError, match=r"predictionCol.* are all empty"):
        one.setPredictionCol("").transform(queries)
    with pytest.raises(ValueError, match="predictionCol 'query' already exists"):
        model.copy().setPredictionCol("query").transform(queries)


def test_votes_and_weights(
    model: KNNClassificationModel, weighed: KNNClassificationModel, queries: DataFrame
) -> None:
    frame = queries
    for kind, fitted in (("plain", model), ("weighed", weighed)):
        for weights in ("uniform", "distance"):
            frame = named(fitted, f"{kind}_{weights}", weights=weights).transform(frame)
    shown = {"neighborsCol": "who", "distancesCol": "far", "maxDistance": 2.0}
    frame = named(model, "near", **shown).transform(frame)
    rows = frame.orderBy("query").collect()
    for row, near in zip(rows, found(4), strict=True):
        for kind in ("plain", "weighed"):
            for weights in ("uniform", "distance"):
                cast = oracle.votes(
                    near,
                    LABELS,
                    CLASSES,
                    by_distance=weights == "distance",
                    weights=WEIGHTS if kind == "weighed" else None,
                )
                check(row, f"{kind}_{weights}", cast)
    for row, near in zip(rows, found(4, max_distance=2.0), strict=True):
        check(row, "near", oracle.votes(near, LABELS, CLASSES))
        assert list(zip(row.who, row.far, strict=True)) == near
    assert math.isnan(rows[-1].class_near), "there is a query without neighbors"


@pytest.mark.replicated
def test_predict_of_one_vector(weighed: KNNClassificationModel, queries: DataFrame) -> None:
    fitted = weighed.copy().setWeights("distance").setThresholds([0.2, 0.5, 0.9])
    for row in fitted.transform(queries).collect():
        vector = Vectors.dense(row.features)
        assert fitted.predictRaw(vector) == row.rawPrediction
        assert fitted.predictProbability(vector) == row.probability
        assert fitted.predict(vector) == row.prediction
    assert fitted.predict(Vectors.sparse(2, {})) == fitted.predict(Vectors.dense(0.0, 0.0))
    assert math.isnan(fitted.copy().setMaxDistance(0.5).predict(Vectors.dense(7.0, 7.0)))
    with pytest.raises(ValueError, match="value must have dimension 2, got dimension 3"):
        fitted.predict(Vectors.dense(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="value contains NaN or infinity"):
        fitted.predict(Vectors.dense(1.0, math.nan))


def test_evaluators_of_mllib_with_missing_predictions(
    model: KNNClassificationModel, queries: DataFrame
) -> None:
    lonely = model.copy().setMaxDistance(2.0).transform(queries)
    rows = lonely.collect()
    assert sum(math.isnan(row.prediction) for row in rows) == 1
    label = next(row.prediction for row in rows)
    judged = lonely.withColumn("label", F.lit(label))
    right = sum(row.prediction == label for row in rows)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    assert evaluator.evaluate(judged) == pytest.approx(right / len(rows))
    assert math.isnan(RegressionEvaluator().evaluate(judged))
    back = IndexToString(inputCol="prediction", outputCol="said", labels=["a", "b", "c"])
    named = back.transform(lonely.where("NOT isnan(prediction)")).collect()
    assert [row.said for row in named] == ["abc"[int(row.prediction)] for row in named]
    assert len(named) == len(rows) - 1


def test_thresholds(model: KNNClassificationModel, queries: DataFrame) -> None:
    limits = [0.9, 0.2, 0.3]
    frame = named(model, "plain").transform(queries)
    frame = named(model, "limited", thresholds=limits).transform(frame)
    differ = 0
    for row in frame.collect():
        scaled = row.share_limited.toArray() / limits
        assert row.class_limited == float(np.argmax(scaled))
        assert row.share_limited == row.share_plain
        differ += row.class_limited != row.class_plain
    assert differ, "the thresholds change something"


def test_thresholds_are_checked(
    model: KNNClassificationModel, queries: DataFrame, items: DataFrame
) -> None:
    with pytest.raises(ValueError, match="one value for each of the 3 classes, got 2"):
        model.copy().setThresholds([0.5, 0.5]).transform(queries)
    with pytest.raises(ValueError, match="one value for each of the 3 classes, got 4"):
        KNNClassifier(thresholds=[1, 1, 1, 1]).fit(items)
    for wrong in ([0.0, 0.0, 1.0], [-1.0, 1.0, 1.0], [math.nan, 1.0, 1.0]):
        with pytest.raises(ValueError, match="thresholds must be numbers >= 0, at most one"):
            KNNClassifier(thresholds=wrong)
    with pytest.raises(TypeError, match="thresholds"):
        KNNClassifier(thresholds="0.5")
    assert KNNClassifier(thresholds=np.array([1, 2])).getThresholds() == [1.0, 2.0]


def test_invalid_queries(spark: SparkSession, model: KNNClassificationModel) -> None:
    rows = [(0, [1.0, 1.0]), (1, None), (2, [1.0, math.nan]), (3, [1.0])]
    broken = spark.createDataFrame(rows, "query int, features array<double>")
    shown = model.copy({model.neighborsCol: "who"})
    kept = shown.copy().setHandleInvalid("keep").transform(broken).orderBy("query").collect()
    assert not math.isnan(kept[0].prediction)
    for row in kept[1:]:
        assert math.isnan(row.prediction)
        assert row.probability == row.rawPrediction == Vectors.dense([0.0] * CLASSES)
        assert row.who is None
    skipped = shown.copy().setHandleInvalid("skip").transform(broken).collect()
    assert [row.query for row in skipped] == [0]
    with pytest.raises(Exception, match="featuresCol 'features' contains a null"):
        shown.transform(broken.where("query = 1")).collect()


def test_exclusion(spark: SparkSession, model: KNNClassificationModel) -> None:
    rows = [(item[0], item[1], list(LABELS)) for item in ITEMS[:3]]
    own = spark.createDataFrame(rows, "id long, features array<double>, everybody array<long>")
    alone = model.copy().setK(1).setNeighborsCol("who")
    others = alone.copy().setExcludeIdCol("id").transform(own).collect()
    assert all(row.id not in row.who and len(row.who) == 1 for row in others)
    nobody = alone.copy().setExcludeIdCol("everybody").transform(own).collect()
    assert all(math.isnan(row.prediction) and row.who == [] for row in nobody)


def test_ties_of_equal_ids_go_to_the_smaller_label(spark: SparkSession) -> None:
    rows = [(1, [0.0], label) for label in (2, 1, 2, 0)]
    twins = spark.createDataFrame(rows, "id int, features array<double>, label int")
    with pytest.warns(UserWarning, match="3 items have the same id as another item"):
        model = KNNClassifier(k=1, idCol="id").fit(twins.repartition(2))
    query = twins.limit(1).select("features")
    assert model.transform(query).head()["prediction"] == 0.0
    both = model.setK(2).transform(query).head()["rawPrediction"]
    assert both == Vectors.dense(1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("null", "contains a null"),
        ("double('nan')", "contains nan"),
        ("-1", r"contains -1\.0"),
        ("0.5D", r"contains 0\.5"),
        ("double('infinity')", "contains inf"),
    ],
)
def test_labels_must_be_classes(items: DataFrame, given: str, said: str) -> None:
    broken = items.withColumn("label", F.expr(f"if(id = 7, {given}, label)"))
    with pytest.raises(ValueError, match=f"labelCol 'label' {said}.* whole numbers >= 0"):
        KNNClassifier().fit(broken)


@pytest.mark.parametrize(
    ("given", "said"),
    [("null", "a null"), ("-0.5D", r"-0\.5"), ("double('nan')", "nan"), ("'Infinity'", "inf")],
)
def test_weights_must_not_be_negative(items: DataFrame, given: str, said: str) -> None:
    broken = items.withColumn("weight", F.expr(f"if(id = 7, double({given}), weight)"))
    with pytest.raises(ValueError, match=f"weightCol 'weight' contains {said}.*finite .* >= 0"):
        KNNClassifier(weightCol="weight").fit(broken)


def test_columns_of_a_wrong_type(items: DataFrame) -> None:
    named_classes = items.withColumn("label", F.col("label").cast("string"))
    with pytest.raises(TypeError, match=r"labelCol 'label' must be numeric.*string.*StringIndexer"):
        KNNClassifier().fit(named_classes)
    with pytest.raises(ValueError, match="labelCol 'kind' does not exist"):
        KNNClassifier(labelCol="kind").fit(items)
    with pytest.raises(TypeError, match="weightCol 'features' must be numeric"):
        KNNClassifier(weightCol="features").fit(items)


def test_labels_of_any_numeric_type(
    spark: SparkSession, items: DataFrame, queries: DataFrame
) -> None:
    frame = queries
    kinds = ("int", "float", "decimal(10,2)", "tinyint")
    for i, kind in enumerate(kinds):
        cast = items.withColumn("label", F.col("label").cast(kind))
        fitted = KNNClassifier(k=3, idCol="id").fit(cast)
        frame = named(fitted, str(i)).transform(frame)
    for row in frame.collect():
        assert len({row[f"class_{i}"] for i in range(len(kinds))}) == 1


def test_incompatible_params(
    model: KNNClassificationModel, items: DataFrame, queries: DataFrame
) -> None:
    with pytest.raises(ValueError, match="weights='distance' is not supported for metric 'inner"):
        KNNClassifier(metric="inner_product", weights="distance").fit(items)
    product = KNNClassifier(metric="inner_product").fit(items)
    with pytest.raises(ValueError, match="weights='distance' is not supported for metric 'inner"):
        product.setWeights("distance").transform(queries)
    with pytest.raises(ValueError, match=r"weights must be one of uniform, distance.*weightCol"):
        KNNClassifier(weights="weight")
    with pytest.raises(TypeError, match=r"weights must be one of uniform, distance.*weightCol"):
        model.copy().setWeights(None)


def test_many_classes_must_be_declared_in_the_metadata(
    spark: SparkSession, items: DataFrame
) -> None:
    with pytest.raises(ValueError, match=r"labelCol 'label' contains label 20000.*StringIndexer"):
        KNNClassifier().fit(items.withColumn("label", F.lit(20_000)))
    # Not by an alias in withColumn, whose metadata Spark Connect drops.
    more = items.withMetadata("label", {"ml_attr": {"type": "nominal", "num_vals": 5}})
    assert KNNClassifier().fit(more).numClasses == 5
    fewer = items.withMetadata("label", {"ml_attr": {"num_vals": 2}})
    with pytest.raises(ValueError, match="contains label 2, but its metadata declares 2 classes"):
        KNNClassifier().fit(fewer)
    assert KNNClassifier().fit(items.withColumn("label", F.lit(0))).numClasses == 2


def test_class_names_come_from_the_metadata_of_the_label(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = [(1, [0.0], "leek"), (2, [1.0], "plum"), (3, [1.1], "plum"), (4, [5.0], "fig")]
    fruit = spark.createDataFrame(rows, "id int, features array<double>, kind string")
    indexed = StringIndexer(inputCol="kind", outputCol="label").fit(fruit).transform(fruit)
    model = KNNClassifier(k=1, idCol="id").fit(indexed)
    assert model.labels[0] == "plum"
    back = IndexToString(inputCol="prediction", outputCol="said")
    said = back.transform(model.transform(fruit)).select("kind", "said").collect()
    assert all(row.kind == row.said for row in said)
    path = (tmp_path / "fruit").as_uri()
    model.save(path)
    loaded = KNNClassificationModel.load(path)
    said = back.transform(loaded.transform(fruit)).select("kind", "said").collect()
    assert all(row.kind == row.said for row in said)
    names = loaded.toSklearn().predict([[0.2], [4.0]])
    assert names.tolist() == ["leek", "fig"]


def test_saved_and_loaded(
    weighed: KNNClassificationModel, queries: DataFrame, tmp_path: Path
) -> None:
    fitted = weighed.copy().setWeights("distance").setThresholds([0.5, 0.2, 0.3])
    path = (tmp_path / "model").as_uri()
    fitted.save(path)
    saved = queries.sparkSession.read.parquet(f"{path}/items")
    assert saved.drop("position").columns == ["id", "features", "label", "weight"]
    rows = saved.orderBy("id").collect()
    assert [(row.label, row.weight) for row in rows] == [item[2:] for item in ITEMS]
    loaded = KNNClassificationModel.load(path)
    assert (loaded.uid, loaded.numClasses) == (fitted.uid, CLASSES)
    frame = named(loaded, "loaded").transform(named(fitted, "fitted").transform(queries))
    for row in frame.collect():
        for column in ("raw", "share", "class"):
            assert row[f"{column}_loaded"] == row[f"{column}_fitted"]
    estimator = KNNClassifier(k=7, weights="distance", weightCol="w", thresholds=[1.0, 2.0])
    estimator.save((tmp_path / "estimator").as_uri())
    again = KNNClassifier.load((tmp_path / "estimator").as_uri())
    assert again.extractParamMap() == estimator.extractParamMap()


def test_a_saved_model_without_labels_is_refused(
    model: KNNClassificationModel, tmp_path: Path
) -> None:
    path = (tmp_path / "model").as_uri()
    model.save(path)
    session = model.items.sparkSession
    whole = session.read.parquet(f"{path}/items")
    rows = whole.localCheckpoint() if hasattr(whole, "localCheckpoint") else whole
    rows.drop("label").write.mode("overwrite").parquet(f"{path}/items")
    with pytest.raises(ValueError, match="is damaged: items column 'label' is missing"):
        KNNClassificationModel.load(path)
    rows.withColumn("label", F.lit(3.0)).write.mode("overwrite").parquet(f"{path}/items")
    with pytest.raises(ValueError, match=r"is damaged: items column 'label' contains 3\.0, but"):
        KNNClassificationModel.load(path)


def test_one_vs_rest(spark: SparkSession, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    centers = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    rows = [
        (Vectors.dense(centers[i % 3] + random.normal(size=2)), float(i % 3)) for i in range(30)
    ]
    points = spark.createDataFrame(rows, ["features", "label"])
    plain = KNNClassifier(k=5)
    model = OneVsRest(classifier=plain).fit(points)
    assert [each.numClasses for each in model.models] == [2, 2, 2]
    path = (tmp_path / "rest").as_uri()
    model.write().save(path)
    both = OneVsRestModel.load(path).setPredictionCol("again").setRawPredictionCol("")
    direct = plain.copy().setRawPredictionCol("").setProbabilityCol("").setPredictionCol("own")
    frame = direct.fit(points).transform(
        model.setRawPredictionCol("rawPrediction").transform(points)
    )
    for row in frame.collect():
        assert row.prediction == row.own == row.label
    assert both.getPredictionCol() == "again"


def test_from_and_to_scikit_learn(queries: DataFrame, weighed: KNNClassificationModel) -> None:
    random = np.random.default_rng(7)
    matrix, kinds = random.normal(size=(40, 2)), np.array(["pear", "fig", "leek"])
    frame, fits = queries, {}
    for kind, target in {
        "names": kinds[random.integers(0, 3, 40)],
        "numbers": random.choice([0, 2, 3], 40),
        "signs": random.choice([-1, 1], 40),
    }.items():
        fits[kind] = KNeighborsClassifier(5, weights="distance").fit(matrix, target)
        model = KNNClassificationModel.fromSklearn(fits[kind], ids=list(range(40)))
        again = model.toSklearn()
        shares = fits[kind].predict_proba(QUERIES)
        np.testing.assert_allclose(again.predict_proba(QUERIES), shares, rtol=1e-12)
        frame = named(model, kind).transform(frame)
        if kind == "names":
            assert model.labels == ["fig", "leek", "pear"]
            assert (again.predict(QUERIES) == fits[kind].predict(QUERIES)).all()
    rows = frame.orderBy("query").collect()
    for kind, fitted in fits.items():
        places = [0, 2, 3] if kind == "numbers" else list(range(len(fitted.classes_)))
        shares = np.array([row[f"share_{kind}"].toArray()[places] for row in rows])
        np.testing.assert_allclose(shares, fitted.predict_proba(QUERIES), rtol=1e-9)
        best = [fitted.classes_[places.index(int(row[f"class_{kind}"]))] for row in rows]
        assert best == fitted.predict(QUERIES).tolist()
    with pytest.raises(ValueError, match="weightCol is not supported by scikit-learn"):
        weighed.toSklearn()
    with pytest.raises(ValueError, match="thresholds are not supported"):
        weighed.copy().setThresholds([1, 1, 1]).toSklearn()


def test_from_sklearn_refuses() -> None:
    matrix, target = [[0.0], [1.0]], [0, 1]
    with pytest.raises(ValueError, match="not fitted"):
        KNNClassificationModel.fromSklearn(KNeighborsClassifier())
    with pytest.raises(TypeError, match="must be a fitted KNeighborsClassifier or"):
        KNNClassificationModel.fromSklearn([])
    with pytest.raises(ValueError, match="weights must be 'uniform' or 'distance', got a function"):
        KNNClassificationModel.fromSklearn(
            KNeighborsClassifier(1, weights=lambda d: d).fit(matrix, target)
        )
    with pytest.raises(ValueError, match="several targets"):
        KNNClassificationModel.fromSklearn(KNeighborsClassifier(1).fit(matrix, [[0, 1], [1, 0]]))


def test_many_classes(spark: SparkSession) -> None:
    rows = [([float(i)], i) for i in range(3000)]
    wide = spark.createDataFrame(rows, "features array<double>, label int")
    model = KNNClassifier(k=3).fit(wide)
    frame = model.transform(wide.where("label % 300 = 7")).select("label", "prediction")
    assert all(row.label - 1 == row.prediction for row in frame.collect())


def test_an_empty_model_raises() -> None:
    with pytest.raises(ValueError, match="KNNClassificationModel has no index"):
        KNNClassificationModel().numClasses  # noqa: B018
