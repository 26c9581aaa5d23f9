"""Names of other libraries and misspelt names: the error says the right one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import pyspark_knn
from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNRegressor,
    LocalOutlierFactor,
    NeighborsEvaluator,
)
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.params.arguments import _ESTIMATORS, _SYNONYMS, _WITHOUT_PARAM, _advice
from pyspark_knn.suggestions import did_you_mean, nearest, plain

ARGUMENTS = [
    (KNNEstimator, "n_neighbors", "Use k."),
    (KNNEstimator, "numNeighbors", "Use k."),
    (KNNImputer, "n_neighbors", "Use k."),
    (KNNEstimator, "K", "Use k."),
    (KNNEstimator, "n_jobs", "Omit it: a search runs on all cores of the Spark application."),
    (KNNEstimator, "metric_params", "Use metricParams."),
    (KNNEstimator, "leaf_size", "Use leafSize."),
    (KNNRegressor, "radius", "Use maxDistance with k=None."),
    (KNNEstimator, "contamination", "It is a Param of LocalOutlierFactor."),
    (LocalOutlierFactor, "novelty", "Omit it: transform scores other rows"),
    (KNNEstimator, "inputCol", "Use featuresCol."),
    (KNNEstimator, "inputCols", "Combine the columns into one vector with pyspark.ml.feature.Vec"),
    (KNNEstimator, "outputCol", "Use neighborsCol."),
    (KNNEstimator, "distanceMeasure", "Use metric."),
    (KNNClassifier, "labelcol", "Use labelCol."),
    (KNNEstimator, "labelCol", "It is a Param of KNNClassifier and KNNRegressor."),
    (KNNClassifier, "sample_weight", "Use weightCol."),
    (KNNClassifier, "threshold", "Did you mean thresholds?"),
    (KNNImputer, "missing_values", "Use missingValue."),
    (KNNEstimator, "maxDistanc", "Did you mean maxDistance?"),
    (KNNEstimator, "metrc", "Did you mean metric?"),
    (NeighborsEvaluator, "exact", "Did you mean exactCol?"),
    (NeighborsEvaluator, "xyz", "Params: neighborsCol, exactCol, k."),
]


@pytest.mark.parametrize(("stage", "name", "advice"), ARGUMENTS)
def test_arguments(stage: Any, name: str, advice: str) -> None:
    for call in (stage, stage().setParams):
        with pytest.raises(TypeError) as error:
            call(**{name: 1})
        start = f"{name} is not a Param of {stage.__name__}. {advice}"
        assert str(error.value).startswith(start)


@pytest.mark.parametrize("stage", [KNNEstimator, KNNImputer, NeighborsEvaluator])
def test_arguments_without_a_keyword(stage: Any) -> None:
    message = "takes its Params as keyword arguments, .* got a str without a keyword"
    for call in (stage, stage().setParams):
        with pytest.raises(TypeError, match=message):
            call("features")


@pytest.mark.parametrize("name", _ESTIMATORS)
def test_each_param_without_capitals(name: str) -> None:
    params = inspect.signature(getattr(pyspark_knn, name)).parameters
    for param in params:
        assert _advice(f"{param[0]}_{param[1:]}".lower(), tuple(params)) == f"Use {param}."


def test_no_name_of_other_libraries_is_listed_twice() -> None:
    others = [each for synonyms in _SYNONYMS.values() for each in synonyms]
    assert len(set(others)) == len(others)
    assert all(plain(each) == each for each in (*others, *_WITHOUT_PARAM))


VALUES = [
    ("metric", "cosin", "cosine"),
    ("metric", "Euclidean", "euclidean"),
    ("metric", "dot_product", "inner_product"),
    ("algorithm", "kdtree", "kd_tree"),
    ("placement", "replicate", "replicated"),
    ("storage", "spars", "sparse"),
    ("shardBy", "k-means", "kmeans"),
    ("dtype", "float", "float32"),
    ("handleInvalid", "Keep", "keep"),
]


@pytest.mark.parametrize(("param", "value", "meant"), VALUES)
def test_values(param: str, value: str, meant: str) -> None:
    knn = KNNEstimator()
    setter = getattr(knn, f"set{param[0].upper()}{param[1:]}")
    message = rf"{param}.* Did you mean '{meant}'\?$"
    with pytest.raises(ValueError, match=message):
        setter(value)
    for call in (KNNEstimator, knn.setParams):
        with pytest.raises(ValueError, match=message):
            call(**{param: value})


def test_values_of_other_stages() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'distance'\? For a column of weights, set"):
        KNNClassifier(weights="distances")
    with pytest.raises(ValueError, match=r"got 'near'\. For a column of weights, set weightCol\."):
        KNNClassifier(weights="near")
    with pytest.raises(ValueError, match=r"score must be .*Did you mean 'mean'\?"):
        LocalOutlierFactor(score="meen")


def test_a_metric_that_is_not_supported_is_refused_when_it_is_set() -> None:
    with pytest.raises(ValueError, match="metric 'precomputed' is not supported: a search needs"):
        KNNEstimator(metric="precomputed")


def test_parameters_of_a_metric() -> None:
    with pytest.raises(ValueError, match=r"\['v'\] is not .* Supported: 'V'\. Did you mean 'V'\?"):
        resolve_metric("seuclidean", params={"v": [1.0]})
    with pytest.raises(ValueError, match=r"\['w'\] is not .* Supported: 'V' or 'VI'\.$"):
        resolve_metric("mahalanobis", params={"w": [1.0]})


def test_no_suggestion_without_a_similar_name() -> None:
    assert did_you_mean("xyz", ["auto", "brute"]) == ""
    assert did_you_mean(3, ["auto", "brute"]) == ""
    assert nearest("", ["auto"]) is None
    assert nearest("k", []) is None
