"""Brute force by sums of terms, compared with the distances of all pairs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.registry import class_for
from pyspark_knn.index.terms.blocks import GROUP_SUMS
from pyspark_knn.index.terms.choice import DTYPES, has_terms, term_space
from pyspark_knn.index.terms.search import TermSearch
from pyspark_knn.index.terms.space import Pairs
from tests.support.sorting import ask, assert_same, by_sorting
from tests.support.strategies import METRIC_CASES, Search, searches

CASES = [case for case in METRIC_CASES if has_terms(METRIC_CASES[case](2))]


def build(search: Search, **sizes: int) -> TermSearch:
    return TermSearch(search.items, search.metric, **sizes)


def points(data: st.DataObject, count: int) -> np.ndarray:
    """Ties, duplicates, offsets, clusters, tiny and huge magnitudes, signs or none."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    dim = data.draw(st.sampled_from([1, 2, 5, 9, 40]))
    rows = rng.normal(size=(count, dim)).round(data.draw(st.sampled_from([0, 1, 16])))
    if data.draw(st.booleans()):
        rows = np.abs(rows)
    if data.draw(st.booleans()):
        rows = rows[rng.integers(0, 30, count)] + 1e-9 * rng.integers(0, 3, size=(count, dim))
    rows = rows + data.draw(st.sampled_from([0.0, 0.0, 1.0, 1e6]))
    rows = rows * data.draw(st.sampled_from([1.0, 1.0, 1e30, 1e-30, 1e120, 1e-170]))
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32)
    return narrow if data.draw(st.booleans()) and np.isfinite(narrow).all() else rows


def test_it_serves_these_metrics():
    assert {METRIC_CASES[case](2).name for case in CASES} == {
        "braycurtis",
        "canberra",
        "chebyshev",
        "cityblock",
        "hamming",
        "mahalanobis",
        "minkowski",
    }
    for case in CASES:
        assert class_for("brute", METRIC_CASES[case](2)) is TermSearch


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_answers_agree_with_sorting_all_distances(case, data):
    search = data.draw(searches(case))
    sizes = {
        "block_items": data.draw(st.sampled_from([1, 7, 100])),
        "first_items": data.draw(st.sampled_from([1, 20, 300])),
        "few_items": data.draw(st.sampled_from([0, 4096])),
    }
    assert_same(ask(build(search, **sizes), search), by_sorting(search))


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_answers_among_many_items_agree_with_pairs(case, data):
    rows = points(data, 630)
    k = data.draw(st.sampled_from([1, 3, 10, 150]))
    metric = METRIC_CASES[case](rows.shape[1])
    exclude = None
    if data.draw(st.booleans()):
        exclude = Exclusion(np.arange(30).repeat(2), np.arange(590, 620).repeat(2))
    search = Search(metric, rows[:620], rows[590:], k, None, exclude, 30)
    if data.draw(st.booleans()):
        pair = np.array([0]), np.array([3])
        limit = float(metric.distances(search.queries, search.items, *pair)[0])
        search = replace(search, max_distance=limit)
    expected = ask(PairwiseSearch(search.items, metric), search)
    few = data.draw(st.sampled_from([0, 4096]))
    index = build(search, block_items=200, first_items=64, few_items=few)
    assert_same(ask(index, search), expected)


def test_more_neighbors_than_sums_in_a_group():
    rng = np.random.default_rng(6)
    n_items = 5 * GROUP_SUMS // 4
    items = rng.integers(0, 1000, (n_items, 1)) * 1.0
    for k in (GROUP_SUMS // 3, n_items - 1):
        search = Search(resolve_metric("cityblock"), items, items[:2] + 0.5, k, None, None, 30)
        assert_same(ask(build(search), search), ask(PairwiseSearch(items, search.metric), search))


@pytest.mark.parametrize("case", [case for case in CASES if case != "hamming"])
def test_few_items_are_ranked_once(case, monkeypatch):
    metric = METRIC_CASES[case](8)
    rng = np.random.default_rng(8)
    rows = rng.random((600, 8))
    search = Search(metric, rows[100:], rows[:100], 5, None, None, 30)
    index = build(search)
    ranked = []
    compute = Metric.distances

    def counted(*arguments):
        ranked.append(len(arguments[-1]))
        return compute(*arguments)

    monkeypatch.setattr(Metric, "distances", counted)
    ask(index, search)
    assert len(ranked) == 1
    assert len(search.queries) * search.k <= ranked[0] < len(search.queries) * (search.k + 3)


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_all_items_within_a_distance(case, data):
    rows = points(data, 430)
    items, queries = rows[:420], rows[400:]
    metric = METRIC_CASES[case](rows.shape[1])
    pair = np.array([0]), np.array([data.draw(st.integers(0, 419))])
    limit = float(metric.distances(queries, items, *pair)[0])
    limit = data.draw(st.sampled_from([limit, limit, 0.0, -1.0, np.inf]))
    exclude = Exclusion(np.arange(20), np.arange(400, 420)) if data.draw(st.booleans()) else None
    after = np.arange(len(queries)) * 13 if data.draw(st.booleans()) else None
    found, expected = (
        index.within(queries, limit, exclude=exclude, after=after)
        for index in (
            TermSearch(items, metric, block_items=128),
            PairwiseSearch(items, metric),
        )
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_queries_out_of_all_proportion(case):
    """Queries far beyond the items, for which sums overflow, and next to nothing."""
    items = np.random.default_rng(4).normal(size=(300, 3))
    queries = items[:12] * 10.0 ** np.array([0, 3, 30, 300, -3, -30, -300, 0, 2, 5, 9, -9])[:, None]
    metric = METRIC_CASES[case](3)
    search = Search(metric, items, queries, 7, None, None, 30)
    expected = ask(PairwiseSearch(items, metric), search)
    assert_same(ask(build(search, block_items=64, first_items=32), search), expected)


@pytest.mark.parametrize("name", ["cityblock", "canberra", "braycurtis", "hamming"])
def test_many_features(name):
    """More than a byte can count."""
    rng = np.random.default_rng(5)
    items = rng.integers(0, 3, size=(200, 700)) * 1.0
    search = Search(resolve_metric(name), items, items[:9], 5, None, None, 30)
    expected = ask(PairwiseSearch(items, search.metric), search)
    assert_same(ask(build(search, block_items=64, first_items=32), search), expected)


def test_zeros_of_both_signs_are_equal():
    items = np.array([[0.0, 1.0], [-0.0, 1.0], [-0.0, -0.0]])
    search = Search(resolve_metric("hamming"), items, -items, 3, None, None, 30)
    assert_same(ask(build(search), search), by_sorting(search))


def test_the_items_are_not_copied():
    items = np.eye(3, dtype=np.float32)
    index = TermSearch.build(items, IndexSpec(resolve_metric("cityblock")))
    assert index.matrix is items
    other = items.copy()
    assert index.over(other).matrix is other


# Sums that are as wrong as they can be: the limits hold, and half of their margins do not.


def sum_of_terms(space, items, queries):
    """The sum of all terms of the first item and the first query, in the dtype of the space."""
    one, other = (operand.columns() for operand in (space.operand(items), space.operand(queries)))
    total = np.zeros((1, 1), space.acc_dtype)
    for each in zip(one.values, one.sizes, other.values, other.sizes, strict=True):
        pairs = Pairs(*(part[:1, None] for part in each))
        term = np.empty((1, 1), space.dtype)
        space.terms(pairs, term, np.empty_like(term))
        total = space.combine(total, term)
    return float(total[0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "part"), [("cityblock", 2), ("braycurtis", 2), ("canberra", 10)])
def test_the_margin_is_as_wide_as_it_must_be(name, part, dtype):
    if (name, dtype) == ("cityblock", np.float64):
        part = 4  # the margin contains as much for the rounding of the distance
    # Each term but the first is a little above half a unit in the last place of their sum, which
    # is rounded up each time.
    n = 1000
    unit = float(np.finfo(dtype).eps) / 2
    row = np.full(n, unit * (1 + 2.0**-10))
    row[0] = 1.0
    query = np.zeros(n)
    if name == "canberra":
        row[1:], query[1:] = 1.0, 1.0 - 4 * unit
    items, queries = np.stack([row, -row]), np.stack([query])
    metric = resolve_metric(name)
    space = term_space(metric, items, dtype)
    distance = metric.distances(queries, items, np.array([0]), np.array([0]))
    limit = float(space.limits(distance, space.operand(queries), space.operand(items))[0, 0])
    exact = limit_without_margin(space, distance[0], items, queries)
    found = sum_of_terms(space, items, queries)
    assert exact < found <= limit
    assert found > exact + (limit - exact) / part


@pytest.mark.parametrize(("name", "n_terms"), [("cityblock", 100), ("chebyshev", 1)])
def test_the_margin_of_whole_numbers_is_as_wide_as_it_must_be(name, n_terms):
    # Each coordinate is rounded away from that of the other vector by nearly half.
    n = 100
    metric = resolve_metric(name)
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    items, queries = np.stack([signs, -signs]), np.zeros((1, n))
    space = term_space(metric, items, np.int16)
    step = float(np.ldexp(1.0, space.scaling_exponent)) / space.codes_per_unit
    items = np.stack([0.5001 * step * signs, np.ones(n)])
    queries = np.stack([-0.5001 * step * signs])
    pair = np.array([0]), np.array([0])
    limit = space.limits(
        metric.distances(queries, items, *pair), *map(space.operand, (queries, items))
    )
    exact = 1.0002 * n_terms
    found = sum_of_terms(space, items, queries)
    assert exact + (limit[0, 0] - exact) / 2 < found <= limit[0, 0]


def test_whole_numbers_are_cut_off():
    """Outliers and queries far away lose nothing, and make the codes of others no coarser."""
    rng = np.random.default_rng(10)
    items = rng.standard_normal((3000, 6))
    items[5], items[6] = 1e9, -1e-9
    queries = np.concatenate([items[:9], 100.0 * items[:4], rng.standard_normal((90, 6))])
    for name in ("cityblock", "chebyshev"):
        metric = resolve_metric(name)
        search = Search(metric, items, queries, 4, None, None, 30)
        assert_same(ask(build(search), search), ask(PairwiseSearch(items, metric), search))
        codes = term_space(metric, items, np.int16).operand(items).values
        assert len(np.unique(codes[10:, 0])) > 5


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_whole_numbers_are_not_used_where_they_would_be_coarse(power):
    """Values of very different sizes."""
    items = np.random.default_rng(13).standard_normal((2000, 8))
    items = np.sinh(power * items)
    space = term_space(resolve_metric("cityblock"), items, np.int16)
    assert (space is None) == (power > 1)


def test_whole_numbers_serve_few_features():
    items = np.random.default_rng(11).standard_normal((50, 161))
    for name, served in (("cityblock", False), ("chebyshev", True), ("canberra", False)):
        assert (term_space(resolve_metric(name), items, np.int16) is not None) == served
    cases = (1.0, True), (3.0, False)
    for p, served in cases:
        metric = resolve_metric("minkowski", p, {"w": np.ones(9)})
        assert (term_space(metric, items[:, :9], np.int16) is not None) == served


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_second_sums_of_norms_are_off_by_less_than_their_bound(dtype):
    rng = np.random.default_rng(9)
    items, queries = rng.random((2000, 1)), rng.random((60, 1))
    items[0] = 1.0  # so that coordinates are the values divided by 2
    space = term_space(resolve_metric("braycurtis"), items, dtype)
    one, other = space.operand(items), space.operand(queries)
    sums = space.second_of_norms(other, one).astype(np.longdouble)
    exact = queries.astype(np.longdouble) / 2 + items[:, 0] / 2
    unit = float(np.finfo(dtype).eps) / 2
    off = float((np.abs(sums - exact) / exact).max())
    if dtype is np.float32:
        assert off > unit
    assert off <= 2 * unit
    negative = queries.copy()
    negative[7] = -0.25
    assert space.second_of_norms(space.operand(negative), one) is None
    assert (
        term_space(resolve_metric("braycurtis"), -items, dtype).second_of_norms(other, one) is None
    )


def limit_without_margin(space, distance, items, queries):
    """The sum that the distance stands for."""
    if space.has_second:
        one, other = space.operand(items), space.operand(queries)
        return distance * float(one.norms[0] + other.norms[0])
    return float(np.ldexp(distance, -space.scaling_exponent))


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_no_sum_exceeds_the_limit_of_its_distance(case, data):
    rows = points(data, 40)
    metric = METRIC_CASES[case](rows.shape[1])
    for dtype in DTYPES:
        space = term_space(metric, rows, dtype)
        if space is None:
            continue
        for query in range(0, 40, 7):
            pair = rows[query : query + 1], rows[20:21]
            distance = metric.distances(*pair, np.array([0]), np.array([0]))
            limit = space.limits(distance, *(space.operand(each) for each in pair))
            assert sum_of_terms(space, pair[1], pair[0]) <= limit[0, 0]


def test_a_second_sum_of_zero(rng):
    """The ratio of a query and its opposite is beyond float32."""
    queries = rng.choice([-8.0, 8.0], size=(30, 8))
    items = np.concatenate([-queries, rng.normal(size=(10, 8))])
    metric = Metric("braycurtis")
    found = TermSearch(items, metric).kneighbors(queries, 20)
    expected = PairwiseSearch(items, metric).kneighbors(queries, 20)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)
