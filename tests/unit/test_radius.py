"""All items within a radius: every class of index against plain loops over all pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import Exclusion, Found
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support.algorithms import installed_classes
from tests.support.strategies import METRIC_CASES, searches
from tests.support.toy_index import ToyIndex

Pairs = list[list[tuple[int, float]]]


def indexes(metric: Metric, items: NDArray[np.floating], leaf_size: int = 3) -> list[NeighborIndex]:
    """An index of every class that supports the metric."""
    spec = IndexSpec(metric, leaf_size=leaf_size)
    dense = installed_classes(metric).values()
    found = [kind.build(items, spec) for kind in (*dense, PairwiseSearch)]
    if ToyIndex.supports(metric):
        found.append(ToyIndex.build(items, spec))
    sparse = installed_classes(metric, "sparse").values()
    return [*found, *(kind.build(SparseRows.from_dense(items), spec) for kind in sparse)]


def answer(index: NeighborIndex, queries: NDArray[np.floating], *args: Any, **options: Any) -> Any:
    """What the index finds, for dense queries whatever its storage."""
    given = queries if index.storage == "dense" else SparseRows.from_dense(queries)
    return index.within(given, *args, **options)


def lists(found: Found) -> Pairs:
    pairs = list(zip(found.positions.tolist(), found.distances.tolist(), strict=True))
    ends = found.offsets.tolist()
    return [pairs[a:b] for a, b in itertools.pairwise(ends)]


def expected(
    metric: Metric,
    queries: NDArray[np.floating],
    items: NDArray[np.floating],
    limit: float,
    exclude: Exclusion | None = None,
    after: NDArray[np.int64] | None = None,
) -> Pairs:
    """Every pair compared with the limit, one by one; distances are tested elsewhere."""
    pairs = () if exclude is None else zip(*(part.tolist() for part in exclude), strict=True)
    banned = set(pairs)
    answers = []
    for row in range(len(queries)):
        positions = np.arange(len(items))
        distances = metric.distances(queries, items, np.full(len(items), row), positions)
        last = -1 if after is None else after[row]
        near = [
            (distance, position)
            for position, distance in enumerate(distances.tolist())
            if distance <= limit and position > last and (row, position) not in banned
        ]
        answers.append([(position, distance) for distance, position in sorted(near)])
    return answers


@pytest.mark.parametrize("metric_case", METRIC_CASES)
@given(data=st.data())
def test_all_within_the_radius_are_found(metric_case, data):
    search = data.draw(searches(metric_case))
    limit = data.draw(st.just(search.max_distance or 0.0) | st.sampled_from([np.inf, 0.0, 1.0]))
    after = data.draw(
        st.none()
        | st.lists(
            st.integers(-1, len(search.items)),
            min_size=len(search.queries),
            max_size=len(search.queries),
        ).map(lambda each: np.array(each, np.int64))
    )
    args = search.queries, search.items, limit, search.exclude, after
    wanted = expected(search.metric, *args)
    for index in indexes(search.metric, search.items, search.leaf_size):
        found = answer(index, search.queries, limit, exclude=search.exclude, after=after)
        assert lists(found) == wanted, type(index)


EUCLIDEAN = resolve_metric("euclidean")


def spread(n_items: int, dim: int = 3, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).integers(0, 5, (n_items, dim)).astype(np.float64)


def test_more_hits_than_fit_are_refused_unless_it_is_one_query():
    items = spread(400)
    queries = items[:30]
    count = sum(map(len, expected(EUCLIDEAN, queries, items, 2.0)))
    for index in indexes(EUCLIDEAN, items):
        assert answer(index, queries, 2.0, most=count - 1) is None, type(index)
        assert len(answer(index, queries, 2.0, most=count).positions) == count, type(index)
        one = answer(index, queries[:1], 2.0, most=1)
        assert lists(one) == expected(EUCLIDEAN, queries[:1], items, 2.0), type(index)


def test_too_many_hits_are_noticed_before_all_items_are_compared(monkeypatch):
    items = np.zeros((20_000, 8), np.float32)
    compared = []
    distances = Metric.distances
    monkeypatch.setattr(
        Metric,
        "distances",
        lambda metric, *args: compared.append(len(args[2])) or distances(metric, *args),
    )
    index = BlockSearch.build(items, IndexSpec(EUCLIDEAN))
    assert index.within(items[:1000], 1.0, most=1 << 16) is None
    # The scores show that they are hits, before any distance is computed.
    assert sum(compared) == 0


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "inner_product"])
def test_tight_clusters_far_apart(metric):
    # The bound of float32 covers whole clusters, the bound of float64 does not.
    random = np.random.default_rng(3)
    centers = random.normal(size=(6, 16)) * 1e4
    items = centers[random.integers(0, 6, 3000)] + random.normal(size=(3000, 16)) * 1e-3
    queries = items[:40]
    known = resolve_metric(metric)
    distances = known.distances(queries, items, np.zeros(3000, np.int64), np.arange(3000))
    limit = float(np.sort(distances)[100])
    for index in indexes(known, items, 30):
        found = answer(index, queries, limit)
        assert lists(found) == expected(known, queries, items, limit), type(index)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@pytest.mark.parametrize("below", [0.0, 1e-12, 1e-7])
def test_limits_near_the_distance_of_unrelated_items(metric, below):
    # Sparse vectors without a common feature all have distance 1 or 0.
    random = np.random.default_rng(5)
    items = random.normal(size=(500, 40)) * (random.random((500, 40)) < 0.05)
    items[::7] *= 1e-6
    known = resolve_metric(metric)
    limit = (1.0 if metric == "cosine" else 0.0) - below
    for index in indexes(known, items):
        found = answer(index, items[:50], limit)
        assert lists(found) == expected(known, items[:50], items, limit), type(index)


def test_distances_do_not_depend_on_the_direction():
    # Which is why a pair can be found from either of its items.
    items = np.random.default_rng(2).normal(size=(60, 2))
    rows, positions = (each.ravel() for each in np.indices((60, 60)))
    for name, make in METRIC_CASES.items():
        metric = make(2)
        there = metric.distances(items, items, rows, positions)
        back = metric.distances(items, items, positions, rows)
        assert (there == back).all(), name
