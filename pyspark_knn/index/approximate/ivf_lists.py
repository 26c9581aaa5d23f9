"""The lists of an inverted file in FAISS: training, filling, reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyspark_knn.index.approximate.faiss_files import file_of
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.recall import held_out_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.approximate.space import Coordinates

_TRAINING_ITEMS = 32
"""Items for each centroid of which the centroids are the means: twice as many take twice the time,
and the recall is the same."""

_FEWEST_TRAINING_ITEMS = 8
"""Items for each centroid where there are too few that do not measure the recall."""

_TRAINING_ROUNDS = 10
"""Rounds of k-means: further ones improve the recall by less than measurements vary."""


class Quantizers(NamedTuple):
    """What is learned from the items.

    Attributes
    ----------
    centroids : ndarray of shape (n_lists, n_coordinates), dtype float32
        The centroid of each list.
    ranges : ndarray of shape (2, n_coordinates), dtype float32, or None
        The least difference of an item and its centroid in each coordinate, and the width of the
        range of the differences, which are encoded in a byte. None: in float32.
    """

    centroids: NDArray[np.float32]
    ranges: NDArray[np.float32] | None


def trained(
    space: Coordinates, matrix: NDArray[np.floating], n_lists: int, in_bytes: bool, seed: int
) -> Quantizers:
    """Learn the centroids from a sample of the items, by k-means.

    Parameters
    ----------
    space : Coordinates
        The coordinates.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    n_lists : int
        The number of centroids, at most n_items.
    in_bytes : bool
        Whether coordinates are encoded in a byte.
    seed : int
        The seed of the sample and of k-means.

    Returns
    -------
    Quantizers
        The centroids and the ranges.
    """
    faiss = load_library("faiss")
    sample = space.coordinates(matrix[_training_positions(len(matrix), n_lists, seed)])
    settings = faiss.ClusteringParameters()
    settings.niter = _TRAINING_ROUNDS
    settings.seed = seed % (1 << 31)
    # Without these two, FAISS prints a warning where there are few items, and draws a sample.
    settings.min_points_per_centroid = 1
    settings.max_points_per_centroid = _TRAINING_ITEMS
    means = faiss.Clustering(space.n_coordinates, n_lists, settings)
    means.train(sample, faiss.IndexFlatL2(space.n_coordinates))
    centroids = faiss.vector_to_array(means.centroids).reshape(n_lists, -1)
    if not in_bytes:
        return Quantizers(centroids, None)
    lists = _lists(Quantizers(centroids, np.zeros((2, space.n_coordinates), np.float32)))
    lists.train(sample)
    return Quantizers(centroids, _ranges(lists))


def training_comparisons(n_items: int, n_lists: int) -> int:
    """Return how many times training compares an item with a centroid."""
    return _TRAINING_ROUNDS * min(n_items, _TRAINING_ITEMS * n_lists)


def _training_positions(n_items: int, n_lists: int, seed: int) -> NDArray[np.int64]:
    """Draw items, those by which the recall is measured only where there are too few others.

    A centroid is nearer to the items that it is the mean of than to other queries, so these items
    would flatter the recall: by 0.02, with 35 items in a list.
    """
    measured = np.zeros(n_items, bool)
    measured[held_out_positions(n_items, seed)] = True
    others = n_items - int(measured.sum())
    size = min(n_items, _TRAINING_ITEMS * n_lists, max(others, _FEWEST_TRAINING_ITEMS * n_lists))
    order = np.random.default_rng(seed).permutation(n_items)
    order = order[np.argsort(measured[order], kind="stable")]
    return np.sort(order[:size])


def cells_of(
    centroids: NDArray[np.float32], space: Coordinates, matrix: NDArray[np.floating]
) -> NDArray[np.int32]:
    """Return the list of each item: that of the nearest centroid.

    Parameters
    ----------
    centroids : ndarray of shape (n_lists, n_coordinates), dtype float32
        The centroids.
    space : Coordinates
        The coordinates.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.

    Returns
    -------
    ndarray of shape (n_items,), dtype int32
        The numbers of their lists.
    """
    nearest = _flat(centroids)
    cells = np.empty(len(matrix), np.int32)
    for where in space.blocks(len(matrix)):
        cells[where] = nearest.assign(space.coordinates(matrix[where]), 1)[:, 0]
    return cells


def file_of_lists(
    quantizers: Quantizers,
    space: Coordinates,
    matrix: NDArray[np.floating],
    cells: NDArray[np.int32],
) -> NDArray[np.uint8]:
    """Fill the lists, and write them to an array.

    Parameters
    ----------
    quantizers : Quantizers
        The centroids and the ranges.
    space : Coordinates
        The coordinates.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    cells : ndarray of shape (n_items,), dtype int32
        The list of each item.

    Returns
    -------
    ndarray of shape (n_bytes,), dtype uint8
        The file.
    """
    faiss = load_library("faiss")
    lists = _lists(quantizers)
    for where in space.blocks(len(matrix)):
        rows = space.coordinates(matrix[where])
        positions = np.arange(where.start, where.stop, dtype=np.int64)
        numbers = cells[where].astype(np.int64)
        pointers = (faiss.swig_ptr(each) for each in (rows, positions, numbers))
        lists.add_core(len(rows), *pointers)
    n_bytes = len(matrix) * (lists.code_size + 8) + quantizers.centroids.nbytes
    return file_of(lists, n_bytes + 64 * len(quantizers.centroids) + 65_536)


def content(lists: Any) -> tuple[Quantizers, NDArray[np.int32]]:
    """Return the quantizers of lists, and the list of each item.

    Parameters
    ----------
    lists : faiss.IndexIVF
        The lists.

    Returns
    -------
    quantizers : Quantizers
        The centroids and the ranges.
    cells : ndarray of shape (n_items,), dtype int32
        The list of each item.
    """
    faiss = load_library("faiss")
    centroids = lists.quantizer.reconstruct_n(0, lists.nlist)
    cells = np.empty(lists.ntotal, np.int32)
    for number in range(lists.nlist):
        size = lists.invlists.list_size(number)
        if size:
            cells[faiss.rev_swig_ptr(lists.invlists.get_ids(number), size)] = number
    ranges = _ranges(lists) if isinstance(lists, faiss.IndexIVFScalarQuantizer) else None
    return Quantizers(centroids, ranges), cells


def _lists(quantizers: Quantizers) -> Any:
    """Return lists without items."""
    faiss = load_library("faiss")
    centroids, ranges = quantizers
    n_lists, dim = centroids.shape
    nearest = _flat(centroids)
    if ranges is None:
        lists = faiss.IndexIVFFlat(nearest, dim, n_lists, faiss.METRIC_L2)
    else:
        kind = faiss.ScalarQuantizer.QT_8bit
        lists = faiss.IndexIVFScalarQuantizer(nearest, dim, n_lists, kind, faiss.METRIC_L2)
        faiss.copy_array_to_vector(np.ascontiguousarray(ranges.ravel()), lists.sq.trained)
    lists.is_trained = True
    return lists


def _flat(centroids: NDArray[np.float32]) -> Any:
    nearest = load_library("faiss").IndexFlatL2(centroids.shape[1])
    nearest.add(np.ascontiguousarray(centroids))
    return nearest


def _ranges(lists: Any) -> NDArray[np.float32]:
    trained: NDArray[np.float32] = load_library("faiss").vector_to_array(lists.sq.trained)
    return trained.reshape(2, -1)
