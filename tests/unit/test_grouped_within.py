"""All items within a distance, among those of the groups of a query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion, Found
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.grouped.queries import GroupQueries
from pyspark_knn.index.grouped.search import Thresholds
from pyspark_knn.index.sparse.rows import SparseRows

NEVER = 10**9
WAYS = {
    "pairs": Thresholds(NEVER, NEVER, np.inf, 0, np.inf),
    "products": Thresholds(NEVER, NEVER, 0, 0, np.inf),
    "products of copies": Thresholds(NEVER, NEVER, 0, np.inf, np.inf),
    "an index for a search": Thresholds(NEVER, NEVER, np.inf, 0, 0),
    "an index of their own": Thresholds(1, 1, np.inf, 0, np.inf),
    "mixed": Thresholds(30, 30, 50, 1000, 100),
}


class Data:
    """Items on a lattice, in groups of many sizes; queries of no, one and several groups."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.numbers = np.sort(rng.integers(0, rng.integers(1, 12), 120))
        _, self.numbers = np.unique(self.numbers, return_inverse=True)
        self.positions = np.empty(120, np.int64)
        order = rng.permutation(120)
        start = 0
        for size in np.bincount(self.numbers):
            self.positions[start : start + size] = np.sort(order[start : start + size])
            start += size
        self.matrix = rng.integers(-2, 3, (120, 3)).astype(np.float32)
        self.queries = rng.integers(-2, 3, (17, 3)).astype(np.float32)
        asked = rng.random((17, self.numbers.max() + 1)) < 0.4
        self.rows, self.groups = np.nonzero(asked)
        self.distances = np.sqrt(
            ((self.queries[:, None].astype(float) - self.matrix[None]) ** 2).sum(axis=2)
        )
        self.asked = asked[:, self.numbers]

    def index(self, way: str, *, sparse: bool = False) -> GroupedIndex:
        starts = np.append(0, np.cumsum(np.bincount(self.numbers)))
        matrix = SparseRows.from_dense(self.matrix) if sparse else self.matrix
        spec = IndexSpec(resolve_metric("euclidean"), "brute")
        return GroupedIndex.build(matrix, self.positions, starts, spec, WAYS[way])[0]

    def expected(
        self, limit: float, hidden: NDArray[np.bool_], after: NDArray[np.int64]
    ) -> list[list[tuple[float, int]]]:
        found = []
        for row in range(len(self.queries)):
            allowed = self.asked[row] & ~hidden[row, self.positions]
            allowed &= (self.distances[row] <= limit) & (self.positions > after[row])
            pairs = zip(
                self.distances[row][allowed].tolist(), self.positions[allowed].tolist(), strict=True
            )
            found.append(sorted(pairs))
        return found


def as_lists(found: Found | None) -> list[list[tuple[float, int]]]:
    assert found is not None
    pairs = list(zip(found.distances.tolist(), found.positions.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("way", WAYS)
@given(seed=st.integers(0, 10**6), square=st.integers(0, 20))
def test_all_within_the_distance_are_found(way: str, sparse: bool, seed: int, square: int) -> None:
    data = Data(seed)
    rng = np.random.default_rng(seed)
    hidden = rng.random((17, 120)) < 0.2
    after = rng.integers(-1, 60, 17)
    rows, positions = np.nonzero(hidden)
    order = np.argsort(positions, kind="stable")
    queries: Any = SparseRows.from_dense(data.queries) if sparse else data.queries
    limit = float(np.sqrt(square))
    index = data.index(way, sparse=sparse)
    asked = GroupQueries(queries, data.rows, data.groups)
    found = index.within(
        asked, limit, exclude=Exclusion(rows[order], positions[order]), after=after
    )
    assert as_lists(found) == data.expected(limit, hidden, after)
    # Slices of queries are queries.
    everything = data.expected(limit, hidden & False, after * 0 - 1)
    assert as_lists(index.within(asked[5:11], limit)) == everything[5:11]


@pytest.mark.parametrize("way", WAYS)
def test_too_many_are_found_out(way: str) -> None:
    data = Data(3)
    index = data.index(way)
    asked = GroupQueries(data.queries, data.rows, data.groups)
    total = int(data.asked.sum())
    assert index.within(asked, np.inf, most=total - 1) is None
    assert index.within(asked, np.inf, most=total) is not None


def test_queries_without_groups_find_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    index = Data(0).index("mixed")
    asked = GroupQueries(Data(0).queries, nothing, nothing)
    assert as_lists(index.within(asked, np.inf)) == [[]] * 17
    assert as_lists(index.search(asked, 3)) == [[]] * 17
