"""What `metricParams` may hold: each metric's parameters, checked and ready for its formula."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.float64]]

_ARRAYS: dict[str, dict[str, int]] = {
    "minkowski": {"w": 1},
    "seuclidean": {"V": 1},
    "mahalanobis": {"V": 2, "VI": 2},
}
"""Metric -> its parameters that are arrays, and their dimensions."""

_NUMBERS = {"haversine": ("radius",)}
"""Metric -> its parameters that are numbers."""

_SHAPES = {1: "a list with one number a feature", 2: "a square matrix"}

# An inverse comes out of its computation with an error of about its condition number: what is
# within it of being symmetric or semi-definite is meant to be.
_ROUNDING = 1e-8

# A covariance whose smallest eigenvalue is below this share of the largest, once each feature has
# variance 1, says of some direction only that it is rounding.
_SINGULAR = 1e-12

_SINGULAR_ADVICE = (
    "some features are linear combinations of others, for example all one-hot columns of a "
    "category, or are constant. Pass metricParams={'VI': numpy.linalg.pinv(covariance)}, or drop "
    "one of these features (OneHotEncoder(dropLast=True))"
)


def checked_params(name: str, canonical: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check which parameters were given, and their types and shapes.

    Parameters
    ----------
    name, canonical : str
        The metric as it was given, and the name that it stands for.
    params : mapping or None
        What ``metricParams`` holds.

    Returns
    -------
    dict
        float64 arrays, and numbers as floats.

    Raises
    ------
    TypeError, ValueError
        Naming `metricParams` and the parameter.
    """
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"metricParams must be a dict, got {params!r}")
    arrays = _ARRAYS.get(canonical, {})
    known = (*arrays, *_NUMBERS.get(canonical, ()))
    found: dict[str, Any] = {}
    for key, value in (params or {}).items():
        if key == "p":
            raise ValueError("metricParams must not hold 'p': it is a Param of its own, p")
        if key not in known:
            takes = "it takes " + (" or ".join(map(repr, known)) or "none")
            raise ValueError(f"metricParams[{key!r}] is unknown to metric {name!r}; {takes}")
        if key in arrays:
            found[key] = _checked_array(key, value, arrays[key])
        else:
            found[key] = _positive(f"metricParams[{key!r}]", value)
    return found


def _checked_array(key: str, value: Any, dimensions: int) -> NDArray[np.float64]:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metricParams[{key!r}] must hold numbers: {error}") from error
    if array.ndim != dimensions or array.size == 0:
        shape = _SHAPES[dimensions]
        raise ValueError(f"metricParams[{key!r}] must be {shape}, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"metricParams[{key!r}] must be finite")
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
    """What the formula of seuclidean needs: ``V``, and the ``factor`` of differences.

    Raises
    ------
    ValueError
        If ``V`` is missing or not positive.
    """
    if "V" not in given:
        raise ValueError(
            "metric 'seuclidean' needs metricParams['V'], the variance of each feature: for "
            "example the squares of Summarizer.std, or numpy.var(rows, axis=0, ddof=1)"
        )
    values = given["V"]
    if not (values > 0).all():
        raise ValueError("metricParams['V'] must be positive: drop the features that are constant")
    return {"V": values, "factor": 1.0 / np.sqrt(values)}


def inverse_covariance(given: Arrays) -> NDArray[np.float64]:
    """The symmetric matrix of mahalanobis, out of ``VI`` or of the covariance ``V``.

    Raises
    ------
    ValueError
        If both or neither are given, or what is given is no covariance or its inverse.
    """
    if len(given) != 1:
        if given:
            raise ValueError("metricParams must not hold both 'V' and 'VI': pass one of them")
        raise ValueError(
            "metric 'mahalanobis' needs metricParams['V'], the covariance matrix, or "
            "metricParams['VI'], its inverse: for example V = numpy.cov(rows, rowvar=False)"
        )
    (key,) = given
    matrix = given[key]
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"metricParams[{key!r}] must be square, got shape {matrix.shape}")
    return _inverted(matrix) if key == "V" else _checked_inverse(matrix)


def _checked_inverse(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    doubt = f"; if it was inverted from a singular covariance: {_SINGULAR_ADVICE}"
    largest = float(np.abs(inverse).max())
    if float(np.abs(inverse - inverse.T).max()) > _ROUNDING * largest:
        raise ValueError(f"metricParams['VI'] must be symmetric{doubt}")
    symmetric = 0.5 * inverse + 0.5 * inverse.T
    scaled = np.ldexp(symmetric, -int(np.frexp(largest)[1]))
    if float(np.linalg.eigvalsh(scaled)[0]) < -_ROUNDING:
        raise ValueError(
            "metricParams['VI'] must be positive semi-definite, but it has a negative "
            f"eigenvalue{doubt}"
        )
    return symmetric


def _inverted(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of a covariance, computed from the correlations: features differ in scale."""
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
            "metricParams['V'] must be positive semi-definite: it is no covariance matrix"
        )
    if float(eigenvalues[0]) < _SINGULAR * float(eigenvalues[-1]):
        raise ValueError(f"metricParams['V'] is singular: {_SINGULAR_ADVICE}")
    with np.errstate(over="ignore"):
        inverse: NDArray[np.float64] = np.linalg.inv(correlation) / scale[:, None] / scale
    if not np.isfinite(inverse).all():
        raise ValueError(
            "metricParams['V'] holds variances so small that its inverse overflows: scale the "
            "features (pyspark.ml.feature.StandardScaler)"
        )
    return 0.5 * inverse + 0.5 * inverse.T
