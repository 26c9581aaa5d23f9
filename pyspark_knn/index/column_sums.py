"""Exact sums of the columns of a matrix, which do not depend on the order of its rows.

The rows of a DataFrame come in partitions, in any order, and rounding makes a sum of doubles depend
on the order. So the numbers of each binary exponent are added as integers, without rounding.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIGITS = 53
"""The binary digits of a double."""

_LOW = 26
"""The digits of the lower part of a double, which is added separately from the upper part."""

_UNIT = 1074 + _DIGITS
"""Every double is an integer times 2**-1074, and every part that is added times 2**-_UNIT."""

_BLOCK = 1 << 15
"""Numbers that are added at a time: fewer than 2**26, so that no sum has more than 53 digits."""


def partial_sums(matrix: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the sums of the columns by exponent, without NaN.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns), dtype float32 or float64
        Numbers, finite or NaN.

    Returns
    -------
    ndarray of shape (n_sums, 5), dtype int64
        Column, exponent, number of values, and the sums of the upper and of the lower digits of
        these values. The values of one column and exponent may have several rows.
    """
    step = max(1, _BLOCK // matrix.shape[1])
    starts = range(0, len(matrix), step)
    parts = [_block_sums(matrix[start : start + step]) for start in starts]
    return np.concatenate([np.zeros((0, 5), np.int64), *parts])


def _block_sums(matrix: NDArray[np.floating]) -> NDArray[np.int64]:
    row, column = np.nonzero(~np.isnan(matrix))
    if not len(row):
        return np.zeros((0, 5), np.int64)
    fraction, exponent = np.frexp(matrix[row, column].astype(np.float64))
    whole = np.ldexp(fraction, _DIGITS).astype(np.int64)
    upper = whole >> _LOW
    lower = whole - (upper << _LOW)
    least = int(exponent.min())
    span = int(exponent.max()) - least + 1
    bins = column * span + (exponent - least)
    counts = np.bincount(bins)
    sums = [np.bincount(bins, part) for part in (upper, lower)]
    filled = np.flatnonzero(counts)
    columns, exponents = np.divmod(filled, span)
    parts = [columns, exponents + least, *(each[filled] for each in (counts, *sums))]
    return np.column_stack(parts).astype(np.int64)


def add_up(
    partial: NDArray[np.int64], n_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the number of values in each column, and their mean.

    Parameters
    ----------
    partial : ndarray of shape (n_sums, 5), dtype int64
        The sums of all parts of the matrix, see `partial_sums`.
    n_columns : int
        The number of columns.

    Returns
    -------
    counts : ndarray of shape (n_columns,), dtype int64
        The number of values that are not NaN.
    means : ndarray of shape (n_columns,), dtype float64
        The exact means, rounded once; NaN for a column without values.
    """
    counts, totals = [0] * n_columns, [0] * n_columns
    for column, exponent, count, upper, lower in partial.tolist():
        counts[column] += count
        totals[column] += ((upper << _LOW) + lower) << (exponent - _DIGITS + _UNIT)
    means = [
        float(Fraction(total, count << _UNIT)) if count else np.nan
        for total, count in zip(totals, counts, strict=True)
    ]
    return np.array(counts), np.array(means)


def partial_squares(matrix: NDArray[np.floating], means: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `partial_sums` of the squared deviations from the means.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns), dtype float32 or float64
        Numbers, finite or NaN.
    means : ndarray of shape (n_columns,), dtype float64
        The means of the columns.

    Returns
    -------
    ndarray of shape (n_sums, 5), dtype int64
        See `partial_sums`. A square beyond the range of float64 counts as the largest double.
    """
    step = max(1, _BLOCK // matrix.shape[1])
    parts = [np.zeros((0, 5), np.int64)]
    for start in range(0, len(matrix), step):
        with np.errstate(over="ignore"):
            squares = (matrix[start : start + step].astype(np.float64) - means) ** 2
        parts.append(_block_sums(np.minimum(squares, np.finfo(np.float64).max)))
    return np.concatenate(parts)
