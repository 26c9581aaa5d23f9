"""Block search gives the answers of pairwise search, to the bit and in bounded memory."""

from __future__ import annotations

import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index import block_batches
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.block_search import BlockSearch, _Search
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.rounding import rounding
from pyspark_knn.index.score_spaces import has_scores, score_space
from pyspark_knn.index.sparse import space as sparse_space
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.index.sparse.search import SparseSearch
from tests.support import exact, oracle

METRICS = ("euclidean", "sqeuclidean", "seuclidean", "minkowski", "cosine", "correlation")
METRICS = (*METRICS, "inner_product")


def metric_for(name, dim, rng):
    if name == "seuclidean":
        return resolve_metric(name, params={"V": 10.0 ** rng.uniform(-6, 6, dim)})
    if name == "minkowski":
        return resolve_metric(name, 2.0, {"w": rng.uniform(0, 3, dim) * (rng.random(dim) < 0.8)})
    return resolve_metric(name)


def clusters(rng, n, dim, count, spread):
    centers = rng.standard_normal((count, dim))
    return centers[rng.integers(0, count, n)] + spread * rng.standard_normal((n, dim))


DATA = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "offset": lambda rng, n, d: rng.standard_normal((n, d)) + 1e6,
    "tight clusters": lambda rng, n, d: clusters(rng, n, d, 5, 1e-3),
    "tighter clusters": lambda rng, n, d: clusters(rng, n, d, 3, 1e-12),
    "all equal": lambda rng, n, d: np.tile(rng.standard_normal(d), (n, 1)),
    "duplicates": lambda rng, n, d: rng.standard_normal((9, d))[rng.integers(0, 9, n)],
    "lattice": lambda rng, n, d: rng.integers(0, 3, (n, d)) * 0.1,
    "zeros": lambda rng, n, d: rng.standard_normal((n, d)) * (rng.random((n, 1)) < 0.4),
    "column scales": lambda rng, n, d: rng.standard_normal((n, d)) * 10.0 ** rng.integers(-9, 9, d),
    "row scales": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-300, 300, (n, 1))
    ),
    "a sentinel": lambda rng, n, d: (
        np.where(rng.random((n, 1)) < 0.02, -9999.0, 1.0) * rng.standard_normal((n, d))
    ),
    "1e300": lambda rng, n, d: rng.standard_normal((n, d)) * 1e300,
    "the largest": lambda rng, n, d: rng.uniform(-1.7, 1.7, (n, d)) * 1e308,
    "1e150": lambda rng, n, d: rng.standard_normal((n, d)) * 1e150,
    "1e-170": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-170,
    "1e-300": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-300,
    "denormals": lambda rng, n, d: rng.integers(-50, 50, (n, d)) * 5e-324,
}


def exclusion(rng, n_queries, n_items, count):
    positions = np.sort(rng.integers(0, n_items, count))
    return Exclusion(rng.integers(0, n_queries, count), positions)


def both(items, queries, metric, k, **options):
    spec = IndexSpec(metric)
    found = BlockSearch.build(items, spec).kneighbors(queries, k, **options)
    expected = PairwiseSearch.build(items, spec).kneighbors(queries, k, **options)
    by_blocks = BlockSearch(items, metric, score_space(metric, items), few_items=0)
    assert_same(by_blocks.kneighbors(queries, k, **options), expected)
    return found, expected


def assert_same(found, expected):
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", DATA)
def test_answers_agree_with_pairwise_search(kind, name):
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    for n, dim, k in ((700, 3, 10), (300, 17, 1), (41, 1, 41), (1100, 30, 20)):
        items = np.ascontiguousarray(DATA[kind](rng, n, dim))
        own = items[rng.integers(0, n, 5)]
        others = DATA[kind](rng, 5, dim)
        near = own * (1 + 1e-9 * rng.standard_normal(own.shape)).clip(-1, 1)
        queries = np.ascontiguousarray(np.concatenate([own, others, near]))
        metric = metric_for(name, dim, rng)
        found, expected = both(items, queries, metric, k)
        assert_same(found, expected)
        finite = expected.distances[np.isfinite(expected.distances)]
        limit = float(np.median(finite)) if finite.size else 0.0
        excluded = exclusion(rng, len(queries), n, 60)
        assert_same(*both(items, queries, metric, k, max_distance=limit, exclude=excluded))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", DATA)
def test_items_up_to_a_limit_of_each_query_are_found(kind, name):
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    n, dim, k = 700, 5, 10
    items = np.ascontiguousarray(DATA[kind](rng, n, dim))
    queries = np.concatenate([items[:10], DATA[kind](rng, 10, dim)])
    metric = metric_for(name, dim, rng)
    index = BlockSearch(items, metric, score_space(metric, items), few_items=0)
    excluded = exclusion(rng, len(queries), n, 60)
    expected = index.search(queries, k, exclude=excluded)
    # The distance of a neighbor, so with ties.
    places = expected.offsets[:-1] + rng.integers(0, k, len(queries))
    limits = expected.distances[places]
    limits[::7] = np.inf
    for most in (None, float(np.median(limits))):
        bounds = limits if most is None else np.minimum(limits, most)
        found = index.search(queries, k, exclude=excluded, limits=limits, max_distance=most)
        within = [each.distances <= bounds[each.queries] for each in (found, expected)]
        for which in ("queries", "positions", "distances"):
            mine, all_of_them = (getattr(each, which) for each in (found, expected))
            np.testing.assert_array_equal(mine[within[0]], all_of_them[within[1]])


@pytest.mark.parametrize("name", METRICS)
def test_float32_items_stay_as_they_are(name):
    rng = np.random.default_rng(3)
    items = rng.standard_normal((900, 11)).astype(np.float32)
    index = BlockSearch.build(items, IndexSpec(metric_for(name, 11, rng)))
    assert index.matrix is items
    queries = rng.standard_normal((5, 11))
    assert_same(*both(items, queries, metric_for(name, 11, rng), 7))


@pytest.mark.parametrize("dim", [1, 2, 128, 1000, 4096])
@pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.26, 1])
def test_every_dimension_and_every_k(dim, share):
    rng = np.random.default_rng(dim)
    items, queries = rng.standard_normal((400, dim)), rng.standard_normal((3, dim))
    for name in ("euclidean", "cosine", "inner_product"):
        k = max(1, int(share * 400))
        assert_same(*both(items, queries, resolve_metric(name), k))


def test_an_independent_search_agrees():
    rng = np.random.default_rng(0)
    items, queries = rng.standard_normal((500, 6)), rng.standard_normal((20, 6))
    for name, distance in (
        ("euclidean", oracle.euclidean),
        ("cosine", oracle.cosine),
        ("inner_product", oracle.inner_product),
    ):
        figures = np.array([[distance(q, x) for x in items.tolist()] for q in queries.tolist()])
        expected = oracle.nearest(figures, range(500), 5)
        found = BlockSearch.build(items, IndexSpec(resolve_metric(name))).kneighbors(queries, 5)
        assert found.positions.tolist() == [[name for name, _ in row] for row in expected]
        np.testing.assert_allclose(
            found.distances,
            [[figure for _, figure in row] for row in expected],
            rtol=1e-14,
            atol=1e-15,
        )


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_near_ties_in_the_last_place_are_ordered(data):
    """Items on a sphere around the query, up to some units in the last place."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    name = data.draw(st.sampled_from(METRICS))
    dim = data.draw(st.sampled_from([1, 2, 3, 7, 16, 65, 300]))
    n = data.draw(st.integers(1, 600))
    scale = 2.0 ** data.draw(st.sampled_from([-1030, -600, -200, -30, 0, 0, 0, 30, 200, 500, 950]))
    offset = data.draw(st.sampled_from([0.0, 0.0, 1.0, 1e3, 1e8]))
    center = rng.standard_normal(dim) + offset
    shell = rng.standard_normal((n, dim))
    shell /= np.linalg.norm(shell, axis=1)[:, None]
    ulps = 1 + rng.integers(-3, 4, (n, dim)) * 2.0 ** -data.draw(st.sampled_from([53, 40, 24, 10]))
    radius = data.draw(st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e4]))
    items = (center + radius * shell * ulps) * scale
    queries = np.stack([center, center + radius * shell[0], -center, items[-1] / scale]) * scale
    if data.draw(st.booleans()) and scale == 1.0:
        items = items.astype(np.float32)
    metric = metric_for(name, dim, rng)
    k = data.draw(st.integers(1, n))
    excluded = exclusion(rng, len(queries), n, data.draw(st.integers(0, 2 * n)))
    assert_same(*both(items, queries, metric, k, exclude=excluded))
    found, expected = both(items, queries, metric, k)
    assert_same(found, expected)
    limit = float(expected.distances[0, rng.integers(0, k)])
    if np.isfinite(limit):
        assert_same(*both(items, queries, metric, k, max_distance=limit))


def products(left, right, dtype):
    """One inner product in several orders of summation, with and without fused operations."""
    terms = (left * right).astype(dtype)
    yield (left[None] @ right[:, None])[0, 0]
    for order in (slice(None), slice(None, None, -1)):
        total = fused = dtype(0)
        for term, a, b in zip(terms[order], left[order], right[order], strict=True):
            total = dtype(total + term)
            fused = dtype(np.longdouble(a) * np.longdouble(b) + np.longdouble(fused))
        yield total
        yield fused
    while len(terms) > 1:
        half = len(terms) // 2
        terms = np.concatenate([(terms[:half] + terms[-half:]).astype(dtype), terms[half:-half]])
    yield terms[0]


def exact_score(name, query, item, figure, exponent):
    """The exact distance that a result approximates, in real numbers."""
    unit = Fraction(2) ** int(-exponent)
    if name == "inner_product":
        return -Fraction(figure) * unit
    if name in ("cosine", "correlation"):
        return 1 - Fraction(figure)
    power = 1 if name == "sqeuclidean" else 2
    square = Fraction(figure) ** power * unit**2
    return (sum(Fraction(value) ** 2 for value in query.tolist()) - square) / 2


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_bound_covers_every_order_of_summation(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    name = data.draw(st.sampled_from(METRICS))
    kind = data.draw(st.sampled_from(["normal", "offset", "tight clusters", "a sentinel", "1e150"]))
    dim = data.draw(st.sampled_from([1, 2, 5, 33, 150]))
    items = DATA[kind](rng, 4, dim)
    metric = metric_for(name, dim, rng)
    space = score_space(metric, items)
    rows = np.concatenate([DATA[kind](rng, 2, dim), items[:1]])
    queries = space.queries(rows)
    served = space.serves(queries)
    for dtype in (np.float32, np.float64):
        terms, widths = space.terms(slice(0, 4), dtype)
        slack = space.slack(queries, dtype)
        vectors = space.vectors(items, slice(0, 4)).astype(dtype)
        for row in np.flatnonzero(served):
            for position in range(4):
                figure = metric.distances(rows, items, np.array([row]), np.array([position]))[0]
                score = exact_score(
                    name, queries.vectors[row], items[position], figure, queries.exponents[row]
                )
                left = np.append(queries.vectors[row], 1.0).astype(dtype)
                right = np.append(vectors[position], terms[position].astype(dtype))
                for ceiling in products(left, right, dtype):
                    above = Fraction(float(ceiling)) + Fraction(slack[row])
                    below = Fraction(float(ceiling)) - Fraction(slack[row] + widths[position])
                    assert below <= score <= above


@pytest.mark.parametrize("name", ["euclidean", "sqeuclidean", "inner_product"])
@pytest.mark.parametrize("dim", [100, 1000])
def test_half_the_bound_of_float32_is_too_small(name, dim):
    # The first term is a little above 1, and each of the others below half a unit in the last place
    # of that: added in order, all of them are lost.
    small = 2.0**-12 * (1 - 2.0**-10)
    query, item = np.full(dim, small, np.float32), np.full(dim, small, np.float32)
    query[0], item[0] = 1 - 2.0**-10, 1 + 2.0**-9
    rows, items = query[None], np.stack([item, -item])  # their mean is zero: no centring
    metric = resolve_metric(name)
    space = score_space(metric, items)
    queries = space.queries(rows)
    figure = metric.distances(rows, items, np.array([0]), np.array([0]))[0]
    score = exact_score(name, queries.vectors[0], item, figure, queries.exponents[0])
    terms, widths = space.terms(slice(0, 2), np.float32)
    left = np.append(queries.vectors[0], 1.0).astype(np.float32)
    right = np.append(space.vectors(items, slice(0, 2))[0], terms[0]).astype(np.float32)
    ceiling = np.float32(0)
    for a, b in zip(left, right, strict=True):
        ceiling += a * b
    # The item's part of the bound is in the ceiling already.
    part = Fraction(widths[0]) / 2
    bound = part + Fraction(space.slack(queries, np.float32)[0])
    missing = score - (Fraction(float(ceiling)) - part)
    assert bound / 2 < missing <= bound


@pytest.mark.parametrize(
    ("spread", "steps"), [(1.0, 0), (1e-5, 1), (1e-14, 2)], ids=["float32", "float64", "blocks"]
)
@pytest.mark.parametrize("few_items", [0, 8192])
def test_only_queries_that_a_step_cannot_answer_reach_the_next(
    monkeypatch, few_items, spread, steps
):
    rng = np.random.default_rng(1)
    items = clusters(rng, 6000, 20, 4, spread)
    queries = items[::100]
    metric = resolve_metric("euclidean")
    expected = PairwiseSearch(items, metric).kneighbors(queries, 10)
    index = BlockSearch(items, metric, score_space(metric, items), few_items=few_items)
    left = []
    step = _Search._filter_all

    def noted(self, *arguments):
        result = step(self, *arguments)
        left.append(len(result[0]))
        return result

    monkeypatch.setattr(_Search, "_filter_all", noted)
    assert_same(index.kneighbors(queries, 10), expected)
    assert left == [len(queries) if number < steps else 0 for number in range(2)]


@pytest.mark.parametrize("kind", ["normal", "all equal", "duplicates", "tight clusters"])
def test_memory_is_bounded_with_any_number_of_ties(kind):
    rng = np.random.default_rng(2)
    items = DATA[kind](rng, 30_000, 4)
    index = BlockSearch.build(items, IndexSpec(resolve_metric("euclidean")))
    queries = items[:200] + (1.0 if kind == "all equal" else 0.0)
    tracemalloc.start()
    try:
        index.kneighbors(queries, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_a_pickled_index_holds_the_items_and_one_number_for_each():
    rng = np.random.default_rng(4)
    items = rng.standard_normal((3000, 40)) + 1e6
    queries = items[:20]
    index = BlockSearch.build(items, IndexSpec(resolve_metric("euclidean")))
    buffers = []
    head = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    sizes = sorted(buffer.raw().nbytes for buffer in buffers)
    assert sizes[-2:] == [8 * len(items), items.nbytes]
    assert sum(sizes[:-2]) + len(head) < 10_000
    read_only = [bytes(buffer.raw()) for buffer in buffers]
    mapped = pickle.loads(head, buffers=read_only)
    assert not mapped.matrix.flags.writeable
    assert_same(mapped.kneighbors(queries, 5), index.kneighbors(queries, 5))


def test_queries_may_be_read_only_or_empty():
    items = np.random.default_rng(5).standard_normal((100, 3))
    index = BlockSearch.build(items, IndexSpec(resolve_metric("euclidean")))
    queries = items[:4].copy()
    queries.flags.writeable = False
    assert index.kneighbors(queries, 1).positions.ravel().tolist() == [0, 1, 2, 3]
    assert index.kneighbors(queries[:0], 3).positions.shape == (0, 3)


def test_only_metrics_of_products_have_scores():
    assert all(has_scores(metric_for(name, 3, np.random.default_rng(0))) for name in METRICS)
    assert not has_scores(resolve_metric("cityblock"))
    assert not has_scores(resolve_metric("minkowski", 3.0))
    with pytest.raises(ValueError, match="cityblock"):
        BlockSearch.build(np.eye(3), IndexSpec(resolve_metric("cityblock")))


def test_a_weight_of_zero_ignores_differences_beyond_float64():
    items = np.array([[1.7e308, 1.0], [-1.7e308, 2.0]])
    metric = resolve_metric("minkowski", 2.0, {"w": [0.0, 4.0]})
    pairs = np.array([0, 1])
    assert metric.distances(items[:1], items, np.array([0, 0]), pairs).tolist() == [0.0, 2.0]


WIDE = {
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
    "offset": lambda rng, n, d: rng.standard_normal((n, d)) + 1e3,
    "clusters": lambda rng, n, d: clusters(rng, n, d, 3, 1e-2),
    "duplicates": lambda rng, n, d: rng.standard_normal((5, d))[rng.integers(0, 5, n)],
    "sparse": lambda rng, n, d: rng.standard_normal((n, d)) * (rng.random((n, d)) < 1e-4),
}


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("dim", [(1 << 17) + 1, 200_000])
def test_wide_vectors_are_searched_by_products(monkeypatch, kind, dim):
    rng = np.random.default_rng(dim)
    items = WIDE[kind](rng, 26, dim).astype(np.float32)
    queries = np.concatenate([items[:2] * 1.001, WIDE[kind](rng, 1, dim)])
    metrics = [resolve_metric(name) for name in ("euclidean", "cosine", "inner_product")]
    expected = [PairwiseSearch(items, metric).kneighbors(queries, 6) for metric in metrics]
    monkeypatch.setattr(PairwiseSearch, "kneighbors", None)
    for metric, answer in zip(metrics, expected, strict=True):
        index = BlockSearch.build(items, IndexSpec(metric))
        assert_same(index.kneighbors(queries, 6), answer)


@pytest.mark.parametrize("name", ["euclidean", "cosine", "inner_product"])
def test_an_independent_search_agrees_on_wide_vectors(name):
    rng = np.random.default_rng(7)
    dim, stored = (1 << 17) + 3, np.sort(rng.choice((1 << 17) + 3, 2000, replace=False))
    items, queries = np.zeros((9, dim)), np.zeros((2, dim))
    items[:, stored], queries[:, stored] = rng.random((9, 2000)), rng.random((2, 2000))
    metric = resolve_metric(name)
    # Features that are 0 in all vectors change no distance, and would take decimals a minute.
    pairs = [[exact.distance(metric, q, x) for x in items[:, stored]] for q in queries[:, stored]]
    expected = oracle.nearest(np.array(pairs), range(9), 2)
    found = BlockSearch.build(items, IndexSpec(metric)).kneighbors(queries, 2)
    assert found.positions.tolist() == [[position for position, _ in row] for row in expected]
    nearest = [[figure for _, figure in row] for row in expected]
    np.testing.assert_allclose(found.distances, nearest, rtol=1e-13)


@pytest.mark.parametrize("k", [1, 7, 25])
def test_a_block_may_take_several_products(monkeypatch, k):
    rng = np.random.default_rng(k)
    items, queries = rng.standard_normal((203, 40)), rng.standard_normal((6, 40))
    metric = resolve_metric("euclidean")
    expected = PairwiseSearch(items, metric).kneighbors(queries, k)
    excluded = exclusion(rng, 6, 203, 90)
    without = PairwiseSearch(items, metric).kneighbors(queries, k, exclude=excluded)
    index = BlockSearch(items, metric, score_space(metric, items), few_items=0)
    for floats in (1, 41 * 3, 41 * 24):
        monkeypatch.setattr(block_batches, "_PRODUCT_FLOATS", floats)
        assert_same(index.kneighbors(queries, k), expected)
        assert_same(index.kneighbors(queries, k, exclude=excluded), without)


def test_float32_is_skipped_where_its_bound_rules_out_nothing():
    assert rounding(1 << 17, np.float32) < 0.009
    assert rounding((1 << 22) - 10, np.float32) < 1 < rounding(1 << 23, np.float32)
    assert rounding(2**31 - 1, np.float64) < 1e-5
    items = np.zeros((2, 1 << 23), np.float32)
    space = score_space(resolve_metric("cosine"), items)
    assert space.dtypes == (np.float64,)


def test_memory_of_wide_vectors_is_bounded():
    items = np.random.default_rng(8).standard_normal((100, 1 << 18), np.float32)
    queries = items[:4].astype(np.float64)
    tracemalloc.start()
    try:
        index = BlockSearch.build(items, IndexSpec(resolve_metric("euclidean")))
        index.kneighbors(queries, 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20


@pytest.mark.parametrize("name", ["euclidean", "cosine", "inner_product"])
def test_sparse_rows_beyond_the_bound_of_float32_are_ranked(monkeypatch, name):
    rng = np.random.default_rng(9)
    items = np.where(rng.random((30, 12)) < 0.3, rng.standard_normal((30, 12)), 0.0)
    metric = resolve_metric(name)
    monkeypatch.setattr(sparse_space, "n_terms", lambda items: 1 << 23)
    index = SparseSearch.build(SparseRows.from_dense(items), IndexSpec(metric))
    found = index.kneighbors(SparseRows.from_dense(items[:4]), 5)
    assert_same(found, PairwiseSearch(items, metric).kneighbors(items[:4], 5))


@pytest.mark.parametrize("exponent", [140, 155, 160, 161, 162, 165, 170])
def test_variances_so_different_that_squares_lose_bits(exponent):
    rng = np.random.default_rng(0)
    items, queries = rng.uniform(0.5, 1.5, (2, 300, 8))
    items[:, 0] = queries[:, 0] = 0.0
    variances = np.full(8, 10.0**exponent)
    variances[0] = 10.0**-exponent
    metric = resolve_metric("seuclidean", params={"V": variances})
    assert_same(*both(items, queries[:20], metric, 5))
