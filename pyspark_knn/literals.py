"""The values of the Params that take one of a few names, as types.

With them a type checker finds a misspelt value. A value that is known at run time only, such as one
of a configuration file, needs a cast, and so does the name of an algorithm that the user registered
(see `pyspark_knn.index.registry`): a type that includes ``str`` would accept every typo::

    from typing import cast
    from pyspark_knn.literals import AlgorithmName, MetricName

    KNNEstimator(metric=cast(MetricName, settings["metric"]))
    KNNEstimator(algorithm=cast(AlgorithmName, MyIndex.algorithm))

At run time the values are checked in any case.
"""

from __future__ import annotations

from typing import Literal

MetricName = Literal[
    "braycurtis",
    "canberra",
    "chebyshev",
    "cityblock",
    "correlation",
    "cosine",
    "dice",
    "euclidean",
    "hamming",
    "haversine",
    "infinity",
    "inner_product",
    "jaccard",
    "l1",
    "l2",
    "mahalanobis",
    "manhattan",
    "minkowski",
    "nan_euclidean",
    "p",
    "rogerstanimoto",
    "russellrao",
    "seuclidean",
    "sokalmichener",
    "sokalsneath",
    "sqeuclidean",
    "yule",
]
"""The values of the Param metric."""

ExactAlgorithmName = Literal["auto", "brute", "kd_tree", "ball_tree"]
"""The values of the Param algorithm of stages that need exact neighbors."""

AlgorithmName = Literal[ExactAlgorithmName, "ivf", "hnsw", "annoy"]
"""The values of the Param algorithm, except for algorithms that a user registers."""

DtypeName = Literal["auto", "float32"]
"""The values of the Param dtype."""

StorageName = Literal["auto", "dense", "sparse"]
"""The values of the Param storage."""

PlacementName = Literal["auto", "replicated", "sharded"]
"""The values of the Param placement."""

ShardByName = Literal["hash", "kmeans"]
"""The values of the Param shardBy."""

InvalidHandling = Literal["error", "skip", "keep"]
"""The values of the Param handleInvalid."""

WeightsName = Literal["uniform", "distance"]
"""The values of the Param weights."""

ScoreName = Literal["lof", "kth", "mean"]
"""The values of the Param score."""

JoinType = Literal["inner", "left"]
"""The values of `how` in `KNNModel.kneighborsJoin`."""

GraphMode = Literal["directed", "union", "mutual"]
"""The values of `mode` in `KNNModel.kneighborsGraph`."""
