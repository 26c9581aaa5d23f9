"""Checks of `metricParams`: the parameters of each metric, converted for its formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.suggestions import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.float64]]

_ARRAYS: dict[str, dict[str, int]] = {
    "minkowski": {"w": 1},
    "nan_euclidean": {"w": 1},
    "seuclidean": {"V": 1},
    "mahalanobis": {"V": 2, "VI": 2},
}
"""Metric -> its parameters that are arrays -> their number of dimensions."""

_SCALARS = {"haversine": ("radius",)}
"""Metric -> its parameters that are numbers."""

_SHAPES = {1: "a list with one number for each feature", 2: "a square matrix"}
"""Number of dimensions -> the shape, for messages."""

_ROUNDING = 1e-8
"""The relative error that a computed inverse may have, which is about its condition number. A
matrix that is symmetric or semi-definite within this error counts as such."""

_SINGULAR = 1e-12
"""The smallest eigenvalue, as a share of the largest, of a covariance that can be inverted, once it
is scaled so that each feature has variance 1. Below it, the eigenvalue is a rounding error."""

_SINGULAR_ADVICE = (
    "some features are linear combinations of others, for example all one-hot columns of a "
    "category, or are constant. Pass metricParams={'VI': numpy.linalg.pinv(covariance)}, or drop "
    "one of these features (OneHotEncoder(dropLast=True))"
)


def checked_params(name: str, canonical: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check that the given parameters belong to the metric, and their types and shapes.

    Parameters
    ----------
    name : str
        The name of the metric as it was given.
    canonical : str
        The canonical name of the metric.
    params : mapping or None
        The value of the `metricParams` Param.

    Returns
    -------
    dict
        The parameters: arrays as float64, numbers as floats.

    Raises
    ------
    TypeError, ValueError
        If a parameter is invalid. The message names `metricParams` and the parameter.
    """
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"metricParams must be a dict, got {params!r}")
    arrays = _ARRAYS.get(canonical, {})
    known = (*arrays, *_SCALARS.get(canonical, ()))
    found: dict[str, Any] = {}
    for key, value in (params or {}).items():
        if key == "p":
            raise ValueError("metricParams must not contain 'p': set the Param p instead")
        if key not in known:
            supported = " or ".join(map(repr, known)) or "none"
            raise ValueError(
                f"metricParams[{key!r}] is not a parameter of metric {name!r}. "
                f"Supported: {supported}{did_you_mean(key, known) or '.'}"
            )
        if key in arrays:
            found[key] = _checked_array(key, value, arrays[key])
        else:
            found[key] = _positive(f"metricParams[{key!r}]", value)
    return found


def _checked_array(key: str, value: Any, dimensions: int) -> NDArray[np.float64]:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metricParams[{key!r}] must contain numbers: {error}") from error
    if array.ndim != dimensions or array.size == 0:
        shape = _SHAPES[dimensions]
        raise ValueError(f"metricParams[{key!r}] must be {shape}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"metricParams[{key!r}] must contain finite numbers")
    return array


def _positive(name: str, value: Any) -> float:
    problem = f"{name} must be a finite number > 0, got {value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(problem)
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(problem)
    return number


def variances(given: Arrays) -> Arrays:
    """Return the parameters of the formula of seuclidean.

    Parameters
    ----------
    given : dict of str to ndarray
        The checked parameters.

    Returns
    -------
    dict of str to ndarray, dtype float64
        ``V``, the variances, and ``factor``, by which differences are multiplied; both of shape
        (n_features,).

    Raises
    ------
    ValueError
        If ``V`` is missing or not positive.
    """
    if "V" not in given:
        raise ValueError(
            "metric 'seuclidean' requires metricParams['V'], the variance of each feature: for "
            "example the squares of Summarizer.std, or numpy.var(rows, axis=0, ddof=1)"
        )
    values = given["V"]
    if not (values > 0).all():
        raise ValueError("metricParams['V'] must contain numbers > 0: drop constant features")
    return {"V": values, "factor": 1.0 / np.sqrt(values)}


def inverse_covariance(given: Arrays) -> NDArray[np.float64]:
    """Return the inverse covariance matrix of mahalanobis, from ``VI`` or from ``V``.

    Parameters
    ----------
    given : dict of str to ndarray
        The checked parameters: ``V``, the covariance matrix, or ``VI``, its inverse.

    Returns
    -------
    ndarray of shape (n_features, n_features), dtype float64
        A symmetric matrix.

    Raises
    ------
    ValueError
        If both or neither are given, or the matrix is not a covariance matrix or its inverse.
    """
    if len(given) != 1:
        if given:
            raise ValueError("metricParams must not contain both 'V' and 'VI': pass one of them")
        raise ValueError(
            "metric 'mahalanobis' requires metricParams['V'], the covariance matrix, or "
            "metricParams['VI'], its inverse: for example V = numpy.cov(rows, rowvar=False)"
        )
    (key,) = given
    matrix = given[key]
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"metricParams[{key!r}] must be square, got shape {matrix.shape}")
    return _inverted(matrix) if key == "V" else _checked_inverse(matrix)


def _checked_inverse(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    advice = f". It may be the inverse of a singular covariance matrix: {_SINGULAR_ADVICE}"
    largest = float(np.abs(inverse).max())
    if float(np.abs(inverse - inverse.T).max()) > _ROUNDING * largest:
        raise ValueError(f"metricParams['VI'] must be symmetric{advice}")
    symmetric = 0.5 * inverse + 0.5 * inverse.T
    scaled = np.ldexp(symmetric, -int(np.frexp(largest)[1]))
    if float(np.linalg.eigvalsh(scaled)[0]) < -_ROUNDING:
        raise ValueError(
            "metricParams['VI'] must be positive semi-definite, but it has a negative "
            f"eigenvalue{advice}"
        )
    return symmetric


def _inverted(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Invert a covariance through the correlations, since features differ in scale."""
    asymmetry = np.abs(covariance - covariance.T).max()
    if float(asymmetry) > _ROUNDING * float(np.abs(covariance).max()):
        raise ValueError("metricParams['V'] must be symmetric")
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if not (scale > 0).all():
        raise ValueError(f"metricParams['V'] is singular: {_SINGULAR_ADVICE}")
    correlation = (0.5 * covariance + 0.5 * covariance.T) / scale[:, None] / scale
    eigenvalues = np.linalg.eigvalsh(correlation)
    if float(eigenvalues[0]) < -_ROUNDING:
        raise ValueError(
            "metricParams['V'] must be positive semi-definite, as every covariance matrix is"
        )
    if float(eigenvalues[0]) < _SINGULAR * float(eigenvalues[-1]):
        raise ValueError(f"metricParams['V'] is singular: {_SINGULAR_ADVICE}")
    with np.errstate(over="ignore"):
        inverse: NDArray[np.float64] = np.linalg.inv(correlation) / scale[:, None] / scale
    if not np.isfinite(inverse).all():
        raise ValueError(
            "metricParams['V'] contains variances so small that its inverse overflows: scale the "
            "features with pyspark.ml.feature.StandardScaler"
        )
    return 0.5 * inverse + 0.5 * inverse.T
