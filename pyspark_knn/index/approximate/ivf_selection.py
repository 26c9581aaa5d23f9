"""The smallest scores of each row, and what they belong to.

Scores above a limit are dropped first. The others are sorted as integers, one for each: the score
is in the upper half, the number of an item or a list in the lower half. numpy sorts many short rows
of such integers in a fraction of the time of `numpy.argpartition`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTHING = np.iinfo(np.int64).max
"""The key that sorts after all others, where a row has no more. Its score is not a number."""

_NUMBERS = (1 << 32) - 1
"""The bits of a number."""

_MINIMA = 2
"""The number of parts of a row, for each number to find, from whose minima a limit is taken. With
fewer, more numbers are within the limit; with more, the limit takes longer."""

_MOST_WAITING = 1 << 20
"""Candidates that wait to be sorted, beside those that are wanted. Each takes 20 bytes, and 50
while they are sorted."""

_SIGNLESS = np.int32((1 << 31) - 1)

_WIDTH = 64
"""Keys that are sorted at a time, unless more are wanted: numpy sorts short rows without branches,
and most rows have fewer keys."""

_SORTED_KEYS = 1 << 16
"""Keys in the rows that are sorted at a time: 512 KiB, which stay in the cache."""


def limits(table: NDArray[np.float32], many: int) -> NDArray[np.float32]:
    """Return a number for each row that at least `many` of its numbers do not exceed.

    It is the largest of the smallest minima of parts of the row, which are found much faster than
    the smallest numbers of all.

    Parameters
    ----------
    table : ndarray of shape (n_rows, n_columns), dtype float32
        The numbers, at least `many` in a row.
    many : int
        The number of numbers that are wanted, at least 1.

    Returns
    -------
    ndarray of shape (n_rows,), dtype float32
        The limits.
    """
    width = table.shape[1]
    while width >= 2 * _MINIMA * many:
        width //= 2
        table = np.minimum(table[:, :width], table[:, width : 2 * width])
    found: NDArray[np.float32] = np.partition(table, many - 1, axis=1)[:, many - 1]
    return found


def keys_of(scores: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return integers in the order of the scores, and of the numbers where these are equal.

    The score -0.0 comes before 0.0.

    Parameters
    ----------
    scores : ndarray of shape (n_pairs,), dtype float32
        The scores, none of them NaN.
    numbers : ndarray of shape (n_pairs,), dtype int64
        What they belong to, from 0 to 2**32 - 1.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype int64
        The keys.
    """
    # The bits of a float, as an integer, are in the order of its absolute value.
    bits = scores.view(np.int32)
    keys: NDArray[np.int64] = (bits ^ ((bits >> 31) & _SIGNLESS)).astype(np.int64)
    keys <<= 32
    keys |= numbers
    return keys


def scores_and_numbers(
    keys: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what `keys_of` made keys of.

    Parameters
    ----------
    keys : ndarray of int64
        Keys; `NOTHING` is NaN and 2**32 - 1.

    Returns
    -------
    scores : ndarray of float32
        The scores.
    numbers : ndarray of int64
        The numbers.
    """
    bits = (keys >> 32).astype(np.int32)
    bits ^= (bits >> 31) & _SIGNLESS
    return bits.view(np.float32), keys & _NUMBERS


def smallest(keys: NDArray[np.int64], counts: NDArray[np.int64], many: int) -> NDArray[np.int64]:
    """Return the smallest keys of each row, in ascending order.

    Parameters
    ----------
    keys : ndarray of shape (n_keys,), dtype int64
        The keys of the first row, then those of the second one, and so on.
    counts : ndarray of shape (n_rows,), dtype int64
        The number of keys of each row.
    many : int
        The number of keys to return for a row.

    Returns
    -------
    ndarray of shape (n_rows, many), dtype int64
        The keys; `NOTHING` where a row has no more.
    """
    found = np.empty((len(counts), many), np.int64)
    if not found.size:
        return found
    width = max(_WIDTH, 2 * many)
    starts = np.cumsum(counts) - counts
    step = max(1, _SORTED_KEYS // width)
    for begin in range(0, len(counts), step):
        part = slice(begin, begin + step)
        found[part] = _smallest(keys, starts[part], counts[part], many, width)
    return found


def _smallest(
    keys: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    many: int,
    width: int,
) -> NDArray[np.int64]:
    """Return the smallest of the keys that follow the start of each row."""
    columns = np.arange(max(min(int(counts.max()), width), many))
    table = keys.take(starts[:, None] + columns, mode="clip")
    table[columns >= counts[:, None]] = NOTHING
    table.sort(axis=1)
    found = table[:, :many]
    long = np.flatnonzero(counts > width)
    if long.size:
        # The smallest keys of each part of a row, and then those of all its parts.
        n_parts = -(-counts[long] // width)
        rows = np.repeat(long, n_parts)
        ends = np.cumsum(n_parts)
        offsets = (np.arange(len(rows)) - np.repeat(ends - n_parts, n_parts)) * width
        lengths = np.minimum(counts[rows] - offsets, width)
        parts = _smallest(keys, starts[rows] + offsets, lengths, many, width).ravel()
        found[long] = _smallest(parts, (ends - n_parts) * many, n_parts * many, many, width)
    return found


class Candidates:
    """The items whose scores are within the limit of a query, and the nearest of them.

    Parameters
    ----------
    n_rows : int
        The number of queries.
    many : int
        The number of items that are wanted for a query.
    """

    def __init__(self, n_rows: int, many: int) -> None:
        self._n_rows = n_rows
        self._many = many
        self._rows: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._n_waiting = 0

    def add(
        self,
        rows: NDArray[np.int64],
        table: NDArray[np.float32],
        positions: NDArray[np.int64],
    ) -> None:
        """Keep the items whose scores are not above the limits.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
            Row numbers of queries.
        table : ndarray of shape (n_rows, n_items), dtype float32
            The scores of some items for each of them, less the limit. C-contiguous.
        positions : ndarray of shape (n_items,), dtype int64
            The positions of the items. An item is added once to a query.
        """
        # A limit for each row, or a comparison row by row, would take four times as long.
        scores = table.ravel()
        where = (scores <= 0).nonzero()[0]
        local, columns = np.divmod(where, table.shape[1])
        self._rows.append(rows.take(local))
        self._scores.append(scores.take(where))
        self._positions.append(positions.take(columns))
        self._n_waiting += len(where)
        if self._n_waiting > _MOST_WAITING + self._n_rows * self._many:
            keys = self._smallest()
            found, columns = (keys != NOTHING).nonzero()
            kept, names = scores_and_numbers(keys[found, columns])
            self._rows, self._scores, self._positions = [found], [kept], [names]
            self._n_waiting = len(found)

    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the items with the lowest scores.

        Returns
        -------
        positions : ndarray of shape (n_queries, many), dtype int64
            Their positions, by ascending scores; -1 where there are no more within the limits.
        scores : ndarray of shape (n_queries, many), dtype float32
            Their scores, less the limits; 0 where there are no more.
        """
        scores, positions = scores_and_numbers(self._smallest())
        missing = np.isnan(scores)
        positions[missing], scores[missing] = -1, 0
        return positions, scores

    def _smallest(self) -> NDArray[np.int64]:
        from scipy.sparse import csc_array

        ends = np.cumsum([0, *map(len, self._rows)])
        if not ends[-1]:
            return np.full((self._n_rows, self._many), NOTHING)
        keys = keys_of(np.concatenate(self._scores), np.concatenate(self._positions))
        # A matrix that has a column for each call of `add` is changed to rows in linear time.
        rows = np.concatenate(self._rows).astype(np.int32)
        parts = keys, rows, ends.astype(np.int32)
        added = csc_array(parts, shape=(self._n_rows, len(ends) - 1)).tocsr()
        return smallest(added.data, np.diff(added.indptr).astype(np.int64), self._many)
