"""What every neighbour index offers, and the arrays that it answers with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric


class Neighbors(NamedTuple):
    """The neighbours of a block of queries, nearest first.

    Attributes
    ----------
    distances : ndarray of shape (n_queries, k), dtype float64
        Ascending in each row; ``inf`` where there is no neighbour.
    positions : ndarray of shape (n_queries, k), dtype int64
        Row numbers in the item matrix. Equal distances stand in ascending order of position; ``-1``
        where there is no neighbour, and then in every place behind it.
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
        """Return the same neighbors without the places that hold none."""
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
    """Pairs of a query and an item that must not be answered, in ascending order of position.

    Attributes
    ----------
    rows : ndarray of shape (n_pairs,), dtype int64
        Row numbers in the block of queries.
    positions : ndarray of shape (n_pairs,), dtype int64
        Row numbers in the item matrix, ascending. A pair may stand in more than once.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class IndexSpec:
    """How an index is to be built.

    Attributes
    ----------
    metric : Metric
        A resolved metric, see `pyspark_knn.index.distances.resolve_metric`.
    algorithm : {"auto", "brute", "kd_tree", "ball_tree"}
        The search to use; "auto" lets `pyspark_knn.index.auto` decide.
    leaf_size : int
        Items in a leaf of a tree.
    """

    metric: Metric
    algorithm: str = "auto"
    leaf_size: int = 30


class NeighborIndex(ABC):
    """An exact nearest-neighbour index over a matrix of items.

    Its arrays may be read-only memory maps: an index pickles with protocol 5 and out-of-band
    buffers, is opened over a mapped file in each worker, and never writes to what it holds.

    Attributes
    ----------
    algorithm : str
        The value of the `algorithm` parameter that names this kind of index.
    """

    algorithm: ClassVar[str]

    @classmethod
    @abstractmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> NeighborIndex:
        """Index the rows of `matrix`.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            C-contiguous and finite, at least one row. Kept, not copied; never written to.
        spec : IndexSpec
            What to build.
        """

    @property
    @abstractmethod
    def matrix(self) -> NDArray[np.floating]:
        """The items, as given to `build`."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What the distances are measured by."""

    def search(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Found:
        """Return what `kneighbors` finds, as lists without padding; takes the same parameters."""
        found = self.kneighbors(queries, k, max_distance=max_distance, exclude=exclude)
        return Found.from_padded(found)

    @abstractmethod
    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """The k nearest items of each query, by (distance, position).

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            C-contiguous and finite; may be read-only; zero rows are allowed.
        k : int
            Neighbours wanted, from 1 to n_items.
        max_distance : float, optional
            Items farther than this are left out; inclusive.
        exclude : Exclusion, optional
            Pairs that must not be answered. They take nobody's place: the next nearest moves up.

        Returns
        -------
        Neighbors
            `distances` and `positions` of shape (n_queries, k). The distances are those of
            `pyspark_knn.index.distances`, to the last bit, whichever index answers.
        """
