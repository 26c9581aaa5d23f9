"""A search that sorts all distances: the reference for every index."""

from __future__ import annotations

import math

import numpy as np

from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import Neighbors
from tests.support.strategies import Search


def by_sorting(search: Search) -> Neighbors:
    """The neighbors by sorting all (distance, position); each distance is computed alone."""
    banned = set()
    if search.exclude is not None:
        banned = set(zip(*(part.tolist() for part in search.exclude), strict=True))
    bound = math.inf if search.max_distance is None else search.max_distance
    distances = np.full((len(search.queries), search.k), np.inf)
    positions = np.full((len(search.queries), search.k), -1)
    everybody = np.arange(len(search.items))
    for row in range(len(search.queries)):
        same = np.full(len(everybody), row)
        figures = search.metric.distances(search.queries, search.items, same, everybody)
        pairs = zip(figures.tolist(), everybody.tolist(), strict=True)
        found = sorted(pair for pair in pairs if pair[0] <= bound and (row, pair[1]) not in banned)
        for rank, (distance, position) in enumerate(found[: search.k]):
            distances[row, rank], positions[row, rank] = distance, position
    return Neighbors(distances, positions)


def ask(index: NeighborIndex, search: Search) -> Neighbors:
    """The answers of `index`."""
    return index.kneighbors(
        search.queries, search.k, max_distance=search.max_distance, exclude=search.exclude
    )


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    """Equal positions, and distances to the last bit."""
    assert found.distances.dtype == np.float64
    assert found.positions.dtype == np.int64
    np.testing.assert_array_equal(found.positions, expected.positions)
    assert found.distances.shape == expected.distances.shape
    assert found.distances.tobytes() == expected.distances.tobytes()
