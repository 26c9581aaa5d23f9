"""The stages that the contract suite covers. A new stage needs one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.evaluation import (
    Evaluator,
    MulticlassClassificationEvaluator,
    RankingEvaluator,
    RegressionEvaluator,
)

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

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = (
    "id double, features array<double>, label double, weight double, truth array<double>, kind int"
)
"""The schema of the frame that every stage is fitted on and transforms."""


@dataclass(frozen=True)
class Case:
    """A stage, and what the contract suite needs to know of it.

    Attributes
    ----------
    estimator, model : type
        The two classes.
    outputs : dict
        Param of an output column -> its default name, for those that are on by default.
    evaluator : callable
        Makes an evaluator of the outputs on the common frame.
    settings : dict
        What the constructor needs beside ``idCol="id"``.
    """

    estimator: type[Any]
    model: type[Any]
    outputs: dict[str, str]
    evaluator: Callable[[], Evaluator]
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self, **settings: Any) -> Any:
        """An estimator for the common frame."""
        return self.estimator(**{"idCol": "id", **self.settings, **settings})


Labels, Vectors, Weights = list[int], list[list[float]], list[int]


def _numbers(rows: int) -> tuple[Labels, Vectors, Weights]:
    random = np.random.default_rng(17)
    labels = random.integers(0, 3, rows)
    vectors = random.normal(size=(rows, 2)) + 4.0 * labels[:, None]
    return labels.tolist(), vectors.tolist(), random.integers(1, 4, rows).tolist()


KNOCKED_OUT = _numbers(60)[1][7][1]
"""A feature of one item, which stands for a missing value."""

CASES = {
    "search": Case(
        KNNEstimator,
        KNNModel,
        {"neighborsCol": "neighbors", "distancesCol": "distances"},
        lambda: RankingEvaluator(
            predictionCol="neighbors", labelCol="truth", metricName="precisionAtK", k=1
        ),
    ),
    "search within keys": Case(
        KNNEstimator,
        KNNModel,
        {"neighborsCol": "neighbors", "distancesCol": "distances"},
        lambda: RankingEvaluator(
            predictionCol="neighbors", labelCol="truth", metricName="precisionAtK", k=1
        ),
        {"keyCols": "kind"},
    ),
    "approximate search": Case(
        KNNEstimator,
        KNNModel,
        {"neighborsCol": "neighbors", "distancesCol": "distances"},
        lambda: RankingEvaluator(
            predictionCol="neighbors", labelCol="truth", metricName="precisionAtK", k=1
        ),
        {"algorithm": "ivf"},
    ),
    "classification": Case(
        KNNClassifier,
        KNNClassificationModel,
        {
            "rawPredictionCol": "rawPrediction",
            "probabilityCol": "probability",
            "predictionCol": "prediction",
        },
        MulticlassClassificationEvaluator,
    ),
    "regression": Case(
        KNNRegressor, KNNRegressionModel, {"predictionCol": "prediction"}, RegressionEvaluator
    ),
    "outliers": Case(
        LocalOutlierFactor,
        LocalOutlierFactorModel,
        {"scoreCol": "outlierScore", "predictionCol": "prediction"},
        lambda: RegressionEvaluator(predictionCol="outlierScore"),
    ),
    "imputation": Case(
        KNNImputer,
        KNNImputerModel,
        {"outputCol": "filled"},
        lambda: RankingEvaluator(
            predictionCol="filled", labelCol="truth", metricName="precisionAtK", k=1
        ),
        {"featuresCol": "features", "outputCol": "filled", "missingValue": KNOCKED_OUT},
    ),
}


def common_frame(spark: SparkSession, rows: int = 60) -> DataFrame:
    """Three clusters with a label each; `truth` holds an item's own id."""
    return spark.createDataFrame(
        [
            (float(i), vector, float(label), float(weight), [float(i)], i % 2)
            for i, (label, vector, weight) in enumerate(zip(*_numbers(rows), strict=True))
        ],
        COLUMNS,
    )
