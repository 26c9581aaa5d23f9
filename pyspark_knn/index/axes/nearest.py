"""The largest of some numbers, by sorting integers.

numpy sorts integers several times as fast as it sorts the places of numbers. So the place takes the
last bits of the number, which are worth little where the order only has to be about right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEY_BITS = 63


def largest_columns(numbers: NDArray[np.float32], many: int) -> NDArray[np.int32]:
    """Return the columns of the largest numbers of each row, about.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows, n_columns), dtype float32
        The numbers, not NaN.
    many : int
        How many of each row.

    Returns
    -------
    ndarray of shape (n_rows, many), dtype int32
        The columns, in no order.
    """
    keys = _ordered(numbers)
    mask = (1 << (numbers.shape[1] - 1).bit_length()) - 1
    keys &= ~mask
    keys |= np.arange(numbers.shape[1], dtype=np.int32)
    keys.partition(numbers.shape[1] - many, axis=1)
    columns: NDArray[np.int32] = keys[:, -many:] & mask
    return columns


def largest_first(rows: NDArray[np.integer], numbers: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the order that sorts entries by row, and those of a row by descending number, about.

    Parameters
    ----------
    rows : ndarray of shape (n_entries,), integer
        The row of each entry.
    numbers : ndarray of shape (n_entries,), dtype float32 or float64
        The numbers, not NaN.

    Returns
    -------
    ndarray of shape (n_entries,), dtype int64
        The order, as `numpy.argsort` returns it.
    """
    place_bits = len(rows).bit_length()
    row_bits = int(rows.max(initial=0)).bit_length()
    kept = min(32, _KEY_BITS - place_bits - row_bits)
    keys = rows.astype(np.int64) << (_KEY_BITS - row_bits)
    ascending = -1 - _ordered(numbers.astype(np.float32)).astype(np.int64)
    keys |= ((ascending + (1 << 31)) >> (32 - kept)) << place_bits
    keys |= np.arange(len(rows))
    keys.sort()
    order: NDArray[np.int64] = keys & ((1 << place_bits) - 1)
    return order


def _ordered(numbers: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return integers in the order of the numbers."""
    bits = numbers.view(np.int32)
    ordered: NDArray[np.int32] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered
