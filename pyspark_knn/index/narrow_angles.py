"""``1 - cos`` of nearly parallel vectors, with nearly all of its digits.

The difference of two unit vectors loses digits as the angle t between them gets narrow: each
component is off by v = 2**-53 of itself, and so is half the squared difference by ``4 v / t`` of
itself. So for narrow angles the vectors are not divided by their norms. For any factor s,

    |a - s b|**2 = delta**2 + 2 s |a| |b| (1 - cos),    delta = |a| - s |b|

With s = |a| / |b|, rounded, delta is small but not 0. Since ``a.(a - s b) = |a|**2 - s a.b``, it is
``a.(a - s b) / |a|``, less ``|a - s b|**2 / (2 |a|)``, which is the second-order part.

``a - s b`` is computed with the factor and the components of b in two halves, as products of halves
are exact (Dekker, 1971). What is rounded is either a fraction of the difference itself, or below
2**-78 of a component. So a distance D is off by ``(4 ceil(log2(d)) + 24) v + 2**-77 / sqrt(2 D)``
of itself at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.summation import fold, scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.summation import Block

NARROW = 2.0**-6
"""The squared difference of two unit vectors below which their angle is narrow."""

PARALLEL = 2.0**-50
"""Vectors at an angle below this count as parallel, since multiples of a vector are rounded."""

_SPLITTER = 2.0**27 + 1.0


def halves(values: Block) -> tuple[Block, Block]:
    """Return two numbers of 26 bits whose sum is each value."""
    scaled = values * _SPLITTER
    high = scaled - (scaled - values)
    return high, values - high


def gaps(left: Block, right: Block, ratios: Block) -> Block:
    """Return ``left - ratios * right``, accurate even where little is left.

    Parameters
    ----------
    left, right, ratios : ndarray, dtype float64
        Components of scaled vectors, and the ratios of their norms; of shapes that broadcast
        together.

    Returns
    -------
    ndarray, dtype float64
        The differences.
    """
    high, low = halves(ratios)
    right_high, right_low = halves(right)
    result = left - high * right_high
    result -= high * right_low
    result -= low * right
    return result


def distances_of(
    squares: NDArray[np.float64], along: NDArray[np.float64], norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return ``1 - cos``, given the sums of the gaps.

    Parameters
    ----------
    squares : ndarray of shape (n_pairs,), dtype float64
        The sums of the squared gaps.
    along : ndarray of shape (n_pairs,), dtype float64
        The sums of the gaps times the left vectors.
    norms : ndarray of shape (n_pairs,), dtype float64
        The norms of the left vectors.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The distances; 0 for parallel vectors.
    """
    excess = along / norms - squares / (2.0 * norms)
    result = np.maximum(squares - excess * excess, 0.0) / (norms * norms)
    result[result < PARALLEL**2] = 0.0
    return 0.5 * result


def narrow_cosines(left: Block, right: Block) -> NDArray[np.float64]:
    """Return ``1 - cos`` of rows at narrow angles.

    Parameters
    ----------
    left, right : ndarray of shape (n_pairs, n_features), dtype float64
        Vectors, finite and not 0.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The distances.
    """
    (left, _), (right, _) = scale(left), scale(right)
    one, other = _norms(left), _norms(right)
    # The one with the larger norm comes first, so that the order of a pair does not matter.
    swapped = (one < other)[:, None]
    first, second = np.where(swapped, right, left), np.where(swapped, left, right)
    norms = np.maximum(one, other)
    differences = gaps(first, second, (norms / np.minimum(one, other))[:, None])
    return _finished(differences, first, norms)


def narrow_correlations(left: Block, right: Block) -> NDArray[np.float64]:
    """Return ``1 - cos`` of rows less their means, at narrow angles.

    Parameters
    ----------
    left, right : ndarray of shape (n_pairs, n_features), dtype float64
        Vectors, finite and not constant.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The distances.
    """
    (left, left_lost), (right, right_lost) = _centered(left), _centered(right)
    one, other = _norms(left), _norms(right)
    swapped = (one < other)[:, None]
    first, second = np.where(swapped, right, left), np.where(swapped, left, right)
    lost = np.where(swapped, right_lost, left_lost), np.where(swapped, left_lost, right_lost)
    norms = np.maximum(one, other)
    ratios = (norms / np.minimum(one, other))[:, None]
    differences = gaps(first, second, ratios)
    differences += lost[0] - ratios * lost[1]
    # What the rounded means have left.
    differences -= (fold(differences.copy()) / differences.shape[1])[:, None]
    return _finished(differences, first, norms)


def _finished(differences: Block, first: Block, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    along = fold(differences * first)
    return distances_of(fold(differences * differences), along, norms)


def _norms(rows: Block) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(fold(rows * rows))
    return norms


def _centered(rows: Block) -> tuple[Block, Block]:
    """Return scaled rows less their means, and what was lost by rounding (Knuth's TwoSum)."""
    rows, _ = scale(rows)
    lost = np.zeros_like(rows)
    for _ in range(2):
        mean = (fold(rows.copy()) / rows.shape[1])[:, None]
        moved = rows - mean
        back = moved - rows
        lost += (rows - (moved - back)) - (mean + back)
        rows = moved
    return rows, lost
