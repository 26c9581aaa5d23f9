"""k-nearest-neighbour search as native pyspark.ml stages."""

from pyspark_knn.evaluation import NeighborsEvaluator
from pyspark_knn.neighbors import KNNEstimator, KNNModel

__all__ = ["KNNEstimator", "KNNModel", "NeighborsEvaluator"]
