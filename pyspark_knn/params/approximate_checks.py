"""Checks of the Params of approximate indexes against the other Params."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark_knn.index.approximate.knobs import check_index_params, check_search_params
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import SPARSE
from pyspark_knn.index.registry import approximate_classes
from pyspark_knn.params.approximate import ApproximateParams
from pyspark_knn.params.neighbors import _NeighborParams

if TYPE_CHECKING:
    from pyspark_knn.index.approximate.base import ApproximateIndex

_MOST_THOROUGH = 1 << 26
"""Larger values in searchParams have no further effect, and some libraries fail beyond 32 bits."""


def check_approximation(params: _NeighborParams) -> None:
    """Raise an error if the Params of an approximate index conflict with other Params.

    Parameters
    ----------
    params : _NeighborParams
        The estimator.

    Raises
    ------
    ImportError
        If the library of the algorithm is not installed.
    ValueError
        If the algorithm does not support `storage`, `keyCols` or `metric`, or if `indexParams` or
        `searchParams` do not belong to it.
    """
    if not isinstance(params, ApproximateParams):
        return
    algorithm = params.getAlgorithm()
    found = approximate_classes().get(algorithm)
    if found is None:
        _refuse_params_of_others(params, algorithm)
        return
    _check_combination(params, algorithm, found)
    check_index_params(algorithm, found.index_names, params.getIndexParams() or {})
    given_knob(params.getSearchParams(), found)
    load_library(found.library)


def given_knob(given: dict[str, Any] | None, found: type[ApproximateIndex]) -> int | None:
    """Return the value in searchParams.

    Parameters
    ----------
    given : dict or None
        The Param searchParams.
    found : type
        The class of the index.

    Returns
    -------
    int or None
        The value; None if it is unset.

    Raises
    ------
    TypeError, ValueError
        If the name does not belong to the algorithm, or the value is not an integer >= 1.
    """
    if not given:
        return None
    check_search_params(found.algorithm, found.search_name, given)
    return min(int(given[found.search_name]), _MOST_THOROUGH)


def _refuse_params_of_others(params: ApproximateParams, algorithm: str) -> None:
    """Raise a ValueError if an algorithm that is not approximate has params of one that is."""
    for param in ("indexParams", "searchParams"):
        if given := params.getOrDefault(param):
            kind = "chooses among several algorithms" if algorithm == "auto" else "is exact"
            names = ", ".join(map(repr, approximate_classes()))
            raise ValueError(
                f"algorithm {algorithm!r} does not support {param} {given!r}, because it {kind}. "
                f"Set algorithm to one of {names}."
            )


def _check_combination(
    params: _NeighborParams, algorithm: str, found: type[ApproximateIndex]
) -> None:
    """Raise a ValueError if an approximate algorithm does not go with another Param."""
    if params.getStorage() == SPARSE:
        raise ValueError(
            f"algorithm {algorithm!r} does not support storage 'sparse'. Use storage='dense' on "
            "vectors of fewer dimensions (pyspark.ml.feature.PCA, or scikit-learn's TruncatedSVD), "
            "or algorithm='brute'."
        )
    if keys := params.getKeyCols():
        raise ValueError(
            f"algorithm {algorithm!r} does not support keyCols {keys!r}. Fit one model for each "
            "key, or use an exact algorithm such as 'auto'."
        )
    metric = resolve_metric(params.getMetric(), params.getP(), params.getMetricParams())
    if not found.supports(metric):
        names = ", ".join(map(repr, sorted(found.metrics)))
        raise ValueError(
            f"algorithm {algorithm!r} does not support metric {metric.described}. Metrics "
            f"that it supports: {names}. Use one of these, or an exact algorithm such as 'auto'."
        )
