"""Lists of neighbors that follow one another, and the nearest of each list."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.selection import by_row
from pyspark_knn.index.sparse.rows import offsets_of, ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SORTED_WIDTH = 64
"""A list of up to this length, or of 4 k, is sorted. Of a longer one, the items beyond the k-th
smallest distance are dropped first."""

_STABLE_WIDTH = 8
"""Up to this many numbers, a stable sort takes no longer than another one."""


class Lists(NamedTuple):
    """The items found by some visits, as lists that follow one another.

    Attributes
    ----------
    visits : ndarray of shape (n_lists,), dtype int64
        The number of the visit of each list.
    counts : ndarray of shape (n_lists,), dtype int64
        The number of items of each list.
    places : ndarray of shape (n_found,), dtype int64
        The row numbers of the items in the matrix of the index.
    distances : ndarray of shape (n_found,), dtype float64
        Their distances.
    """

    visits: NDArray[np.int64]
    counts: NDArray[np.int64]
    places: NDArray[np.int64]
    distances: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: list[Lists]) -> Lists:
        """Return the lists of several parts, sorted by visit.

        Parameters
        ----------
        parts : list of Lists
            The parts. No visit is in two of them.

        Returns
        -------
        Lists
            All lists.
        """
        if not parts:
            nothing = np.zeros(0, np.int64)
            return cls(nothing, nothing, nothing, np.zeros(0))
        visits, counts, places, distances = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )
        order = by_row(visits)
        at = ranges((np.cumsum(counts) - counts)[order], counts[order])
        return cls(visits[order], counts[order], places[at], distances[at])

    def take(self, at: NDArray[np.int64], counts: NDArray[np.int64]) -> Lists:
        """Return other lists of the same visits.

        Parameters
        ----------
        at : ndarray of shape (n_kept,), dtype int64
            Which of the found items to return, list by list.
        counts : ndarray of shape (n_lists,), dtype int64
            How many of them are in each list.

        Returns
        -------
        Lists
            These lists.
        """
        return Lists(self.visits, counts, self.places[at], self.distances[at])

    def nearest(self, k: int) -> Lists:
        """Return the k nearest items of each list, nearest first.

        Parameters
        ----------
        k : int
            The number of items, at least 1.

        Returns
        -------
        Lists
            The same visits, with at most k items each. Items at equal distances stay in their
            order.
        """
        at, counts = _nearest(self.counts, self.distances, k, max(_SORTED_WIDTH, 4 * k))
        return self.take(at, counts)

    def within(self, max_distance: float) -> Lists:
        """Return the items up to a distance, inclusive.

        Parameters
        ----------
        max_distance : float
            The largest distance.

        Returns
        -------
        Lists
            The same visits, with these items only.
        """
        near = self.distances <= max_distance
        lists = np.repeat(np.arange(len(self.counts)), self.counts)
        counts = np.bincount(lists[near], minlength=len(self.counts))
        return self.take(np.flatnonzero(near), counts)


def _nearest(
    counts: NDArray[np.int64],
    distances: NDArray[np.float64],
    k: int,
    sorted_width: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which entries are the k nearest of each list, nearest first, and how many they are."""
    starts, kept = offsets_of(counts), np.minimum(counts, k)
    ends = offsets_of(kept)
    result = np.empty(ends[-1], np.int64)
    # Lists of similar lengths together, as the rows of a table that is padded with inf.
    classes = np.frexp(counts)[1]
    for rows in (np.flatnonzero(classes == each) for each in np.unique(classes[counts > 0])):
        columns = np.arange(counts[rows].max())
        inside = columns < counts[rows, None]
        at = starts[rows, None] + columns * inside
        table = np.where(inside, distances[at], np.inf)
        if len(columns) > sorted_width:
            # Few are within the k-th distance, unless there are many ties.
            inside &= table <= np.partition(table, k - 1, axis=1)[:, k - 1, None]
            lengths = np.count_nonzero(inside, axis=1)
            best, _ = _nearest(lengths, table[inside], k, len(columns))
            best = at[inside][best]
        else:
            order = _order(table, inside, k)
            order += np.arange(0, at.size, len(columns))[:, None]
            best = at.take(order)
            if kept[rows].min() < best.shape[1]:
                best = best[columns[:k] < kept[rows, None]]
        result[ranges(ends[rows], kept[rows])] = best.ravel()
    return result, kept


def _order(table: NDArray[np.float64], inside: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Return the columns of the k smallest numbers of each row; equal ones stay in their order."""
    if table.shape[1] <= _STABLE_WIDTH:
        return np.argsort(table, axis=1, kind="stable")[:, :k]
    order = np.argsort(table, axis=1)[:, : k + 1]
    smallest = np.take_along_axis(table, order, axis=1)
    # A stable sort of longer rows takes several times as long, and is needed only where numbers are
    # equal: to each other, or to the padding.
    equal = (smallest[:, 1:] == smallest[:, :-1]) & inside[:, : smallest.shape[1] - 1]
    again = np.flatnonzero(equal.any(axis=1))
    if again.size:
        order[again] = np.argsort(table[again], axis=1, kind="stable")[:, : k + 1]
    return order[:, :k]
