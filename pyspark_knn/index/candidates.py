"""The items that may still be among the k nearest, judged by scores that are known within bounds.

See `pyspark_knn.index.score_space` for ceilings, widths and slack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Candidates:
    """Keeps, for each query, what cannot be ruled out yet.

    Of the items that a query has seen, k have at least the k-th largest ``ceiling - width`` as
    their score, less the slack. An item whose ceiling plus slack is below that is none of its k
    nearest.

    Parameters
    ----------
    k : int
    least : ndarray of shape (n_queries,), dtype float64
        Scores that no neighbour falls short of, as known beforehand; may be -inf. Overwritten.
    slack : ndarray of shape (n_queries,), dtype float64

    Attributes
    ----------
    least : ndarray of shape (n_queries,), dtype float64
        Scores that no neighbour falls short of, as known by now.
    crowded : ndarray of shape (n_queries,), dtype bool
        Queries that were given up, since too many items cannot be ruled out.
    """

    def __init__(self, k: int, least: NDArray[np.float64], slack: NDArray[np.float64]) -> None:
        self.least = least
        self.crowded = np.zeros(len(least), bool)
        self._k = k
        self._slack = slack
        self._room = 0
        # What was kept at the last settlement, and what came since.
        self._pairs: list[_Pairs] = []
        self._n_waiting = 0

    def thresholds(self) -> NDArray[np.float64]:
        """The smallest ceilings that are of interest; none are for crowded queries."""
        return np.where(self.crowded, np.inf, self.least - self._slack)

    def raise_least(self, floors: NDArray[np.float64]) -> None:
        """Learn that k items have these floors."""
        np.maximum(self.least, floors - self._slack, out=self.least)

    def add(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        ceilings: NDArray[np.floating],
        widths: NDArray[np.float64],
        room: int,
    ) -> bool:
        """Take pairs whose ceilings are of interest.

        Parameters
        ----------
        rows, positions : ndarrays of shape (n_pairs,), dtype int64
            No pair twice.
        ceilings, widths : ndarrays of shape (n_pairs,)
        room : int
            Queries that have to keep more than 2 k and this are crowded, and given up.

        Returns
        -------
        bool
            Whether the thresholds have changed.
        """
        self._room = 2 * self._k + room
        if rows.size == 0:
            return False
        floors = ceilings - widths.astype(ceilings.dtype)
        # Numbers of 16 bits are sorted in linear time.
        narrow = rows.astype(np.uint16) if len(self.least) <= 1 << 16 else rows
        self._pairs.append(_Pairs(narrow, positions, ceilings, floors))
        self._n_waiting += rows.size
        # Only when there are more new ones than neighbours is it worth the time.
        if self._n_waiting <= 2 * self._k * len(self.least):
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Raise the thresholds by what was added, and drop what falls short of them."""
        if self._n_waiting == 0:
            return
        pairs = _Pairs.joined(self._pairs)
        self._n_waiting = 0
        counts = np.bincount(pairs.rows, minlength=len(self.least))
        # Twice the room may shrink to less; far more would not, and would take memory.
        pairs, counts = self._without_crowded(pairs, counts, 2 * self._room)
        if pairs.rows.size:
            self.raise_least(pairs.kth_floors(counts, self._k))
            pairs = pairs.take(pairs.ceilings >= (self.least - self._slack)[pairs.rows])
            counts = np.bincount(pairs.rows, minlength=len(self.least))
            pairs, _ = self._without_crowded(pairs, counts, self._room)
        self._pairs = [pairs]

    def _without_crowded(
        self, pairs: _Pairs, counts: NDArray[np.int64], room: int
    ) -> tuple[_Pairs, NDArray[np.int64]]:
        crowded = counts > room
        if not crowded.any():
            return pairs, counts
        self.crowded |= crowded
        return pairs.take(~crowded[pairs.rows]), np.where(crowded, 0, counts)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows and positions of what is left, without crowded queries."""
        self.settle()
        if not self._pairs:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return self._pairs[0].rows.astype(np.int64), self._pairs[0].positions


class _Pairs:
    """Pairs of a query and an item, and the bounds of their scores."""

    def __init__(
        self,
        rows: NDArray[np.integer],
        positions: NDArray[np.int64],
        ceilings: NDArray[np.floating],
        floors: NDArray[np.floating],
    ) -> None:
        self.rows = rows
        self.positions = positions
        self.ceilings = ceilings
        self.floors = floors

    @classmethod
    def joined(cls, parts: list[_Pairs]) -> _Pairs:
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.positions for part in parts]),
            np.concatenate([part.ceilings for part in parts]),
            np.concatenate([part.floors for part in parts]),
        )

    def take(self, kept: NDArray[np.bool_]) -> _Pairs:
        where = np.flatnonzero(kept)
        return _Pairs(
            self.rows[where], self.positions[where], self.ceilings[where], self.floors[where]
        )

    def kth_floors(self, counts: NDArray[np.int64], k: int) -> NDArray[np.float64]:
        """The k-th largest floor of each row, -inf where there are fewer; `counts` are by row."""
        longest = int(counts.max())
        if longest < k:
            return np.full(len(counts), -np.inf)
        order = by_row(self.rows)
        rows = self.rows[order]
        table = np.full((len(counts), longest), -np.inf, self.floors.dtype)
        table[rows, rank_in_row(counts, rows)] = self.floors[order]
        table.partition(longest - k, axis=1)
        floors: NDArray[np.float64] = table[:, longest - k].astype(np.float64)
        return floors


def rank_in_row(counts: NDArray[np.int64], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the entries of each row from 0; `rows` is ascending, with `counts` entries a row."""
    starts: NDArray[np.int64] = np.cumsum(counts) - counts
    ranks: NDArray[np.int64] = np.arange(len(rows)) - starts[rows]
    return ranks
