"""k-nearest-neighbour search as native pyspark.ml stages."""

from pyspark_knn.engine.package import supply_package
from pyspark_knn.neighbors import KNNEstimator, KNNModel

__all__ = ["KNNEstimator", "KNNModel", "supply_package"]
