"""Params: values that are accepted, errors for the others, and no need for a Spark session."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pyspark.ml.tuning import ParamGridBuilder

from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNImputerModel,
    KNNModel,
    LocalOutlierFactor,
)
from pyspark_knn.persistence import saved

Way = Callable[[str, Any], KNNEstimator]


def by_constructor(name: str, value: Any) -> KNNEstimator:
    return KNNEstimator(**{name: value})


def by_params(name: str, value: Any) -> KNNEstimator:
    return KNNEstimator().setParams(**{name: value})


def by_setter(name: str, value: Any) -> KNNEstimator:
    return getattr(KNNEstimator(), f"set{name[0].upper()}{name[1:]}")(value)


def by_set(name: str, value: Any) -> KNNEstimator:
    knn = KNNEstimator()
    knn.set(knn.getParam(name), value)
    return knn


def by_copy(name: str, value: Any) -> KNNEstimator:
    """Copy as fit and transform do with a dict of Params, whose values the grid has converted."""
    knn = KNNEstimator()
    (chosen,) = ParamGridBuilder().addGrid(knn.getParam(name), [value]).build()
    return knn.copy(chosen)


WAYS = [by_constructor, by_params, by_setter, by_set, by_copy]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


GOOD = [
    ("k", 1, 1),
    ("k", 5.0, 5),
    ("k", np.int8(3), 3),
    ("k", np.int32(3), 3),
    ("k", np.int64(3), 3),
    ("k", np.uint64(3), 3),
    ("k", np.float32(3), 3),
    ("k", None, None),
    ("leafSize", np.int16(7), 7),
    ("p", 3, 3.0),
    ("p", np.float32(1.5), 1.5),
    ("p", np.int64(4), 4.0),
    ("p", math.inf, math.inf),
    ("maxDistance", -3, -3.0),
    ("maxDistance", np.float32(0.5), 0.5),
    ("maxDistance", math.inf, math.inf),
    ("maxDistance", None, None),
    ("minSimilarity", np.float32(0.5), 0.5),
    ("minSimilarity", 1, 1.0),
    ("minSimilarity", None, None),
    ("excludeIdCol", None, None),
    ("excludeIdCol", "a.b c", "a.b c"),
    ("keyCols", None, None),
    ("keyCols", "a.b c", ["a.b c"]),
    ("queryKeyCols", ("tenant", np.str_("day")), ["tenant", "day"]),
    ("idCol", None, None),
    ("featuresCol", "a.b c", "a.b c"),
    ("neighborsCol", "", ""),
    ("distancesCol", "d", "d"),
    ("metric", "cosine", "cosine"),
    ("metric", np.str_("cosine"), "cosine"),
    ("algorithm", "kd_tree", "kd_tree"),
    ("targetRecall", np.float32(0.5), 0.5),
    ("targetRecall", 1, 1.0),
    ("targetRecall", None, None),
    ("indexParams", {"nlist": np.int64(8), "encoding": "sq8"}, {"nlist": 8, "encoding": "sq8"}),
    ("searchParams", {"nprobe": np.int32(2)}, {"nprobe": 2}),
    ("seed", np.int64(-3), -3),
    ("dtype", "float32", "float32"),
    ("storage", "sparse", "sparse"),
    ("placement", "replicated", "replicated"),
    ("handleInvalid", "skip", "skip"),
    ("metricParams", None, None),
    ("metricParams", {}, {}),
    ("metricParams", {"V": np.array([1.0, 2.5])}, {"V": [1.0, 2.5]}),
    ("metricParams", {"VI": np.eye(2, dtype=np.float32)}, {"VI": [[1.0, 0.0], [0.0, 1.0]]}),
    ("metricParams", {"w": (1, np.float64(2), np.int64(3))}, {"w": [1, 2.0, 3]}),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_valid_values_are_converted(way, name, value, expected):
    knn = way(name, value)
    found = knn.getOrDefault(name)
    assert found == expected
    assert type(found) is type(expected)
    assert getattr(knn, f"get{name[0].upper()}{name[1:]}")() == expected
    # It is saved as JSON, and read back through the same converter.
    again = json.loads(json.dumps(found))
    assert by_set(name, again).getOrDefault(name) == expected


HUGE = Fraction(10) ** 400

BAD = [
    ("k", 0, "k must be an integer >= 1, got 0"),
    ("k", -1, "k must be an integer >= 1, got -1"),
    ("k", 1.5, "k must be an integer >= 1, got 1.5"),
    ("k", "5", "k must be an integer >= 1, got '5'"),
    ("k", True, "k must be an integer >= 1, got True"),
    ("k", np.bool_(True), "k must be an integer >= 1, got "),
    ("k", np.int32(0), "k must be an integer >= 1, got "),
    ("k", math.nan, "k must be an integer >= 1, got nan"),
    ("k", math.inf, "k must be an integer >= 1, got inf"),
    ("k", np.float64(-math.inf), "k must be an integer >= 1, got "),
    ("k", [3], "k must be an integer >= 1, got [3]"),
    ("leafSize", 0, "leafSize must be an integer >= 1, got 0"),
    ("leafSize", None, "leafSize must be an integer >= 1, got None"),
    ("p", 0, "p must be a number > 0, got 0"),
    ("p", -2.0, "p must be a number > 0, got -2.0"),
    ("p", math.nan, "p must be a number > 0, got nan"),
    ("p", "2", "p must be a number > 0, got '2'"),
    ("p", True, "p must be a number > 0, got True"),
    ("p", Decimal(2), "p must be a number > 0, got "),
    ("p", HUGE, "p must be a number > 0, got "),
    ("p", None, "p must be a number > 0, got None"),
    ("maxDistance", math.nan, "maxDistance must be a number (not NaN), got nan"),
    ("maxDistance", "1", "maxDistance must be a number (not NaN), got '1'"),
    ("maxDistance", False, "maxDistance must be a number (not NaN), got False"),
    ("minSimilarity", math.nan, "minSimilarity must be a number (not NaN), got nan"),
    ("minSimilarity", "0.8", "minSimilarity must be a number (not NaN), got '0.8'"),
    ("featuresCol", None, "featuresCol must be a string, got None"),
    ("featuresCol", 3, "featuresCol must be a string, got 3"),
    ("idCol", 3, "idCol must be a string, got 3"),
    ("excludeIdCol", ["id"], "excludeIdCol must be a string, got ['id']"),
    ("keyCols", [], "keyCols must be the name of a column or a list of names, got []"),
    ("keyCols", ["a", "a"], "Each column must be named once, and at least one column."),
    ("keyCols", ["a", 1], "keyCols must be the name of a column or a list of names, got ['a', 1]"),
    ("neighborsCol", None, "neighborsCol must be a string, got None"),
    ("distancesCol", b"d", "distancesCol must be a string, got b'd'"),
    ("metric", None, "metric must be a string, got None"),
    ("metric", math.dist, "metric must be a string, got "),
    ("algorithm", "lsh", "algorithm must be one of auto, brute, kd_tree, ball_tree, ivf"),
    ("algorithm", None, "algorithm must be one of auto, brute, kd_tree, ball_tree, ivf"),
    ("targetRecall", 0, "targetRecall must be a number in (0, 1], got 0"),
    ("targetRecall", 1.01, "targetRecall must be a number in (0, 1], got 1.01"),
    ("targetRecall", "high", "targetRecall must be a number in (0, 1], got 'high'"),
    ("indexParams", ["nlist"], "indexParams must be a dict with string keys, got ['nlist']"),
    ("searchParams", {"nprobe": object}, "searchParams must contain numbers, strings, lists and"),
    ("seed", None, "seed must be an integer >= "),
    ("seed", 2**63, "seed must be an integer of 64 bits, got 9223372036854775808"),
    ("dtype", "float16", "dtype must be one of auto, float32, got 'float16'"),
    ("storage", "csr", "storage must be one of auto, dense, sparse, got 'csr'"),
    ("placement", "everywhere", "placement must be one of auto, replicated"),
    ("handleInvalid", "drop", "handleInvalid must be one of error, skip, keep, got 'drop'"),
    ("handleInvalid", True, "handleInvalid must be one of error, skip, keep, got True"),
    ("metricParams", [1], "metricParams must be a dict with string keys, got [1]"),
    ("metricParams", {1: 2}, "metricParams must be a dict with string keys, got {1: 2}"),
    ("metricParams", {"V": object}, "metricParams must contain numbers, strings, lists and arr"),
    ("metricParams", {"V": {1, 2}}, "metricParams must contain numbers, strings, lists and arr"),
    (
        "metricParams",
        {"V": np.array([1j])},
        "metricParams must contain numbers, strings, lists",
    ),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_invalid_values_raise_and_name_the_param(way, name, value, message):
    with pytest.raises((ValueError, TypeError)) as error:
        way(name, value)
    assert message in str(error.value)
    assert type(error.value) in (ValueError, TypeError)


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_refused_value_changes_nothing(name, value, message):
    knn = KNNEstimator(k=3, metric="cosine", maxDistance=0.5)
    before = {param.name: knn.getOrDefault(param) for param in knn.params}
    with pytest.raises((ValueError, TypeError)):
        knn.setParams(**{name: value})
    assert {param.name: knn.getOrDefault(param) for param in knn.params} == before


def test_arguments_are_named():
    with pytest.raises(TypeError, match="keyword"):
        KNNEstimator("features")
    with pytest.raises(TypeError, match="n_neighbors"):
        KNNEstimator(n_neighbors=3)


def test_none_unsets_what_may_be_unset():
    knn = KNNEstimator(maxDistance=1.0, excludeIdCol="x", idCol="id", metricParams={"V": [1]})
    knn.setMaxDistance(None).setExcludeIdCol(None).setIdCol(None).setMetricParams(None)
    assert (knn.getMaxDistance(), knn.getExcludeIdCol(), knn.getIdCol()) == (None, None, None)
    assert knn.getMetricParams() is None


def test_arrays_that_are_changed_later_do_not_change_the_param():
    variances = np.array([1.0, 2.0])
    knn = KNNEstimator(metricParams={"V": variances})
    variances[:] = 9
    assert knn.getMetricParams() == {"V": [1.0, 2.0]}


def test_every_param_is_explained_and_has_a_getter():
    knn = KNNEstimator()
    assert {param.name for param in knn.params} == {
        *("featuresCol", "k", "idCol", "neighborsCol", "distancesCol", "metric", "p"),
        *("metricParams", "algorithm", "leafSize", "dtype", "storage", "placement"),
        *("excludeIdCol", "maxDistance", "handleInvalid", "numShards", "shardBy"),
        *("numProbes", "numReplicas", "keyCols", "queryKeyCols", "minSimilarity"),
        *("targetRecall", "indexParams", "searchParams", "seed"),
    }
    for param in knn.params:
        assert param.name in knn.explainParams()
        assert param.doc
        getter = getattr(knn, f"get{param.name[0].upper()}{param.name[1:]}")
        assert getter() == knn.getOrDefault(param)
        assert getattr(knn, f"set{param.name[0].upper()}{param.name[1:]}")


def test_a_model_has_setters_only_for_params_that_need_no_fit():
    setters = {name for name in dir(KNNModel) if name.startswith("set")} - {"set", "setParams"}
    assert setters == {
        *("setK", "setFeaturesCol", "setMaxDistance", "setExcludeIdCol", "setHandleInvalid"),
        *("setNeighborsCol", "setDistancesCol", "setNumProbes", "setNumReplicas"),
        *("setQueryKeyCols", "setMinSimilarity", "setTargetRecall", "setSearchParams"),
    }


def test_outlier_scores_have_exact_algorithms_only():
    choices = "auto, brute, kd_tree, ball_tree, got 'ivf'"
    with pytest.raises(ValueError, match=f"algorithm must be one of {choices}"):
        LocalOutlierFactor(algorithm="ivf")
    assert "ivf" not in LocalOutlierFactor().explainParam("algorithm")
    assert not LocalOutlierFactor().hasParam("targetRecall")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"M": 1025}, r"indexParams\['M'\] must be at most 1024 to be saved, got 1025"),
        ({"nTrees": 1e9}, r"indexParams\['nTrees'\] must be at most 10000 to be saved"),
        ({"M": math.nan}, r"indexParams\['M'\] must be at most 1024 to be saved, got nan"),
        ({"speed": 1}, r"indexParams\['speed'\] must be at most 0 to be saved, got 1"),
    ],
)
def test_what_a_saved_stage_may_not_contain(given, message):
    with pytest.raises(ValueError, match=message):
        saved.check_limits(KNNEstimator(indexParams=given))
    saved.check_limits(KNNEstimator(indexParams={"nlist": 2000, "encoding": "sq8"}))


def test_stages_are_made_without_a_session():
    code = (
        "from pyspark_knn import KNNEstimator, KNNModel\n"
        "from pyspark.sql import SparkSession\n"
        "from pyspark import SparkContext\n"
        "knn = KNNEstimator(k=3, idCol='id').setMetric('cosine')\n"
        "repr(knn), knn.explainParams(), knn.copy(), repr(KNNModel())\n"
        "assert SparkSession.getActiveSession() is None\n"
        "assert SparkContext._active_spark_context is None and SparkContext._gateway is None\n"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


@pytest.mark.parametrize("value", [0, 2, 3.0, np.int64(1), "most_frequent", None])
def test_outlier_labels(value):
    knn = KNNClassifier(outlierLabel=value)
    assert knn.getOutlierLabel() == value
    assert json.loads(json.dumps(knn.getOutlierLabel())) == value


@pytest.mark.parametrize("value", [-1, 0.5, "no", True, [1]])
def test_invalid_outlier_labels(value):
    with pytest.raises((TypeError, ValueError), match="outlierLabel must be "):
        KNNClassifier(outlierLabel=value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("k", 7.0, 7),
        ("inputCols", "a.b c", ["a.b c"]),
        ("inputCols", ("a", np.str_("b")), ["a", "b"]),
        ("outputCols", None, None),
        ("inputCol", None, None),
        ("featuresCol", "v", "v"),
        ("missingValue", np.int32(-1), -1.0),
        ("standardization", np.bool_(False), False),
        ("addIndicator", True, True),
        ("weights", "distance", "distance"),
    ],
)
def test_values_of_an_imputer(name, value, expected):
    found = KNNImputer(**{name: value}).getOrDefault(name)
    assert found == expected
    assert type(found) is type(expected)


def test_a_missing_value_is_nan_by_default_and_equals_itself():
    given = KNNImputer(missingValue=np.float32("nan")).getMissingValue()
    assert given is KNNImputer().getMissingValue()
    assert math.isnan(given)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", 0, "k must be an integer >= 1, got 0"),
        ("k", None, "k must be an integer >= 1, got None"),
        ("inputCols", ["a", "a"], "Each column must be named once"),
        ("inputCols", [], "inputCols must be the name of a column or a list of names, got []"),
        ("outputCol", ["a"], "outputCol must be a string, got ['a']"),
        ("missingValue", math.inf, "missingValue must be a finite number or NaN, got inf"),
        ("missingValue", "?", "missingValue must be a finite number or NaN, got '?'"),
        ("standardization", 1, "standardization must be True or False, got 1"),
        ("weights", "near", "weights must be one of uniform, distance, got 'near'"),
        ("handleInvalid", "drop", "handleInvalid must be one of error, skip, keep, got 'drop'"),
    ],
)
def test_invalid_values_of_an_imputer(name, value, message):
    with pytest.raises((TypeError, ValueError)) as error:
        KNNImputer(**{name: value})
    assert message in str(error.value)


def test_an_imputer_has_no_params_of_other_searches():
    names = {
        *("inputCols", "outputCols", "inputCol", "outputCol", "featuresCol", "missingValue", "k"),
        *("weights", "standardization", "addIndicator", "keepEmptyFeatures", "handleInvalid"),
        *("idCol", "placement", "numShards", "numReplicas"),
    }
    assert {param.name for param in KNNImputer().params} == names
    assert {param.name for param in KNNImputerModel().params} == names
    setters = {name for name in dir(KNNImputerModel) if name.startswith("set")}
    assert setters - {"set", "setParams"} == {
        *("setInputCols", "setOutputCols", "setInputCol", "setOutputCol", "setFeaturesCol"),
        *("setK", "setWeights", "setHandleInvalid", "setNumReplicas"),
    }
