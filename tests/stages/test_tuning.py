"""Grid search: correct metrics, and one index and one search shared by the candidates."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel, Transformer
from pyspark.ml.classification import LogisticRegression, OneVsRest
from pyspark.ml.evaluation import (
    BinaryClassificationEvaluator,
    MulticlassClassificationEvaluator,
    RegressionEvaluator,
)
from pyspark.ml.feature import (
    PCA,
    ElementwiseProduct,
    IndexToString,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vectors
from pyspark.ml.param import Param, Params
from pyspark.ml.tuning import (
    CrossValidator,
    CrossValidatorModel,
    ParamGridBuilder,
    TrainValidationSplit,
    TrainValidationSplitModel,
)
from pyspark.sql import functions as F
from sklearn.metrics import average_precision_score, log_loss
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from pyspark_knn import (
    KNNClassificationModel,
    KNNClassifier,
    KNNEstimator,
    KNNRegressor,
    SharedPrefixPipeline,
)
from tests.support.counting import AllSearches

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS, FOLDS = 60, 2
KS = [1, 3, 6]
FOLD = np.arange(ROWS) % FOLDS


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, and a class and a target of each."""
    rng = np.random.default_rng(11)
    matrix = rng.normal(size=(ROWS, 3))
    classes = (matrix[:, 0] + rng.normal(0, 0.7, ROWS) > 0).astype(int)
    return matrix, classes, matrix[:, 0] * 10 + rng.normal(size=ROWS)


MATRIX, CLASSES, TARGET = _data()


@pytest.fixture(scope="module")
def points(spark: SparkSession) -> DataFrame:
    rows = [
        (i, Vectors.dense(MATRIX[i]), float(CLASSES[i]), float(TARGET[i]), int(FOLD[i]))
        for i in range(ROWS)
    ]
    frame = spark.createDataFrame(rows, ["id", "features", "label", "target", "fold"])
    return frame.coalesce(2).cache()


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AllSearches:
    return AllSearches(tmp_path, monkeypatch)


def grid(knn: Any, **more: list[Any]) -> list[dict[Any, Any]]:
    builder = ParamGridBuilder().addGrid(knn.k, KS)
    for name, values in more.items():
        builder = builder.addGrid(knn.getParam(name), values)
    return builder.build()


def folds() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(fold != FOLD, fold == FOLD) for fold in range(FOLDS)]


def accuracy(k: int, weights: str = "uniform") -> float:
    """scikit-learn's mean over the same folds."""
    scores = []
    for train, test in folds():
        fitted = KNeighborsClassifier(k, weights=weights).fit(MATRIX[train], CLASSES[train])
        scores.append(fitted.score(MATRIX[test], CLASSES[test]))
    return float(np.mean(scores))


def search(estimator: Any, maps: list[dict[Any, Any]], evaluator: Any, **more: Any) -> Any:
    return CrossValidator(
        estimator=estimator,
        estimatorParamMaps=maps,
        evaluator=evaluator,
        numFolds=FOLDS,
        foldCol="fold",
        **more,
    )


def results(model: Any, dataset: DataFrame, column: str = "prediction") -> list[Any]:
    # Sorted in Python, because Spark's sort reads its input twice.
    rows = sorted(model.transform(dataset).collect(), key=lambda row: row["id"])
    return [row[column] for row in rows]


# --- fitMultiple ----------------------------------------------------------------------------------


def test_param_maps_that_need_the_same_index_share_it(
    points: DataFrame, searches: AllSearches
) -> None:
    knn = KNNClassifier(idCol="id", storage="dense")
    maps = [
        {knn.k: 3},
        {knn.weights: "distance"},
        {knn.k: 2, knn.maxDistance: 0.5, knn.predictionCol: "guess"},
        {knn.thresholds: [0.3, 0.7], knn.excludeIdCol: "id"},
        {knn.metric: "cityblock"},
        {knn.metric: "cityblock", knn.k: 4},
    ]
    models = knn.fit(points, maps)
    assert searches.built == 2
    for model, params in zip(models, maps, strict=True):
        plain = knn.copy(params)
        assert model.uid == knn.uid
        given = {param.name: value for param, value in model.extractParamMap().items()}
        wanted = {param.name: value for param, value in plain.extractParamMap().items()}
        chosen = {"algorithm": "brute", "placement": "replicated"}
        assert given == wanted | chosen


def test_siblings_search_together_and_answer_alone(
    points: DataFrame, searches: AllSearches
) -> None:
    knn = KNNClassifier(idCol="id", neighborsCol="near", distancesCol="far")
    maps = [
        {knn.k: 1},
        {knn.k: 6, knn.weights: "distance"},
        {knn.k: 6, knn.maxDistance: 0.6},
        {knn.k: 3, knn.probabilityCol: "", knn.maxDistance: 0.9, knn.thresholds: [0.3, 0.7]},
    ]
    models = knn.fit(points, maps)
    together = [sorted(model.transform(points).collect()) for model in models]
    assert searches.take() == ROWS
    for model, rows in zip(models, together, strict=True):
        alone = model.copy()
        alone._share(None)
        assert sorted(alone.transform(points).collect()) == rows
    assert searches.take() == ROWS * len(maps)


class Pair(NamedTuple):
    """Two models with k 2 and 4 that were fitted together, and the counter of their searches."""

    first: Any
    second: Any
    searches: AllSearches


@pytest.fixture(scope="module")
def _pair(points: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    knn = KNNEstimator(idCol="id", maxDistance=1.0)
    with pytest.MonkeyPatch.context() as patch:
        searches = AllSearches(tmp_path_factory.mktemp("pair"), patch)
        return Pair(*knn.fit(points, [{knn.k: 2}, {knn.k: 4}]), searches)


@pytest.fixture
def pair(_pair: Pair) -> Pair:
    """The pair, with nothing counted yet."""
    _pair.searches.take()
    return _pair


def test_the_widest_model_answers_within_its_own_k(points: DataFrame, pair: Pair) -> None:
    assert all(len(near) <= 4 for near in results(pair.second, points, "neighbors"))
    assert pair.searches.take() == ROWS


def test_a_k_above_that_of_all_candidates_is_searched_alone(points: DataFrame, pair: Pair) -> None:
    wider = pair.second.copy().setK(9)
    assert max(map(len, results(wider, points, "neighbors"))) > 4
    assert pair.searches.take() == ROWS


def test_a_max_distance_above_that_of_all_candidates_is_searched_alone(
    points: DataFrame, pair: Pair
) -> None:
    farther = pair.first.copy().setMaxDistance(None)
    assert all(len(near) == 2 for near in results(farther, points, "neighbors"))
    assert pair.searches.take() == ROWS


def test_other_excluded_ids_are_searched_alone(points: DataFrame, pair: Pair) -> None:
    """With `excludeIdCol` set, the same rows are other queries."""
    excluding = pair.first.copy().setExcludeIdCol("id")
    near = results(excluding, points, "neighbors")
    assert all(name not in row for name, row in enumerate(near))
    assert pair.searches.take() == ROWS


def test_queries_that_are_not_cached_are_searched_each_time(points: DataFrame, pair: Pair) -> None:
    other = points.where("id < 10")
    results(pair.first, other, "neighbors")
    results(pair.second, other, "neighbors")
    assert pair.searches.take() == 20


@pytest.fixture(scope="module")
def broken(spark: SparkSession) -> Iterator[DataFrame]:
    """A valid and an invalid query, cached."""
    rows = [(0, [1.0, 1.0, 1.0]), (1, None)]
    frame = spark.createDataFrame(rows, "id int, features array<double>").cache()
    yield frame
    frame.unpersist()


def test_a_shared_search_keeps_invalid_queries(broken: DataFrame, pair: Pair) -> None:
    for model in (pair.first, pair.second):
        kept = results(model.copy().setHandleInvalid("keep"), broken, "neighbors")
        assert len(kept[0]) == model.getK()
        assert kept[1] is None


def test_a_shared_search_skips_invalid_queries(broken: DataFrame, pair: Pair) -> None:
    assert len(results(pair.first.copy().setHandleInvalid("skip"), broken, "neighbors")) == 1


def test_a_shared_search_raises_for_an_invalid_query(broken: DataFrame, pair: Pair) -> None:
    with pytest.raises(Exception, match="contains a null"):
        results(pair.first, broken, "neighbors")


class Persisted:
    """Counts what a session keeps persisted beyond what it kept at first."""

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._before = 0
        self._before = self.count()

    def count(self) -> int:
        return int(self._spark.sparkContext._jsc.getPersistentRDDs().size()) - self._before

    def settles(self) -> bool:
        """Whether all of it is freed within ten seconds."""
        for _ in range(100):
            if self.count() <= 0:
                break
            time.sleep(0.1)
        return self.count() == 0


@pytest.fixture
def persisted(spark: SparkSession, points: DataFrame, spark_kind: str) -> Persisted:
    if spark_kind == "connect":
        pytest.skip("a client cannot count what a server holds")
    points.count()
    gc.collect()  # so that what earlier tests left is not freed during this one
    time.sleep(0.5)
    return Persisted(spark)


def test_nothing_stays_cached_without_the_models(points: DataFrame, persisted: Persisted) -> None:
    knn = KNNClassifier(idCol="id")
    models = knn.fit(points, grid(knn))
    assert persisted.count() == 0
    for model in models:
        results(model, points)
    assert persisted.count() == 1
    del models, model
    assert persisted.settles()


def test_nothing_stays_cached_without_the_queries(points: DataFrame, persisted: Persisted) -> None:
    queries = points.where("id < 9").cache()
    knn = KNNClassifier(idCol="id")
    models = knn.fit(points, grid(knn))
    for model in models:
        results(model, queries)
    queries.unpersist()
    del queries
    assert persisted.settles()


# --- around the bare estimator --------------------------------------------------------------------


class Validated(NamedTuple):
    """A grid search that was fitted, and how many indexes it built and queries it searched."""

    validator: CrossValidator
    maps: list[dict[Any, Any]]
    model: CrossValidatorModel
    built: int
    searched: int


@pytest.fixture(scope="module")
def validated(
    points: DataFrame, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Validated:
    """Of a parallelism: see `PARALLELISMS` and `PARALLEL`."""
    knn = KNNClassifier(idCol="id")
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    maps = grid(knn, weights=["uniform", "distance"])
    validator = search(knn, maps, evaluator, parallelism=request.param, collectSubModels=True)
    with pytest.MonkeyPatch.context() as patch:
        searches = AllSearches(tmp_path_factory.mktemp("validated"), patch)
        model = validator.fit(points)
        return Validated(validator, maps, model, searches.built, searches.take())


PARALLELISMS = pytest.mark.parametrize("validated", [4, 1], indirect=True)
PARALLEL = pytest.mark.parametrize("validated", [4], indirect=True)


@PARALLELISMS
def test_each_fold_is_indexed_and_searched_once(validated: Validated) -> None:
    assert validated.built == FOLDS + 1, "one for each fold, and the best model"
    assert validated.searched == ROWS


def values_of(name: str, maps: list[dict[Any, Any]]) -> list[Any]:
    return [value for params in maps for param, value in params.items() if param.name == name]


@PARALLELISMS
def test_metrics_of_cross_validation_are_those_of_scikit_learn(validated: Validated) -> None:
    ks, weights = (values_of(name, validated.maps) for name in ("k", "weights"))
    expected = [accuracy(*each) for each in zip(ks, weights, strict=True)]
    assert len(expected) == 2 * len(KS)
    assert validated.model.avgMetrics == pytest.approx(expected, abs=1e-12)


@PARALLELISMS
def test_sub_models_are_in_the_order_of_the_param_maps(validated: Validated) -> None:
    ks = values_of("k", validated.maps)
    assert [[each.getK() for each in fold] for fold in validated.model.subModels] == [ks] * FOLDS


@PARALLEL
def test_a_fitted_validator_is_saved_and_loaded(
    points: DataFrame, validated: Validated, tmp_path: Path
) -> None:
    model, path = validated.model, (tmp_path / "search").as_uri()
    model.write().option("persistSubModels", "false").save(path)
    loaded = CrossValidatorModel.load(path)
    assert loaded.avgMetrics == model.avgMetrics
    assert loaded.bestModel.getK() == model.bestModel.getK()
    assert results(loaded, points) == results(model, points)


@PARALLEL
def test_a_validator_is_saved_and_loaded(validated: Validated, tmp_path: Path) -> None:
    validated.validator.save((tmp_path / "validator").as_uri())
    loaded = CrossValidator.load((tmp_path / "validator").as_uri())
    assert loaded.getEstimatorParamMaps() == validated.maps


def test_evaluators(points: DataFrame) -> None:
    """Metrics of one fold agree with those of scikit-learn."""
    train, test = folds()[0]
    fitted = KNeighborsClassifier(7).fit(MATRIX[train], CLASSES[train])
    shares = fitted.predict_proba(MATRIX[test])
    knn = KNNClassifier(k=7, idCol="id")
    judged = knn.fit(points.where("fold != 0")).transform(points.where("fold = 0")).cache()
    multiclass = MulticlassClassificationEvaluator()
    assert multiclass.evaluate(judged, {multiclass.metricName: "accuracy"}) == pytest.approx(
        fitted.score(MATRIX[test], CLASSES[test])
    )
    loss = log_loss(CLASSES[test], np.clip(shares, 1e-15, 1))
    assert multiclass.evaluate(judged, {multiclass.metricName: "logLoss"}) == pytest.approx(loss)
    binary = BinaryClassificationEvaluator(rawPredictionCol="probability", metricName="areaUnderPR")
    # Spark interpolates the curve linearly, scikit-learn in steps.
    area = binary.evaluate(judged)
    assert area == pytest.approx(average_precision_score(CLASSES[test], shares[:, 1]), abs=0.1)
    judged.unpersist()


def test_sub_models_of_each_fold_are_saved_and_loaded(points: DataFrame, tmp_path: Path) -> None:
    """From their own paths, because CrossValidatorModel.load returns those of the last fold."""
    knn = KNNClassifier(idCol="id")
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    model = search(knn, [{knn.k: 1}, {knn.k: 3}], evaluator, collectSubModels=True).fit(points)
    path = (tmp_path / "search").as_uri()
    model.save(path)
    found = [
        [KNNClassificationModel.load(f"{path}/subModels/fold{fold}/{i}") for i in range(2)]
        for fold in range(FOLDS)
    ]
    for fold in range(FOLDS):
        for loaded, kept in zip(found[fold], model.subModels[fold], strict=True):
            assert loaded.getK() == kept.getK()
            assert loaded.ids.tolist() == kept.ids.tolist()
    assert found[0][0].ids.tolist() != found[1][0].ids.tolist()


def test_regression(points: DataFrame, searches: AllSearches) -> None:
    knn = KNNRegressor(idCol="id", labelCol="target")
    maps = grid(knn, weights=["uniform", "distance"])
    evaluator = RegressionEvaluator(labelCol="target", metricName="rmse")
    model = search(knn, maps, evaluator, parallelism=2).fit(points)
    assert searches.take() == ROWS
    for params, metric in zip(maps, model.avgMetrics, strict=True):
        scores = []
        for train, test in folds():
            fitted = KNeighborsRegressor(params[knn.k], weights=params[knn.weights])
            fitted.fit(MATRIX[train], TARGET[train])
            errors = fitted.predict(MATRIX[test]) - TARGET[test]
            scores.append(np.sqrt((errors**2).mean()))
        assert metric == pytest.approx(np.mean(scores), rel=1e-9)


def test_train_validation_split(points: DataFrame, searches: AllSearches, tmp_path: Path) -> None:
    knn = KNNClassifier(idCol="id")
    split = TrainValidationSplit(
        estimator=knn,
        estimatorParamMaps=grid(knn),
        evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
        seed=3,
        parallelism=4,
        collectSubModels=True,
    )
    model = split.fit(points)
    assert searches.built == 2
    assert 0 < searches.take() < ROWS / 2
    path = (tmp_path / "split").as_uri()
    model.write().overwrite().save(path)
    loaded = TrainValidationSplitModel.load(path)
    assert loaded.validationMetrics == model.validationMetrics
    assert [each.getK() for each in loaded.subModels] == KS
    assert results(loaded, points) == results(model, points)


def test_the_last_stage_of_a_pipeline(points: DataFrame, tmp_path: Path) -> None:
    knn = KNNClassifier(idCol="id", featuresCol="scaled")
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    stages = [
        StandardScaler(inputCol="features", outputCol="scaled"),
        search(knn, grid(knn), evaluator),
    ]
    model = Pipeline(stages=stages).fit(points)
    path = (tmp_path / "pipeline").as_uri()
    model.save(path)
    assert results(PipelineModel.load(path), points) == results(model, points)


# --- around a Pipeline ----------------------------------------------------------------------------


class CountingScaler(StandardScaler):
    """Counts how often it is fitted."""

    fits = 0

    def _fit(self, dataset: DataFrame) -> Any:
        CountingScaler.fits += 1
        return super()._fit(dataset)


def pipeline(kind: type, knn: Any) -> Any:
    scaler = CountingScaler(inputCol="features", outputCol="scaled")
    return kind(stages=[scaler, PCA(k=2, inputCol="scaled", outputCol="reduced"), knn])


class Searched(NamedTuple):
    """A grid search over a pipeline: how often it fitted the scaler, indexed and searched."""

    model: CrossValidatorModel
    fits: int
    built: int
    searched: int


MAPS = 2 * len(KS)


def search_pipelines(kind: type, parallelism: int, points: DataFrame, folder: Path) -> Searched:
    """A search over two values of the PCA's k and, for each of them, `KS`."""
    knn = KNNClassifier(idCol="id", featuresCol="reduced")
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    estimator = pipeline(kind, knn)
    pca = estimator.getStages()[1]
    maps = ParamGridBuilder().addGrid(pca.k, [1, 3]).addGrid(knn.k, KS).build()
    with pytest.MonkeyPatch.context() as patch:
        searches = AllSearches(folder, patch)
        CountingScaler.fits = 0
        model = search(estimator, maps, evaluator, parallelism=parallelism).fit(points)
        return Searched(model, CountingScaler.fits, searches.built, searches.take())


@pytest.fixture(scope="module", params=[1, 4])
def shared(
    points: DataFrame, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Searched:
    folder = tmp_path_factory.mktemp("shared")
    return search_pipelines(SharedPrefixPipeline, request.param, points, folder)


@pytest.fixture(scope="module")
def plain(points: DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return search_pipelines(Pipeline, 1, points, tmp_path_factory.mktemp("plain"))


def test_a_shared_prefix_is_fitted_once_per_fold(shared: Searched) -> None:
    assert shared.fits == FOLDS + 1


def test_each_output_of_a_shared_prefix_is_indexed_and_searched_once(shared: Searched) -> None:
    assert shared.built == 2 * FOLDS + 1
    assert shared.searched == 2 * ROWS


def test_a_plain_pipeline_fits_and_searches_for_each_param_map(plain: Searched) -> None:
    assert plain.fits == FOLDS * MAPS + 1
    assert plain.searched == MAPS * ROWS


def test_a_shared_prefix_changes_no_metric_and_no_prediction(
    points: DataFrame, shared: Searched, plain: Searched
) -> None:
    assert shared.model.avgMetrics == plain.model.avgMetrics
    assert type(shared.model.bestModel) is PipelineModel
    assert results(shared.model, points) == results(plain.model, points)


class Candidates(NamedTuple):
    """Models of one SharedPrefixPipeline, the estimator, and the maps they were fitted with."""

    models: list[PipelineModel]
    estimator: SharedPrefixPipeline
    maps: list[dict[Any, Any]]


@pytest.fixture(scope="module")
def candidates(points: DataFrame) -> Candidates:
    knn = KNNClassifier(idCol="id", featuresCol="reduced")
    estimator = pipeline(SharedPrefixPipeline, knn)
    pca = estimator.getStages()[1]
    maps: list[dict[Any, Any]] = [{knn.k: 3, pca.k: 2}, {knn.k: 1, pca.k: 2}]
    return Candidates(estimator.fit(points, maps), estimator, maps)


def test_candidates_answer_as_those_of_a_plain_pipeline(
    points: DataFrame, candidates: Candidates
) -> None:
    plain = Pipeline(stages=candidates.estimator.getStages())
    for model, params in zip(candidates.models, candidates.maps, strict=True):
        assert isinstance(model, PipelineModel)
        expected = results(plain.fit(points, params), points, "probability")
        assert results(model, points, "probability") == expected
        given = sorted(model.transform(points, params).collect(), key=lambda row: row.id)
        assert [row.probability for row in given] == expected


def test_params_of_fitted_stages_can_be_set_on_a_copy(
    points: DataFrame, candidates: Candidates
) -> None:
    scaler, pca, _ = candidates.estimator.getStages()
    model = candidates.models[0]
    moved = model.copy({scaler.outputCol: "moved", pca.inputCol: "moved"})
    assert "moved" in moved.transform(points).columns
    assert "moved" not in model.transform(points).columns


def test_params_of_fitted_stages_can_be_set_in_place(points: DataFrame) -> None:
    knn = KNNClassifier(idCol="id", featuresCol="reduced")
    (model,) = pipeline(SharedPrefixPipeline, knn).fit(points, [{knn.k: 3}])
    assert "reduced" in model.transform(points).columns
    model.stages[1].setOutputCol("other")
    model.stages[2].setFeaturesCol("other")
    assert "other" in model.transform(points).columns


def test_a_candidate_is_saved_as_a_plain_pipeline_model(
    candidates: Candidates, tmp_path: Path
) -> None:
    path = (tmp_path / "candidate").as_uri()
    candidates.models[1].write().save(path)
    loaded = PipelineModel.load(path)
    assert loaded.uid == candidates.models[1].uid
    assert isinstance(loaded.stages[-1], KNNClassificationModel)


@pytest.fixture
def split() -> TrainValidationSplit:
    """A split over a SharedPrefixPipeline and two values of k."""
    knn = KNNClassifier(idCol="id", featuresCol="scaled")
    stages = [StandardScaler(inputCol="features", outputCol="scaled"), knn]
    return TrainValidationSplit(
        estimator=SharedPrefixPipeline(stages=stages),
        estimatorParamMaps=[{knn.k: 1}, {knn.k: 3}],
        evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
        seed=1,
        collectSubModels=True,
    )


def test_a_split_loads_a_shared_prefix_pipeline(
    split: TrainValidationSplit, tmp_path: Path
) -> None:
    path = (tmp_path / "split").as_uri()
    split.save(path)
    loaded = TrainValidationSplit.load(path)
    assert type(loaded.getEstimator()) is SharedPrefixPipeline
    assert loaded.getEstimator().uid == split.getEstimator().uid
    assert type(Pipeline.load(f"{path}/estimator")) is Pipeline


def test_sub_models_of_a_loaded_split_are_saved_and_loaded(
    points: DataFrame, split: TrainValidationSplit, tmp_path: Path
) -> None:
    split.save((tmp_path / "split").as_uri())
    model = TrainValidationSplit.load((tmp_path / "split").as_uri()).fit(points)
    model.save((tmp_path / "model").as_uri())
    loaded = TrainValidationSplitModel.load((tmp_path / "model").as_uri())
    assert [type(each) for each in loaded.subModels] == [PipelineModel, PipelineModel]
    assert [each.stages[-1].getK() for each in loaded.subModels] == [1, 3]
    assert loaded.validationMetrics == model.validationMetrics


def test_transformers_after_the_last_estimator(points: DataFrame, searches: AllSearches) -> None:
    knn = KNNClassifier(idCol="id", labelCol="index")
    back = IndexToString(inputCol="prediction", outputCol="said")
    stages = [StringIndexer(inputCol="label", outputCol="index"), knn, back]
    models = SharedPrefixPipeline(stages=stages).fit(points, [{knn.k: 1}, {knn.k: 5}])
    plain = Pipeline(stages=stages)
    for model, k in zip(models, (1, 5), strict=True):
        said = results(model, points, "said")
        assert searches.take() == (ROWS if k == 1 else 0)
        assert said == results(plain.fit(points, {knn.k: k}), points, "said")
        searches.take()


def test_a_pipeline_may_end_in_another_estimator(points: DataFrame) -> None:
    regression = LogisticRegression(featuresCol="scaled", maxIter=2)
    scaler = StandardScaler(inputCol="features", outputCol="scaled")
    shared = SharedPrefixPipeline(stages=[scaler, regression])
    maps = [{regression.regParam: 0.1}, {regression.regParam: 1.0, scaler.withMean: True}]
    for model, params in zip(shared.fit(points, maps), maps, strict=True):
        plain = Pipeline(stages=shared.getStages()).fit(points, params)
        assert model.stages[-1].coefficients == plain.stages[-1].coefficients


def test_a_pipeline_may_have_no_estimator(points: DataFrame) -> None:
    joint = VectorAssembler(inputCols=["id", "label"], outputCol="joint")
    only = SharedPrefixPipeline(stages=[joint]).fit(points, [{}, {joint.outputCol: "other"}])
    assert [model.transform(points).columns[-1] for model in only] == ["joint", "other"]


def test_a_pipeline_may_have_one_stage(points: DataFrame) -> None:
    knn = KNNClassifier(idCol="id")
    first, second = SharedPrefixPipeline(stages=[knn]).fit(points, [{knn.k: 1}, {knn.k: 3}])
    assert (first.stages[0].getK(), second.stages[0].getK()) == (1, 3)


def test_an_invalid_stage_is_refused(points: DataFrame) -> None:
    with pytest.raises(TypeError, match="Cannot recognize a pipeline stage"):
        SharedPrefixPipeline(stages=["scaler"]).fit(points)


# --- which stages count as equal ------------------------------------------------------------------


class Affine(Transformer):
    """A transformer in Python with state outside of its Params."""

    factor: Param[Any] = Param(Params._dummy(), "factor", "an object that holds a number")

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def _transform(self, dataset: DataFrame) -> DataFrame:
        factor = self.getOrDefault(self.factor).value if self.isDefined(self.factor) else 1.0
        moved = F.transform(vector_to_array("features"), lambda x: x * factor + self.offset)
        return dataset.withColumn("scaled", moved)


class Number:
    """An object of an unknown type, whose repr does not show its value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Number"


def as_plain(points: DataFrame, stages: list[Any], maps: list[dict[Any, Any]]) -> list[float]:
    """The metrics of a grid search, which must be those around a plain Pipeline."""
    metrics = []
    for kind in (SharedPrefixPipeline, Pipeline):
        split = TrainValidationSplit(
            estimator=kind(stages=stages),
            estimatorParamMaps=maps,
            evaluator=MulticlassClassificationEvaluator(metricName="logLoss"),
            seed=4,
        )
        metrics.append(split.fit(points).validationMetrics)
    assert metrics[0] == metrics[1]
    return list(metrics[0])


def test_vectors_with_equal_repr_are_distinguished(points: DataFrame) -> None:
    product = ElementwiseProduct(inputCol="features", outputCol="scaled")
    knn = KNNClassifier(idCol="id", featuresCol="scaled", weights="distance")
    values = [Vectors.dense([1.0, 1e-6, 1e-6 * i]) for i in (1, 2)]
    values += [Vectors.sparse(3, {1: 1e-6}), Vectors.sparse(3, {1: 1e-6, 2: 1e-6 + 1e-15})]
    metrics = as_plain(points, [product, knn], [{product.scalingVec: each} for each in values])
    assert len(set(metrics)) > 1


def test_params_of_nested_stages_count(points: DataFrame) -> None:
    pca = PCA(inputCol="features", outputCol="scaled")
    knn = KNNClassifier(idCol="id", featuresCol="scaled", weights="distance")
    nested = Pipeline(stages=[Pipeline(stages=[pca])])
    maps = [{pca.k: 1}, {pca.k: 3}, {pca.k: 3, knn.k: 2}]
    assert len(set(as_plain(points, [nested, knn], maps))) == len(maps)


def test_params_of_wrapped_stages_count(points: DataFrame) -> None:
    regression = LogisticRegression(maxIter=2, rawPredictionCol="scaled")
    wrapped = OneVsRest(classifier=regression, rawPredictionCol="scaled", predictionCol="guess")
    knn = KNNClassifier(idCol="id", featuresCol="scaled", weights="distance")
    maps = [{regression.regParam: 0.01}, {regression.regParam: 9.0}]
    assert len(set(as_plain(points, [wrapped, knn], maps))) == len(maps)


def test_params_of_a_nested_search_count(points: DataFrame) -> None:
    pca = PCA(inputCol="features", outputCol="scaled")
    inner = KNNClassifier(idCol="id", featuresCol="scaled", predictionCol="guess")
    inner.setRawPredictionCol("votes").setProbabilityCol("shares")
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy", predictionCol="guess")
    best = TrainValidationSplit(
        estimator=Pipeline(stages=[pca, inner]),
        estimatorParamMaps=[{inner.k: 3}],
        evaluator=evaluator,
        seed=2,
    )
    knn = KNNClassifier(idCol="id", featuresCol="scaled", weights="distance")
    stages = [best, knn]
    maps = [{pca.k: 1}, {pca.k: 3}]
    models = SharedPrefixPipeline(stages=stages).fit(points, maps)
    for model, params in zip(models, maps, strict=True):
        plain = Pipeline(stages=stages).fit(points, params)
        assert results(model, points, "scaled") == results(plain, points, "scaled")


def test_values_of_unknown_types_are_not_shared(points: DataFrame) -> None:
    affine = Affine(0.0)
    knn = KNNClassifier(idCol="id", featuresCol="scaled", k=5, maxDistance=1.0, weights="distance")
    values = [Number(1.0), Number(0.3)]
    metrics = as_plain(points, [affine, knn], [{affine.factor: each} for each in values])
    assert len(set(metrics)) == 2


def test_stages_that_are_changed_afterwards(points: DataFrame, searches: AllSearches) -> None:
    knn = KNNClassifier(idCol="id", featuresCol="scaled", neighborsCol="near")
    shared = SharedPrefixPipeline(stages=[Affine(0.0), knn])
    first, second = shared.fit(points, [{knn.k: 1}, {knn.k: 2}])
    near = results(first, points, "near")
    results(second, points, "near")
    assert searches.take() == ROWS
    first.stages[0] = first.stages[0].copy()
    first.stages[0].offset = 100.0
    assert results(first, points, "near") != near
    second.stages[0].offset = 100.0
    assert results(second, points, "near") != near


def test_a_stage_that_is_replaced_by_one_with_its_uid(points: DataFrame) -> None:
    """The same estimator fitted on other data: its model has the same uid."""
    knn = KNNClassifier(idCol="id", featuresCol="scaled", neighborsCol="near")
    scaler = StandardScaler(inputCol="features", outputCol="scaled", withMean=True)
    shared = SharedPrefixPipeline(stages=[scaler, knn])
    first, second = shared.fit(points, [{knn.k: 1}, {knn.k: 2}])
    results(first, points, "near")
    moved = scaler.fit(points.where("target > 0"))
    second.stages[0] = moved
    plain = PipelineModel([moved, second.stages[1]])
    assert results(second, points, "scaled") == results(plain, points, "scaled")


def test_maps_that_replace_the_stages(points: DataFrame) -> None:
    knn = KNNClassifier(idCol="id", featuresCol="scaled")
    other = KNNClassifier(idCol="id", k=1, neighborsCol="near")
    shared = SharedPrefixPipeline(stages=[Affine(0.0), knn])
    maps = [{shared.stages: [other]}, {knn.k: 2}]
    first, second = shared.fit(points, maps)
    assert [type(stage) for stage in first.stages] == [KNNClassificationModel]
    assert results(first, points, "near") == [[i] for i in range(ROWS)]
    assert second.stages[-1].getK() == 2
