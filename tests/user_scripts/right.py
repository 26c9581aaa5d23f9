"""A user's script without mistakes, for type checkers; it is never run."""

from __future__ import annotations

from typing import cast

import numpy as np
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import StandardScaler
from pyspark.ml.linalg import Vector, Vectors
from pyspark.sql import DataFrame

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
    NeighborsEvaluator,
)
from pyspark_knn.literals import AlgorithmName, MetricName


def search(items: DataFrame, queries: DataFrame, settings: dict[str, str]) -> KNNModel:
    knn = KNNEstimator(
        k=10,
        idCol="id",
        metric="cosine",
        algorithm="kd_tree",
        storage="dense",
        placement="sharded",
        shardBy="kmeans",
        dtype="float32",
        handleInvalid="skip",
        keyCols=["country"],
    )
    knn = knn.setK(None).setMaxDistance(0.5).setMetric("l2").setStorage("auto")
    knn = knn.setParams(k=5, placement="replicated").setHandleInvalid("keep")
    knn.setMetric(cast(MetricName, settings["metric"]))
    KNNEstimator(algorithm=cast(AlgorithmName, settings["algorithm"]))
    KNNEstimator(metric=knn.getMetric(), placement=knn.getPlacement(), dtype=knn.getDtype())
    model: KNNModel = knn.fit(items)
    pairs: DataFrame = model.setK(3).kneighborsJoin(queries, how="left")
    pairs.unionByName(model.kneighborsGraph("mutual"))
    model.save("model")
    loaded: KNNModel = KNNModel.load("model")
    reread: KNNModel = KNNModel.read().load("model")
    changed: KNNModel = loaded.append(items).remove([1, 2]).unpersist()
    return changed if changed.numItems else reread


def vote(items: DataFrame, query: Vector) -> float:
    model: KNNClassificationModel = KNNClassifier(
        weights="distance", thresholds=[0.3, 0.7], outlierLabel="most_frequent"
    ).fit(items)
    model = KNNClassificationModel.load("classifier").setOutlierLabel(1)
    names: list[str] | None = model.labels
    regressor: KNNRegressionModel = KNNRegressor(weights="uniform").fit(items)
    regressor = KNNRegressionModel.load("regressor").setWeights("distance")
    return model.predict(query) + regressor.predict([1.0, 2.0]) + len(names or ())


def others(items: DataFrame) -> float:
    outliers: LocalOutlierFactorModel = LocalOutlierFactor(score="kth", contamination=0.1).fit(
        items
    )
    outliers = LocalOutlierFactorModel.load("outliers")
    LocalOutlierFactor(contamination="auto").setPlacement("sharded")
    imputer: KNNImputerModel = KNNImputer(weights="distance", inputCols=["a", "b"]).fit(items)
    imputer = KNNImputerModel.load("imputer").setK(3)
    loaded: KNNEstimator = KNNEstimator.load("estimator")
    fitted: PipelineModel = Pipeline(stages=[StandardScaler(), loaded]).fit(items)
    recall: float = NeighborsEvaluator(k=3).evaluate(fitted.transform(items))
    return recall + float(outliers.threshold or 0) + imputer.numItems


def on_the_driver(model: KNNModel) -> int:
    ids, distances = model.kneighbors(Vectors.dense(1.0, 2.0))
    several, _ = model.kneighbors(np.eye(2), k=3)
    return int(ids.shape[0]) + int(distances.shape[0]) + int(several.shape[0])
