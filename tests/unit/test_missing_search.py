"""The search by nan_euclidean: its bound on rounding, its memory, answers at every magnitude."""

from __future__ import annotations

import pickle
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.missing import blocks, search
from pyspark_knn.index.missing.search import MissingSearch
from pyspark_knn.index.missing.space import MissingSpace, rounding
from pyspark_knn.index.pairwise import PairwiseSearch
from tests.support.sorting import assert_same
from tests.unit.test_block_search import DATA, WIDE, clusters, exclusion, products

METRIC = resolve_metric("nan_euclidean")
NAN = np.nan


def knocked_out(rng: np.random.Generator, matrix: Any, share: float) -> Any:
    return np.where(rng.random(matrix.shape) < share, matrix.dtype.type(NAN), matrix)


def weights_for(rng: np.random.Generator, dim: int) -> Any:
    weights = 10.0 ** rng.uniform(-6, 6, dim) * (rng.random(dim) < 0.8)
    return resolve_metric("nan_euclidean", params={"w": weights})


def both(items: Any, queries: Any, metric: Any, k: int, **limits: Any) -> Any:
    index = MissingSearch.build(items, IndexSpec(metric))
    found = index.kneighbors(queries, k, **limits)
    return found, PairwiseSearch(items, metric).kneighbors(queries, k, **limits)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", DATA)
def test_answers_are_those_of_all_pairs(kind, weighted):
    rng = np.random.default_rng(1)
    for share, dim in ((0.2, 5), (0.6, 3), (0.0, 4), (0.9, 24)):
        items = knocked_out(rng, DATA[kind](rng, 700, dim), share)
        fresh = knocked_out(rng, DATA[kind](rng, 20, dim), share)
        queries = np.concatenate([items[:20], fresh])
        metric = weights_for(rng, dim) if weighted else METRIC
        excluded = exclusion(rng, len(queries), len(items), 300)
        found, expected = both(items, queries, metric, 7)
        assert_same(found, expected)
        assert_same(*both(items, queries, metric, 7, exclude=excluded))
        inside = expected.distances[np.isfinite(expected.distances)]
        limit = float(inside[len(inside) // 2]) if len(inside) else 1.0
        assert_same(*both(items, queries, metric, 7, max_distance=limit))
        index = MissingSearch.build(items, IndexSpec(metric))
        after = np.arange(len(queries)) * 17 % 700
        for later in (None, after):
            found, wanted = (
                each.within(queries, limit, exclude=excluded, after=later)
                for each in (index, PairwiseSearch(items, metric))
            )
            for one, other in zip(found, wanted, strict=True):
                assert one.tobytes() == other.tobytes()


@settings(deadline=None)
@given(st.data())
def test_answers_on_a_shell_around_the_query(data):
    """Where the distances of all items are nearly equal, at any magnitude and offset."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([1, 2, 3, 7, 16, 65]))
    n = data.draw(st.integers(1, 600))
    scale = 2.0 ** data.draw(st.sampled_from([-1030, -600, -200, -30, 0, 0, 0, 30, 200, 500, 950]))
    center = rng.standard_normal(dim) + data.draw(st.sampled_from([0.0, 0.0, 1.0, 1e3, 1e8]))
    shell = rng.standard_normal((n, dim))
    shell /= np.linalg.norm(shell, axis=1)[:, None]
    ulps = 1 + rng.integers(-3, 4, (n, dim)) * 2.0 ** -data.draw(st.sampled_from([53, 40, 24, 10]))
    radius = data.draw(st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e4]))
    items = (center + radius * shell * ulps) * scale
    queries = np.stack([center, center + radius * shell[0], -center, items[-1] / scale]) * scale
    if data.draw(st.booleans()) and scale == 1.0:
        items = items.astype(np.float32)
    share = data.draw(st.sampled_from([0.0, 0.2, 0.8]))
    items, queries = (knocked_out(rng, each, share) for each in (items, queries))
    metric = weights_for(rng, dim) if data.draw(st.booleans()) else METRIC
    k = data.draw(st.integers(1, max(1, n // 4)))
    found, expected = both(items, queries, metric, k)
    assert_same(found, expected)
    excluded = exclusion(rng, len(queries), n, data.draw(st.integers(0, 2 * n)))
    assert_same(*both(items, queries, metric, k, exclude=excluded))
    limit = float(expected.distances[0, rng.integers(0, k)])
    if np.isfinite(limit):
        assert_same(*both(items, queries, metric, k, max_distance=limit))


# --- the bound ---


def factors(space: MissingSpace, items: Any, rows: Any, limits: Any, dtype: Any) -> Any:
    """The factors of queries and of items whose products tell which are within the limits."""
    queries = space.queries(rows)
    left = space.left(queries, dtype)
    left.demand(space.reaches(limits, queries, dtype))
    right = np.empty((len(items), left.factors.shape[1]), dtype)
    space.right(items, queries.lacking, right)
    return left, right


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_bound_covers_every_order_of_summation(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = data.draw(st.sampled_from(["normal", "offset", "tight clusters", "a sentinel", "1e150"]))
    dim = data.draw(st.sampled_from([1, 2, 5, 33, 100]))
    share = data.draw(st.sampled_from([0.0, 0.2, 0.5]))
    items = knocked_out(rng, DATA[kind](rng, 4, dim), share)
    rows = np.concatenate([knocked_out(rng, DATA[kind](rng, 2, dim), share), items[:1]])
    metric = weights_for(rng, dim) if data.draw(st.booleans()) else METRIC
    space = MissingSpace(metric, items)
    served = np.flatnonzero(space.serves(space.queries(rows)))
    for dtype in (np.float32, np.float64):
        for position in range(4):
            figures = metric.distances(rows, items, np.arange(3), np.full(3, position))
            left, right = factors(space, items, rows, np.nan_to_num(figures), dtype)
            sums, counts = left.sums()
            for row in served:
                there = not np.isnan(figures[row])
                for product in products(left.factors[row], right[position], dtype):
                    assert (product > 0) == there
                count = counts[row] @ right[position]
                assert count == np.count_nonzero(~np.isnan(rows[row] - items[position]))
                if there:
                    ratios = [s / count for s in products(sums[row], right[position], dtype)]
                    one = space.queries(rows[row][None])
                    limit = space.limits(-np.array(ratios, np.float64), one, dtype)
                    assert (limit >= figures[row]).all()


@pytest.mark.parametrize("dim", [100, 1000])
def test_half_the_bound_of_float32_is_too_small(dim):
    """A pair whose small terms are all lost: added last, to 2, of which each is half an ulp."""
    rho = Fraction(rounding(dim, np.float32))
    small = np.float32(2.0**-12 * (1 - 2.0**-10))
    reach = 1.5 * 2.0**-23 * (1 - 2.0**-9)
    item = np.full(dim, small)
    query = item.copy()
    query[0], item[0] = 1.0, 1.0 + (reach * dim) ** 0.5
    items = np.stack([item, -item])  # their mean is zero: they are not centered
    items = np.concatenate([items, np.full((1, dim), np.float32(NAN))])
    rows = np.stack([query, np.full(dim, np.float32(NAN))])
    space = MissingSpace(METRIC, items)
    left = space.left(space.queries(rows), np.float32)
    left.demand(np.full(2, reach))
    right = np.empty((3, left.factors.shape[1]), np.float32)
    space.right(items, space.queries(rows).lacking, right)

    gaps = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(query, item, strict=True)]
    sizes = sum(Fraction(float(x)) ** 2 for x in (*query, *item))
    true = Fraction(reach) * dim - sum(gap**2 for gap in gaps)
    bound = rho * (Fraction(reach) * dim + sizes)
    terms = left.factors[0].astype(np.float64) * right[0].astype(np.float64)
    order = [dim, *range(1, dim), *range(dim + 1, 2 * dim), 0, *range(2 * dim, 3 * dim + 2)]
    assert sorted(order) == list(range(3 * dim + 2))
    total = np.float32(0)
    for term in terms[order]:
        total = np.float32(total + np.float32(term))
    # The remedy is in the computed number already: about rho times the squares.
    missing = true - (Fraction(float(total)) - rho * sizes)
    assert bound / 2 < missing <= bound


def test_float32_is_skipped_where_its_bound_is_too_large():
    assert rounding(100_000, np.float32) < 0.02
    assert rounding(1 << 17, np.float32) == np.inf
    assert rounding(2**31 - 1, np.float64) < 1e-5
    space = MissingSpace(METRIC, np.zeros((2, 1 << 17), np.float32))
    assert space.dtypes == (np.float64,)


# --- the ways of a search ---


@pytest.mark.parametrize(("spread", "steps"), [(1.0, 0), (1e-5, 1)], ids=["float32", "float64"])
def test_only_queries_that_float32_cannot_answer_are_searched_again(monkeypatch, spread, steps):
    rng = np.random.default_rng(1)
    items = knocked_out(rng, clusters(rng, 6000, 20, 4, spread), 0.1)
    queries = items[::100]
    left = []
    step = search._Search._search_all

    def noted(self, *arguments):
        rows = step(self, *arguments)
        left.append(len(rows))
        return rows

    monkeypatch.setattr(search._Search, "_search_all", noted)
    assert_same(*both(items, queries, METRIC, 10))
    assert left == [len(queries) * steps, 0]


@pytest.mark.parametrize("kind", ["normal", "all equal", "duplicates", "tight clusters"])
def test_memory_is_bounded_with_any_number_of_ties(kind):
    rng = np.random.default_rng(2)
    items = knocked_out(rng, DATA[kind](rng, 30_000, 4), 0.2)
    index = MissingSearch.build(items, IndexSpec(METRIC))
    queries = items[:200] + (1.0 if kind == "all equal" else 0.0)
    tracemalloc.start()
    try:
        index.kneighbors(queries, 5)
        assert index.within(queries, np.inf, most=1 << 16) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("kind", WIDE)
def test_wide_vectors_are_searched_by_products(monkeypatch, kind):
    rng = np.random.default_rng(3)
    items = knocked_out(rng, WIDE[kind](rng, 26, 120_000).astype(np.float32), 0.1)
    queries = np.concatenate([items[:2] * 1.001, WIDE[kind](rng, 1, 120_000)])
    expected = PairwiseSearch(items, METRIC).kneighbors(queries, 6)
    monkeypatch.setattr(PairwiseSearch, "kneighbors", None)
    index = MissingSearch.build(items, IndexSpec(METRIC))
    tracemalloc.start()
    try:
        found = index.kneighbors(queries, 6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_same(found, expected)
    assert peak < 96 << 20


@pytest.mark.parametrize("queries_per_batch", [1, 3, 1000])
@pytest.mark.parametrize("scores", [1, 64, 5000])
def test_the_size_of_blocks_changes_nothing(monkeypatch, queries_per_batch, scores):
    rng = np.random.default_rng(4)
    items, queries = (knocked_out(rng, rng.standard_normal((n, 6)), 0.3) for n in (203, 9))
    excluded = exclusion(rng, 9, 203, 90)
    monkeypatch.setattr(blocks, "_BLOCK_SCORES", scores)
    monkeypatch.setattr(search, "_BATCH_QUERIES", queries_per_batch)
    monkeypatch.setattr(search, "_FIRST_ITEMS", 40)
    assert_same(*both(items, queries, METRIC, 7))
    assert_same(*both(items, queries, METRIC, 7, exclude=excluded))


def test_columns_that_nobody_lacks():
    """Where only some columns have missing values, of items, of queries, or of both."""
    rng = np.random.default_rng(5)
    plain_items, plain_queries = rng.standard_normal((300, 6)), rng.standard_normal((30, 6))
    for lacking_items in ([], [0, 3], [5], range(6)):
        for lacking_queries in ([], [3, 4], range(6)):
            items, queries = plain_items.copy(), plain_queries.copy()
            for matrix, columns in ((items, lacking_items), (queries, lacking_queries)):
                for column in columns:
                    matrix[rng.random(len(matrix)) < 0.3, column] = NAN
            assert_same(*both(items, queries, METRIC, 8))


def test_an_index_holds_the_items_and_little_else():
    rng = np.random.default_rng(6)
    items = knocked_out(rng, rng.standard_normal((3000, 40)) + 1e6, 0.2)
    index = MissingSearch.build(items, IndexSpec(METRIC))
    buffers: list[Any] = []
    head = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    sizes = sorted(buffer.raw().nbytes for buffer in buffers)
    assert sizes[-1] == items.nbytes
    assert sum(sizes[:-1]) + len(head) < 10_000
    mapped = pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert not mapped.matrix.flags.writeable
    assert_same(mapped.kneighbors(items[:20], 5), index.kneighbors(items[:20], 5))


def test_no_queries():
    items = np.random.default_rng(7).standard_normal((100, 3))
    index = MissingSearch.build(items, IndexSpec(METRIC))
    assert index.kneighbors(items[:0], 3).positions.shape == (0, 3)
    found = index.within(items[:0], 1.0)
    assert found is not None
    assert found.offsets.tolist() == [0]
