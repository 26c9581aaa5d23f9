"""The terms of cityblock and chebyshev in whole numbers of 16 bits: twice as many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.terms.norms import NormSpace
from pyspark_knn.index.terms.space import Operand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_LARGEST_SUM = (1 << 16) - 1
"""The largest sum in 16 bits."""

_LARGEST_CODE = (1 << 14) - 1
"""The largest magnitude of a code: a difference of two has 16 bits with its sign."""

_MOST_FEATURES = 160
"""With more features, sums have room for so few codes that they rule out too little."""

_WITHIN_BOX, _BOX = 0.99, 1.125
"""Coordinates are cut off a little beyond the magnitude that this share of the items stays within,
in all coordinates."""

_LEAST_CODES = 16.0
"""The smallest median of codes. With smaller ones, rounding is a large part of a distance."""

_LEAST_BOX = 2.0**-100
"""The smallest cut-off, where the largest coordinate is 1."""

_SAMPLE_ITEMS = 1024
"""Items of the sample whose medians are computed."""


class WholeNormSpace(NormSpace):
    """cityblock: the sum of the differences of codes, which are whole numbers.

    Coordinates, as in `NormSpace` but in float64, are cut off at b and -b. This makes the
    difference of no two coordinates larger. Times ``C / b`` and rounded, they are codes of at most
    C, off by 1/2 and by the rounding of the product. So the difference of two codes exceeds
    ``C / b`` times that of the coordinates by less than ``1 + 2**-20``. With e of `NormSpace` for
    float64 and the distance L, ``S' <= (L + e) C / b (1 + 2**-40) + n (1 + 2**-20)``. Sums of codes
    are exact: they are at most ``2 n C``, which fits in 16 bits.

    Attributes
    ----------
    codes_per_unit : float
        The ``C / b`` of the bound.
    """

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, np.float64)
        self.dtype, self.acc_dtype = np.int16, np.uint16
        self._terms = self._n_terms()
        self._largest = min(_LARGEST_CODE, _LARGEST_SUM // (2 * self._terms))
        self.possible = self.possible and self._power == 1 and self._terms <= _MOST_FEATURES
        self.codes_per_unit = float(self._largest)
        if self.possible:
            sample = np.abs(self._coordinates(matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]))
            box = _BOX * float(np.quantile(sample.max(axis=1), _WITHIN_BOX))
            self.codes_per_unit /= min(max(box, _LEAST_BOX), 1.0)
            sizes = sample[sample > 0]
            if sizes.size:
                self.possible = float(np.median(sizes)) * self.codes_per_unit >= _LEAST_CODES

    def _middle(self, sample: NDArray[np.floating]) -> NDArray[np.float64]:
        few = sample[:: max(1, len(sample) // _SAMPLE_ITEMS)]
        return np.asarray(np.median(few, axis=0), np.float64)

    def _n_terms(self) -> int:
        """Return how many differences are added."""
        return int(self._n_features)

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`; floats are tried next, and their bounds hold for fewer."""
        return np.ones(len(queries), bool)

    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """See `TermSpace.operand`."""
        coordinates = self._coordinates(rows)
        norms = np.abs(coordinates).sum(axis=1)
        coordinates *= self.codes_per_unit
        np.rint(coordinates, out=coordinates)
        codes = coordinates.clip(-self._largest, self._largest).astype(np.int16)
        return Operand(codes, codes, norms, rows)

    def _limits_of_sums(self, norms: NDArray[np.float64]) -> NDArray[Any]:
        codes = norms * (self.codes_per_unit * (1.0 + 2.0**-40)) + self._terms * (1.0 + 2.0**-20)
        return np.minimum(np.floor(codes), _LARGEST_SUM).astype(np.uint16)

    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `TermSpace.figures`."""
        # The errors of the terms cancel for the most part.
        return super().figures((sums + 2.0 * self._terms**0.5) / self.codes_per_unit)


class WholeMaximumSpace(WholeNormSpace):
    """chebyshev: the largest of the differences of codes, off by 1 in place of n."""

    combine: ClassVar[np.ufunc] = np.maximum

    def _n_terms(self) -> int:
        return 1
