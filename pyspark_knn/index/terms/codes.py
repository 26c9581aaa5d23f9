"""The terms of hamming: the features whose codes differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.terms.space import Operand, Pairs, TermSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_MULTIPLIERS = np.arange(1, 64, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
"""Odd factors, of which one makes the codes of the values of hamming distinct, if possible."""


class HammingSpace(TermSpace):
    """hamming: the number of features whose codes differ, one byte for each value.

    Equal values have equal codes, so that the number is at most the number of features that differ.
    """

    wider: ClassVar[bool] = False

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, dtype)
        self.dtype = np.bool_
        self.acc_dtype = np.uint8 if self._n_features < 256 else np.uint32
        self._multiplier = _MULTIPLIERS[0]
        sample = matrix[:: max(1, len(matrix) // 256)]
        values = np.unique(sample.astype(np.float64) + 0.0)[:257]
        if len(values) <= 256:
            codes = [len(np.unique(_coded(values, each))) for each in _MULTIPLIERS]
            self._multiplier = _MULTIPLIERS[int(np.argmax(codes))]

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`."""
        return np.ones(len(queries), bool)

    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """See `TermSpace.operand`."""
        # Adding 0 makes 0.0 of -0.0, which is equal.
        codes = _coded(rows.astype(np.float64) + 0.0, self._multiplier)
        return Operand(codes, codes, np.zeros(len(rows)), rows)

    def terms(self, pairs: Pairs, out: NDArray[Any], spare: NDArray[Any]) -> None:
        """See `TermSpace.terms`."""
        np.not_equal(pairs.left, pairs.right, out=out)

    def limits(
        self, distances: NDArray[np.float64], queries: Operand, items: Operand
    ) -> NDArray[Any]:
        """See `TermSpace.limits`."""
        figures = np.arange(self._n_features + 1) / float(self._n_features)
        counts = np.searchsorted(figures, distances, side="right") - 1
        return np.asarray(counts[:, None], self.acc_dtype)

    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `TermSpace.figures`."""
        return sums / float(self._n_features)


def _coded(values: NDArray[np.float64], multiplier: np.uint64) -> NDArray[np.uint8]:
    bits = values.view(np.uint64)
    mixed = (bits ^ (bits >> np.uint64(32))) * multiplier
    return np.asarray(mixed >> np.uint64(56), np.uint8)
