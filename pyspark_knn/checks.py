"""Params that do not go together."""

from __future__ import annotations

import math
import warnings

from pyspark_knn.index.cells import check_cells
from pyspark_knn.index.distances import Metric, check_algorithm, resolve_metric
from pyspark_knn.params import _KNNParams
from pyspark_knn.voting_params import _VotingParams

_USER_LEVEL = 5
"""`stacklevel` of the user's line, seen from `warn_of_limits`: that function, `_search` and
`_transform` of the model, `Transformer.transform`, the user."""


def checked_metric(params: _KNNParams) -> Metric:
    """The metric that the Params mean.

    Raises
    ------
    ValueError
        If they do not go together: `metric`, `p`, `metricParams`, `algorithm` and `shardBy`.
    """
    metric = resolve_metric(params.getMetric(), params.getP(), params.getMetricParams())
    check_algorithm(params.getAlgorithm(), metric)
    if params.getShardBy() == "kmeans":
        check_cells(metric)
    return metric


def check_max_distance(params: _KNNParams) -> None:
    """Refuse a negative maxDistance, unless distances can be negative."""
    limit = params.getMaxDistance()
    if limit is not None and limit < 0 and params.getMetric() != "inner_product":
        raise ValueError(
            f"maxDistance must be >= 0, got {limit!r} (only the distances of metric "
            "'inner_product' can be negative)"
        )


def check_exclusion(params: _KNNParams) -> None:
    """Refuse ids to exclude where a fit names the items by their positions."""
    excluded = params.getExcludeIdCol()
    if excluded is not None and params.getIdCol() is None:
        raise ValueError(
            f"excludeIdCol {excluded!r} needs idCol: without idCol the items are named by their "
            "positions, and ids in the queries would be taken for positions. Set idCol. If the "
            "column does hold positions, fit without excludeIdCol and set it on the model."
        )


def check_weights(params: _VotingParams) -> None:
    """Refuse weights that need distances >= 0 where there are none."""
    if params.getWeights() == "distance" and params.getOrDefault("metric") == "inner_product":
        raise ValueError(
            "weights must be 'uniform' for metric 'inner_product', got 'distance': its distances "
            "are negative, so that their inverses are no weights"
        )


def warn_of_limits(params: _KNNParams, warned: set[str]) -> None:
    """Warn, once for `warned`, of a maxDistance that hardly limits what its user means it to.

    A search that ends at a k that nobody chose is one such case, and kilometres where haversine
    gives angles are another.
    """
    limit = params.getMaxDistance()
    if limit is None:
        return
    if not params.isSet(params.k) and "k" not in warned:
        warned.add("k")
        warnings.warn(
            f"maxDistance is {limit!r} but k is not set: a query gets the {params.getK()} nearest "
            "items within maxDistance, and no more. Set k.",
            stacklevel=_USER_LEVEL,
        )
    if params.getMetric() != "haversine" or "maxDistance" in warned:
        return
    farthest = math.pi * checked_metric(params).radius
    if limit > farthest:
        warned.add("maxDistance")
        warnings.warn(
            f"maxDistance is {limit!r}, but no two points are farther than {farthest:.6g} apart by "
            "metric 'haversine'. Distances are angles in radians, unless metricParams has the "
            "radius of the sphere, such as {'radius': 6371.0088} for kilometres on Earth.",
            stacklevel=_USER_LEVEL,
        )
