"""The visits of a search: pairs of a query and a group whose items it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.sparse.rows import ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Visits:
    """Some visits, in ascending order of the size of their groups, then of the group.

    Attributes
    ----------
    numbers : ndarray of shape (n_visits,), dtype int64
        The number of each visit among all visits of the search.
    rows : ndarray of shape (n_visits,), dtype int64
        The row number of the query.
    groups : ndarray of shape (n_visits,), dtype int64
        The number of the group.
    starts : ndarray of shape (n_visits,), dtype int64
        Where the group begins in the matrix of the index.
    sizes : ndarray of shape (n_visits,), dtype int64
        The number of items of the group.
    excluded : ndarray of shape (2, n_excluded), dtype int64
        The visits with items that must not be returned, as positions in this object in ascending
        order, and the place of each such item within the group. A pair may occur more than once.
    """

    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    excluded: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        offsets: NDArray[np.int64],
        positions: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> Visits:
        """Sort the visits of a search.

        Parameters
        ----------
        rows, groups : ndarray of shape (n_visits,), dtype int64
            The row number of the query of each visit, in ascending order, and its group.
        offsets : ndarray of shape (n_groups + 1,), dtype int64
            Where the items of each group begin, and where the last ones end.
        positions : ndarray of shape (n_items,), dtype int64
            The position of each item, in ascending order within a group.
        exclude : Exclusion or None
            Pairs of a query and the position of an item that must not be returned.

        Returns
        -------
        Visits
            All visits.
        """
        starts = offsets[groups]
        sizes = offsets[groups + 1] - starts
        excluded = np.zeros((2, 0), np.int64)
        if exclude is not None and exclude.rows.size:
            excluded = _excluded(rows, starts, sizes, positions, exclude)
        order = np.lexsort((groups, sizes))
        everything = cls(np.arange(len(rows)), rows, groups, starts, sizes, excluded)
        return everything.take(order)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: NDArray[np.int64] | slice) -> Visits:
        """Return some of the visits.

        Parameters
        ----------
        which : ndarray, dtype int64, or slice
            Their positions, in the order in which to return them.

        Returns
        -------
        Visits
            These visits.
        """
        excluded = self.excluded
        if excluded.size:
            places = np.full(len(self), -1)
            places[which] = np.arange(len(self.rows[which]))
            visits = places[excluded[0]]
            order = np.argsort(visits, kind="stable")
            order = order[visits[order] >= 0]
            excluded = np.stack([visits[order], excluded[1, order]])
        return Visits(
            self.numbers[which],
            self.rows[which],
            self.groups[which],
            self.starts[which],
            self.sizes[which],
            excluded,
        )

    def exclusion(self) -> Exclusion | None:
        """Return the pairs of these visits and the places of items that must not be returned."""
        if not self.excluded.size:
            return None
        order = np.argsort(self.excluded[1], kind="stable")
        return Exclusion(*self.excluded[:, order])

    def runs(self) -> NDArray[np.int64]:
        """Return where the visits of each group begin, and where the last ones end.

        Returns
        -------
        ndarray of shape (n_runs + 1,), dtype int64
            Positions in this object.
        """
        changes = np.flatnonzero(np.diff(self.groups)) + 1
        return np.concatenate([[0], changes, [len(self)]]) if len(self) else np.zeros(1, np.int64)


def _excluded(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    positions: NDArray[np.int64],
    exclude: Exclusion,
) -> NDArray[np.int64]:
    """Return the visits with excluded items, and the place of each such item within its group."""
    # Each excluded pair with each visit of its query.
    first, last = (np.searchsorted(rows, exclude.rows, side) for side in ("left", "right"))
    visits = ranges(first, last - first)
    wanted = np.repeat(exclude.positions, last - first)
    places = lower_bounds(positions, starts[visits], sizes[visits], wanted)
    inside = places < sizes[visits]
    visits, places, wanted = visits[inside], places[inside], wanted[inside]
    there = positions[starts[visits] + places] == wanted
    return np.stack([visits[there], places[there]])


def lower_bounds(
    values: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    wanted: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return how many values of some ranges are below a number.

    Parameters
    ----------
    values : ndarray of shape (n_values,), dtype int64
        The values, in ascending order within each range.
    starts, sizes : ndarray of shape (n_ranges,), dtype int64
        Where each range begins, and the number of its values.
    wanted : ndarray of shape (n_ranges,), dtype int64
        A number for each range.

    Returns
    -------
    ndarray of shape (n_ranges,), dtype int64
        The numbers of smaller values.
    """
    below = np.zeros(len(wanted), np.int64)
    # Halving all ranges at a time: after each step, the answer is in below:below + step.
    step = 1 << int(sizes.max(initial=0)).bit_length()
    while step > 1:
        step //= 2
        tried = below + step
        inside = np.flatnonzero(tried <= sizes)
        less = inside[values[starts[inside] + tried[inside] - 1] < wanted[inside]]
        below[less] = tried[less]
    return below
