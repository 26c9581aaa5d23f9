"""The k nearest so far of each query: where the figures of pairs become `Neighbors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.base import Exclusion, Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The position of a place that is not taken. It stands behind every item, also behind those at
# distance inf, since positions break ties.
_NOBODY = np.iinfo(np.int64).max


class NearestSoFar:
    """The k nearest of the items that were offered, by (distance, position).

    Parameters
    ----------
    n_queries, k : int
    max_distance : float, optional
        Farther items are not taken; inclusive.
    """

    def __init__(self, n_queries: int, k: int, max_distance: float | None = None) -> None:
        self.distances: NDArray[np.float64] = np.full((n_queries, k), np.inf)
        self.positions: NDArray[np.int64] = np.full((n_queries, k), _NOBODY)
        self._bound = np.inf if max_distance is None else max_distance

    def limits(self) -> NDArray[np.float64]:
        """The largest distance that can still be taken, for each query; inclusive."""
        return np.minimum(self.distances[:, -1], self._bound)

    def offer(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> None:
        """Take what is near enough. No item may be offered twice to a query.

        Parameters
        ----------
        rows, positions : ndarrays of shape (n_pairs,), dtype int64
            Which query and which item, in any order.
        distances : ndarray of shape (n_pairs,), dtype float64
            Final figures.
        """
        near = distances <= self.limits()[rows]
        if not near.all():
            rows, positions, distances = rows[near], positions[near], distances[near]
        if rows.size == 0:
            return
        k = self.distances.shape[1]
        touched, local = np.unique(rows, return_inverse=True)
        rows = np.concatenate([np.repeat(np.arange(len(touched)), k), local])
        distances = np.concatenate([self.distances[touched].ravel(), distances])
        positions = np.concatenate([self.positions[touched].ravel(), positions])
        order = np.lexsort((positions, distances, rows))
        starts = np.searchsorted(rows[order], np.arange(len(touched)))
        best = order[starts[:, None] + np.arange(k)]
        self.distances[touched] = distances[best]
        self.positions[touched] = positions[best]

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Let some queries begin anew, so that their items may be offered again."""
        self.distances[rows] = np.inf
        self.positions[rows] = _NOBODY

    def replace(self, rows: NDArray[np.int64], found: Neighbors) -> None:
        """Set the answers of some queries."""
        self.distances[rows] = found.distances
        self.positions[rows] = np.where(found.positions < 0, _NOBODY, found.positions)

    def neighbors(self) -> Neighbors:
        """Hand out the answer; the object is spent."""
        nobody = self.positions == _NOBODY
        self.positions[nobody] = -1
        return Neighbors(self.distances, self.positions)


def exclusion_of_rows(exclude: Exclusion | None, start: int, stop: int) -> Exclusion | None:
    """The part of `exclude` for the queries from `start` to `stop`, renumbered from 0."""
    if exclude is None:
        return None
    inside = (exclude.rows >= start) & (exclude.rows < stop)
    return Exclusion(exclude.rows[inside] - start, exclude.positions[inside])


def exclusion_of_items(exclude: Exclusion, start: int, stop: int) -> Exclusion:
    """The part of `exclude` for the items from `start` to `stop`, renumbered from 0."""
    first, last = np.searchsorted(exclude.positions, [start, stop])
    return Exclusion(exclude.rows[first:last], exclude.positions[first:last] - start)
