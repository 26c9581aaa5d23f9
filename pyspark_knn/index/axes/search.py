"""The search by extended prefixes: most pairs are compared by a few numbers, few by all."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.axes.nearest import largest_first
from pyspark_knn.index.candidates import Candidates, room_for
from pyspark_knn.index.differences import LARGEST_LIMIT, Differences, most_differences
from pyspark_knn.index.selection import is_excluded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.axes.prefixes import Prefixes, Survivors
    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.score_space import ScoreSpace

    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

_SPARE_AT_HOME = 6
"""Items of a query's own cells beyond k whose distances give the first limit."""

_MOST_WITHIN = 1 << 23
"""Pairs of a batch of queries that may be within their distances. They take 128 MiB."""


class AxesSearch:
    """A search of the nearest items by extended prefixes.

    Parameters
    ----------
    prefixes : Prefixes
        The prefixes of the items.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        Their score space.
    k : int
        The number of neighbors of a query.
    """

    def __init__(
        self, prefixes: Prefixes, matrix: NDArray[np.floating], space: ScoreSpace, k: int
    ) -> None:
        self._prefixes = prefixes
        self._matrix = matrix
        self._space = space
        self._k = k

    @staticmethod
    def serves(prefixes: Prefixes, k: int) -> bool:
        """Whether the cells are large enough for a first limit from one of them."""
        return 4 * (k + _SPARE_AT_HOME) <= prefixes.cells.largest

    def candidates(
        self,
        rows: NDArray[np.floating],
        limits: NDArray[np.float64],
        exclude: Exclusion | None,
    ) -> tuple[Pairs, NDArray[np.bool_]]:
        """Return the items that may be among the k nearest of each query.

        Parameters
        ----------
        rows : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        limits : ndarray of shape (n_queries,), dtype float64
            The largest final figure of a neighbor; may be inf.
        exclude : Exclusion or None
            Pairs that are not candidates.

        Returns
        -------
        pairs : tuple of (ndarray, ndarray) of shape (n_pairs,), dtype int64
            The row number of the query, and the position of the item.
        crowded : ndarray of shape (n_queries,), dtype bool
            The queries that have no pairs here, since they have too many.
        """
        return _Batch(self, rows, limits, exclude).run()

    def within(
        self,
        rows: NDArray[np.floating],
        limits: NDArray[np.float64],
        exclude: Exclusion | None,
    ) -> tuple[Pairs, NDArray[np.bool_]]:
        """Return the items that may be within the limit of each query; see `candidates`."""
        return _Batch(self, rows, limits, exclude).run_within()


class _Batch:
    """One batch of queries of an `AxesSearch`."""

    def __init__(
        self,
        search: AxesSearch,
        rows: NDArray[np.floating],
        limits: NDArray[np.float64],
        exclude: Exclusion | None,
    ) -> None:
        self._k = search._k
        self._space = search._space
        self._matrix = search._matrix
        queries = self._space.queries(rows)
        self._differences = Differences(self._matrix, self._space, rows, queries)
        self._n_queries = len(rows)
        self._prefixes = search._prefixes.queries(queries.vectors)
        self._limits = self._space.distance_limits(limits, queries)
        self._exclude = exclude
        self._given_up = np.zeros(len(rows), bool)
        self._seen = np.zeros(len(rows), np.int64)
        self._most = most_differences(len(self._matrix))

    def run(self) -> tuple[Pairs, NDArray[np.bool_]]:
        """See `AxesSearch.candidates`."""
        at_home = self._nearest_at_home()
        self._limits = np.minimum(self._limits, self._limits_at_home(at_home[2]))
        slack = self._slack()
        # A score is a negative distance.
        found = Candidates(self._k, -np.where(self._given_up, 0.0, self._limits), slack)
        self._keep(found, *self._reaching(*at_home, found.thresholds()))
        settle = functools.partial(self._settle, found)
        self._collect(settle, self._prefixes.near_survivors())
        self._collect(settle, self._prefixes.far_survivors())
        rows, positions = found.pairs()
        crowded = found.crowded | self._given_up
        kept = ~crowded[rows]
        return (rows[kept], positions[kept]), crowded

    def run_within(self) -> tuple[Pairs, NDArray[np.bool_]]:
        """See `AxesSearch.within`."""
        least = -self._limits - self._slack()
        self._most = min(self._most, _MOST_WITHIN // self._n_queries)
        found: list[Pairs] = []

        def settle(waiting: list[Survivors]) -> None:
            rows, positions, _ = self._compared(*self._useful(waiting)[:2], least)
            found.append((rows, positions))
            self._prefixes.demand(np.where(self._given_up, -np.inf, self._limits))

        settle([])
        self._collect(settle, self._prefixes.near_survivors())
        self._collect(settle, self._prefixes.far_survivors())
        rows, positions = map(np.concatenate, zip(*found, strict=True))
        kept = ~self._given_up[rows]
        return (rows[kept], positions[kept]), self._given_up

    def _slack(self) -> NDArray[np.float64]:
        """Return by how much differences can be off; give up the queries of too large limits."""
        self._given_up = ~(self._limits < LARGEST_LIMIT)
        limits = np.where(self._given_up, 0.0, np.maximum(self._limits, 0.0))
        slack = self._differences.slack(limits)
        self._given_up |= ~(slack < LARGEST_LIMIT)
        return slack

    def _nearest_at_home(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return some pairs from the cell of each query, as many for each, and their distances."""
        many = self._k + _SPARE_AT_HOME
        positions = self._prefixes.nearest_at_home(many).ravel()
        rows = np.repeat(np.arange(self._n_queries), many)
        distances = self._differences.distances(rows, positions)
        distances[self._is_excluded(rows, positions)] = np.inf
        return rows, positions, distances

    def _limits_at_home(self, distances: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return a distance that k of these items do not exceed."""
        kth = distances.reshape(self._n_queries, -1).astype(np.float64)
        kth.partition(self._k - 1, axis=1)
        return self._differences.limits(kth[:, self._k - 1])

    def _collect(
        self, settle: Callable[[list[Survivors]], None], survivors: Iterator[Survivors]
    ) -> None:
        """Pass on the pairs that prefixes leave, many at a time."""
        waiting: list[Survivors] = []
        count = 0
        for pairs in survivors:
            waiting.append(pairs)
            count += len(pairs[0])
            if count > 2 * self._k * self._n_queries:
                settle(waiting)
                waiting, count = [], 0
        if waiting:
            settle(waiting)

    def _demand(self, found: Candidates) -> None:
        limits = -found.thresholds()
        limits[self._given_up] = -np.inf
        self._prefixes.demand(limits)

    def _settle(self, found: Candidates, waiting: list[Survivors]) -> None:
        """Compare the waiting pairs by differences, and lower the limits.

        The nearest pairs of each query by prefixes come first, since the limits that they give rule
        out most of the others.
        """
        rows, positions, ceilings = self._useful(waiting)
        if not rows.size:
            return
        order = largest_first(rows, ceilings)
        rows, positions, ceilings = rows[order], positions[order], ceilings[order]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        counts = np.diff(first, append=len(rows))
        early = np.arange(len(rows)) - np.repeat(first, counts) < self._k
        self._add(found, rows[early], positions[early])
        late = np.flatnonzero(~early)
        late = late[self._prefixes.matter(rows[late], ceilings[late])]
        self._add(found, rows[late], positions[late])

    def _add(
        self, found: Candidates, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> None:
        """Compare some pairs by differences, and lower the limits."""
        self._keep(found, *self._compared(rows, positions, found.thresholds()))

    def _keep(
        self,
        found: Candidates,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Keep some candidates, and lower the limits."""
        room = room_for(len(self._matrix), self._n_queries)
        if rows.size:
            found.add(rows, positions, scores, np.zeros(len(rows)), room)
            # Few new candidates lower hardly any limit.
            if 2 * len(rows) >= self._n_queries:
                found.settle()
        self._demand(found)

    def _useful(
        self, waiting: list[Survivors]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return the waiting pairs that may still be neighbors."""
        none = np.zeros(0, np.int64)
        rows = np.concatenate([none, *(pairs[0] for pairs in waiting)])
        positions = np.concatenate([none, *(pairs[1] for pairs in waiting)])
        ceilings = np.concatenate([np.zeros(0), *(pairs[2] for pairs in waiting)])
        useful = self._prefixes.matter(rows, ceilings)
        useful &= ~self._given_up[rows]
        useful &= ~self._is_excluded(rows, positions)
        return rows[useful], positions[useful], ceilings[useful]

    def _compared(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        least: NDArray[np.float64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return the pairs whose scores reach the least ones, and their scores.

        Queries with too many pairs are given up.
        """
        self._seen += np.bincount(rows, minlength=len(self._seen))
        self._given_up |= self._seen > self._most
        useful = ~self._given_up[rows]
        rows, positions = rows[useful], positions[useful]
        return self._reaching(rows, positions, self._differences.distances(rows, positions), least)

    def _reaching(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        distances: NDArray[np.float32],
        least: NDArray[np.float64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return the pairs whose scores reach the least ones, and their scores."""
        near = np.flatnonzero(-distances >= least[rows])
        return rows[near], positions[near], -distances[near]

    def _is_excluded(
        self, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        return is_excluded(self._exclude, len(self._matrix), rows, positions)
