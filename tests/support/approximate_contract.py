"""What an approximate index promises of each answer."""

from __future__ import annotations

import numpy as np

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.found import Neighbors
from tests.support.sorting import ask, by_sorting
from tests.support.strategies import Search


def check_contract(index: ApproximateIndex, search: Search) -> Neighbors:
    """Search, and check all but which items are found."""
    found, exact = ask(index, search), by_sorting(search)
    assert found.positions.shape == found.distances.shape == exact.positions.shape
    there = found.positions >= 0
    rows, positions = there.nonzero()[0], found.positions[there]
    figures = search.metric.distances(search.queries, search.items, rows, positions)
    assert figures.tobytes() == found.distances[there].tobytes()
    assert np.isposinf(found.distances[~there]).all()
    assert (found.distances >= exact.distances).all()
    # In order, without gaps, each item once.
    assert not (~there[:, :-1] & there[:, 1:]).any()
    order = np.lexsort((positions, figures, rows))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    assert len(set(zip(rows.tolist(), positions.tolist(), strict=True))) == len(rows)
    if search.exclude is not None:
        banned = set(zip(*(part.tolist() for part in search.exclude), strict=True))
        assert banned.isdisjoint(zip(rows.tolist(), positions.tolist(), strict=True))
    if search.max_distance is None:
        np.testing.assert_array_equal(there, exact.positions >= 0)
    else:
        assert (figures <= search.max_distance).all()
        assert not (there & (exact.positions < 0)).any()
    return found
