"""The values of pairs of sparse vectors, side by side in the order of `Terms`.

To sort them takes longer than the formula. So the values of a pair are sorted once, however many
sums are made of them, and by a merge sort: the values of a row are near their places already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.sparse.sums import KEY_BITS, Terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
    """The number of the pair, the key and the value: what `KeyedRows.values` returns."""


@dataclass(frozen=True)
class MergedPairs:
    """The values of both vectors of several pairs, sorted by pair, then by key.

    Attributes
    ----------
    places : ndarray of shape (n_values,), dtype int64
        The number of the pair, times 2**32, plus the key. Of equal places, that of the left vector
        comes first.
    values : ndarray of shape (n_values,), dtype float64
        The values.
    is_right : ndarray of shape (n_values,), dtype bool
        Which values are those of the right vectors.
    second : ndarray of shape (n_common,), dtype int64
        Which values have the same place as the one before.
    """

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    second: NDArray[np.int64]

    @classmethod
    def of(cls, left: Values, right: Values) -> MergedPairs:
        """Sort the values of the left and the right vectors of the same pairs."""
        places = np.concatenate([(pair << KEY_BITS) | key for pair, key, _ in (left, right)])
        order = np.argsort(places, kind="stable")
        places = places[order]
        second = np.flatnonzero(places[1:] == places[:-1]) + 1
        values = np.concatenate([left[2], right[2]])[order]
        return cls(places, values, order >= len(left[2]), second)

    def differences(self) -> Terms:
        """Return the left values less the right ones, at the features that one of them has."""
        values = np.where(self.is_right, -self.values, self.values)
        values[self.second - 1] += values[self.second]
        return Terms(np.delete(self.places, self.second), np.delete(values, self.second))

    def aligned(self) -> tuple[Terms, Terms]:
        """Return the left and the right values at the features that one of them has, with zeros."""
        left = np.where(self.is_right, 0.0, self.values)
        right = np.where(self.is_right, self.values, 0.0)
        right[self.second - 1] = self.values[self.second]
        places = np.delete(self.places, self.second)
        return Terms(places, np.delete(left, self.second)), Terms(
            places, np.delete(right, self.second)
        )
