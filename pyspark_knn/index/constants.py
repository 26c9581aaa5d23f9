"""What a formula of `pyspark_knn.index.kernels` takes beside the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constants(Protocol):
    """The parameters of a formula: see `pyspark_knn.index.distances.Metric`."""

    @property
    def name(self) -> str:
        """The key in `KERNELS`, since some metrics share a formula."""

    @property
    def p(self) -> float:
        """The exponent of minkowski."""

    @property
    def params(self) -> Mapping[str, NDArray[np.float64]]:
        """Weights, variances, a matrix."""

    @property
    def radius(self) -> float:
        """The radius of haversine's sphere."""
