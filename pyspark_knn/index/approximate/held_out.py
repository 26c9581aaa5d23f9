"""The exact answers among the items that are not held out, by which a recall is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.found import Exclusion, Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric


class VisibleItems(NeighborIndex):
    """An exact index of all items but some. It asks an index of all items for more than k of them.

    Parameters
    ----------
    index : NeighborIndex
        An exact index of all items.
    hidden : ndarray of shape (n_hidden,), dtype int64
        The items that no search returns.
    """

    def __init__(self, index: NeighborIndex, hidden: NDArray[np.int64]) -> None:
        self._index = index
        self._visible = np.ones(len(index.matrix) + 1, bool)
        self._visible[hidden] = False
        # Where there is no neighbor, the position is -1.
        self._visible[-1] = False

    @classmethod
    def build(cls, matrix: Any, spec: IndexSpec) -> NeighborIndex:
        """Raise an error: there is nothing to build."""
        raise NotImplementedError

    @property
    def matrix(self) -> Any:
        """The items, with those that are hidden."""
        return self._index.matrix

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._index.metric

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        n_items = len(self.matrix)
        many = min(2 * k, n_items)
        while True:
            found = self._index.kneighbors(
                queries, many, max_distance=max_distance, exclude=exclude
            )
            visible = self._visible[found.positions]
            complete = (visible.sum(axis=1) >= k) | (found.positions[:, -1] < 0)
            if many == n_items or complete.all():
                return _first(found, visible, k)
            many = min(2 * many, n_items)


def _first(found: Neighbors, visible: NDArray[np.bool_], k: int) -> Neighbors:
    """Return the first k neighbors of each query that are visible."""
    order = np.argsort(~visible, axis=1, kind="stable")[:, :k]
    there = np.take_along_axis(visible, order, 1)
    distances = np.where(there, np.take_along_axis(found.distances, order, 1), np.inf)
    return Neighbors(distances, np.where(there, np.take_along_axis(found.positions, order, 1), -1))
