"""What all indexes of brute force over dense vectors have in common."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from pyspark_knn.index.base import NeighborIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

Self_ = TypeVar("Self_", bound="BruteForce")


class BruteForce(NeighborIndex):
    """An index that keeps the items as they are.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    metric : Metric
        The metric.
    """

    algorithm: ClassVar[str] = "brute"

    def __init__(self, matrix: NDArray[np.floating], metric: Metric) -> None:
        self._matrix = matrix
        self._metric = metric

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as passed to `build`."""
        return self._matrix

    def over(self: Self_, matrix: NDArray[np.floating]) -> Self_:
        """See `NeighborIndex.over`."""
        other = copy.copy(self)
        other._matrix = matrix
        return other

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._metric
