"""What approximate indexes have in common: a library finds candidates, this package ranks them.

A library compares vectors in float32, breaks ties arbitrarily, and knows nothing of exclusions. So
the search asks it for a few candidates more than k, computes their distances by `Metric.distances`,
and orders them as an exact index does. Only the choice of the candidates is approximate.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.approximate.search import CandidateSearch, Certain
from pyspark_knn.index.approximate.space import METRICS, Coordinates, has_coordinates
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.found import Exclusion, Found, Neighbors
from pyspark_knn.index.score_spaces import score_space

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SPARE = 2
"""Candidates of a query beyond k, for those that float32 orders otherwise."""


class ApproximateIndex(NeighborIndex):
    """An index whose search may miss some of the nearest items.

    A query has fewer than k neighbors only where an exact index finds fewer, too: where the library
    has too few candidates for it, as with many excluded items, the search is repeated more
    thoroughly, at most twice, and then the query is searched exactly. So are queries for
    which k is nearly the number of items, or which float32 cannot hold. Searches within a radius
    are always exact.

    A subclass builds the structure of its library in the coordinates of a `Coordinates`. It must
    not keep an object of the library in an attribute but in `_handles`, which is not pickled and
    which the copies of `with_knob` share; whatever the library needs is kept as arrays.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    spec : IndexSpec
        The metric and the options.
    space : Coordinates
        The coordinates of the items.

    Attributes
    ----------
    library : str
        A key of `pyspark_knn.index.approximate.libraries.LIBRARIES`.
    index_names : mapping of str to range or tuple
        The parameters of `IndexSpec.index_params`: the integers that are allowed, or the values of
        a choice, the default first.
    search_name : str
        The parameter of `IndexSpec.search_params`, an integer of at least 1: the higher, the more
        thorough is the search.
    """

    exact: ClassVar[bool] = False
    metrics: ClassVar[frozenset[str]] = METRICS
    options: ClassVar[frozenset[str]] = frozenset({"index_params", "search_params", "seed"})
    worth_saving: ClassVar[bool] = True
    library: ClassVar[str]
    index_names: ClassVar[Mapping[str, range | tuple[str, ...]]]
    search_name: ClassVar[str]

    def __init__(
        self, matrix: NDArray[np.floating], spec: IndexSpec, space: Coordinates, knob: int
    ) -> None:
        self._matrix = matrix
        self._spec = spec
        self._space = space
        self._knob = max(1, int((spec.search_params or {}).get(self.search_name, knob)))
        self._handles: dict[str, Any] = {}

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the class can search by a metric: minkowski with p of 2 only."""
        return super().supports(metric) and has_coordinates(metric)

    @classmethod
    @abstractmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> Self:
        """Build the structure of the library.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            See `NeighborIndex.build`.
        spec : IndexSpec
            The metric, `index_params`, `search_params` and the seed.

        Returns
        -------
        ApproximateIndex
            The index; the same one, to the last bit, from the same items and the same spec.

        Raises
        ------
        ImportError
            If the library is missing. The message names the extra that installs it.
        """

    @classmethod
    def expected_bytes(
        cls, shape: tuple[int, int], dtype: np.dtype[np.floating], spec: IndexSpec
    ) -> int:
        """Return about how many bytes an index takes in addition to its items.

        Parameters
        ----------
        shape : (int, int)
            The number of items, and of their features.
        dtype : numpy dtype
            The type of their vectors.
        spec : IndexSpec
            How to index them.

        Returns
        -------
        int
            The bytes; by default, those of the vectors in float32.
        """
        return 4 * shape[0] * shape[1]

    @classmethod
    def build_work(cls, n_items: int, spec: IndexSpec) -> float:
        """Return how much work a build is, in any unit: how its time grows with the items.

        Parameters
        ----------
        n_items : int
            The number of items, at least 2.
        spec : IndexSpec
            How to index them.

        Returns
        -------
        float
            By default, the number of items times its logarithm.
        """
        return n_items * float(np.log(n_items))

    @abstractmethod
    def candidates(self, queries: NDArray[np.float32], many: int, knob: int) -> NDArray[np.int64]:
        """Return the nearest items of each query, as far as the library finds them.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries, C-contiguous; at least one.
        many : int
            The number of candidates of a query, from 1 to n_items.
        knob : int
            How thorough the search is.

        Returns
        -------
        ndarray of shape (n_queries, many) or wider, dtype int64
            Positions of items, each at most once in a row, about the nearest first; -1 where the
            library finds no more. The caller overwrites it.
        """

    def certain(
        self, queries: NDArray[np.float32], many: int, spare: int, knob: int
    ) -> list[Certain]:
        """Return candidates that contain the nearest items for certain, of queries in float32.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries, which are the queries themselves; C-contiguous, at least one.
        many, knob
            See `candidates`.
        spare : int
            How many candidates more than `many` the caller ranks of the other queries.

        Returns
        -------
        list of Certain
            Candidates of the queries for which it is proved that they contain the nearest `many` of
            the items that a search with this knob compares; by default, of none.
        """
        return []

    @abstractmethod
    def knob_levels(self) -> list[int]:
        """Return values of the knob to choose from, see `pyspark_knn.index.approximate.knobs`.

        Returns
        -------
        list of int
            The values, from the cheapest to a nearly exhaustive search.
        """

    def extended(self, matrix: NDArray[np.floating], old_positions: NDArray[np.int64]) -> Self:
        """Return an index of more items, without building the structure again.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items of this index and others.
        old_positions : ndarray of shape (n_old_items,), dtype int64
            The rows of `matrix` that are the items of this index, in ascending order.

        Returns
        -------
        ApproximateIndex
            An index of all rows of `matrix`. Its structure is built again if the coordinates of
            this index cannot hold the others.
        """
        added = np.ones(len(matrix), bool)
        added[old_positions] = False
        if self._holds(matrix[added]):
            other = self._with_added(matrix, old_positions, added)
        else:
            other = self.build(matrix, self._spec)
        return other.with_knob(self._knob)

    def _holds(self, rows: NDArray[np.floating]) -> bool:
        """Return whether the coordinates are right for further items."""
        return self._space.holds(rows)

    @abstractmethod
    def _with_added(
        self,
        matrix: NDArray[np.floating],
        old_positions: NDArray[np.int64],
        added: NDArray[np.bool_],
    ) -> Self:
        """Return an index of more items, of which `added` marks those that this one lacks."""

    @abstractmethod
    def structure(self) -> dict[str, NDArray[Any]]:
        """Return what is dear to compute, as arrays.

        Returns
        -------
        dict of str to ndarray
            Name -> array, of numbers.
        """

    @classmethod
    @abstractmethod
    def restored(
        cls, matrix: NDArray[np.floating], spec: IndexSpec, structure: Mapping[str, NDArray[Any]]
    ) -> Self:
        """Return the index that `structure` was taken from.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.
        spec : IndexSpec
            What the index was built with.
        structure : mapping of str to ndarray
            What `structure` returned. It is checked before any native code reads it.

        Returns
        -------
        ApproximateIndex
            The index.

        Raises
        ------
        ValueError
            If an array is missing, unknown, or damaged. The message names it.
        """

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as passed to `build`."""
        return self._matrix

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._spec.metric

    @property
    def spec(self) -> IndexSpec:
        """What the index was built with."""
        return self._spec

    @property
    def knob(self) -> int:
        """How thorough a search is: the value of the parameter that `search_name` names."""
        return self._knob

    @property
    def space(self) -> Coordinates:
        """The coordinates of the items."""
        return self._space

    @property
    def exact_index(self) -> NeighborIndex:
        """The exact index of the same items; built when it is needed."""
        if "exact" not in self._handles:
            space = score_space(self.metric, self._matrix)
            self._handles["exact"] = BlockSearch(self._matrix, self.metric, space)
        found: NeighborIndex = self._handles["exact"]
        return found

    def with_knob(self, knob: int) -> Self:
        """Return this index with another knob; the structure is shared.

        Parameters
        ----------
        knob : int
            At least 1.

        Returns
        -------
        ApproximateIndex
            The index.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._knob = int(knob)
        return other

    def over(self, matrix: NDArray[np.floating]) -> Self:
        """See `NeighborIndex.over`."""
        other = self.with_knob(self._knob)
        other._matrix = matrix
        other._handles = {}
        return other

    def held_out(self, positions: NDArray[np.int64]) -> ApproximateIndex:
        """Return the index with which the recall of some of its items as queries is measured.

        Each of them is excluded from its own neighbors. Where the structure itself leads from an
        item to its neighbors, that flatters the recall, so the class overrides this.

        Parameters
        ----------
        positions : ndarray of shape (n_queries,), dtype int64
            The items, in ascending order.

        Returns
        -------
        ApproximateIndex
            By default, this index itself.
        """
        return self

    def spare(self, k: int) -> int:
        """Return how many candidates beyond k are ranked.

        Parameters
        ----------
        k : int
            The number of neighbors of a query.

        Returns
        -------
        int
            The number, at least 0.
        """
        return _SPARE

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def within(
        self,
        queries: NDArray[np.floating],
        max_distance: float,
        *,
        exclude: Exclusion | None = None,
        after: NDArray[np.int64] | None = None,
        most: int | None = None,
    ) -> Found | None:
        """See `NeighborIndex.within`; always exact."""
        return self.exact_index.within(
            queries, max_distance, exclude=exclude, after=after, most=most
        )

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        return CandidateSearch(self, queries, k, max_distance, exclude).run()
