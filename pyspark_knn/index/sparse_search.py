"""Exact search of sparse vectors (scaffold: replaced by the real kernel soon)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyspark_knn.index.base import SPARSE, Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch

if TYPE_CHECKING:
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.sparse_rows import SparseRows

SPARSE_METRICS = frozenset(
    {
        "cosine",
        "dice",
        "euclidean",
        "inner_product",
        "jaccard",
        "minkowski",
        "seuclidean",
        "sqeuclidean",
    }
)
"""The metrics of sparse vectors; minkowski with a p of 2 only."""


class SparseSearch(NeighborIndex):
    """Exact search of sparse vectors."""

    algorithm: ClassVar[str] = "brute"
    storage: ClassVar[str] = SPARSE
    metrics: ClassVar[frozenset[str]] = SPARSE_METRICS

    def __init__(self, matrix: SparseRows, metric: Metric) -> None:
        self._matrix = matrix
        self._metric = metric

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the index can search by a metric: by minkowski with a p of 2 only."""
        return super().supports(metric) and (metric.name != "minkowski" or metric.p == 2)

    @classmethod
    def build(cls, matrix: SparseRows, spec: IndexSpec) -> SparseSearch:
        """Return an index that keeps the items as they are."""
        return cls(matrix, spec.metric)

    @property
    def matrix(self) -> SparseRows:
        """The items, as passed to `build`."""
        return self._matrix

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._metric

    def kneighbors(
        self,
        queries: SparseRows,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        dense = PairwiseSearch(self._matrix.dense(), self._metric)
        return dense.kneighbors(queries.dense(), k, max_distance=max_distance, exclude=exclude)
