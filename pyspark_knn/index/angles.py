"""The formulas of the metrics of angles, cosine and correlation, on blocks of gathered pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.narrow_angles import NARROW, narrow_correlations, narrow_cosines
from pyspark_knn.index.summation import fold, scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.summation import Block


def unit_rows(rows: NDArray[np.floating]) -> Block:
    """Divide each row by its norm; rows of zeros stay as they are.

    The relative error of a component is at most ``(ceil(log2(d)) / 2 + 3) * 2**-53``.

    Rows of float32 are not scaled before they are squared. Their squares are between 2**-298 and
    2**256, so that nothing underflows or overflows in float64, and a power of two changes no digit
    of a sum, a root or a quotient: the result is the same.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
        Vectors, finite.

    Returns
    -------
    ndarray of shape (n_rows, n_features), dtype float64
        Unit vectors.
    """
    scaled: Block = rows.astype(np.float64, copy=False)
    if rows.dtype != np.float32:
        scaled, _ = scale(scaled)
    norms = np.sqrt(fold(scaled * scaled))
    norms[norms == 0] = 1.0
    scaled /= norms[:, None]
    return scaled


def cosine_of(left: Block, right: Block) -> NDArray[np.float64]:
    """Return ``1 - cos`` of rows; 1 where a row is all zeros, 0 where the rows are parallel.

    For wide angles this is one minus the product of the unit vectors, which is exactly 1 for rows
    without a common feature. Below 60 degrees that difference would lose its digits, so half the
    squared distance of the unit vectors is computed instead, which is equal to it, and for narrow
    angles the formula of `pyspark_knn.index.narrow_angles`.

    Parameters
    ----------
    left, right : ndarray of shape (n_pairs, n_features), dtype float64
        Vectors, finite.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The distances, in [0, 2].
    """
    distances, narrow = cosine_of_units(unit_rows(left), unit_rows(right))
    if narrow.size:
        distances[narrow] = narrow_cosines(left[narrow], right[narrow])
    return distances


def cosine_of_units(first: Block, second: Block) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ``1 - cos`` of unit vectors, and the rows whose angles are too narrow for that.

    Parameters
    ----------
    first, second : ndarray of shape (n_pairs, n_features), dtype float64
        Unit vectors, or zeros.

    Returns
    -------
    distances : ndarray of shape (n_pairs,), dtype float64
        The distances.
    narrow : ndarray of shape (n_narrow,), dtype int64
        The rows whose distances `pyspark_knn.index.narrow_angles` must compute.
    """
    cosines = fold(first * second)
    distances = np.minimum(1.0 - cosines, 2.0)
    near = np.flatnonzero(cosines > 0.5)
    if not near.size:
        return distances, near
    gap = first[near] - second[near]
    squares = fold(gap * gap)
    distances[near] = 0.5 * squares
    return distances, near[squares < NARROW]


def centered_rows(rows: Block) -> Block:
    """Scale each row by a power of two and subtract its mean; constant rows become zero.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), dtype float64
        Vectors, finite.

    Returns
    -------
    ndarray of shape (n_rows, n_features), dtype float64
        Vectors whose mean is 0 up to rounding.
    """
    scaled, _ = scale(rows)
    constant = (scaled == scaled[:, :1]).all(axis=1)
    for _ in range(2):
        # The second pass removes the rounding error of the first mean.
        scaled -= (fold(scaled.copy()) / scaled.shape[1])[:, None]
    scaled[constant] = 0.0
    return scaled


def centered_units(rows: NDArray[np.floating]) -> Block:
    """Return the unit vectors of rows less their means; constant rows become zero.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
        Vectors, finite.

    Returns
    -------
    ndarray of shape (n_rows, n_features), dtype float64
        Unit vectors.
    """
    return unit_rows(centered_rows(rows.astype(np.float64, copy=False)))


def correlation_of(left: Block, right: Block) -> NDArray[np.float64]:
    """Return what `cosine_of` does, of rows less their means; 1 where a row is constant.

    Parameters
    ----------
    left, right : ndarray of shape (n_pairs, n_features), dtype float64
        Vectors, finite.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The distances, in [0, 2].
    """
    distances, narrow = cosine_of_units(centered_units(left), centered_units(right))
    if narrow.size:
        distances[narrow] = narrow_correlations(left[narrow], right[narrow])
    return distances


ANGLES: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "correlation": (centered_units, narrow_correlations),
    "cosine": (unit_rows, narrow_cosines),
}
"""Metrics of angles -> what makes unit vectors of rows, and the formula for narrow angles."""
