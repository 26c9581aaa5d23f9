"""The search of an approximate index: candidates of its library, ranked by their distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.selection import NearestSoFar, exclusion_of, is_excluded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.approximate.base import ApproximateIndex

_BATCH_CANDIDATES = 1 << 18
"""Candidates of a batch of queries. Each takes about 64 bytes, with its distances."""

_BATCH_FLOATS = 1 << 22
"""Numbers in the coordinates of a batch of queries."""

_EXACT_SHARE = 4
"""If a query needs more than the number of items divided by this as candidates, it is searched
exactly, which takes no longer."""

_RETRIES = 2
_TIMES = 4
"""How often the search is repeated for queries that lack candidates, and how many times as thorough
it is each time."""

_NOBODY = np.iinfo(np.int64).max


class Certain(NamedTuple):
    """Candidates that contain the nearest items for certain.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,), dtype int64
        Row numbers of queries.
    positions : ndarray of shape (n_rows, n_candidates), dtype int64
        Positions of items, each at most once in a row; -1 where there are no more.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]


class CandidateSearch:
    """One call of `ApproximateIndex.kneighbors`.

    Parameters
    ----------
    index : ApproximateIndex
        The index.
    queries, k, max_distance, exclude
        See `NeighborIndex.kneighbors`.
    """

    def __init__(
        self,
        index: ApproximateIndex,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> None:
        self._index = index
        self._queries = queries
        self._k = k
        self._max_distance = max_distance
        self._exclude = exclude
        self._n_items = len(index.matrix)
        self._n_excluded = np.zeros(len(queries), np.int64)
        if exclude is not None:
            pairs = np.unique(exclude.rows * self._n_items + exclude.positions)
            self._n_excluded += np.bincount(pairs // self._n_items, minlength=len(queries))
        self._best = NearestSoFar(len(queries), k, max_distance)

    def run(self) -> Neighbors:
        """Search all queries.

        Returns
        -------
        Neighbors
            Their neighbors.
        """
        # Excluded items are among the candidates. Their number is rounded up to a power of 2, so
        # that queries that need about equally many candidates are searched together.
        more = np.where(self._n_excluded, 2 ** np.ceil(np.log2(self._n_excluded + 1)), 0)
        wanted = self._k + self._index.spare(self._k) + more.astype(np.int64)
        exact = wanted * _EXACT_SHARE > self._n_items
        rest = [np.flatnonzero(exact)]
        for many in np.unique(wanted[~exact]):
            rows = np.flatnonzero(~exact & (wanted == many))
            step = min(_BATCH_CANDIDATES // many, _BATCH_FLOATS // self._index.space.n_coordinates)
            step = max(1, int(step))
            for start in range(0, len(rows), step):
                rest.append(self._search(rows[start : start + step], int(many)))
        self._search_exactly(np.sort(np.concatenate(rest)))
        return self._best.neighbors()

    def _search(self, rows: NDArray[np.int64], many: int) -> NDArray[np.int64]:
        """Search a batch of queries; return those that must be searched exactly."""
        queries = self._queries[rows]
        coordinates = self._index.space.queries(queries)
        served = self._index.space.serves(coordinates)
        rest = rows[~served]
        if rest.size:
            rows, coordinates = rows[served], coordinates[served]
        left = self._left_open(rows, coordinates, many)
        rows, coordinates = rows[left], coordinates[left]
        knob = self._index.knob
        for _ in range(_RETRIES + 1):
            if not rows.size:
                break
            enough = self._rank(rows, self._index.candidates(coordinates, many, knob))
            rows, coordinates = rows[~enough], coordinates[~enough]
            knob *= _TIMES
        return np.concatenate([rest, rows])

    def _left_open(
        self, rows: NDArray[np.int64], coordinates: NDArray[np.float32], many: int
    ) -> NDArray[np.bool_]:
        """Search queries whose candidates are certain, without spare ones; return the others."""
        left = np.ones(len(rows), bool)
        if not rows.size or not np.array_equal(coordinates, self._queries[rows]):
            return left
        spare = self._index.spare(self._k)
        wanted = many - spare
        for found in self._index.certain(coordinates, wanted, spare, self._index.knob):
            self._rank(rows[found.rows], found.positions)
            left[found.rows] = False
        return left

    def _rank(self, rows: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Keep the nearest of the candidates; return which queries have enough of them."""
        near, positions = np.repeat(rows, found.shape[1]), found.ravel()
        missing = positions < 0
        if self._exclude is not None:
            exclude = exclusion_of(self._exclude, rows)
            local = np.repeat(np.arange(len(rows)), found.shape[1])
            missing |= is_excluded(exclude, self._n_items, local, positions)
        if not missing.any():
            distances = self._index.metric.distances(
                self._queries, self._index.matrix, near, positions
            )
            self._best.start(rows, distances.reshape(found.shape), found)
            return np.ones(len(rows), bool)
        there = ~missing
        distances = np.full(positions.shape, np.inf)
        distances[there] = self._index.metric.distances(
            self._queries, self._index.matrix, near[there], positions[there]
        )
        positions[missing] = _NOBODY
        self._best.start(rows, distances.reshape(found.shape), positions.reshape(found.shape))
        n_found = there.reshape(found.shape).sum(axis=1)
        enough: NDArray[np.bool_] = n_found >= np.minimum(
            self._k, self._n_items - self._n_excluded[rows]
        )
        return enough

    def _search_exactly(self, rows: NDArray[np.int64]) -> None:
        if rows.size:
            found = self._index.exact_index.kneighbors(
                self._queries[rows],
                self._k,
                max_distance=self._max_distance,
                exclude=exclusion_of(self._exclude, rows),
            )
            self._best.replace(rows, found)
