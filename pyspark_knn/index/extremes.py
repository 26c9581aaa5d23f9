"""About the k-th largest or smallest number of each row, much faster than exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GROUPS_PER_NUMBER = 16
"""Among half as many groups as this for each of the k numbers, two of the k are rarely in the same
group."""


def about_kth_largest(table: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return a number that k numbers of each row reach.

    It is about the k-th largest: that of the maxima of small groups.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns), a float dtype
        The numbers.
    k : int
        At most the number of columns.

    Returns
    -------
    ndarray of shape (n_rows,), dtype float64
        The numbers.
    """
    extremes = _of_groups(table, k, np.maximum)
    place = extremes.shape[1] - k
    return np.partition(extremes, place, axis=1)[:, place].astype(np.float64)


def about_kth_smallest(table: NDArray[Any], k: int) -> NDArray[np.float64]:
    """Return a number that k numbers of each row do not exceed; see `about_kth_largest`.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns)
        The numbers.
    k : int
        At most the number of columns.

    Returns
    -------
    ndarray of shape (n_rows,), dtype float64
        The numbers.
    """
    extremes = _of_groups(table, k, np.minimum)
    if extremes.dtype == np.uint8:
        extremes = extremes.astype(np.float32)  # numpy has no fast way for bytes
    return np.partition(extremes, k - 1, axis=1)[:, k - 1].astype(np.float64)


def _of_groups(table: NDArray[Any], k: int, extreme: np.ufunc) -> NDArray[Any]:
    """Return the extremes of small groups of columns, many more groups than k."""
    while table.shape[1] >= _GROUPS_PER_NUMBER * k:
        half = table.shape[1] // 2
        table = extreme(table[:, :half], table[:, half : 2 * half])
    return table
