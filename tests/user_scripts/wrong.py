"""A user's script with mistakes, each marked, for type checkers; it is never run."""

from __future__ import annotations

from pyspark.sql import DataFrame

from pyspark_knn import (
    KNNClassifier,
    KNNEstimator,
    KNNImputer,
    KNNModel,
    KNNRegressor,
    LocalOutlierFactor,
)

KNNEstimator(metric="cosin")  # wrong
KNNEstimator(algorithm="kdtree")  # wrong
KNNEstimator(placement="replicate")  # wrong
KNNEstimator(storage="csr")  # wrong
KNNEstimator(shardBy="k-means")  # wrong
KNNEstimator(dtype="float64")  # wrong
KNNEstimator(handleInvalid="drop")  # wrong
KNNEstimator(k="5")  # wrong
KNNEstimator(n_neighbors=5)  # wrong
KNNEstimator("features")  # wrong
KNNEstimator().setMetric("euclid")  # wrong
KNNEstimator().setAlgorithm("balltree")  # wrong
KNNEstimator().setPlacement("driver")  # wrong
KNNEstimator().setParams(storage="spars")  # wrong
KNNClassifier(weights="distances")  # wrong
KNNClassifier(outlierLabel="most")  # wrong
KNNRegressor(labelcol="y")  # wrong
KNNRegressor().setWeights("near")  # wrong
LocalOutlierFactor(score="kht")  # wrong
LocalOutlierFactor(contamination="atuo")  # wrong
KNNImputer(weights="near")  # wrong
KNNImputer(handleInvalid="drop")  # wrong


def search(items: DataFrame, queries: DataFrame) -> None:
    model = KNNModel.load("model")
    model.kneighborsjoin(queries)  # wrong
    model.kneighborsJoin(queries, how="outer")  # wrong
    model.kneighborsGraph("undirected")  # wrong
    model.setMetric("cosine")  # wrong
    model.kneighbors("abc", k="3")  # wrong
    fitted: KNNClassifier = KNNEstimator().fit(items)  # wrong
    fitted.setHandleInvalid("Keep")  # wrong
