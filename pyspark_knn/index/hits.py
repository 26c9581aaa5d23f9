"""The items within a distance of each query, as they are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.found import Found
from pyspark_knn.index.selection import exclusion_of, nearest_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.found import Exclusion

_FIRST_K = 16
"""The k of the first search in `find_by_kneighbors`."""

_TABLE_NUMBERS = 1 << 20
"""Neighbors that one search of `find_by_kneighbors` may return, with their padding."""


class TooManyHits(Exception):
    """Several queries have more hits together than the search may return."""


class Hits:
    """The items within a distance of each query. An item may be offered once to a query.

    Parameters
    ----------
    n_queries : int
        The number of queries.
    limit : float
        The largest distance, inclusive.
    after : ndarray of shape (n_queries,), dtype int64, optional
        Only items of larger positions are hits of each query. Default: all items.
    most : int, optional
        The largest number of hits of several queries. Default: unlimited.

    Attributes
    ----------
    limit : float
        The largest distance, inclusive.
    """

    def __init__(
        self,
        n_queries: int,
        limit: float,
        after: NDArray[np.int64] | None = None,
        most: int | None = None,
    ) -> None:
        self.limit = limit
        self._n_queries = n_queries
        self._after = after
        self._most = most if n_queries > 1 else None
        self._count = 0
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []

    def first(self, rows: NDArray[np.int64]) -> int:
        """Return the smallest position that a hit of some of the queries can have."""
        return 0 if self._after is None or not rows.size else int(self._after[rows].min()) + 1

    def firsts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the smallest position that a hit of each of some queries can have."""
        return np.zeros(len(rows), np.int64) if self._after is None else self._after[rows] + 1

    def later(
        self, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return those pairs of a query and an item that `after` does not rule out."""
        if self._after is None:
            return rows, positions
        kept = positions > self._after[rows]
        return (rows, positions) if kept.all() else (rows[kept], positions[kept])

    def expect(self, more: int) -> None:
        """Raise `TooManyHits` if there are too many hits with `more` that are not offered yet."""
        if self._most is not None and self._count + more > self._most:
            raise TooManyHits

    def offer(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Keep the items within the distance.

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query, and the position of the item, in any order.
        distances : ndarray of shape (n_pairs,), dtype float64
            The distance of each pair, as `Metric.distances` computes it.

        Raises
        ------
        TooManyHits
            If several queries have more than `most` hits.
        """
        near = distances <= self.limit
        if self._after is not None:
            near &= positions > self._after[rows]
        if not near.all():
            rows, positions, distances = rows[near], positions[near], distances[near]
        if rows.size:
            self.expect(rows.size)
            self._count += rows.size
            self._parts.append((rows, positions, distances))

    def found(self) -> Found:
        """Return the hits of all queries, ordered by distance, then by position."""
        offsets = np.zeros(self._n_queries + 1, np.int64)
        if not self._parts:
            return Found(offsets, np.zeros(0), np.zeros(0, np.int64))
        rows, positions, distances = map(np.concatenate, zip(*self._parts, strict=True))
        order = nearest_first(rows, positions, distances)
        np.bincount(rows, minlength=self._n_queries).cumsum(out=offsets[1:])
        return Found(offsets, distances[order], positions[order])


class HitCandidates:
    """The pairs of a batch of queries with items that scores do not rule out as hits.

    A pair whose ceiling reaches the least score of a hit is a candidate. If its floor reaches that
    score too, it is a hit, up to rounding. The others are in doubt: a query with too many of them
    is crowded, and is searched again by products with smaller errors.

    Parameters
    ----------
    hits : Hits
        The hits of all queries.
    sure : ndarray of shape (n_queries,), dtype float64
        The smallest ``ceiling - width`` of a pair that is not in doubt, for each query of a batch.

    Attributes
    ----------
    crowded : ndarray of shape (n_queries,), dtype bool
        Whether the search of a query was abandoned.
    count : int
        The number of candidates that were added and not taken yet.
    """

    def __init__(self, hits: Hits, sure: NDArray[np.float64]) -> None:
        self.crowded = np.zeros(len(sure), bool)
        self._hits = hits
        self._sure = sure
        self._in_doubt = np.zeros(len(sure), np.int64)
        self._n_sure = 0
        self.count = 0
        self._pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def add(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        floors: NDArray[np.floating],
        room: int | None,
    ) -> bool:
        """Add candidates.

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query in the batch, and the position of the item.
        floors : ndarray of shape (n_pairs,), dtype float32 or float64
            The ``ceiling - width`` of each pair.
        room : int or None
            The number of pairs of a query that may be in doubt; None: any number.

        Returns
        -------
        bool
            Whether more queries are crowded than before.

        Raises
        ------
        TooManyHits
            If several queries have too many hits.
        """
        sure = floors >= self._sure[rows]
        self._n_sure += int(np.count_nonzero(sure))
        self._hits.expect(self._n_sure)
        self._pairs.append((rows, positions))
        self.count += len(rows)
        if room is None or sure.all():
            return False
        self._in_doubt += np.bincount(rows[~sure], minlength=len(self._in_doubt))
        before = np.count_nonzero(self.crowded)
        self.crowded |= self._in_doubt > room
        return bool(np.count_nonzero(self.crowded) > before)

    def taken(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Remove and return the candidates, without those of crowded queries.

        Returns
        -------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query in the batch, and the position of the item.
        """
        if not self._pairs:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        rows, positions = map(np.concatenate, zip(*self._pairs, strict=True))
        self._pairs, self.count, self._n_sure = [], 0, 0
        if self.crowded.any():
            kept = ~self.crowded[rows]
            rows, positions = rows[kept], positions[kept]
        return rows, positions


def find_by_kneighbors(
    index: NeighborIndex, queries: Any, exclude: Exclusion | None, hits: Hits
) -> None:
    """Find all hits of queries by searches for more and more neighbors.

    Parameters
    ----------
    index : NeighborIndex
        An index.
    queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
        The queries.
    exclude : Exclusion or None
        Pairs that are no hits.
    hits : Hits
        The hits, to which those of all queries are added.
    """
    n_items = len(index.matrix)
    rows, k = np.arange(len(queries)), min(_FIRST_K, n_items)
    while rows.size:
        step = max(1, _TABLE_NUMBERS // k)
        parts = [
            _offer_finished(index, queries, rows[start : start + step], k, exclude, hits)
            for start in range(0, len(rows), step)
        ]
        rows, k = np.concatenate(parts), min(4 * k, n_items)


def _offer_finished(
    index: NeighborIndex,
    queries: Any,
    rows: NDArray[np.int64],
    k: int,
    exclude: Exclusion | None,
    hits: Hits,
) -> NDArray[np.int64]:
    """Search for k neighbors, offer them, and return the rows that may have more than k."""
    found = index.kneighbors(
        queries[rows], k, max_distance=hits.limit, exclude=exclusion_of(exclude, rows)
    )
    there = found.positions >= 0
    more = there[:, -1] & (k < len(index.matrix))
    there &= ~more[:, None]
    at, _ = np.nonzero(there)
    hits.offer(rows[at], found.positions[there], found.distances[there])
    return rows[more]
