"""The sums of `pyspark_knn.index.summation`, of terms most of which are 0.

`summation.fold` adds terms in an order that depends on the number of features only: in each level
it adds the upper half of the columns to the lower half. Adding 0 changes no sum, so the same sums
arise, to the last bit, from the terms other than 0 alone, added in the same order.

The *key* of a feature says when its term meets the others. Bit l of the key is set if the feature
is in the upper half in level l. Two terms meet in the level after which their keys agree in all
higher bits. So if terms are sorted by their keys, those that meet are always next to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BITS = 32
"""A sum and a key are packed into one integer: the key is in the lower 32 bits."""


def features_of(keys: NDArray[np.int64], n_features: int) -> NDArray[np.int64]:
    """Return the features that have the given keys: the inverse of `fold_keys`.

    Parameters
    ----------
    keys : ndarray of shape (n,), dtype int64
        The keys.
    n_features : int
        The dimension of the vectors.

    Returns
    -------
    ndarray of shape (n,), dtype int64
        The number of each feature.
    """
    features = np.zeros(len(keys), np.int64)
    for level, width in reversed(list(enumerate(_widths(n_features)))):
        features += width * (keys >> level & 1)
    return features


def _widths(n_features: int) -> list[int]:
    """Return the number of columns that are left after each level."""
    widths = []
    while n_features > 1:
        n_features -= n_features // 2
        widths.append(n_features)
    return widths


def fold_keys(features: NDArray[np.integer], n_features: int) -> NDArray[np.int64]:
    """Return the keys of features.

    Parameters
    ----------
    features : ndarray of shape (n,), integer
        Numbers of features.
    n_features : int
        The dimension of the vectors, at most 2**31.

    Returns
    -------
    ndarray of shape (n,), dtype int64
        The key of each feature, below 2**31. Different features have different keys.
    """
    rest = np.array(features, np.int64)
    keys = np.zeros(len(rest), np.int64)
    for level, width in enumerate(_widths(n_features)):
        upper = rest >= width
        rest -= width * upper
        keys |= upper.astype(np.int64) << level
    return keys


class Terms(NamedTuple):
    """The terms of several sums, sorted by sum, then by key; no key occurs twice in a sum.

    Attributes
    ----------
    places : ndarray of shape (n_terms,), dtype int64
        The number of the sum, times 2**32, plus the key.
    values : ndarray of shape (n_terms,), dtype float64
        The terms.
    """

    places: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(
        cls, sums: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Terms:
        """Sort terms; where a sum has two terms of the same key, these are added.

        Parameters
        ----------
        sums, keys : ndarray of shape (n_values,), dtype int64
            The number of the sum, and the key of each term.
        values : ndarray of shape (n_values,), dtype float64
            The terms.
        """
        places = (sums << KEY_BITS) | keys
        # The terms of a sum are near each other already: a merge sort takes a third of the time.
        order = np.argsort(places, kind="stable")
        places, values = places[order], values[order]
        second = np.flatnonzero(places[1:] == places[:-1]) + 1
        if second.size:
            values[second - 1] += values[second]
            places, values = np.delete(places, second), np.delete(values, second)
        return cls(places, values)

    @property
    def sums(self) -> NDArray[np.int64]:
        """The number of each term's sum."""
        return self.places >> KEY_BITS

    @property
    def keys(self) -> NDArray[np.int64]:
        """The key of each term."""
        return self.places & ((1 << KEY_BITS) - 1)

    def largest(self, count: int) -> NDArray[np.float64]:
        """Return the largest magnitude in each of `count` sums; 0 for a sum without terms."""
        result = np.zeros(count)
        if self.values.size:
            sums = self.sums
            first = np.flatnonzero(np.diff(sums, prepend=-1))
            result[sums[first]] = np.maximum.reduceat(np.abs(self.values), first)
        return result

    def fold(self, count: int) -> NDArray[np.float64]:
        """Return the sums.

        Parameters
        ----------
        count : int
            The number of sums.

        Returns
        -------
        ndarray of shape (count,), dtype float64
            Equal to what `summation.fold` returns for the same terms and zeros; 0 for a sum
            without terms.
        """
        result = np.zeros(count)
        if not self.values.size:
            return result
        sums, values = self.sums, self.values.copy()
        # Terms that were added to one another are a run: its sum is at its first place.
        first, last = np.arange(len(values)), np.arange(len(values))
        for left in _meetings(self.places):
            start, stop = first[left], last[left + 1]
            values[start] += values[left + 1]
            first[stop], last[start] = start, stop
        runs = np.flatnonzero(np.diff(sums, prepend=-1))
        result[sums[runs]] = values[runs]
        return result


def _meetings(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the terms that meet the next term of their sum, level by level."""
    differing = places[1:] ^ places[:-1]
    inside = np.flatnonzero(differing < 1 << KEY_BITS)
    levels = np.frexp(differing[inside].astype(np.float64))[1].astype(np.uint8)
    # numpy sorts integers of 8 bits in linear time.
    order = np.argsort(levels, kind="stable")
    return np.split(inside[order], np.cumsum(np.bincount(levels))[:-1])
