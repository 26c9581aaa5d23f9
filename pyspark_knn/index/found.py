"""What an index reads and returns: vectors, neighbors, and pairs that must not be returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.sparse.rows import SparseRows

    Rows = NDArray[np.floating] | SparseRows
    """Vectors: the rows of a dense or of a sparse matrix."""

DENSE, SPARSE = "dense", "sparse"
"""How the vectors of an index are stored."""


def storage_of(matrix: Rows) -> str:
    """Return how vectors are stored: `DENSE` for an ndarray, `SPARSE` for `SparseRows`."""
    return DENSE if isinstance(matrix, np.ndarray) else SPARSE


class Neighbors(NamedTuple):
    """The neighbors of a block of queries, nearest first.

    Attributes
    ----------
    distances : ndarray of shape (n_queries, k), dtype float64
        Distances, in non-decreasing order in each row; ``inf`` where there is no neighbor.
    positions : ndarray of shape (n_queries, k), dtype int64
        Row numbers in the item matrix. Neighbors at equal distances are in ascending order of
        position. ``-1`` where there is no neighbor, and then in the rest of the row too.
    """

    distances: NDArray[np.float64]
    positions: NDArray[np.int64]


class Found(NamedTuple):
    """The neighbors of a block of queries as lists that follow one another, nearest first.

    The neighbors of query ``i`` are at ``offsets[i]:offsets[i + 1]``.

    Attributes
    ----------
    offsets : ndarray of shape (n_queries + 1,), dtype int64
        Where the neighbors of each query begin, and where the last ones end.
    distances : ndarray of shape (n_neighbors,), dtype float64
        In the unit of the metric; non-decreasing within a query.
    positions : ndarray of shape (n_neighbors,), dtype int64
        Row numbers in the item matrix; non-decreasing within a query among equal distances.
    """

    offsets: NDArray[np.int64]
    distances: NDArray[np.float64]
    positions: NDArray[np.int64]

    @classmethod
    def from_padded(cls, neighbors: Neighbors) -> Found:
        """Return the same neighbors without the padding."""
        there = neighbors.positions >= 0
        offsets = np.zeros(len(there) + 1, np.int64)
        there.sum(axis=1).cumsum(out=offsets[1:])
        if offsets[-1] == there.size:
            return cls(offsets, neighbors.distances.ravel(), neighbors.positions.ravel())
        return cls(offsets, neighbors.distances[there], neighbors.positions[there])

    @property
    def queries(self) -> NDArray[np.int64]:
        """The query of each neighbor: ndarray of shape (n_neighbors,), dtype int64."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


class Exclusion(NamedTuple):
    """Pairs of a query and an item that a search must not return, sorted by position.

    Attributes
    ----------
    rows : ndarray of shape (n_pairs,), dtype int64
        Row numbers in the block of queries.
    positions : ndarray of shape (n_pairs,), dtype int64
        Row numbers in the item matrix, in ascending order. A pair may occur more than once.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
