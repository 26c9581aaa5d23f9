"""Index classes that the package does not have, for the tests of its registry."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.selection import NearestSoFar


class ToyIndex(NeighborIndex):
    """Compares each query with all items, one query after the other."""

    algorithm: ClassVar[str] = "toy"
    metrics: ClassVar[frozenset[str]] = frozenset({"euclidean", "cityblock"})
    options: ClassVar[frozenset[str]] = frozenset({"leaf_size"})

    def __init__(self, matrix: Any, metric: Metric, leaf_size: int) -> None:
        self._matrix = matrix
        self._metric = metric
        self.leaf_size = leaf_size

    @classmethod
    def build(cls, matrix: Any, spec: IndexSpec) -> NeighborIndex:
        return cls(matrix, spec.metric, spec.leaf_size)

    @property
    def matrix(self) -> Any:
        return self._matrix

    @property
    def metric(self) -> Metric:
        return self._metric

    def kneighbors(
        self,
        queries: Any,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        for row in range(len(queries)):
            positions = np.arange(len(self._matrix))
            if exclude is not None:
                banned = exclude.positions[exclude.rows == row]
                positions = np.setdiff1d(positions, banned)
            rows = np.full(len(positions), row)
            distances = self._metric.distances(queries, self._matrix, rows, positions)
            best.offer(rows, positions, distances)
        return best.neighbors()


class GuessingIndex(ToyIndex):
    """Says that it is not exact."""

    algorithm: ClassVar[str] = "guessing"
    exact: ClassVar[bool] = False
