"""The formula of nan_euclidean; see `pyspark_knn.index.kernels` for what a kernel is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.summation import fold, scaled_difference, unsafe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.constants import Constants
    from pyspark_knn.index.summation import Block


def nan_euclidean(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """``sqrt(n_features / present * sum of squares)`` over the features that both rows have.

    NaN where the rows have no feature in common: such a pair has no distance, and since a
    comparison with NaN is false, no search finds it. Rows without missing values have the distance
    of `kernels.euclidean`, to the last bit. A `factor` multiplies the differences.
    """
    factor = metric.params.get("factor")
    with np.errstate(over="ignore", invalid="ignore"):
        terms = left - right
        missing = np.isnan(terms)
        np.copyto(terms, 0.0, where=missing)
        if factor is not None:
            terms *= factor
        np.multiply(terms, terms, out=terms)
        n_features = terms.shape[1]
        present = n_features - np.count_nonzero(missing, axis=1)
        ratio = n_features / np.maximum(present, 1)
        sums = fold(terms) * ratio
    exponents = np.zeros(len(sums), np.int64)
    redo = np.flatnonzero(unsafe(sums) & (present > 0))
    if redo.size:
        one, other = (np.where(missing[redo], 0.0, rows[redo]) for rows in (left, right))
        scaled, exponents[redo] = scaled_difference(one, other, factor)
        sums[redo] = fold(scaled * scaled) * ratio[redo]
    sums[present == 0] = np.nan
    with np.errstate(over="ignore"):
        distances: NDArray[np.float64] = np.ldexp(np.sqrt(sums), exponents)
    return distances
