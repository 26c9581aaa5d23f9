"""FAISS's HNSW index over arrays that are not its own: it grows graphs, and searches in them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.hnsw_graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Searcher:
    """Searches a graph. The arrays are not copied, and may be read-only memory maps.

    Parameters
    ----------
    faiss : module
        The library.
    graph : Graph
        A graph that was checked, or that FAISS built.
    coordinates : ndarray of shape (n_items, n_coordinates), dtype float32
        The vectors of the items, C-contiguous.
    by_product : bool
        Whether the nearest items are those with the largest inner products.
    """

    def __init__(
        self, faiss: Any, graph: Graph, coordinates: NDArray[np.float32], by_product: bool
    ) -> None:
        self._faiss = faiss
        self._arrays = graph.links, coordinates
        self._index = _empty(faiss, coordinates.shape[1], graph.m, by_product)
        hnsw, storage = self._index.hnsw, faiss.downcast_index(self._index.storage)
        faiss.copy_array_to_vector(graph.levels.astype(np.int32), hnsw.levels)
        faiss.copy_array_to_vector(graph.offsets().astype(np.uint64), hnsw.offsets)
        hnsw.neighbors = _view(faiss, faiss.MaybeOwnedVectorInt32, graph.links)
        hnsw.entry_point, hnsw.max_level = graph.entry, int(graph.levels[graph.entry]) - 1
        flat = coordinates.reshape(-1).view(np.uint8)
        storage.codes = _view(faiss, faiss.MaybeOwnedVectorUInt8, flat)
        storage.ntotal = self._index.ntotal = len(coordinates)

    def nearest(self, queries: NDArray[np.float32], many: int, ef_search: int) -> NDArray[np.int64]:
        """Return the nearest items that a search finds, and -1 where it finds no more.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            The queries, C-contiguous.
        many : int
            The number of items of a query.
        ef_search : int
            The number of candidates of a search; `many` if that is more.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            The positions of the items.
        """
        parameters = self._faiss.SearchParametersHNSW(efSearch=ef_search)
        found: NDArray[np.int64] = self._index.search(queries, many, params=parameters)[1]
        return found


def _empty(faiss: Any, n_coordinates: int, m: int, by_product: bool) -> Any:
    metric = faiss.METRIC_INNER_PRODUCT if by_product else faiss.METRIC_L2
    return faiss.IndexHNSWFlat(n_coordinates, m, metric)


def _view(faiss: Any, kind: Any, array: NDArray[Any]) -> Any:
    """Return a vector of FAISS over an array, which must outlive it."""
    # The owner of an empty vector is a null pointer: Python owns the array.
    return kind.create_view(faiss.swig_ptr(array), array.size, kind().owner)


@contextlib.contextmanager
def _deterministic(faiss: Any) -> Iterator[None]:
    """Build with one thread if the graph depended on their number: before FAISS 1.15."""
    if hasattr(faiss, "hnsw_add_vertices_deterministic"):
        yield
        return
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def grown(
    faiss: Any,
    graph: Graph | None,
    coordinates: NDArray[np.float32],
    levels: NDArray[np.uint8],
    m: int,
    ef_construction: int,
    by_product: bool,
) -> Graph:
    """Add nodes to a graph.

    Parameters
    ----------
    faiss : module
        The library.
    graph : Graph or None
        The graph so far, in which every item is a node; None if there is none.
    coordinates : ndarray of shape (n_items, n_coordinates), dtype float32
        The vectors of the nodes so far, and then of the new ones.
    levels : ndarray of shape (n_new,), dtype uint8
        The numbers of levels of the new nodes.
    m : int
        See `Graph.m`.
    ef_construction : int
        The number of candidates for the links of a node.
    by_product : bool
        See `Searcher`.

    Returns
    -------
    Graph
        The graph. It depends on the arguments and on the version of FAISS only.
    """
    index = _empty(faiss, coordinates.shape[1], m, by_product)
    hnsw, storage = index.hnsw, faiss.downcast_index(index.storage)
    hnsw.efConstruction = ef_construction
    first = len(coordinates) - len(levels)
    if graph is not None:
        storage.add(coordinates[:first])
        index.ntotal = first
        faiss.copy_array_to_vector(graph.offsets().astype(np.uint64), hnsw.offsets)
        faiss.copy_array_to_vector(graph.links, hnsw.neighbors)
        hnsw.entry_point, hnsw.max_level = graph.entry, int(graph.levels[graph.entry]) - 1
        levels = np.concatenate([graph.levels, levels])
    # FAISS draws no levels if there are as many as nodes will be.
    faiss.copy_array_to_vector(levels.astype(np.int32), hnsw.levels)
    with _deterministic(faiss):
        index.add(coordinates[first:])
    return Graph(m, int(hnsw.entry_point), levels, faiss.vector_to_array(hnsw.neighbors).copy())
