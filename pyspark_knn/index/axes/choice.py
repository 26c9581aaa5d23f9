"""Chooses whether the items are searched by principal axes, and by how many of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from pyspark_knn.index.axes.cells import Cells
from pyspark_knn.index.axes.prefixes import extended_items
from pyspark_knn.index.axes.rotation import Rotation, principal_axes
from pyspark_knn.index.differences import most_differences

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pyspark_knn.index.found import Neighbors
    from pyspark_knn.index.score_space import ScoreSpace

    Search = Callable[[NDArray[np.floating], int], Neighbors]
    """Searches the k nearest items of some queries."""

    Searches = Callable[[NDArray[np.floating], ScoreSpace, "Plan | None"], Search]
    """Makes the search of some items, given them, their space and a plan."""

_LEAST_ITEMS, _LEAST_FEATURES = 8192, 25
"""With fewer, a search takes microseconds, and a choice takes longer than it can save."""

_AXES_ITEMS = 4096
"""Items of the sample whose principal axes are computed, at least 4 for each feature."""

_MOST_FEATURES = 2048
"""With more features, the axes take seconds."""

_SAMPLE_ITEMS, _SAMPLE_QUERIES = 16_384, 64
"""Items of the sample whose pairs are counted, and queries."""

_TRIED_ITEMS, _TRIED_QUERIES = 65_536, 2048
"""Items of the sample that searches are timed on, and their queries at most, ..."""

_TRIED_FLOATS = 1 << 32
"""... as many as make so many products of two numbers."""

_TRIED_K = 10
"""Neighbors of a query in a timed search."""

_TRIED_AXES = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256)
"""The numbers of axes to choose from."""

_LARGEST_SHARE = 0.85
"""The largest prefixes, as a share of the items in float32, so that 1 GiB of items take less than
2."""

_SMALL_CELL, _LARGE_CELL = 256, 512
"""The items of a cell, where boxes rule out many cells and where they do not."""

_PAIR_COST, _AXIS_COST, _DIFFERENCE_COST, _FEATURE_COST = 0.3, 0.03, 25.0, 0.75
"""About how many nanoseconds a pair takes: compared by prefixes, and for each axis; by differences,
and for each feature."""

_ACCEPTED = 0.96
"""The share of the block search's time, on the sample, that a search by axes may take. On all items
it takes less, since a query has nearer neighbors there."""


class Plan(NamedTuple):
    """How to search by principal axes.

    Attributes
    ----------
    rotation : Rotation
        The axes.
    cell_size : int
        The largest number of items in a cell.
    """

    rotation: Rotation
    cell_size: int


def choose_plan(
    space: ScoreSpace,
    matrix: NDArray[np.floating],
    searches: Searches,
) -> Plan | None:
    """Return the plan whose searches are faster than the block search; None if there is none.

    Parameters
    ----------
    space : ScoreSpace
        The score space of the items.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    searches : callable
        Returns the search of some items, given them, their space and a plan.

    Returns
    -------
    Plan or None
        The plan.
    """
    n_items, n_features = matrix.shape
    if n_items < _LEAST_ITEMS or not _LEAST_FEATURES <= n_features <= _MOST_FEATURES:
        return None
    if not space.ranks_by_distance(matrix):
        return None
    with threadpool_limits(limits=1):
        return _Trial(space, matrix, searches).best()


class _Trial:
    """The trial of searches by axes on a sample of the items."""

    def __init__(
        self,
        space: ScoreSpace,
        matrix: NDArray[np.floating],
        searches: Searches,
    ) -> None:
        self._space = space
        self._matrix = matrix
        self._searches = searches

    def best(self) -> Plan | None:
        """Return the fastest of some plans if its searches are faster than the block search."""
        plans: list[Plan | None] = [None, *self._plans()]
        if len(plans) == 1:
            return None
        many = _TRIED_FLOATS // (min(_TRIED_ITEMS, len(self._matrix)) * self._matrix.shape[1])
        items, space, queries = self._sample(_TRIED_ITEMS, min(max(many, 128), _TRIED_QUERIES))
        searches = [self._searches(items, space, plan) for plan in plans]
        times = np.min([[_seconds(each, queries) for each in searches] for _ in range(2)], axis=0)
        fastest = int(times.argmin())
        return plans[fastest] if times[fastest] <= _ACCEPTED * times[0] else None

    def _sample(
        self, n_items: int, n_queries: int
    ) -> tuple[NDArray[np.floating], ScoreSpace, NDArray[np.floating]]:
        """Return some of the items, their space, and other items as queries if there are any."""
        step = -(-len(self._matrix) // n_items)
        every = slice(None, None, step)
        items = np.ascontiguousarray(self._matrix[every])
        apart = self._matrix[step // 2 :: step * max(1, len(items) // n_queries)]
        return items, self._space.part(every), np.ascontiguousarray(apart[:n_queries])

    def _plans(self) -> list[Plan]:
        """Return the plan with the least cost, by the pairs that prefixes leave, and the next.

        None of them if the block search costs less. The next one has more axes: a search leaves
        more pairs than are counted here, since it does not know the distances of neighbors.
        """
        items, space, queries = self._sample(_SAMPLE_ITEMS, _SAMPLE_QUERIES)
        n_features = items.shape[1]
        every = slice(None, None, max(1, len(items) // max(_AXES_ITEMS, 4 * n_features)))
        rotation = principal_axes(space.vectors(items[every], every))
        vectors = space.queries(queries).vectors
        near = self._searches(items, space, None)(queries, _TRIED_K).positions[:, -1]
        last = space.vectors(items[near], near)
        limits = ((vectors - last) ** 2).sum(axis=1)
        numbers = [each for each in _TRIED_AXES if each + 5 <= _LARGEST_SHARE * n_features]
        widest = rotation.first(numbers[-1])
        extended = extended_items(space, items, widest)
        asked = widest.extended(vectors)
        cells = Cells(extended[:, :-1], _SMALL_CELL)
        boxes = cells.squared_distances(asked, slice(None)) <= limits[:, None]
        compared = float(boxes.mean())
        costs = {
            n_axes: self._cost(n_axes, compared, _shares_left(asked, extended, n_axes, limits))
            for n_axes in numbers
        }
        cheapest = min(costs, key=lambda each: costs[each])
        if costs[cheapest] > self._pair_cost(n_features):
            return []
        size = _SMALL_CELL if compared < 0.5 else _LARGE_CELL
        place = numbers.index(cheapest)
        return [Plan(rotation.first(n_axes), size) for n_axes in numbers[place : place + 2]]

    def _cost(self, n_axes: int, compared: float, left: NDArray[np.float64]) -> float:
        """Return about how many nanoseconds a pair takes.

        Parameters
        ----------
        n_axes : int
            The number of axes.
        compared : float
            The share of the pairs that are compared by prefixes.
        left : ndarray of shape (n_queries,), dtype float64
            The share of the items of each query that are compared by differences. A query with too
            many is given up, and left to the block search.
        """
        n_items, n_features = self._matrix.shape
        most = most_differences(n_items) / n_items
        difference = _DIFFERENCE_COST + _FEATURE_COST * n_features
        cost: float = compared * self._pair_cost(n_axes)
        cost += float(np.minimum(left, most).mean()) * difference
        crowded = float((left > most).mean())
        return cost + crowded * self._pair_cost(n_features)

    def _pair_cost(self, n_axes: int) -> float:
        return _PAIR_COST + _AXIS_COST * n_axes


def _shares_left(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    n_axes: int,
    limits: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the share of items that the first axes cannot rule out within squared distances."""
    left, right = _shortened(queries, n_axes), _shortened(items, n_axes)
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2.0 * left @ right.T
    shares: NDArray[np.float64] = (squares <= 1.1 * limits[:, None]).mean(axis=1)
    return shares


def _shortened(extended: NDArray[np.float32], n_axes: int) -> NDArray[np.float32]:
    """Return the extended prefixes of fewer axes."""
    result = extended[:, : n_axes + 1].copy()
    result[:, -1] = np.sqrt((extended[:, n_axes:] ** 2).sum(axis=1))
    return result


def _seconds(search: Search, queries: NDArray[np.floating]) -> float:
    """Time a search, in the time of this thread alone."""
    start = time.thread_time()
    search(queries, _TRIED_K)
    return time.thread_time() - start
