"""Checks of the Params of approximate indexes against the other Params."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark_knn.approximate_params import ApproximateParams
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.base import SPARSE
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.registry import approximate_classes
from pyspark_knn.params import _NeighborParams

if TYPE_CHECKING:
    from pyspark_knn.index.approximate.base import ApproximateIndex


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
    check_names("indexParams", params.getIndexParams(), algorithm, index_names(found))
    check_search_params(params.getSearchParams(), found)
    load_library(found.library)


def check_search_params(given: dict[str, Any] | None, found: type[ApproximateIndex]) -> int | None:
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
    ValueError
        If the name does not belong to the algorithm, or the value is not an integer >= 1.
    """
    check_names("searchParams", given, found.algorithm, {found.search_name})
    return None if not given else check_count("searchParams", given, found.search_name)


def check_count(param: str, given: dict[str, Any], name: str) -> int:
    """Return an integer >= 1 of a dict; raise a ValueError if it is something else."""
    value = given[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{param}[{name!r}] must be an integer >= 1, got {given[name]!r}")
    return value


def index_names(found: type[ApproximateIndex]) -> set[str]:
    """Return the names that indexParams may have for an algorithm."""
    return set(found.index_names)


def check_names(
    param: str, given: dict[str, Any] | None, algorithm: str, allowed: set[str]
) -> None:
    """Raise a ValueError if a dict has names that do not belong to an algorithm."""
    unknown = sorted(set(given or ()) - allowed)
    if not unknown:
        return
    names = ", ".join(map(repr, sorted(allowed)))
    others = [
        f"{name!r} belongs to algorithm {other!r}"
        for name in unknown
        for other, each in approximate_classes().items()
        if name in (index_names(each) if param == "indexParams" else {each.search_name})
    ]
    hint = f" {', '.join(others)}." if others else ""
    raise ValueError(
        f"{param} of algorithm {algorithm!r} may contain {names}, got "
        f"{', '.join(map(repr, unknown))}.{hint}"
    )


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
        exponent = f" with p={metric.p:g}" if metric.name == "minkowski" else ""
        names = ", ".join(map(repr, sorted(found.metrics)))
        raise ValueError(
            f"algorithm {algorithm!r} does not support metric {metric.name!r}{exponent}. Metrics "
            f"that it supports: {names}. Use one of these, or an exact algorithm such as 'auto'."
        )
