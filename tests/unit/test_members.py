"""What a user's tab completion shows of a stage: nothing that is not documented."""

from typing import Any

import pytest
from pyspark.ml import Estimator, Model
from pyspark.ml.param import Param

from pyspark_knn import (
    KNNClassificationModel,
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNImputerModel,
    KNNModel,
    KNNRegressionModel,
    KNNRegressor,
    LocalOutlierFactor,
    LocalOutlierFactorModel,
)

SAVING = {"load", "read", "save", "write"}
PLACED = SAVING | {
    *("placementReason", "numFeatures", "numItems", "numSkipped", "items", "unpersist"),
}
MODEL = SAVING | {
    *("algorithmReason", "placementReason", "storageReason"),
    *("numFeatures", "numItems", "numSkipped", "ids", "items"),
    *("append", "explainSearch", "fromSklearn", "remove", "toSklearn", "unpersist"),
    *("calibrate", "exact", "loadWithoutSpark", "recall"),
}
UPDATED = {
    *("append", "calibrate", "exact", "fromSklearn", "recall", "remove", "toSklearn"),
    "loadWithoutSpark",
}
"""Members of the models that items can be appended to."""

DOCUMENTED = [
    (KNNModel, Model, MODEL | {"kneighbors", "kneighborsGraph", "kneighborsJoin", "pairsWithin"}),
    (
        KNNClassificationModel,
        Model,
        MODEL | {"labels", "numClasses", "predict", "predictProbability", "predictRaw"},
    ),
    (KNNRegressionModel, Model, MODEL | {"predict"}),
    (
        LocalOutlierFactorModel,
        Model,
        MODEL - UPDATED | {"scores", "threshold"},
    ),
    (KNNImputerModel, Model, PLACED | {"statistics"}),
    (KNNEstimator, Estimator, SAVING | {"setParams"}),
    (KNNClassifier, Estimator, SAVING | {"setParams"}),
    (KNNRegressor, Estimator, SAVING | {"setParams"}),
    (LocalOutlierFactor, Estimator, SAVING | {"setParams"}),
    (KNNImputer, Estimator, SAVING | {"setParams"}),
]


@pytest.mark.parametrize(
    ("stage", "base", "documented"),
    DOCUMENTED,
    ids=lambda each: getattr(each, "__name__", "members"),
)
def test_public_members(stage: Any, base: Any, documented: set[str]) -> None:
    names = {name for name in dir(stage) if not name.startswith("_")} - set(dir(base))
    params = {name for name in names if isinstance(getattr(stage, name), Param)}
    accessors = {f"{verb}{name[0].upper()}{name[1:]}" for name in params for verb in ("get", "set")}
    assert names - params - accessors == documented
    assert all(getattr(stage, name).__doc__ for name in documented)
