"""The interface of a nearest-neighbor index."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pyspark_knn.index.found import DENSE, Found
from pyspark_knn.index.hits import Hits, TooManyHits, find_by_kneighbors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Exclusion, Neighbors


class Entry(NamedTuple):
    """An index class, registered for an algorithm.

    Attributes
    ----------
    algorithm : str
        The name of the algorithm.
    location : str
        Where to import the class from: ``"module:Class"``.
    exact : bool, default=True
        `NeighborIndex.exact` of the class, which is known here without importing it.
    """

    algorithm: str
    location: str
    exact: bool = True

    def load(self) -> type[NeighborIndex]:
        """Import the class."""
        module, name = self.location.split(":")
        found: type[NeighborIndex] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True)
class IndexSpec:
    """How to build an index.

    Attributes
    ----------
    metric : Metric
        A resolved metric, see `pyspark_knn.index.distances.resolve_metric`.
    algorithm : str
        "auto", or the name of a registered algorithm, see `pyspark_knn.index.registry`. With "auto"
        `pyspark_knn.index.auto` chooses the algorithm.
    leaf_size : int
        The number of items in a leaf of a tree, at least 1.
    registered : tuple of Entry, optional
        The index classes to choose from. The Python workers get them with the spec, so that they
        know the classes that a user registered on the driver. Default: those that are registered in
        this process.
    index_params : mapping of str to object, optional
        How an approximate index is built, such as ``{"nlist": 1000}``. Default: what its class
        chooses.
    search_params : mapping of str to int, optional
        How thoroughly an approximate index searches, such as ``{"nprobe": 8}``. Default: what its
        class chooses, until the recall is calibrated.
    target_recall : float, optional
        With "auto", the least recall of the index, in (0, 1]. Default: the index is exact.
    seed : int, default=0
        The seed of what an approximate index draws at random.
    tries_axes : bool
        Whether brute force tries out the search by principal axes, where it may pay.
    """

    metric: Metric
    algorithm: str = "auto"
    leaf_size: int = 30
    registered: tuple[Entry, ...] | None = None
    index_params: Mapping[str, Any] = field(default_factory=dict)
    search_params: Mapping[str, int] | None = None
    target_recall: float | None = None
    seed: int = 0
    tries_axes: bool = True


OPTIONS = frozenset(each.name for each in fields(IndexSpec)) - {
    "metric",
    "algorithm",
    "registered",
    "tries_axes",
}
"""The fields of `IndexSpec` that an index class may list as its `options`."""


class NeighborIndex(ABC):
    """A nearest-neighbor index over a matrix of items.

    Its arrays may be read-only memory maps: an index is pickled with protocol 5 and out-of-band
    buffers, is opened over a mapped file in each worker, and never writes to its arrays.

    A subclass states what it is in the class attributes below. `pyspark_knn.index.registry` reads
    them on the driver and in the workers, so the module of a subclass must be cheap to import: a
    subclass that needs a large library imports it in `build`.

    Attributes
    ----------
    algorithm : str
        The value of the `algorithm` Param that selects this class.
    exact : bool, default=True
        Whether every search returns the true nearest items. `algorithm="auto"` chooses among exact
        classes only.
    metrics : frozenset of str
        The canonical names of the metrics that the class supports. A class that supports a metric
        for some of its parameters only overrides `supports`.
    storage : {"dense", "sparse"}, default="dense"
        Whether the items and the queries are the rows of an ndarray, or `SparseRows`.
    options : frozenset of str, default=frozenset()
        The fields of `IndexSpec` that `build` reads in addition to `metric`; a subset of `OPTIONS`.
    worth_saving : bool, default=False
        Whether building the index takes so much longer than reading it back that a saved model
        should contain its structure. It is false for all exact classes of this package: saved
        models contain only the items, and the index is built again when a model is loaded.
    """

    algorithm: ClassVar[str]
    exact: ClassVar[bool] = True
    metrics: ClassVar[frozenset[str]]
    storage: ClassVar[str] = DENSE
    options: ClassVar[frozenset[str]] = frozenset()
    worth_saving: ClassVar[bool] = False

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the class can search by a metric.

        Parameters
        ----------
        metric : Metric
            A resolved metric.

        Returns
        -------
        bool
            True if the name of the metric is among `metrics`.
        """
        return metric.name in cls.metrics

    @classmethod
    @abstractmethod
    def build(cls, matrix: Any, spec: IndexSpec) -> NeighborIndex:
        """Index the rows of a matrix.

        Parameters
        ----------
        matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
            The items, as `storage` says: finite, at least one row, C-contiguous if dense. If the
            metric allows missing values, these are NaN. The index keeps the matrix itself, not a
            copy, and never writes to it.
        spec : IndexSpec
            The metric and the options.

        Returns
        -------
        NeighborIndex
            The index.
        """

    @property
    @abstractmethod
    def matrix(self) -> Any:
        """The items, as passed to `build`: ndarray or SparseRows."""

    @property
    def n_features(self) -> int:
        """The dimension of the vectors."""
        return int(self.matrix.shape[1])

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The metric of the distances."""

    @property
    def detail(self) -> str:
        """How this index searches, for messages; empty if its algorithm says it all."""
        return ""

    @property
    def added_bytes(self) -> int:
        """The bytes of the index beside its matrix, as far as they are worth mentioning."""
        return 0

    @property
    def queries_at_once(self) -> int:
        """The number of queries from which on a query takes no less time with more of them.

        By default 1: batches of the usual size are large enough.
        """
        return 1

    def over(self, matrix: Any) -> NeighborIndex:
        """Return this index over an equal matrix that is stored elsewhere.

        With it, an index can be pickled without its matrix if that is a part of another one.

        Parameters
        ----------
        matrix : ndarray or SparseRows of shape (n_items, n_features)
            A matrix that is equal to `matrix`, or any other while the index is not searched.

        Returns
        -------
        NeighborIndex
            The index over this matrix. A class that does not override this returns itself, and
            keeps its own matrix.
        """
        return self

    def search(
        self,
        queries: Any,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> Found:
        """Return the k nearest items of each query as lists without padding.

        Parameters
        ----------
        queries, k, max_distance, exclude
            See `kneighbors`.
        limits : ndarray of shape (n_queries,), dtype float64, optional
            A distance of each query, beyond which items may be left out. Default: none is.

        Returns
        -------
        Found
            The neighbors; some of them may be beyond the limit of their query.
        """
        if limits is None:
            found = self.kneighbors(queries, k, max_distance=max_distance, exclude=exclude)
        else:
            found = self._kneighbors_up_to(limits, queries, k, max_distance, exclude)
        return Found.from_padded(found)

    def _kneighbors_up_to(
        self,
        limits: NDArray[np.float64],
        queries: Any,
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        """Return what `kneighbors` does, which subclasses may find faster within the limits."""
        return self.kneighbors(queries, k, max_distance=max_distance, exclude=exclude)

    def within(
        self,
        queries: Any,
        max_distance: float,
        *,
        exclude: Exclusion | None = None,
        after: NDArray[np.int64] | None = None,
        most: int | None = None,
    ) -> Found | None:
        """Return all items within a distance of each query, by distance, then by position.

        An index that is not `exact` may miss some of them.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            As in `kneighbors`.
        max_distance : float
            The largest distance, inclusive; may be inf.
        exclude : Exclusion, optional
            Pairs of a query and an item that must not be returned.
        after : ndarray of shape (n_queries,), dtype int64, optional
            Only items of larger positions than this are returned. Default: all items.
        most : int, optional
            The largest number of neighbors of several queries together, which bounds the memory.
            Default: unlimited.

        Returns
        -------
        Found or None
            The neighbors; the distances are those of `kneighbors`. None if several queries have
            more than `most` neighbors. A single query has as many as there are.
        """
        hits = Hits(len(queries), max_distance, after, most)
        try:
            self._find_within(queries, exclude, hits)
        except TooManyHits:
            return None
        return hits.found()

    def _find_within(self, queries: Any, exclude: Exclusion | None, hits: Hits) -> None:
        """Offer all items within the distance to `hits`; subclasses have faster ways."""
        find_by_kneighbors(self, queries, exclude, hits)

    @abstractmethod
    def kneighbors(
        self,
        queries: Any,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """Return the k nearest items of each query, ordered by distance, then by position.

        An index that is not `exact` may miss some of them.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            The queries, as `storage` says: finite or, if the metric allows that, NaN; C-contiguous
            if dense; may be read-only, and may have zero rows.
        k : int
            The number of neighbors of a query, from 1 to n_items.
        max_distance : float, optional
            The largest distance of a neighbor, inclusive. Items farther than this are not returned.
        exclude : Exclusion, optional
            Pairs of a query and an item that must not be returned. They do not count towards k.

        Returns
        -------
        Neighbors
            `distances` and `positions` of shape (n_queries, k). The distances are equal to the last
            bit to those of `pyspark_knn.index.distances`, for every class of index.
        """
