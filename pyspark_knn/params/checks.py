"""Checks of Params that depend on each other."""

from __future__ import annotations

import math
import warnings

from pyspark.sql import DataFrame

from pyspark_knn.engine.fit.determinism import is_nondeterministic
from pyspark_knn.engine.shared_search import Limits
from pyspark_knn.index.cell_metrics import check_cells
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import SPARSE
from pyspark_knn.index.registry import check_algorithm, classes_for, sparse_metrics
from pyspark_knn.index.similarity import check_similarity, distance_of
from pyspark_knn.params.neighbors import _NeighborParams
from pyspark_knn.params.voting import _VotingParams

_USER_LEVEL = 5
"""The `stacklevel` of the user's line in `warn_of_limits`, which is called by `_search`,
`_transform` of the model, `Transformer.transform` and the user."""


def checked_metric(params: _NeighborParams) -> Metric:
    """Return the metric of a stage.

    Parameters
    ----------
    params : _NeighborParams
        The stage.

    Returns
    -------
    Metric
        The metric with its parameters.

    Raises
    ------
    ValueError
        If `metric` does not support the values of `p`, `metricParams`, `algorithm`, `storage` or
        `shardBy`.
    """
    metric = resolve_metric(params.getMetric(), params.getP(), params.getMetricParams())
    if params.getStorage() == SPARSE:
        _check_sparse(params, metric)
    else:
        check_algorithm(params.getAlgorithm(), metric)
    if params.getShardBy() == "kmeans":
        check_cells(metric)
    return metric


def _check_sparse(params: _NeighborParams, metric: Metric) -> None:
    """Raise a ValueError if vectors cannot be stored sparse with the other Params."""
    if not classes_for(metric, storage=SPARSE):
        raise ValueError(
            f"storage 'sparse' does not support metric {params.getMetric()!r}. Supported: "
            f"{', '.join(sparse_metrics())} (minkowski with p=2). Use another metric, or "
            "storage='dense'."
        )
    check_algorithm(params.getAlgorithm(), metric, SPARSE)
    if params.getShardBy() == "kmeans":
        raise ValueError(
            "storage 'sparse' does not support shardBy 'kmeans', whose cells have dense centers. "
            "Use shardBy='hash', or storage='dense'."
        )


def checked_limits(params: _NeighborParams, n_features: int) -> Limits:
    """Return the limits of a search.

    Parameters
    ----------
    params : _NeighborParams
        The stage.
    n_features : int
        The dimension of the items.

    Returns
    -------
    Limits
        The limits; minSimilarity as the largest distance that it stands for.

    Raises
    ------
    ValueError
        If `k`, `maxDistance` and `minSimilarity` conflict with each other or with the metric.
    """
    check_limits(params)
    farthest, similarity = params._distance_limits()
    if similarity is not None:
        farthest = distance_of(similarity, checked_metric(params).name, n_features)
    return Limits(params.getK(), farthest)


def check_limits(params: _NeighborParams) -> None:
    """Raise a ValueError if k, maxDistance and minSimilarity conflict; see `checked_limits`."""
    limit, similarity = params._distance_limits()
    if limit is not None and similarity is not None:
        raise ValueError(
            f"maxDistance ({limit!r}) and minSimilarity ({similarity!r}) are both set. Set one of "
            "them to None."
        )
    if params.getK() is None and limit is None and similarity is None:
        raise ValueError(
            "k is None, which searches for all items within maxDistance, but maxDistance is unset. "
            "Set maxDistance (or minSimilarity), or set k."
        )
    check_max_distance(limit, params.getMetric())
    if similarity is not None:
        check_similarity(similarity, checked_metric(params).name)


def check_max_distance(limit: float | None, metric: str) -> None:
    """Raise a ValueError if maxDistance is negative and the metric's distances are not.

    Parameters
    ----------
    limit : float or None
        The value of maxDistance.
    metric : str
        The name of the metric.
    """
    if limit is not None and limit < 0 and metric != "inner_product":
        raise ValueError(
            f"maxDistance must be >= 0, got {limit!r}. Only metric 'inner_product' has negative "
            "distances."
        )


def check_exclusion(params: _NeighborParams) -> None:
    """Raise a ValueError if excludeIdCol is set at fit and idCol is not."""
    excluded = params.getExcludeIdCol()
    if excluded is not None and params.getIdCol() is None:
        raise ValueError(
            f"excludeIdCol {excluded!r} requires idCol. Without idCol, items are identified by "
            "their positions, and the ids in the queries would be treated as positions. Set idCol. "
            "If the column does contain positions, fit without excludeIdCol and set it on the "
            "model."
        )


def check_keys(params: _NeighborParams) -> None:
    """Raise a ValueError if keyCols conflicts with queryKeyCols or with shardBy."""
    keys, of_queries = params.getKeyCols(), params.getQueryKeyCols()
    if of_queries is not None and keys is None:
        raise ValueError(
            f"queryKeyCols {of_queries!r} requires keyCols. Set keyCols and fit again."
        )
    if of_queries is not None and keys is not None and len(of_queries) != len(keys):
        raise ValueError(
            f"queryKeyCols must have one column for each of keyCols {keys!r}, got {of_queries!r}"
        )
    if keys is not None and params.getShardBy() == "kmeans":
        raise ValueError(
            "keyCols does not support shardBy 'kmeans': with keyCols the items are assigned to "
            "shards by their keys. Use shardBy='hash'."
        )


def check_weights(params: _VotingParams) -> None:
    """Raise a ValueError for weights='distance' if the metric's distances can be negative."""
    if params.getWeights() == "distance" and params.getMetric() == "inner_product":
        raise ValueError(
            "weights='distance' is not supported for metric 'inner_product', whose distances can "
            "be negative. Use weights='uniform'."
        )


def warn_of_nondeterministic_ids(items: DataFrame, name: str | None, stacklevel: int) -> None:
    """Warn about ids that may have different values each time that Spark computes them.

    Parameters
    ----------
    items : DataFrame
        The items, which are not read.
    name : str or None
        The Param idCol.
    stacklevel : int
        The level of the user's line, see `warnings.warn`.
    """
    if name is not None and is_nondeterministic(items, name):
        warnings.warn(
            f"idCol {name!r} is computed by a nondeterministic expression (uuid(), rand(), "
            "monotonically_increasing_id() or a Python UDF without arguments, for example), so "
            "it may have different values each time that Spark computes it. Persist the items "
            "or write them to storage before fit, or compute the id from other columns.",
            stacklevel=stacklevel,
        )


def warn_of_items(
    params: _NeighborParams, duplicates: int, converts: bool, stacklevel: int
) -> None:
    """Warn about items that are allowed but probably not intended.

    Parameters
    ----------
    params : _NeighborParams
        The stage.
    duplicates : int
        The number of items that have the same id as another item.
    converts : bool
        See `Placement.converts`.
    stacklevel : int
        The level of the user's line, see `warnings.warn`.
    """
    warn_of_duplicates(params.getIdCol(), duplicates, stacklevel + 1)
    if converts:
        warnings.warn(
            f"metric {params.getMetric()!r} compares sets and counts every nonzero value as 1, "
            f"but featuresCol {params.getFeaturesCol()!r} contains values other than 0 and 1. "
            "Binarize the features with pyspark.ml.feature.Binarizer, or use a metric for "
            "numbers, such as 'euclidean'.",
            stacklevel=stacklevel,
        )


def warn_of_duplicates(name: str | None, duplicates: int, stacklevel: int) -> None:
    """Warn about ids that several items have.

    Parameters
    ----------
    name : str or None
        The Param idCol.
    duplicates : int
        The number of items that have the same id as another item.
    stacklevel : int
        The level of the user's line, see `warnings.warn`.
    """
    if duplicates:
        warnings.warn(
            f"idCol {name!r} contains duplicates: {duplicates} items have the same id as another "
            "item. They are treated as separate items.",
            stacklevel=stacklevel,
        )


def warn_of_limits(
    params: _NeighborParams, warned: set[str], stacklevel: int = _USER_LEVEL
) -> None:
    """Warn about a limit of the distance that probably does not limit the search as intended.

    There are two cases: k was never set, so that the default k limits the search as well, and
    maxDistance is in kilometers while distances are angles.

    Parameters
    ----------
    params : _NeighborParams
        The model.
    warned : set of str
        The Params that a warning was given for, which is not repeated. Updated in place.
    stacklevel : int, default=_USER_LEVEL
        The level of the user's line, see `warnings.warn`.
    """
    farthest, similarity = params._distance_limits()
    name = "maxDistance" if similarity is None else "minSimilarity"
    limit = farthest if similarity is None else similarity
    if limit is None:
        return
    if not params.isSet(params.k) and "k" not in warned:
        warned.add("k")
        warnings.warn(
            f"{name} is {limit!r}, but k is unset: each query gets at most the {params.getK()} "
            f"nearest items within {name}. Set k to change that, or k=None to get all items within "
            f"{name}.",
            stacklevel=stacklevel,
        )
    if params.getMetric() != "haversine" or "maxDistance" in warned:
        return
    largest = math.pi * checked_metric(params).radius
    if limit > largest:
        warned.add("maxDistance")
        warnings.warn(
            f"maxDistance is {limit!r}, but the largest distance between any two points with "
            f"metric 'haversine' is {largest:.6g}. Distances are angles in radians unless "
            "metricParams sets the radius of the sphere, for example {'radius': 6371.0088} for "
            "kilometers on Earth.",
            stacklevel=stacklevel,
        )
