"""Brute force for the metrics that are no matrix product: every pair's figure, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.kernels import KERNELS, SET_METRICS, set_distance
from pyspark_knn.index.selection import NearestSoFar, exclusion_of_items, search_in_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

# Pairs in a block: its figures take 4 MiB.
_PAIRS = 1 << 19
_QUERIES = 256


class PairwiseSearch(NeighborIndex):
    """Compares each query with each item. Serves every metric."""

    algorithm: ClassVar[str] = "brute"
    metrics: ClassVar[frozenset[str]] = frozenset(KERNELS)

    def __init__(self, matrix: NDArray[np.floating], metric: Metric) -> None:
        self._matrix = matrix
        self._metric = metric

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> PairwiseSearch:
        """Keep the items; there is nothing to prepare."""
        return cls(matrix, spec.metric)

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as given to `build`."""
        return self._matrix

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._metric

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        step = max(1, min(_QUERIES, _PAIRS // k))
        return search_in_blocks(self._search, queries, k, max_distance, exclude, step)

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        step = max(1, _PAIRS // max(1, len(queries)))
        for start in range(0, len(self._matrix), step):
            stop = min(start + step, len(self._matrix))
            figures = block_distances(self._metric, queries, self._matrix[start:stop])
            allowed = figures <= block_limits(figures, best.limits(), k)[:, None]
            if exclude is not None:
                # The limit of a first block counts excluded items: only without them is it sound.
                part = exclusion_of_items(exclude, start, stop)
                crowded = np.unique(part.rows)
                allowed[crowded] = figures[crowded] <= best.limits()[crowded, None]
                allowed[part.rows, part.positions] = False
            rows, columns = np.nonzero(allowed)
            best.offer(rows, columns + start, figures[rows, columns])
        return best.neighbors()


def block_limits(
    figures: NDArray[np.float64], limits: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    """Lower the limits of queries that have fewer than k items yet to the block's k-th figure."""
    if k < figures.shape[1] and np.isinf(limits).any():
        return np.minimum(limits, np.partition(figures, k - 1, axis=1)[:, k - 1])
    return limits


def block_distances(
    metric: Metric, queries: NDArray[np.floating], items: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Final figures of all pairs, of shape (n_queries, n_items)."""
    if metric.name in SET_METRICS:
        return _set_distances(metric, queries, items)
    rows = np.repeat(np.arange(len(queries)), len(items))
    positions = np.tile(np.arange(len(items)), len(queries))
    return metric.distances(queries, items, rows, positions).reshape(len(queries), len(items))


def _set_distances(
    metric: Metric, queries: NDArray[np.floating], items: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Sizes of intersections by a matrix product of zeros and ones.

    The sums are whole numbers of at most n_features, which float32 holds exactly up to 2**24 and
    float64 to 2**53, so that every order of summation gives the same figure.
    """
    exact = np.float32 if queries.shape[1] < 1 << 24 else np.float64
    left, right = (queries != 0).astype(exact), (items != 0).astype(exact)
    both = (left @ right.T).astype(np.float64)
    sizes = (np.count_nonzero(side, axis=1).astype(np.float64) for side in (left, right))
    one, other = sizes
    return set_distance(metric.name, both, one[:, None], other, queries.shape[1])
