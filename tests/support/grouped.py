"""Items in groups, and a plain search within groups to compare answers with."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyspark_knn.index.distances import Metric
from pyspark_knn.index.found import Exclusion, Found

Answer = list[list[tuple[float, int]]]
"""For each query, the distance and the position of each neighbor."""


@dataclass(frozen=True)
class Grouped:
    """Items sorted by (group, position), as a grouped index needs them.

    Attributes
    ----------
    matrix : ndarray of shape (n_items, n_features)
        The items.
    positions : ndarray of shape (n_items,), dtype int64
        The position of each item.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Where each group begins.
    """

    matrix: NDArray[np.floating]
    positions: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, items: NDArray[np.floating], groups: NDArray[np.int64]) -> Grouped:
        """Sort items, whose positions are their row numbers, by the number of their group."""
        positions = np.argsort(groups, kind="stable")
        sizes = np.unique(groups, return_counts=True)[1]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(np.ascontiguousarray(items[positions]), positions, starts)

    @property
    def n_groups(self) -> int:
        return len(self.starts) - 1

    def nearest(
        self,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        groups: NDArray[np.int64],
        k: int,
        metric: Metric,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Answer:
        """The k nearest of each query, pair by pair."""
        limit = math.inf if max_distance is None else max_distance
        pairs = set()
        if exclude is not None:
            pairs = set(zip(exclude.rows.tolist(), exclude.positions.tolist(), strict=True))
        found: Answer = [[] for _ in queries]
        for row, group in zip(rows.tolist(), groups.tolist(), strict=True):
            places = np.arange(self.starts[group], self.starts[group + 1])
            distances = metric.distances(queries, self.matrix, np.full(len(places), row), places)
            found[row] += [
                (distance, position)
                for distance, position in zip(
                    distances.tolist(), self.positions[places].tolist(), strict=True
                )
                if distance <= limit and (row, position) not in pairs
            ]
        return [sorted(each)[:k] for each in found]


def visits(
    rng: np.random.Generator, n_queries: int, n_groups: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and groups: up to `most` different groups of each query, in any order."""
    pairs = [
        (row, group)
        for row in range(n_queries)
        for group in rng.permutation(n_groups)[: rng.integers(0, most + 1)]
    ]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0].copy(), found[:, 1].copy()


def answer(found: Found) -> Answer:
    """The neighbors of each query, as a list."""
    pairs = list(zip(found.distances.tolist(), found.positions.tolist(), strict=True))
    bounds = found.offsets.tolist()
    return [pairs[start:stop] for start, stop in itertools.pairwise(bounds)]
