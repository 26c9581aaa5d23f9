"""Comparisons by differences: their bound, and what they spare the block search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.differences import CloserPairs, Differences, difference_error
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.rounding import U, V
from pyspark_knn.index.score_space import squared_norms
from pyspark_knn.index.score_spaces import score_space
from tests.support.sorting import assert_same
from tests.unit.test_block_search import exclusion, metric_for

METRICS = ("euclidean", "sqeuclidean", "seuclidean", "minkowski", "cosine", "correlation")


def search_of(items, metric):
    """An index that compares blocks of items with queries, however few there are."""
    return BlockSearch(items, metric, score_space(metric, items), few_items=0)


def check(items, queries, metric, k, **options):
    found = search_of(items, metric).kneighbors(queries, k, **options)
    assert_same(found, PairwiseSearch(items, metric).kneighbors(queries, k, **options))


def clusters(rng, n, dim, count, spread):
    """Clusters whose items products in float32 cannot tell apart."""
    centers = rng.standard_normal((count, dim))
    return centers[rng.integers(0, count, n)] + spread * rng.standard_normal((n, dim))


@pytest.fixture
def asked(monkeypatch):
    """Count the pairs that are compared by differences, and those whose figures are computed."""
    counts = {"differences": 0, "figures": 0}
    differences, figures = Differences.distances, Metric.distances

    def count_differences(self, rows, positions):
        counts["differences"] += len(rows)
        return differences(self, rows, positions)

    def count_figures(self, queries, items, rows, positions):
        counts["figures"] += len(rows)
        return figures(self, queries, items, rows, positions)

    monkeypatch.setattr(Differences, "distances", count_differences)
    monkeypatch.setattr(Metric, "distances", count_figures)
    return counts


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", METRICS)
def test_near_duplicates_are_told_apart_without_their_final_figures(asked, name, dtype):
    rng = np.random.default_rng(sum(map(ord, name)))
    items = clusters(rng, 16_000, 24, 160, 1e-5).astype(dtype)
    queries = items[:50] + dtype(1e-6)
    metric = resolve_metric(name, params={"V": np.ones(24)} if name == "seuclidean" else None)
    found = search_of(items, metric).kneighbors(queries, 5)
    assert asked["differences"] > 50 * 80
    assert asked["figures"] < 50 * 40
    assert_same(found, PairwiseSearch(items, metric).kneighbors(queries, 5))


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_near_ties_in_the_last_place_are_ordered(data):
    """Hundreds of items on a sphere around the query, up to some units in the last place."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([3, 16, 65]))
    n = data.draw(st.integers(150, 600))
    scale = 2.0 ** data.draw(st.sampled_from([-1030, -600, -200, -30, 0, 0, 0, 30, 200, 500, 950]))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e3, 1e8]))
    center = rng.standard_normal(dim) + offset
    shell = rng.standard_normal((n, dim))
    shell /= np.linalg.norm(shell, axis=1)[:, None]
    ulps = 1 + rng.integers(-3, 4, (n, dim)) * 2.0 ** -data.draw(st.sampled_from([53, 40, 24, 10]))
    radius = data.draw(st.sampled_from([1e-12, 1e-9, 1e-6, 1e-3, 1.0]))
    items = (center + radius * shell * ulps) * scale
    queries = np.stack([center, center + radius * shell[0], items[-1] / scale]) * scale
    if data.draw(st.booleans()) and scale == 1.0:
        items = items.astype(np.float32)
        if data.draw(st.booleans()):
            queries = queries.astype(np.float32)
    metric = metric_for(data.draw(st.sampled_from(METRICS)), dim, rng)
    excluded = exclusion(rng, len(queries), n, data.draw(st.integers(0, n)))
    check(items, queries, metric, data.draw(st.sampled_from([1, 6, 30])), exclude=excluded)


@pytest.mark.parametrize("dim", [200, 2000])
@pytest.mark.parametrize(("dtype", "unit"), [(np.float32, U), (np.float64, V)])
def test_half_the_bound_of_a_difference_is_too_small(dtype, unit, dim):
    tiny = unit**0.5
    difference = np.full(dim, tiny * (1 - 2.0**-10), dtype)
    difference[0] = 1.0
    total = dtype(0)
    for each in difference:
        total += each * each
    exact = np.sqrt((difference.astype(np.longdouble) ** 2).sum())
    error = difference_error(dim, np.zeros(1), np.array([float(exact)]), True, unit)[0]
    final = (dim.bit_length() + 8) * V
    assert (error - final) / 2 < exact - np.sqrt(np.longdouble(total)) <= error


def test_squares_of_very_many_features_are_added_in_float64():
    dim = (1 << 20) + 1
    items = np.full((2, dim), 2.0**-12, np.float32)
    items[1] = 0.0
    space = score_space(resolve_metric("euclidean"), items)
    for wide, unit in ((True, V), (False, U)):
        differences = Differences(items, space, items, space.queries(items), wide=wide)
        error = difference_error(dim, np.sqrt(space.queries(items).squares), np.ones(2), wide, unit)
        assert differences.error(np.ones(2)).tolist() == error.tolist()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_distances_are_within_the_bound(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([1, 7, 40]))
    spread = data.draw(st.sampled_from([1e-9, 1e-4, 1.0]))
    offset = data.draw(st.sampled_from([0.0, 3.0, 1e5]))
    items = clusters(rng, 60, dim, 2, spread) + offset
    queries = items[:5] + spread * rng.standard_normal((5, dim))
    if data.draw(st.booleans()):
        items, queries = items.astype(np.float32), queries.astype(np.float32)
    metric = resolve_metric("euclidean")
    space = score_space(metric, items)
    asked = space.queries(queries)
    rows, positions = np.divmod(np.arange(5 * 60), 60)
    exact = queries.astype(np.longdouble)[rows] - items.astype(np.longdouble)[positions]
    exact = np.sqrt((exact * exact).sum(axis=1))
    for wide in (False, True):
        differences = Differences(items, space, queries, asked, wide=wide)
        found = differences.distances(rows, positions)
        for row in range(5):
            limit = np.full(5, float(exact[rows == row].max()))
            error = differences.error(limit)[row]
            assert (np.abs(found - exact)[rows == row] <= error).all()


def test_ties_are_compared_once_in_vain(asked):
    items = np.random.default_rng(0).integers(0, 2, (6000, 9)).astype(np.float32)
    metric = resolve_metric("euclidean")
    found = search_of(items, metric).kneighbors(items[:64], 5)
    assert asked["differences"] <= 64 * 700
    assert_same(found, PairwiseSearch(items, metric).kneighbors(items[:64], 5))


def test_pairs_of_other_queries_are_kept():
    rng = np.random.default_rng(0)
    items = rng.standard_normal((300, 4)).astype(np.float32)
    metric = resolve_metric("euclidean")
    space = score_space(metric, items)
    queries = items[:3]
    differences = Differences(items, space, queries, space.queries(queries), wide=True)
    closer = CloserPairs(lambda: differences, 3, 2, last=True)
    rows = np.repeat([0, 1, 2], [40, 200, 10])
    positions = np.concatenate([np.arange(40), np.arange(200), np.arange(10)])
    closer.allow(100)
    kept = closer(rows, positions)
    assert kept[rows != 1].all()
    nearest = np.argsort(squared_norms(items[:200] - items[1]), kind="stable")[:2]
    assert set(nearest) <= set(positions[kept & (rows == 1)])
    assert kept[rows == 1].sum() < 10


@pytest.mark.parametrize("crowded", [30, 60, 90])
def test_a_batch_with_many_crowded_queries_is_searched_once(crowded):
    """Half of the batch or more is left to the next step, with what has been found so far."""
    rng = np.random.default_rng(crowded)
    spread = rng.standard_normal((4000, 16))
    items = np.concatenate([spread, 5 + 1e-7 * rng.standard_normal((4000, 16))]).astype(np.float32)
    items = items[rng.permutation(8000)]
    queries = np.concatenate([5 + 1e-7 * rng.standard_normal((crowded, 16)), spread[:40]])
    check(items, queries.astype(np.float32), resolve_metric("euclidean"), 7)
    check(items, queries, resolve_metric("cosine"), 7)
