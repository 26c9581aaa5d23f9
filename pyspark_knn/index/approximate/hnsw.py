"""A hierarchical graph (HNSW): a search follows links from item to item towards the query [1]_.

References
----------
.. [1] Y. Malkov and D. Yashunin, "Efficient and robust approximate nearest neighbor search using
   hierarchical navigable small world graphs", IEEE TPAMI 42 (4), 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.angles import ANGLES
from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.copies import Copies, first_copies
from pyspark_knn.index.approximate.held_out import VisibleItems
from pyspark_knn.index.approximate.hnsw_graph import MOST_LINKS, Graph, drawn_levels
from pyspark_knn.index.approximate.hnsw_native import Searcher, grown
from pyspark_knn.index.approximate.knobs import levels
from pyspark_knn.index.approximate.libraries import library_version, load_library
from pyspark_knn.index.approximate.space import Coordinates
from pyspark_knn.index.approximate.structures import check_structure, damaged
from pyspark_knn.index.distances import Metric

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec

_M = 16
_EF_CONSTRUCTION = 100
"""With half of it, twice as many candidates are needed for the same recall; twice of it wins a
tenth, and with 40, FAISS's default, tight clusters far apart are not all connected."""

_FIRST_EF_SEARCH = 64
"""The candidates of a search unless `search_params` says otherwise."""

_LEAST_EF_SEARCH, _MOST_EF_SEARCH = 8, 4096
"""With more candidates, FAISS takes longer than an exact search."""

_GROWTH = 0.3
"""The time of an insertion grows about as this power of the number of items."""

_EXACT, _SEARCHER = "exact", "searcher"
"""The handles: the exact index, and the object of FAISS."""

_FEW = 20
"""If a larger part than one of this many nodes is held out, the graph is built again."""

_MORE_BYTES = 12
"""The bytes of an item's level and of its links on the upper levels, on average."""


class HNSWSearch(ApproximateIndex):
    """Search in a graph of the items, by FAISS.

    `M` is the number of links of an item, twice as many on the lowest level. `efConstruction` is
    the number of candidates for the links of an item. `efSearch` is the number of candidates of a
    search. Building takes about ten times as long as for an IVF. The graph takes ``8 M`` bytes per
    item and a little more. Vectors are stored once, in float32, where that is what the items are;
    otherwise in addition to the items.

    Items that are equal are one node of the graph, which has its position.
    """

    algorithm: ClassVar[str] = "hnsw"
    library: ClassVar[str] = "faiss"
    index_names: ClassVar[Mapping[str, range | tuple[str, ...]]] = {
        "M": range(2, MOST_LINKS + 1),
        "efConstruction": range(1, (1 << 20) + 1),
    }
    search_name: ClassVar[str] = "efSearch"

    def __init__(
        self,
        matrix: NDArray[np.floating],
        spec: IndexSpec,
        space: Coordinates,
        vectors: NDArray[np.float32],
        graph: Graph,
        copies: Copies | None,
    ) -> None:
        super().__init__(matrix, spec, space, _FIRST_EF_SEARCH)
        # Coordinates that are the items themselves are not stored twice.
        self._vectors = None if np.may_share_memory(vectors, matrix) else vectors
        self._graph = graph
        self._copies = copies
        self._version = library_version("faiss")

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> Self:
        """See `ApproximateIndex.build`."""
        load_library("faiss")
        space = _space(Coordinates.of(spec.metric, matrix))
        vectors = _vectors(space, matrix)
        firsts = first_copies(matrix)
        nodes = np.flatnonzero(firsts == np.arange(len(matrix)))
        points = vectors if len(nodes) == len(matrix) else vectors[nodes]
        graph = _grown(None, points, spec).moved(nodes, len(matrix))
        return cls(matrix, spec, space, vectors, graph, Copies.of(firsts))

    @property
    def added_bytes(self) -> int:
        """See `NeighborIndex.added_bytes`."""
        vectors = 0 if self._vectors is None else self._vectors.nbytes
        copies = 0 if self._copies is None else self._copies.nbytes
        return vectors + copies + self._graph.nbytes

    @classmethod
    def expected_bytes(
        cls, shape: tuple[int, int], dtype: np.dtype[np.floating], spec: IndexSpec
    ) -> int:
        """See `ApproximateIndex.expected_bytes`: the links, and vectors that are not the items.

        Offsets are not known yet: vectors far from the origin are stored twice, too.
        """
        n_items, n_features = shape
        links = 8 * int(spec.index_params.get("M", _M)) + _MORE_BYTES
        same = dtype == np.float32 and spec.metric.name not in ANGLES
        return n_items * (links + (0 if same else 4 * n_features))

    @classmethod
    def build_work(cls, n_items: int, spec: IndexSpec) -> float:
        """See `ApproximateIndex.build_work`."""
        return float(n_items ** (1 + _GROWTH))

    def knob_levels(self) -> list[int]:
        """See `ApproximateIndex.knob_levels`."""
        return levels(_LEAST_EF_SEARCH, min(_MOST_EF_SEARCH, len(self._matrix)))

    def candidates(self, queries: NDArray[np.float32], many: int, knob: int) -> NDArray[np.int64]:
        """See `ApproximateIndex.candidates`."""
        if _by_product(self.metric):
            queries = np.ascontiguousarray(queries[:, :-1])
        found = self._searcher().nearest(queries, many, min(knob, _MOST_EF_SEARCH))
        return found if self._copies is None else self._copies.added(found, many)

    def held_out(self, positions: NDArray[np.int64]) -> Self:
        """See `ApproximateIndex.held_out`: an index that finds none of these items.

        The links to a few items are removed, so that the recall is a little too low rather than too
        high: other links would be in their place. Without many items, the graph is built again.
        An item that has an equal item among the others is not hidden: the others have its place.
        """
        hidden = items = positions
        if self._copies is not None:
            hidden, items = self._copies.among(positions)
        nodes = self._graph.nodes
        left = np.setdiff1d(nodes, hidden)
        if not len(hidden) or not len(left):
            return self
        other = self.with_knob(self._knob)
        if len(hidden) * _FEW <= len(nodes):
            other._graph = self._graph.without(hidden)
        else:
            graph = _grown(None, self._coordinates[left], self._spec)
            other._graph = graph.moved(left, len(self._matrix))
        other._handles = {_EXACT: VisibleItems(self.exact_index, items)}
        return other

    def _holds(self, rows: NDArray[np.floating]) -> bool:
        return _by_product(self.metric) or super()._holds(rows)

    def _with_added(
        self,
        matrix: NDArray[np.floating],
        old_positions: NDArray[np.int64],
        added: NDArray[np.bool_],
    ) -> Self:
        nodes = first_copies(matrix)
        old_nodes = old_positions[self._graph.nodes]
        # An item that is equal to an old one joins its node.
        leaders = np.arange(len(matrix))
        leaders[nodes[old_nodes]] = old_nodes
        nodes = leaders[nodes]
        new_nodes = np.setdiff1d(nodes, old_nodes)
        order = np.concatenate([old_nodes, new_nodes])
        vectors = _vectors(self._space, matrix)
        graph = _grown(self._graph.compact(), vectors[order], self._spec)
        graph = graph.moved(order, len(matrix))
        return type(self)(matrix, self._spec, self._space, vectors, graph, Copies.of(nodes))

    def structure(self) -> dict[str, NDArray[Any]]:
        """See `ApproximateIndex.structure`: the graph, and the transform of the vectors."""
        return {**self._graph.structure(), **self._space.structure()}

    @classmethod
    def restored(
        cls, matrix: NDArray[np.floating], spec: IndexSpec, structure: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `ApproximateIndex.restored`."""
        n_items, n_features = matrix.shape
        check_structure(structure, {**Graph.expected(n_items), **Coordinates.expected(n_features)})
        space = _space(Coordinates.restored(spec.metric, n_features, structure))
        graph = Graph.restored(structure)
        if graph.m != spec.index_params.get("M", _M):
            raise damaged("graph", f"has M {graph.m}, but the model has {spec.index_params}")
        copies = Copies.of(_restored_nodes(graph, first_copies(matrix)))
        load_library("faiss")
        return cls(matrix, spec, space, _vectors(space, matrix), graph, copies)

    @property
    def _coordinates(self) -> NDArray[np.float32]:
        return self._matrix if self._vectors is None else self._vectors

    def _searcher(self) -> Searcher:
        if _SEARCHER not in self._handles:
            faiss = load_library("faiss", self._version)
            self._handles[_SEARCHER] = Searcher(
                faiss, self._graph, self._coordinates, _by_product(self.metric)
            )
        found: Searcher = self._handles[_SEARCHER]
        return found


def _by_product(metric: Metric) -> bool:
    """Return whether FAISS compares by products: graphs by distances find far fewer of these."""
    return metric.name == "inner_product"


def _space(space: Coordinates) -> Coordinates:
    """Return the coordinates without a center, which would change products."""
    if not _by_product(space.metric):
        return space
    return replace(space, center=np.zeros_like(space.center))


def _vectors(space: Coordinates, matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the coordinates of all items, which may be `matrix` itself."""
    if _by_product(space.metric):
        # The additional coordinate is for distances only.
        space = replace(space, metric=Metric("euclidean"), norm=0.0)
    if matrix.dtype == np.float32 and space.changes_nothing:
        return space.coordinates(matrix)
    vectors = np.empty((len(matrix), space.n_coordinates), np.float32)
    for where in space.blocks(len(matrix)):
        vectors[where] = space.coordinates(matrix[where])
    return vectors


def _restored_nodes(graph: Graph, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the node of each item; raise an error unless just one of equal items is a node."""
    nodes = graph.nodes
    per_item = np.bincount(firsts[nodes], minlength=len(firsts))
    if (per_item[np.unique(firsts)] != 1).any():
        raise damaged("levels", "must be 0 for all but one of the items that are equal")
    leaders = np.empty_like(firsts)
    leaders[firsts[nodes]] = nodes
    return leaders[firsts]


def _grown(graph: Graph | None, points: NDArray[np.float32], spec: IndexSpec) -> Graph:
    """Add the last of the points to a graph of the first ones."""
    m = int(spec.index_params.get("M", _M))
    n_old = 0 if graph is None else len(graph.levels)
    drawn = drawn_levels(len(points) - n_old, m, [spec.seed, n_old])
    ef_construction = int(spec.index_params.get("efConstruction", _EF_CONSTRUCTION))
    by_product = _by_product(spec.metric)
    return grown(load_library("faiss"), graph, points, drawn, m, ef_construction, by_product)
