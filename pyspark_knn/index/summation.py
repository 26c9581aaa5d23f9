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

_LEAST_PART = 24
"""The smallest number of columns in a part of a block. Shorter rows take longer to gather."""

_MOST_PARTS = 8
"""The largest number of parts. After three additions, rows have an eighth of their numbers left."""

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
        The terms, in at least one column; or the same in parts, see `take_parts`. Overwritten.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype float64
        The sum of each row.
    """
    while terms.ndim == 3:
        half = len(terms) // 2
        terms = np.add(terms[:half], terms[half:], out=terms[:half]) if half else terms[0]
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


def take_parts(matrix: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.floating]:
    """Gather rows in parts of their columns, so that `fold` adds contiguous halves of memory.

    Adding the halves of each row takes numpy several times as long.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_features), dtype float32 or float64
        The matrix, C-contiguous: of another one, reshaping would copy all rows.
    rows : ndarray of shape (n_pairs,), integer
        The row numbers to gather.

    Returns
    -------
    ndarray of shape (n_parts, n_pairs, n_features / n_parts)
        The rows: their first columns, the next, and so on. The number of parts is a power of two;
        if there is one, the shape is (n_pairs, n_features).
    """
    n_parts, width = 1, matrix.shape[1]
    while width % 2 == 0 and width >= 2 * _LEAST_PART and n_parts < _MOST_PARTS:
        n_parts, width = 2 * n_parts, width // 2
    if n_parts == 1:
        return matrix.take(rows, axis=0)
    places = np.multiply(rows, n_parts, dtype=np.int64) + np.arange(n_parts)[:, None]
    parts: NDArray[np.floating] = matrix.reshape(-1, width).take(places, axis=0)
    return parts


def joined_parts(parts: NDArray[np.floating], pairs: NDArray[np.int64]) -> Block:
    """Return some of the rows that `take_parts` returned in parts, in float64.

    Parameters
    ----------
    parts : ndarray of shape (n_parts, n_pairs, n_features / n_parts)
        The rows in parts; or whole, of shape (n_pairs, n_features).
    pairs : ndarray of shape (n_rows,), dtype int64
        The numbers of the rows to return.

    Returns
    -------
    ndarray of shape (n_rows, n_features), dtype float64
        The rows.
    """
    if parts.ndim == 3:
        parts = np.concatenate([part[pairs] for part in parts], axis=1)
    else:
        parts = parts[pairs]
    return parts.astype(np.float64, copy=False)


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
