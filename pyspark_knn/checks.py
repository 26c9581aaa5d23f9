"""Params that do not go together."""

from __future__ import annotations

import warnings

from pyspark_knn.index.cells import check_cells
from pyspark_knn.index.distances import Metric, check_algorithm, resolve_metric
from pyspark_knn.params import HasNeighbors


def checked_metric(params: HasNeighbors) -> Metric:
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


def check_max_distance(params: HasNeighbors) -> None:
    """Refuse a negative maxDistance, unless distances can be negative."""
    limit = params.getMaxDistance()
    if limit is not None and limit < 0 and params.getMetric() != "inner_product":
        raise ValueError(
            f"maxDistance must be >= 0, got {limit!r} (only the distances of metric "
            "'inner_product' can be negative)"
        )


def check_exclusion(params: HasNeighbors) -> None:
    """Refuse ids to exclude where a fit names the items by their positions."""
    excluded = params.getExcludeIdCol()
    if excluded is not None and params.getIdCol() is None:
        raise ValueError(
            f"excludeIdCol {excluded!r} needs idCol: without idCol the items are named by their "
            "positions, and ids in the queries would be taken for positions. Set idCol. If the "
            "column does hold positions, fit without excludeIdCol and set it on the model."
        )


def warn_of_default_k(params: HasNeighbors, warned: set[str]) -> None:
    """Warn, once for `warned`, that a search within maxDistance ends at a k that nobody chose."""
    limit = params.getMaxDistance()
    if limit is None or params.isSet(params.k) or "k" in warned:
        return
    warned.add("k")
    # From here to the user's line: _search and _transform of the model, Transformer.transform.
    warnings.warn(
        f"maxDistance is {limit!r} but k is not set: a query gets the {params.getK()} nearest "
        "items within maxDistance, and no more. Set k.",
        UserWarning,
        stacklevel=5,
    )
