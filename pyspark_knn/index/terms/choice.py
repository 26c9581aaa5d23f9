"""The terms of a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.terms.codes import HammingSpace
from pyspark_knn.index.terms.norms import MahalanobisSpace, MaximumSpace, NormSpace
from pyspark_knn.index.terms.ratios import BrayCurtisSpace, CanberraSpace
from pyspark_knn.index.terms.space import TermSpace
from pyspark_knn.index.terms.whole import WholeMaximumSpace, WholeNormSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

DTYPES = (np.int16, np.float32, np.float64)
"""The dtypes of terms, in the order in which a search tries them."""

_LARGEST_POWER = 8.0
"""The largest p of minkowski that is computed by sums: powers of larger p underflow."""

_SPACES: dict[str, type[Any]] = {
    "braycurtis": BrayCurtisSpace,
    "canberra": CanberraSpace,
    "chebyshev": MaximumSpace,
    "cityblock": NormSpace,
    "hamming": HammingSpace,
    "mahalanobis": MahalanobisSpace,
    "minkowski": NormSpace,
}


_WHOLE_SPACES: dict[str, type[Any]] = {
    "chebyshev": WholeMaximumSpace,
    "cityblock": WholeNormSpace,
    "minkowski": WholeNormSpace,
}
"""The metrics that have terms in whole numbers; minkowski with p of 1 only."""


def has_terms(metric: Metric) -> bool:
    """Whether distances by a metric can be bounded by sums of terms."""
    if metric.name == "minkowski":
        return 1 <= metric.p <= _LARGEST_POWER and metric.p != 2
    return metric.name in _SPACES


def term_space(metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> TermSpace | None:
    """Return the space of a metric and items; None if the values of the items do not allow it.

    Parameters
    ----------
    metric : Metric
        A metric that has terms.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    dtype : type
        The dtype of the terms: int16 (only some metrics), float32 or float64.

    Returns
    -------
    TermSpace or None
        The space.
    """
    spaces = _WHOLE_SPACES if dtype is np.int16 else _SPACES
    if metric.name not in spaces:
        return None
    space = spaces[metric.name](metric, matrix, dtype)
    return space if space.possible else None
