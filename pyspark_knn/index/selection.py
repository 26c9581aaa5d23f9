"""The k nearest items so far of each query, and the parts of an `Exclusion`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion, Neighbors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    BlockFunction = Callable[[NDArray[np.floating], int, float | None, Exclusion | None], Neighbors]

_NOBODY = np.iinfo(np.int64).max
"""The position where there is no neighbor yet. It sorts after every item, even those at distance
inf, since positions break ties."""


class NearestSoFar:
    """The k nearest of the items offered so far, by distance, then by position.

    Parameters
    ----------
    n_queries : int
        The number of queries.
    k : int
        The number of neighbors of a query.
    max_distance : float or ndarray of shape (n_queries,), optional
        The largest distance of a neighbor, inclusive, for all queries or for each of them. Items
        farther than this are ignored.
    """

    def __init__(
        self, n_queries: int, k: int, max_distance: float | NDArray[np.float64] | None = None
    ) -> None:
        self.distances: NDArray[np.float64] = np.full((n_queries, k), np.inf)
        self.positions: NDArray[np.int64] = np.full((n_queries, k), _NOBODY)
        bound = np.inf if max_distance is None else max_distance
        self._bounds: NDArray[np.float64] = np.broadcast_to(np.float64(bound), n_queries)

    def limits(self) -> NDArray[np.float64]:
        """Return the largest distance at which an item can still be a neighbor of each query.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The limits, inclusive.
        """
        return np.minimum(self.distances[:, -1], self._bounds)

    def offer(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Keep the items that are near enough. An item may be offered once to a query.

        Parameters
        ----------
        rows : ndarray of shape (n_pairs,), dtype int64
            The row number of the query of each pair, in any order.
        positions : ndarray of shape (n_pairs,), dtype int64
            The position of the item of each pair.
        distances : ndarray of shape (n_pairs,), dtype float64
            The distance of each pair, as `Metric.distances` computes it; NaN, for a pair without a
            distance, is near to nothing.
        """
        near = distances <= self.limits()[rows]
        if not near.all():
            rows, positions, distances = rows[near], positions[near], distances[near]
        if rows.size == 0:
            return
        order = nearest_first(rows, positions, distances)
        rows, positions, distances = rows[order], positions[order], distances[order]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        touched, counts = rows[first], np.diff(first, append=len(rows))
        place = np.arange(len(rows)) - np.repeat(first, counts)
        k = self.distances.shape[1]
        kept = place < k
        at = np.repeat(np.arange(len(touched)), counts)[kept], place[kept]
        new = np.full((len(touched), k), np.inf), np.full((len(touched), k), _NOBODY)
        new[0][at], new[1][at] = distances[kept], positions[kept]
        if (self.positions[touched, 0] != _NOBODY).any():
            new = _merged((self.distances[touched], self.positions[touched]), new)
        self.distances[touched], self.positions[touched] = new

    def start(
        self,
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
        positions: NDArray[np.int64],
    ) -> None:
        """Keep the nearest of the first items of some queries, as many for each, about in order.

        This takes a fraction of the time of `offer`, since few rows need to be sorted.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
            Row numbers of the queries, each of them once. They have no neighbors yet.
        distances : ndarray of shape (n_rows, n_items), dtype float64
            The distance of each item. Overwritten.
        positions : ndarray of shape (n_rows, n_items), dtype int64
            The position of each item. Overwritten.
        """
        flat, many = distances.ravel(), distances.shape[1]
        # Not row by row: numpy takes several times as long to reduce short rows.
        descents = np.flatnonzero(flat[1:] <= flat[:-1])
        descents = np.unique(descents[(descents + 1) % many != 0] // many)
        if descents.size:
            parts = distances[descents], positions[descents]
            order = np.lexsort((parts[1], parts[0]), axis=1)
            distances[descents], positions[descents] = (
                np.take_along_axis(part, order, 1) for part in parts
            )
        bounds = self._bounds[rows]
        if (bounds < np.inf).any():
            beyond = ~(distances <= bounds[:, None])
            distances[beyond], positions[beyond] = np.inf, _NOBODY
        width = min(self.distances.shape[1], distances.shape[1])
        self.distances[rows, :width] = distances[:, :width]
        self.positions[rows, :width] = positions[:, :width]

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Forget the neighbors of some queries, so that items may be offered to them again.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
            Row numbers of the queries.
        """
        self.distances[rows] = np.inf
        self.positions[rows] = _NOBODY

    def replace(self, rows: NDArray[np.int64], found: Neighbors) -> None:
        """Set the neighbors of some queries.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
            Row numbers of the queries.
        found : Neighbors
            Their neighbors.
        """
        self.distances[rows] = found.distances
        self.positions[rows] = np.where(found.positions < 0, _NOBODY, found.positions)

    def neighbors(self) -> Neighbors:
        """Return the neighbors; they share the arrays of this object, so it cannot be used again.

        Returns
        -------
        Neighbors
            The neighbors of all queries.
        """
        nobody = self.positions == _NOBODY
        self.positions[nobody] = -1
        return Neighbors(self.distances, self.positions)


_Table = tuple["NDArray[np.float64]", "NDArray[np.int64]"]


def _merged(one: _Table, other: _Table) -> _Table:
    """Return the k nearest of two tables of distances and positions, row by row."""
    k = one[0].shape[1]
    distances = np.concatenate([one[0], other[0]], axis=1)
    positions = np.concatenate([one[1], other[1]], axis=1)
    order = np.lexsort((positions, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(positions, order, 1)


def nearest_first(
    rows: NDArray[np.int64], positions: NDArray[np.int64], distances: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the order that sorts pairs by row, then distance, then position.

    Parameters
    ----------
    rows, positions : ndarray of shape (n_pairs,), dtype int64
        The row number of the query, and the position of the item.
    distances : ndarray of shape (n_pairs,), dtype float64
        The distance of each pair.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype int64
        The order, as `numpy.argsort` returns it.
    """
    order = np.argsort(distances)
    order = order[by_row(rows[order])]
    row, distance = rows[order], distances[order]
    tied = (row[1:] == row[:-1]) & (distance[1:] == distance[:-1])
    if tied.any():
        # By one number for each pair: to sort by all three takes several times as long.
        run = np.zeros(len(order), np.int64)
        np.cumsum(~tied, out=run[1:])
        order = order[np.argsort(run * (int(positions.max()) + 1) + positions[order])]
    return order


def by_row(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the order that sorts entries by row; the entries of a row stay in their order.

    Parameters
    ----------
    rows : ndarray of shape (n_entries,), integer
        The row of each entry.

    Returns
    -------
    ndarray of shape (n_entries,), dtype int64
        The order, as `numpy.argsort` returns it.
    """
    # numpy sorts integers of 16 bits in linear time.
    if rows.dtype != np.uint16 and rows.size:
        lowest = rows.min()
        if rows.max() - lowest < 1 << 16:
            rows = (rows - lowest).astype(np.uint16)
    return np.argsort(rows, kind="stable")


def exclusion_of(exclude: Exclusion | None, rows: NDArray[np.int64]) -> Exclusion | None:
    """Return the part of an exclusion that concerns some queries, renumbered in their order.

    Parameters
    ----------
    exclude : Exclusion or None
        The exclusion of all queries.
    rows : ndarray of shape (n_rows,), dtype int64
        Row numbers of the queries, in ascending order.

    Returns
    -------
    Exclusion or None
        None if `exclude` is None.
    """
    if exclude is None:
        return None
    if rows.size and rows[-1] - rows[0] == rows.size - 1:
        return exclusion_of_rows(exclude, int(rows[0]), int(rows[-1]) + 1)
    inside = np.isin(exclude.rows, rows)
    return Exclusion(np.searchsorted(rows, exclude.rows[inside]), exclude.positions[inside])


def search_in_blocks(
    search: BlockFunction,
    queries: NDArray[np.floating],
    k: int,
    max_distance: float | None,
    exclude: Exclusion | None,
    step: int,
) -> Neighbors:
    """Search the queries block by block.

    Parameters
    ----------
    search : callable
        Searches a block. It is called with the queries of the block, k, the largest distance and
        the exclusion of the block.
    queries, k, max_distance, exclude
        See `NeighborIndex.kneighbors`.
    step : int
        The number of queries in a block, at least 1.

    Returns
    -------
    Neighbors
        The neighbors of all queries, in their order.
    """
    found = [
        search(
            queries[start : start + step],
            k,
            max_distance,
            exclusion_of_rows(exclude, start, start + step),
        )
        for start in range(0, max(1, len(queries)), step)
    ]
    if len(found) == 1:
        return found[0]
    return Neighbors(*(np.concatenate(part) for part in zip(*found, strict=True)))


def exclusion_of_rows(exclude: Exclusion | None, start: int, stop: int) -> Exclusion | None:
    """Return the part of an exclusion that concerns a range of queries, renumbered from 0.

    Parameters
    ----------
    exclude : Exclusion or None
        The exclusion of all queries.
    start, stop : int
        The range of row numbers; `stop` is not part of it.

    Returns
    -------
    Exclusion or None
        None if `exclude` is None.
    """
    if exclude is None:
        return None
    inside = (exclude.rows >= start) & (exclude.rows < stop)
    return Exclusion(exclude.rows[inside] - start, exclude.positions[inside])


def is_excluded(
    exclude: Exclusion | None,
    n_items: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Return which pairs are in an exclusion.

    Parameters
    ----------
    exclude : Exclusion or None
        The exclusion.
    n_items : int
        The number of items.
    rows, positions : ndarray of shape (n_pairs,), dtype int64
        The row number of the query, and the position of the item of each pair.

    Returns
    -------
    ndarray of shape (n_pairs,), dtype bool
        True for the pairs that must not be returned.
    """
    if exclude is None or not exclude.rows.size:
        return np.zeros(len(rows), bool)
    return np.isin(rows * n_items + positions, exclude.rows * n_items + exclude.positions)


def exclusion_of_items(exclude: Exclusion, start: int, stop: int) -> Exclusion:
    """Return the part of an exclusion that concerns a range of items, renumbered from 0.

    Parameters
    ----------
    exclude : Exclusion
        The exclusion of all items.
    start, stop : int
        The range of positions; `stop` is not part of it.

    Returns
    -------
    Exclusion
        The pairs whose item is in the range.
    """
    first, last = np.searchsorted(exclude.positions, [start, stop])
    return Exclusion(exclude.rows[first:last], exclude.positions[first:last] - start)
