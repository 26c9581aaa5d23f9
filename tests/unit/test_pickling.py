"""Estimators are pickled and copied with all Params, as tools for parallel tuning require."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark import cloudpickle

from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNRegressor,
    LocalOutlierFactor,
    NeighborsEvaluator,
    SharedPrefixPipeline,
)

VALUES: dict[str, Any] = {
    "addIndicator": True,
    "algorithm": "brute",
    "contamination": 0.1,
    "distancesCol": "far",
    "dtype": "float32",
    "exactCol": "true",
    "excludeIdCol": "seen",
    "featuresCol": "vector",
    "handleInvalid": "skip",
    "idCol": "sku",
    "indexParams": {"nlist": 8},
    "inputCol": "age",
    "inputCols": ["age", "income"],
    "k": 7,
    "keepEmptyFeatures": True,
    "keyCols": ["tenant", "day"],
    "labelCol": "kind",
    "leafSize": 9,
    "maxDistance": 2.5,
    "metric": "minkowski",
    "metricParams": {"w": [1.0, 2.0]},
    "minSimilarity": 0.5,
    "missingValue": -1.0,
    "neighborsCol": "near",
    "numProbes": 3,
    "numReplicas": 2,
    "numShards": 4,
    "outlierLabel": 1,
    "outputCol": "full",
    "outputCols": ["old", "rich"],
    "p": 3.0,
    "placement": "sharded",
    "predictionCol": "guess",
    "probabilityCol": "odds",
    "queryKeyCols": ["who", "when"],
    "rawPredictionCol": "raw",
    "score": "mean",
    "scoreCol": "oddness",
    "searchParams": {"nprobe": 2},
    "seed": 3,
    "shardBy": "hash",
    "standardization": False,
    "storage": "sparse",
    "targetRecall": 0.9,
    "thresholds": [0.5, 1.0],
    "weightCol": "mass",
    "weights": "distance",
}


def _with_all_params(stage: type[Any]) -> Any:
    made = stage()
    return made._set(**{param.name: VALUES[param.name] for param in made.params})


ESTIMATORS = (KNNEstimator, KNNClassifier, KNNRegressor, KNNImputer, LocalOutlierFactor)
STAGES = [_with_all_params(each) for each in ESTIMATORS]
STAGES += [_with_all_params(NeighborsEvaluator), SharedPrefixPipeline(stages=STAGES[:2])]
WAYS = {
    "pickle": lambda stage: pickle.loads(pickle.dumps(stage)),
    "cloudpickle": lambda stage: cloudpickle.loads(cloudpickle.dumps(stage)),
    "deepcopy": copy.deepcopy,
}


def _described(stage: Any) -> Any:
    """The class, the uid, and every Param by name, stages among them."""
    params = {param.name: value for param, value in stage.extractParamMap().items()}
    if "stages" in params:
        params["stages"] = [_described(each) for each in params["stages"]]
    return type(stage).__name__, stage.uid, params


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_a_round_trip(stage: Any, way: str) -> None:
    again = WAYS[way](stage)
    assert _described(again) == _described(stage)
    # The copy is an independent stage that still checks its values.
    if stage.hasParam("k"):
        again._set(k=8)
        assert stage.getOrDefault("k") == 7
        with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
            again._set(k=0)


FRESH = """
import pickle
import sys

for stage in pickle.load(sys.stdin.buffer):
    print(type(stage).__name__, stage.uid, len(stage.extractParamMap()))
"""


def test_a_fresh_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        cwd=Path(__file__).parents[2],
        input=pickle.dumps(STAGES),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = [
        f"{type(each).__name__} {each.uid} {len(each.extractParamMap())}" for each in STAGES
    ]
    assert done.stdout.decode().split("\n")[:-1] == expected
