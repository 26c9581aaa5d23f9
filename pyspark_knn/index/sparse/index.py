"""What the indexes of sparse vectors have in common."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import SPARSE
from pyspark_knn.index.sparse.keyed import KeyedRows

if TYPE_CHECKING:
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.sparse.keyed import Numbering
    from pyspark_knn.index.sparse.rows import SparseRows
    from pyspark_knn.index.sparse.sizes import Sizes


class SparseIndex(NeighborIndex):
    """An index of sparse vectors, which compares queries with every item that shares a feature.

    Parameters
    ----------
    matrix : SparseRows
        The items.
    metric : Metric
        The metric.
    numbering : Numbering
        The columns of the index.
    sizes : Sizes
        How much a search does at a time.
    """

    algorithm: ClassVar[str] = "brute"
    storage: ClassVar[str] = SPARSE

    def __init__(
        self, matrix: SparseRows, metric: Metric, numbering: Numbering, sizes: Sizes
    ) -> None:
        self._metric = metric
        self._numbering = numbering
        self._rows = numbering.numbered(matrix)
        self._sizes = sizes.for_items(len(matrix))

    @property
    def matrix(self) -> SparseRows:
        """The items, as passed to `build`; computed from the columns if these are numbered."""
        return self._numbering.restored(self._rows)

    @property
    def keyed(self) -> KeyedRows:
        """The items with the keys of their columns."""
        return KeyedRows.of_items(self._metric, self._rows, self._numbering)

    def part(self, where: slice) -> SparseIndex:
        """Return an index of some of the items, which shares its arrays with this one.

        Parameters
        ----------
        where : slice
            The items, at least one.

        Returns
        -------
        SparseIndex
            The index. Its positions begin with 0.
        """
        other = copy.copy(self)
        other._rows = self._rows[where]
        return other

    @property
    def n_features(self) -> int:
        """See `NeighborIndex.n_features`."""
        return self._numbering.n_features

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._metric
