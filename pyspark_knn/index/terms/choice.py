"""The terms of a metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.terms.codes import HammingSpace
from pyspark_knn.index.terms.norms import MahalanobisSpace, MaximumSpace, NormSpace
from pyspark_knn.index.terms.ratios import BrayCurtisSpace, CanberraSpace
from pyspark_knn.index.terms.space import TermSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

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


def has_terms(metric: Metric) -> bool:
    """Whether distances by a metric can be bounded by sums of terms."""
    if metric.name == "minkowski":
        return 1 <= metric.p <= _LARGEST_POWER and metric.p != 2
    return metric.name in _SPACES


def term_space(metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> TermSpace | None:
    """Return the space of a metric and items; None if the values of the items do not allow it."""
    space = _SPACES[metric.name](metric, matrix, dtype)
    return space if space.possible else None
