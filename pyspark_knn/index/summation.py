"""Sums in a fixed order, of terms that neither overflow nor underflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.buffers import buffers_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Block = NDArray[np.float64]

_TINY = 2.0**-900
"""Sums of squares below this may have lost bits to gradual underflow. The error of a term is at
most 2**-1075, which is negligible beside 2**-900 even in a sum of 2**20 terms."""

_TRANSPOSED = 64
"""Rows of up to this many terms are added column by column."""

_LARGEST_POWER = 1022
"""Powers of two up to this and their inverses are normal numbers."""


def fold(terms: Block) -> NDArray[np.float64]:
    """Sum each row in an order that depends on its length only.

    The upper half of the columns is added to the lower half, until one column is left: a pairwise
    sum, whose relative error for terms of one sign is at most ``ceil(log2(n)) * 2**-53`` (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2).

    Parameters
    ----------
    terms : ndarray of shape (n_pairs, n_features), dtype float64
        The terms, in at least one column. Overwritten.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The sum of each row.
    """
    width = terms.shape[1]
    with buffers_for(width):
        while width > _TRANSPOSED:
            rest = width - width // 2
            lower = terms[:, : width // 2]
            np.add(lower, terms[:, rest:width], out=lower)
            width = rest
    # Short inner loops, over what is left of each row, cost more than their additions.
    columns: Block = np.ascontiguousarray(terms[:, :width].T)
    while width > 1:
        rest = width - width // 2
        columns[: width // 2] += columns[rest:width]
        width = rest
    total: NDArray[np.float64] = columns[0].copy()
    return total


def scale(rows: Block) -> tuple[Block, NDArray[np.int64]]:
    """Scale each row by a power of two so that its largest magnitude is in [0.5, 1).

    This is exact except for components below 2**-1021 of the largest one, which may lose bits that
    are negligible in every sum.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), dtype float64
        Vectors, finite.

    Returns
    -------
    scaled : ndarray of shape (n_rows, n_features), dtype float64
        The scaled vectors.
    exponents : ndarray of shape (n_rows,), dtype int64
        The exponents: ``rows == scaled * 2**exponents``.
    """
    exponents = np.frexp(np.abs(rows).max(axis=1))[1].astype(np.int64)
    if np.abs(exponents).max(initial=0) <= _LARGEST_POWER:
        # The same numbers as by ldexp, in a fraction of the time.
        return rows * np.ldexp(1.0, -exponents)[:, None], exponents
    return np.ldexp(rows, -exponents[:, None]), exponents


def scaled_difference(
    left: Block, right: Block, factor: NDArray[np.float64] | None = None
) -> tuple[Block, NDArray[np.int64]]:
    """Return differences scaled as by `scale`, even if they exceed the range of float64.

    Parameters
    ----------
    left, right : ndarray of shape (n_pairs, n_features), dtype float64
        Vectors, finite.
    factor : ndarray of shape (n_features,), dtype float64, optional
        Factors of the differences. With them the largest magnitude is in [0.25, 1).

    Returns
    -------
    scaled : ndarray of shape (n_pairs, n_features), dtype float64
        The scaled differences.
    exponents : ndarray of shape (n_pairs,), dtype int64
        The exponents: the differences are ``scaled * 2**exponents``.
    """
    with np.errstate(over="ignore"):
        difference = left - right
    beyond = np.isinf(difference).any(axis=1)
    difference[beyond] = left[beyond] * 0.25 - right[beyond] * 0.25
    if factor is None:
        scaled, exponents = scale(difference)
        return scaled, exponents + 2 * beyond
    # Fractions and exponents are multiplied separately, since a product may overflow.
    fractions, powers = np.frexp(difference)
    more_fractions, more_powers = np.frexp(factor)
    fractions *= more_fractions
    powers = np.where(fractions == 0, -10_000, powers.astype(np.int64) + more_powers)
    exponents = powers.max(axis=1)
    return np.ldexp(fractions, powers - exponents[:, None]), exponents + 2 * beyond


def unsafe(sums: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which sums of powers overflowed, or are so small that terms may have lost bits.

    Parameters
    ----------
    sums : ndarray of shape (n_pairs,), dtype float64
        Sums of terms >= 0.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype bool
        True where the sum must be computed again from scaled terms.
    """
    return ~((sums >= _TINY) & (sums < np.inf))
