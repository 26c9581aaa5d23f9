"""The contract of every stage: Params, copies, uids, columns, saving, Pipelines, tuning."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.tuning import (
    CrossValidator,
    CrossValidatorModel,
    ParamGridBuilder,
    TrainValidationSplit,
    TrainValidationSplitModel,
)

from tests.support.stages import CASES, Case, common_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

pytestmark = pytest.mark.filterwarnings(
    "ignore:transform scores the rows that the model was fitted"
)


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def frame(spark: SparkSession) -> DataFrame:
    return common_frame(spark).cache()


@pytest.fixture(scope="module")
def model(case: Case, frame: DataFrame) -> Any:
    return case.make(k=3).fit(frame)


@pytest.fixture(scope="module")
def fitted(case: Case, frame: DataFrame) -> Any:
    """A fitted model."""
    weights = {"weightCol": "weight"} if hasattr(case.estimator, "weightCol") else {}
    chosen = {"algorithm": "brute", "placement": "replicated", "storage": "dense"}
    known = {name: value for name, value in chosen.items() if hasattr(case.estimator, name)}
    return case.make(k=3, **known, **weights).fit(frame)


def rows_of(found: DataFrame) -> list[Row]:
    return sorted(found.collect(), key=lambda row: row.id)


class TestParams:
    """Params behave as those of pyspark.ml, with checks."""

    def test_every_param_has_a_getter_and_a_setter(self, case: Case, model: Any) -> None:
        estimator = case.make()
        for param in estimator.params:
            name = param.name[0].upper() + param.name[1:]
            assert hasattr(estimator, f"get{name}"), name
            assert hasattr(estimator, f"set{name}"), name
            assert hasattr(model, f"get{name}"), name
            assert param.doc
        assert {param.name for param in model.params} == {param.name for param in estimator.params}

    def test_constructor_and_set_params_are_keyword_only_and_alike(self, case: Case) -> None:
        signatures = [
            inspect.signature(method)
            for method in (case.estimator.__init__, case.estimator.setParams)
        ]
        first, second = ({n: p for n, p in s.parameters.items() if n != "self"} for s in signatures)
        assert {n: p.default for n, p in first.items()} == {n: p.default for n, p in second.items()}
        assert all(p.kind is p.KEYWORD_ONLY for p in first.values())
        assert set(first) == {param.name for param in case.estimator().params}
        with pytest.raises(TypeError):
            case.estimator(5)

    def test_defaults_of_the_signature_are_the_defaults(self, case: Case) -> None:
        estimator = case.estimator()
        for name, parameter in inspect.signature(case.estimator.__init__).parameters.items():
            if name != "self" and parameter.default is not None:
                # As text, since the default of missingValue is NaN.
                assert repr(estimator.getOrDefault(name)) == repr(parameter.default), name

    def test_none_means_unset_where_that_is_allowed(
        self, case: Case, tmp_path: Path, spark: SparkSession
    ) -> None:
        plain = case.estimator()
        optional = [
            param.name
            for param in plain.params
            if plain.hasDefault(param) and plain.getOrDefault(param) is None
        ]
        assert "idCol" in optional
        estimator = case.estimator(**dict.fromkeys(optional))
        path = (tmp_path / "stage").as_uri()
        estimator.save(path)
        loaded = case.estimator.load(path)
        assert all(loaded.getOrDefault(name) is None for name in optional)
        for name in {"metric", "featuresCol", "handleInvalid"} - set(optional):
            if not plain.hasParam(name):
                continue
            with pytest.raises(TypeError, match=name):
                case.estimator(**{name: None})

    @pytest.mark.parametrize(
        ("name", "value", "kind"),
        [
            ("k", 0, ValueError),
            ("k", -1, ValueError),
            ("k", 1.5, ValueError),
            ("k", "5", TypeError),
            ("k", True, TypeError),
            ("leafSize", 0, ValueError),
            ("p", 0.0, ValueError),
            ("maxDistance", float("nan"), ValueError),
            ("handleInvalid", "drop", ValueError),
            ("algorithm", "lsh", ValueError),
            ("placement", "everywhere", ValueError),
            ("dtype", "float16", ValueError),
        ],
    )
    def test_values_out_of_range(
        self, case: Case, name: str, value: Any, kind: type[Exception]
    ) -> None:
        setter = "set" + name[0].upper() + name[1:]
        estimator = case.estimator()
        if not estimator.hasParam(name):
            return
        for attempt in (
            lambda: case.estimator(**{name: value}),
            lambda: estimator.setParams(**{name: value}),
            lambda: getattr(estimator, setter)(value),
            lambda: estimator.set(estimator.getParam(name), value),
            lambda: ParamGridBuilder().addGrid(estimator.getParam(name), [value]).build(),
        ):
            # pyspark itself converts one class of error into the other in some of these calls.
            with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
                attempt()
        with pytest.raises(kind):
            case.estimator(**{name: value})

    @pytest.mark.parametrize("value", [np.int64(4), np.int32(4), np.uint8(4), 4.0, np.float32(4)])
    def test_any_whole_number_is_accepted(self, case: Case, value: Any) -> None:
        k = case.estimator(k=value).getK()
        assert (k, type(k)) == (4, int)


class TestCopies:
    """uids, and copies with extra Params."""

    def test_the_model_has_the_uid_and_the_params_of_its_estimator(
        self, case: Case, frame: DataFrame
    ) -> None:
        estimator = case.make(k=2, numReplicas=3)
        fitted = estimator.fit(frame)
        assert fitted.uid == estimator.uid
        assert all(param.parent == estimator.uid for param in fitted.params)
        for param in estimator.params:
            if param.name not in ("algorithm", "placement", "storage"):
                assert fitted.isSet(param) == estimator.isSet(param)
        assert (fitted.getK(), fitted.getNumReplicas()) == (2, 3)
        assert isinstance(fitted, case.model)

    def test_copies_are_independent(self, case: Case, model: Any, frame: DataFrame) -> None:
        estimator = case.make(k=3)
        other = estimator.copy({estimator.k: 1})
        assert (estimator.getK(), other.getK(), other.uid) == (3, 1, estimator.uid)
        name, value = ("excludeIdCol", "id") if "k" in model._fit_params else ("k", 1)
        before, extra = model.getOrDefault(name), {model.getParam(name): value}
        copied = model.copy(extra)
        assert (copied.getOrDefault(name), copied.uid) == (value, model.uid)
        assert copied.numItems == model.numItems
        assert rows_of(copied.transform(frame)) == rows_of(model.transform(frame, extra))
        assert model.getOrDefault(name) == before != value


OTHER_VALUES = {
    "addIndicator": True,
    "algorithm": "ball_tree",
    "contamination": 0.25,
    "dtype": "float32",
    "idCol": "label",
    "indexParams": {"nlist": 2},
    "k": 2,
    "keepEmptyFeatures": True,
    "keyCols": "label",
    "labelCol": "weight",
    "leafSize": 7,
    "metric": "cosine",
    "metricParams": {"w": [1.0, 2.0]},
    "missingValue": -1.0,
    "numShards": 3,
    "p": 3.0,
    "placement": "sharded",
    "score": "kth",
    "seed": 1,
    "shardBy": "kmeans",
    "standardization": False,
    "storage": "sparse",
    "weightCol": None,
}
"""For each Param that `fit` reads, a value that differs from the fitted one."""


class TestFittedParams:
    """A model refuses Params that need a fit, however they are set."""

    def test_refused(self, fitted: Any, frame: DataFrame) -> None:
        before = fitted.explainParams()
        for name, value in OTHER_VALUES.items():
            if name not in fitted._fit_params or not fitted.hasParam(name):
                continue
            param = fitted.getParam(name)
            for attempt in (
                functools.partial(fitted.copy, {param: value}),
                functools.partial(fitted.transform, frame, {param: value}),
                functools.partial(fitted._set, **{name: value}),
                functools.partial(fitted.set, param, value),
            ):
                with pytest.raises(ValueError, match=f"^{name} cannot be changed on a fitted"):
                    attempt()
        assert fitted.explainParams() == before

    def test_the_list_of_fitted_params_is_complete(self, fitted: Any) -> None:
        """A Param either has a setter on the model, or it is refused."""
        for param in fitted.params:
            setter = f"set{param.name[0].upper()}{param.name[1:]}"
            assert hasattr(fitted, setter) != (param.name in fitted._fit_params), param.name
        assert fitted._fit_params <= set(OTHER_VALUES)

    def test_unset(self, fitted: Any) -> None:
        with pytest.raises(ValueError, match="idCol cannot be changed"):
            fitted.clear(fitted.idCol)
        assert fitted.getIdCol() == "id"
        copied = fitted.copy({fitted.numReplicas: 2})
        copied.clear(copied.numReplicas)
        assert copied.getNumReplicas() is None

    def test_the_fitted_value_may_be_set_again(
        self, case: Case, frame: DataFrame, tmp_path: Path
    ) -> None:
        """A CrossValidator passes to `transform` the whole param map that it fitted with."""
        stage = case.make(k=3)
        values = dict.fromkeys(("algorithm", "placement", "storage"), "auto") | {"p": 2, "k": 2}
        asked = {
            stage.getParam(name): value for name, value in values.items() if stage.hasParam(name)
        }
        fitted = stage.fit(frame, asked)
        again = fitted.copy(asked)
        assert again.explainParams() == fitted.explainParams()
        path = (tmp_path / "again").as_uri()
        again.save(path)
        loaded = case.model.load(path)
        assert loaded.explainParams() == fitted.explainParams()
        assert rows_of(loaded.transform(frame)) == rows_of(fitted.transform(frame, asked))
        name = "metric" if loaded.hasParam("metric") else "standardization"
        with pytest.raises(ValueError, match=f"{name} cannot be changed"):
            loaded.copy({loaded.getParam(name): OTHER_VALUES[name]})


class TestColumns:
    """Every row and column is kept, the outputs are appended, and no column is overwritten."""

    def test_outputs(self, case: Case, model: Any, frame: DataFrame) -> None:
        found = model.transform(frame)
        assert found.columns[: len(frame.columns)] == frame.columns
        assert set(found.columns[len(frame.columns) :]) == set(case.outputs.values())
        kept = found.select(frame.columns)
        assert rows_of(kept) == rows_of(frame)

    def test_an_existing_column_is_refused(self, case: Case, model: Any, frame: DataFrame) -> None:
        for param, name in case.outputs.items():
            with pytest.raises(ValueError, match=f"{param} '{name}' already exists"):
                model.transform(frame.withColumnRenamed("truth", name))

    def test_output_names_can_be_set_on_the_model(
        self, case: Case, model: Any, frame: DataFrame
    ) -> None:
        extra = {model.getParam(param): f"my {param}" for param in case.outputs}
        found = model.transform(frame, extra)
        added = found.columns[len(frame.columns) :]
        assert set(added) == {f"my {param}" for param in case.outputs}
        assert len(found.collect()) == 60

    def test_the_answer_does_not_depend_on_the_partitions(
        self, case: Case, model: Any, frame: DataFrame
    ) -> None:
        other = case.make(k=3).fit(frame.repartition(5))
        assert rows_of(other.transform(frame.repartition(7))) == rows_of(model.transform(frame))


class TestSaving:
    """Alone, in Pipelines, and in what tunes them."""

    def test_alone(
        self, case: Case, model: Any, frame: DataFrame, tmp_path: Path, spark: SparkSession
    ) -> None:
        path = (tmp_path / "model").as_uri()
        model.save(path)
        model.write().overwrite().save(path)
        loaded = case.model.load(path)
        assert loaded.explainParams() == model.explainParams()
        assert rows_of(loaded.transform(frame)) == rows_of(model.transform(frame))
        path = (tmp_path / "estimator").as_uri()
        case.make(k=2).save(path)
        assert case.estimator.load(path).getK() == 2
        with pytest.raises(ValueError, match=f"not a .*{case.model.__name__}"):
            case.model.load(path)

    def test_in_a_pipeline(self, case: Case, frame: DataFrame, tmp_path: Path) -> None:
        path = (tmp_path / "pipeline").as_uri()
        Pipeline(stages=[case.make(k=2)]).save(path)
        fitted = Pipeline.load(path).fit(frame)
        path = (tmp_path / "fitted").as_uri()
        fitted.save(path)
        fitted.write().overwrite().save(path)
        loaded = PipelineModel.load(path)
        assert isinstance(loaded.stages[0], case.model)
        assert rows_of(loaded.transform(frame)) == rows_of(fitted.transform(frame))

    def test_cross_validator_of_a_pipeline(
        self, case: Case, frame: DataFrame, tmp_path: Path
    ) -> None:
        stage = case.make()
        estimator = Pipeline(stages=[stage])
        grid = ParamGridBuilder().addGrid(stage.k, [1, 3]).build()
        evaluator = case.evaluator()
        tuner = CrossValidator(
            estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1
        )
        path = (tmp_path / "tuner").as_uri()
        tuner.save(path)
        fitted = CrossValidator.load(path).fit(frame)
        assert len(fitted.avgMetrics) == 2
        path = (tmp_path / "fitted").as_uri()
        fitted.save(path)
        loaded = CrossValidatorModel.load(path)
        assert loaded.avgMetrics == fitted.avgMetrics
        assert rows_of(loaded.bestModel.transform(frame)) == rows_of(
            fitted.bestModel.transform(frame)
        )

    def test_train_validation_split_of_the_stage(
        self, case: Case, frame: DataFrame, tmp_path: Path
    ) -> None:
        stage = case.make()
        # An approximate algorithm supports few metrics.
        name, value = "metric", "cosine" if "algorithm" in case.settings else "cityblock"
        if not stage.hasParam(name):
            name, value = "weights", "distance"
        grid = ParamGridBuilder().addGrid(stage.k, [1, 3]).addGrid(stage.getParam(name), [value])
        tuner = TrainValidationSplit(
            estimator=stage, estimatorParamMaps=grid.build(), evaluator=case.evaluator(), seed=1
        )
        path = (tmp_path / "tuner").as_uri()
        tuner.save(path)
        fitted = TrainValidationSplit.load(path).fit(frame)
        assert fitted.bestModel.getOrDefault(name) == value
        path = (tmp_path / "fitted").as_uri()
        fitted.save(path)
        loaded = TrainValidationSplitModel.load(path)
        assert loaded.validationMetrics == fitted.validationMetrics
        assert rows_of(loaded.bestModel.transform(frame)) == rows_of(
            fitted.bestModel.transform(frame)
        )


class TestSearchParams:
    """Params of the search apply to votes and means too."""

    def test_the_fitted_metric_decides(self, case: Case, frame: DataFrame) -> None:
        if not hasattr(case.estimator, "metric"):
            return
        with pytest.raises(ValueError, match="seuclidean"):
            case.make(metric="seuclidean").fit(frame)

    def test_handle_invalid(self, case: Case, model: Any, frame: DataFrame) -> None:
        broken = frame.selectExpr(
            "id",
            "if(id < 2, array(double('infinity'), 0D), features) AS features",
            "label",
            "truth",
            "kind",
        )
        with pytest.raises(Exception, match="featuresCol 'features' contains an infinity"):
            model.transform(broken).collect()
        skipped = model.transform(broken, {model.handleInvalid: "skip"})
        kept = rows_of(model.transform(broken, {model.handleInvalid: "keep"}))
        assert [row.id for row in rows_of(skipped)] == list(range(2, 60))
        assert [row.id for row in kept] == list(range(60))
        assert kept[2:] == rows_of(skipped)

    def test_exclusion_and_max_distance(self, case: Case, model: Any, frame: DataFrame) -> None:
        """With both, a query finds others within reach, or nothing."""
        if not model.hasParam("maxDistance"):
            return
        neighbors = {"neighborsCol": "n", "distancesCol": "d", "excludeIdCol": "id"}
        extra = {model.getParam(name): value for name, value in neighbors.items()}
        rows = rows_of(model.transform(frame, {**extra, model.maxDistance: 0.5}))
        assert all(row.id not in row.n for row in rows)
        assert all(distance <= 0.5 for row in rows for distance in row.d)
        assert {len(row.n) for row in rows} >= {0, 3}


def test_queries_with_duplicate_names(case: Case, model: Any, frame: DataFrame) -> None:
    """Joins produce such columns."""
    twice = frame.selectExpr("*", "id AS twin", "7 AS id", "label AS truth").drop("weight")
    found = model.transform(twice)
    assert found.columns[: len(twice.columns)] == twice.columns
    expected = rows_of(model.transform(frame))
    outputs = list(case.outputs.values())
    rows = sorted(found.collect(), key=lambda row: row.twin)
    assert [row[-len(outputs) :] for row in rows] == [row[-len(outputs) :] for row in expected]
