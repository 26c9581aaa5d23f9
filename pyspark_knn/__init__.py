"""k-nearest-neighbour search, classification and regression as native pyspark.ml stages."""

from pyspark_knn.classification import KNNClassificationModel, KNNClassifier
from pyspark_knn.engine.package import supply_package
from pyspark_knn.evaluation import NeighborsEvaluator
from pyspark_knn.neighbors import KNNEstimator, KNNModel
from pyspark_knn.pipeline import SharedPrefixPipeline
from pyspark_knn.regression import KNNRegressionModel, KNNRegressor

__all__ = [
    "KNNClassificationModel",
    "KNNClassifier",
    "KNNEstimator",
    "KNNModel",
    "KNNRegressionModel",
    "KNNRegressor",
    "NeighborsEvaluator",
    "SharedPrefixPipeline",
    "supply_package",
]
