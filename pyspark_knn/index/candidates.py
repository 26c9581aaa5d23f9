"""The items that may still be among the k nearest, by scores that are known within bounds.

See `pyspark_knn.index.score_space` for ceilings, widths and slack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Closer = Callable[[NDArray[np.integer], NDArray[np.int64]], NDArray[np.bool_]]


_SPARE_CANDIDATES = 64
"""Candidates that a query may always keep beyond 2 k, regardless of their cost."""

_PRODUCTS_PER_RANK = 128
"""Items whose float64 products take as long as ranking one candidate. A query may keep one more
candidate for each such number of items seen so far."""

_BATCH_CANDIDATES = 1 << 20
"""The largest number of candidates of a batch beyond 2 k for each query."""

_ALL = slice(None)


def room_for(n_items: int, n_queries: int) -> int:
    """Return how many candidates beyond 2 k each query of a batch may keep.

    Parameters
    ----------
    n_items : int
        The number of items that the queries were compared with.
    n_queries : int
        The number of queries.

    Returns
    -------
    int
        The number of candidates.
    """
    room = _SPARE_CANDIDATES + n_items // _PRODUCTS_PER_RANK
    return min(room, _BATCH_CANDIDATES // n_queries)


class Candidates:
    """The candidates of each query: the items that cannot be ruled out yet.

    Let f be the k-th largest ``ceiling - width`` of the items that a query was compared with. Then
    k of them have a score of at least f less the slack. An item whose ceiling plus slack is below
    that is not one of the k nearest.

    Parameters
    ----------
    k : int
        The number of neighbors of a query.
    least : ndarray of shape (n_queries,), dtype float64
        The smallest score that a neighbor of each query can have, as known beforehand; may be -inf.
        Overwritten.
    slack : ndarray of shape (n_queries,), dtype float64
        The slack of each query.
    closer : callable, optional
        Returns which of the candidates so far may be among the k nearest, given the row numbers of
        their queries and their positions. It is asked before a query counts as crowded. Default:
        all of them may be.

    Attributes
    ----------
    least : ndarray of shape (n_queries,), dtype float64
        The smallest score that a neighbor of each query can have, as known so far.
    crowded : ndarray of shape (n_queries,), dtype bool
        Whether the search of a query was abandoned, since too many items cannot be ruled out.
    """

    def __init__(
        self,
        k: int,
        least: NDArray[np.float64],
        slack: NDArray[np.float64],
        closer: Closer | None = None,
    ) -> None:
        self.least = least
        self.crowded = np.zeros(len(least), bool)
        self._k = k
        self._slack = slack
        self._closer = closer
        self._room = 0
        # The pairs that `settle` kept, and those that were added since.
        self._pairs: list[_Pairs] = []
        self._n_waiting = 0

    def thresholds(self, queries: slice = _ALL) -> NDArray[np.float64]:
        """Return the smallest ceiling of a candidate of each query; inf for crowded queries.

        Parameters
        ----------
        queries : slice, optional
            Which queries. Default: all.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The thresholds.
        """
        return np.where(self.crowded[queries], np.inf, (self.least - self._slack)[queries])

    def raise_least(self, floors: NDArray[np.float64], queries: slice = _ALL) -> None:
        """Raise `least`, given that k items have at least these floors.

        Parameters
        ----------
        floors : ndarray of shape (n_queries,), dtype float64
            The k-th largest ``ceiling - width`` of each query.
        queries : slice, optional
            Which queries. Default: all.
        """
        least = self.least[queries]
        np.maximum(least, floors - self._slack[queries], out=least)

    def add(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        ceilings: NDArray[np.floating],
        widths: NDArray[np.float64],
        room: int,
    ) -> bool:
        """Add pairs whose ceilings reach the thresholds.

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query, and the position of the item. No pair occurs twice.
        ceilings : ndarray of shape (n_pairs,), dtype float32 or float64
            The ceiling of each pair.
        widths : ndarray of shape (n_pairs,), dtype float64
            The width of each pair.
        room : int
            The number of candidates, beyond 2 k, that a query may keep. A query that would need to
            keep more is crowded, and its search is abandoned.

        Returns
        -------
        bool
            Whether the thresholds have changed.
        """
        self._room = 2 * self._k + room
        if rows.size == 0:
            return False
        floors = ceilings - widths.astype(ceilings.dtype)
        # numpy sorts integers of 16 bits in linear time.
        short_rows = rows.astype(np.uint16) if len(self.least) <= 1 << 16 else rows
        self._pairs.append(_Pairs(short_rows, positions, ceilings, floors))
        self._n_waiting += rows.size
        # Settling takes longer than it saves until there are more new pairs than neighbors.
        if self._n_waiting <= 2 * self._k * len(self.least):
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Raise the thresholds by the pairs that were added, and drop the pairs below them."""
        if self._n_waiting == 0:
            return
        pairs = _Pairs.joined(self._pairs)
        self._n_waiting = 0
        counts = np.bincount(pairs.rows, minlength=len(self.least))
        # Not before: a query of many new pairs may have few that reach the new threshold.
        self.raise_least(kth_largest(pairs.rows, pairs.floors, counts, self._k))
        pairs = pairs.take(pairs.ceilings >= (self.least - self._slack)[pairs.rows])
        if self._closer is not None:
            closer = self._closer(pairs.rows, pairs.positions)
            pairs = pairs if closer.all() else pairs.take(closer)
        crowded = np.bincount(pairs.rows, minlength=len(self.least)) > self._room
        if crowded.any():
            self.crowded |= crowded
            pairs = pairs.take(~crowded[pairs.rows])
        self._pairs = [pairs]

    @property
    def mostly_crowded(self) -> bool:
        """Whether most of the queries are crowded; products are computed for all of them anyway."""
        return 2 * int(np.count_nonzero(self.crowded)) > len(self.crowded)

    def abandon(self) -> None:
        """Abandon the search of all queries."""
        self.crowded[:] = True
        self._pairs, self._n_waiting = [], 0

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the remaining candidates, without those of crowded queries.

        Returns
        -------
        rows : ndarray of shape (n_pairs,), dtype int64
            The row number of the query of each candidate.
        positions : ndarray of shape (n_pairs,), dtype int64
            The position of the item of each candidate.
        """
        self.settle()
        if not self._pairs:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return self._pairs[0].rows.astype(np.int64), self._pairs[0].positions


def filter_batches(
    rows: NDArray[np.int64],
    least: NDArray[np.float64],
    batches: Iterable[slice | NDArray[np.int64]],
    search: Callable[
        [NDArray[np.int64], NDArray[np.float64]], tuple[NDArray[np.bool_], NDArray[np.float64]]
    ],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Search queries batch by batch, until most queries of a batch are crowded.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,), dtype int64
        Row numbers of queries.
    least : ndarray of shape (n_rows,), dtype float64
        The smallest score that a neighbor of each query can have, as far as is known. Overwritten.
    batches : iterable of slice or ndarray
        Which of `rows` belong to each batch.
    search : callable
        Searches a batch, given its part of `rows` and of `least`; returns which of its queries are
        crowded, and their smallest scores.

    Returns
    -------
    rows : ndarray of shape (n_left,), dtype int64
        Row numbers of the queries that have too many candidates, and are not finished.
    least : ndarray of shape (n_left,), dtype float64
        Their smallest scores, as far as is known now.
    """
    worthwhile = True
    crowded = np.ones(len(rows), bool)
    for batch in batches:
        if worthwhile:
            found, least[batch] = search(rows[batch], least[batch])
            crowded[batch] = found
            worthwhile = 2 * int(found.sum()) <= len(found)
    return rows[crowded], least[crowded]


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


def kth_largest(
    rows: NDArray[np.integer],
    values: NDArray[np.floating],
    counts: NDArray[np.int64],
    k: int,
) -> NDArray[np.float64]:
    """Return the k-th largest value of each row.

    Parameters
    ----------
    rows : ndarray of shape (n_values,), integer
        The row number of each value, in any order.
    values : ndarray of shape (n_values,), dtype float32 or float64
        The values.
    counts : ndarray of shape (n_rows,), dtype int64
        The number of values of each row.
    k : int
        Which of them to return.

    Returns
    -------
    ndarray of shape (n_rows,), dtype float64
        The values; -inf for a row that has fewer than k.
    """
    kth = np.full(len(counts), -np.inf)
    values = values[by_row(rows)]
    starts = np.cumsum(counts) - counts
    full = np.flatnonzero(counts >= k)
    # A few queries may have most of the pairs, so only rows of similar lengths share a table.
    lengths = np.frexp(counts[full])[1]
    for length in np.unique(lengths):
        some = full[lengths == length]
        longest = int(counts[some].max())
        columns = np.arange(longest)
        table = values.take(starts[some, None] + columns, mode="clip")
        table[columns >= counts[some, None]] = -np.inf
        table.partition(longest - k, axis=1)
        kth[some] = table[:, longest - k]
    return kth
