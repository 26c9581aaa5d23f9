"""The metrics by which items can be divided into cells around centers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark_knn.index.distances import resolve_metric

if TYPE_CHECKING:
    from pyspark_knn.index.distances import Metric

METRICS = frozenset(
    {
        "canberra",
        "chebyshev",
        "cityblock",
        "euclidean",
        "hamming",
        "haversine",
        "minkowski",
        "seuclidean",
        "sqeuclidean",
    }
)
"""The metrics that support cells: those that satisfy the triangle inequality and for which centers
make sense, and sqeuclidean, whose cells are those of euclidean (see `cell_metric`)."""


def check_cells(metric: Metric) -> None:
    """Raise a ValueError unless a metric supports cells.

    Parameters
    ----------
    metric : Metric
        A resolved metric.
    """
    if metric.name in METRICS and metric.p >= 1:
        return
    advice = ""
    if metric.name == "cosine":
        advice = (
            " Nonzero vectors that are normalized with pyspark.ml.feature.Normalizer have the same "
            "neighbors with metric 'euclidean'."
        )
    raise ValueError(
        f"shardBy 'kmeans' does not support metric {metric.described}: distances to the "
        "centers of cells must satisfy the triangle inequality. "
        f"Supported: {', '.join(map(repr, sorted(METRICS)))}.{advice}"
    )


def cell_metric(metric: Metric) -> Metric:
    """Return the metric of the distances from centers, which satisfies the triangle inequality.

    Parameters
    ----------
    metric : Metric
        The metric of the search.

    Returns
    -------
    Metric
        euclidean for sqeuclidean, and otherwise the same metric.
    """
    return resolve_metric("euclidean") if metric.name == "sqeuclidean" else metric
