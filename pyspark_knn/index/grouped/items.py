"""The items of all groups, dense or sparse: their distances, and searches of a single group."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.kernels import set_distance
from pyspark_knn.index.registry import class_for
from pyspark_knn.index.sparse.kernels import SparseDistances
from pyspark_knn.index.sparse.keyed import KeyedRows
from pyspark_knn.index.sparse.search import SparseSearch
from pyspark_knn.index.sparse.sets import SparseSetSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.sparse.rows import SparseRows

    Distances = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
    """Returns the distances of pairs, given the rows of the queries and of the items."""

_PRODUCT = Metric("inner_product")


class DenseItems:
    """The rows of an ndarray.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    metric : Metric
        The metric.
    """

    def __init__(self, matrix: NDArray[np.floating], metric: Metric) -> None:
        self.matrix = matrix
        self._metric = metric

    def distances(self, queries: NDArray[np.floating]) -> Distances:
        """Return a function for the distances of pairs of these queries and the items."""
        return functools.partial(self._metric.distances, queries, self.matrix)

    def index(self, where: slice) -> NeighborIndex:
        """Return an index of the items `where`, for one search."""
        brute = class_for("brute", self._metric)
        return brute.build(self.matrix[where], IndexSpec(self._metric, "brute"))


class SparseItems:
    """Sparse rows.

    Parameters
    ----------
    matrix : SparseRows
        The items.
    metric : Metric
        The metric.
    """

    def __init__(self, matrix: SparseRows, metric: Metric) -> None:
        self._metric = metric
        brute = SparseSetSearch if metric.compares_sets else SparseSearch
        self._index = brute.build(matrix, IndexSpec(metric, "brute"))
        self._keyed = self._index.keyed

    @property
    def matrix(self) -> SparseRows:
        """The items; computed from the columns if these are numbered."""
        return self._index.matrix

    def distances(self, queries: SparseRows) -> Distances:
        """Return a function for the distances of pairs of these queries and the items."""
        keyed = KeyedRows.of_queries(self._metric, queries)
        if not self._metric.compares_sets:
            return SparseDistances(self._metric, keyed, self._keyed)
        return functools.partial(self._set_distances, keyed)

    def index(self, where: slice) -> NeighborIndex:
        """Return an index of the items `where`, for one search."""
        return self._index.part(where)

    def _set_distances(
        self, queries: KeyedRows, rows: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        # The inner product of vectors of 0 and 1 counts their common features, without rounding.
        both = -SparseDistances(_PRODUCT, _ones(queries), _ones(self._keyed))(rows, places)
        one = queries.rows.lengths[rows].astype(np.float64)
        other = self._keyed.rows.lengths[places].astype(np.float64)
        return set_distance(self._metric.name, both, one, other, queries.n_features)


def _ones(keyed: KeyedRows) -> KeyedRows:
    """Return rows that have 1 in place of each stored value, without storing them."""
    ones = np.broadcast_to(np.float32(1.0), keyed.rows.data.shape)
    return replace(keyed, rows=keyed.rows.replaced(ones))
