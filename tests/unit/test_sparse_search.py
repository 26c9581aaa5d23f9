"""Sparse search gives the answers of pairwise search of the dense vectors, to the bit."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import SPARSE, Exclusion
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sparse.keyed import Numbering
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.index.sparse.search import SparseSearch, _Search
from pyspark_knn.index.sparse.sets import SparseSetSearch
from pyspark_knn.index.sparse.sizes import Sizes
from tests.support import oracle, sparse

TINY = Sizes(
    group_queries=2,
    group_values=8,
    batch_queries=4,
    batch_values=16,
    first_items=3,
    block_items=3,
    block_values=16,
)
"""Every loop runs more than once."""


def index_of(items, metric, *, tiny=False, compact=False):
    """An index as it is built, or one of tiny blocks in which queries become crowded."""
    if not tiny:
        index, _ = build_index(items, IndexSpec(metric))
        return index
    used = np.union1d(items.compact().indices, np.int32(0)) if compact else None
    numbering = Numbering(items.n_features, used)
    if metric.compares_sets:
        return SparseSetSearch(items, metric, numbering, sizes=TINY)
    return SparseSearch(items, metric, numbering, sizes=TINY, spare_candidates=0)


def both(items, queries, metric, k, *, tiny=False, compact=False, **options):
    """What the index finds, and what pairwise search does."""
    compact = compact and not metric.params
    index = index_of(SparseRows.from_dense(items), metric, tiny=tiny, compact=compact)
    found = index.kneighbors(SparseRows.from_dense(queries), k, **options)
    return found, PairwiseSearch(items, metric).kneighbors(queries, k, **options)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.positions, expected.positions)
    bits = found.distances.view(np.int64), expected.distances.view(np.int64)
    np.testing.assert_array_equal(*bits)


def exclusion(rng, n_queries, n_items, count):
    positions = np.sort(rng.integers(0, n_items, count))
    return Exclusion(rng.integers(0, n_queries, count), positions)


def everything(items, queries, metric, k, rng, **options):
    """Compare answers without limits, with a limit that is a distance, and with exclusions."""
    found, expected = both(items, queries, metric, k, **options)
    assert_same(found, expected)
    finite = expected.distances[np.isfinite(expected.distances)]
    limit = float(np.sort(finite)[finite.size // 2]) if finite.size else 0.0
    excluded = exclusion(rng, len(queries), len(items), 2 * len(items))
    assert_same(*both(items, queries, metric, k, exclude=excluded, **options))
    assert_same(*both(items, queries, metric, k, max_distance=limit, exclude=excluded, **options))
    assert_same(*both(items, queries, metric, k, max_distance=1.0, **options))


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
@pytest.mark.parametrize("kind", sparse.KINDS)
@pytest.mark.parametrize("name", sparse.METRICS)
def test_answers_agree_with_pairwise_search(name, kind, tiny):
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    for n, dim, share, k in ((40, 30, 0.1, 5), (20, 300, 0.02, 20), (30, 1, 0.5, 3)):
        items = sparse.matrix(rng, n, dim, share, kind)
        queries = np.concatenate(
            [items[:3], items[:2] * 0.5, sparse.matrix(rng, 4, dim, share, kind)]
        )
        metric = sparse.metric_for(name, dim, rng)
        everything(items, queries, metric, k, rng, tiny=tiny, compact=k > 3)


@settings(max_examples=40)
@given(st.data())
def test_any_search_agrees_with_pairwise_search(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    name = data.draw(st.sampled_from(sparse.METRICS))
    dim = data.draw(st.sampled_from([1, 2, 3, 5, 16, 17, 33, 100, 1000]))
    n, n_queries = data.draw(st.integers(1, 60)), data.draw(st.integers(0, 12))
    share = data.draw(st.sampled_from([0.0, 0.02, 0.05, 0.3, 1.0]))
    kinds = st.sampled_from(sorted(sparse.KINDS))
    items = sparse.matrix(rng, n, dim, share, data.draw(kinds))
    queries = sparse.matrix(rng, n_queries, dim, share, data.draw(kinds))
    if data.draw(st.booleans()):
        items = items[rng.integers(0, max(1, n // 4), n)]
    if data.draw(st.booleans()):
        items = sparse.single(items)
    if n_queries and data.draw(st.booleans()):
        queries[0] = items[-1]
    excluded = None
    if n_queries and data.draw(st.booleans()):
        excluded = exclusion(rng, n_queries, n, data.draw(st.integers(0, 3 * n)))
    limits = st.sampled_from([None, None, -1.0, 0.0, 0.3, 1.0, 2.0, 1e300])
    assert_same(
        *both(
            items,
            queries,
            sparse.metric_for(name, dim, rng),
            data.draw(st.integers(1, n)),
            tiny=data.draw(st.booleans()),
            compact=data.draw(st.booleans()),
            max_distance=data.draw(limits),
            exclude=excluded,
        )
    )


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
@pytest.mark.parametrize("name", sparse.METRICS)
def test_every_k(name, tiny):
    rng = np.random.default_rng(5)
    items, queries = sparse.matrix(rng, 25, 40, 0.1), sparse.matrix(rng, 4, 40, 0.1)
    metric = sparse.metric_for(name, 40, rng)
    for k in range(1, 26):
        assert_same(*both(items, queries, metric, k, tiny=tiny))


@pytest.mark.parametrize("kind", ["positive", "normal", "ones"])
@pytest.mark.parametrize("name", ["cosine", "euclidean", "inner_product", "jaccard"])
def test_more_items_and_queries_than_a_block_has(name, kind):
    rng = np.random.default_rng(6)
    items = sparse.matrix(rng, 6200, 50, 0.06, kind)
    queries = np.concatenate([items[:100], sparse.matrix(rng, 40, 50, 0.06, kind)])
    excluded = exclusion(rng, len(queries), len(items), 3000)
    assert_same(*both(items, queries, resolve_metric(name), 7, exclude=excluded))


def test_an_independent_search_agrees():
    rng = np.random.default_rng(0)
    items, queries = sparse.matrix(rng, 300, 40, 0.2), sparse.matrix(rng, 20, 40, 0.2)
    for name in ("euclidean", "cosine", "inner_product"):
        figures = oracle.direct_distances(queries, items, name)
        index = index_of(SparseRows.from_dense(items), resolve_metric(name))
        found = index.kneighbors(SparseRows.from_dense(queries), 5)
        np.testing.assert_allclose(found.distances, np.sort(figures, axis=1)[:, :5], atol=1e-14)
        at = np.take_along_axis(figures, found.positions, axis=1)
        np.testing.assert_allclose(found.distances, at, atol=1e-14)


# --- pairs without a common feature ---


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
def test_items_without_a_common_feature_tie_in_order_of_position(tiny):
    items = np.array(
        [[0.0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 3], [0, 5, 0]]
    )
    queries = np.array([[2.0, 0, 0], [0, 0, 0], [-1, 0, 0]])
    found, expected = both(items, queries, resolve_metric("cosine"), 6, tiny=tiny)
    assert_same(found, expected)
    assert found.positions[0].tolist() == [2, 4, 0, 1, 3, 5]
    assert found.distances[0, 2:].tolist() == [1.0] * 4
    # Of a vector of zeros all items are at distance 1, and opposite items are behind these.
    assert found.positions[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.positions[2].tolist() == [0, 1, 3, 5, 6, 4]
    excluded = Exclusion(np.array([0, 0, 1]), np.array([0, 2, 3]))
    assert_same(*both(items, queries, resolve_metric("cosine"), 3, tiny=tiny, exclude=excluded))


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
@pytest.mark.parametrize("name", ["cosine", "inner_product"])
def test_signed_data_with_few_positive_scores(name, tiny):
    """Null pairs are nearer than pairs of a negative score, which may be neighbors too."""
    rng = np.random.default_rng(7)
    for share in (0.05, 0.5, 1.0):
        items = -np.abs(sparse.matrix(rng, 50, 20, share))
        items[::10] *= -1
        queries = np.abs(sparse.matrix(rng, 6, 20, share))
        for k in (1, 5, 12, 50):
            assert_same(*both(items, queries, resolve_metric(name), k, tiny=tiny))


@pytest.mark.parametrize("name", ["cosine", "inner_product"])
def test_scores_about_as_small_as_their_rounding(name):
    """Pairs with a common feature whose score the products cannot tell from 0."""
    rng = np.random.default_rng(8)
    items = np.zeros((40, 12))
    items[:, 0] = 1.0
    items[:, 1] = 10.0 ** -rng.integers(3, 20, 40) * rng.choice([-1, 1], 40)
    items[::7, 1] = 0.0
    queries = np.zeros((3, 12))
    queries[:, 1] = 1.0
    queries[:, 2] = [0.0, 1.0, 1e9]
    for k in (1, 3, 20, 40):
        assert_same(*both(items, queries, resolve_metric(name), k))
        assert_same(*both(items, queries, resolve_metric(name), k, tiny=True))


def test_few_pairs_are_ranked_where_most_have_nothing_in_common(monkeypatch):
    rng = np.random.default_rng(9)
    items = SparseRows.from_dense(sparse.matrix(rng, 5000, 1000, 0.002, "positive"))
    index = index_of(items, resolve_metric("cosine"))
    ranked = []
    rank = _Search._rank

    def noted(self, rows, positions):
        ranked.append(len(rows))
        rank(self, rows, positions)

    monkeypatch.setattr(_Search, "_rank", noted)
    queries = items[:50]
    found = index.kneighbors(queries, 10)
    assert (found.positions >= 0).all()
    assert sum(ranked) < 200 * len(queries)


# --- the steps of a search ---


@pytest.mark.parametrize(("n_items", "queries"), [(0, 64), (20_000, 52), (10**6, 16)])
def test_groups_have_more_queries_where_there_are_few_items(n_items, queries):
    assert Sizes().for_items(n_items).group_queries == queries
    assert TINY.for_items(n_items) == TINY


@pytest.mark.parametrize(
    ("spread", "steps"), [(1.0, 0), (1e-5, 1), (1e-14, 2)], ids=["float32", "float64", "blocks"]
)
def test_only_queries_that_a_step_cannot_answer_reach_the_next(monkeypatch, spread, steps):
    rng = np.random.default_rng(1)
    center = sparse.matrix(rng, 1, 200, 0.1)
    items = center + spread * (center != 0) * rng.standard_normal((5000, 200))
    queries = items[::100]
    left = []
    step = _Search._filter_all

    def noted(self, *arguments):
        result = step(self, *arguments)
        left.append(len(result[0]))
        return result

    monkeypatch.setattr(_Search, "_filter_all", noted)
    assert_same(*both(items, queries, resolve_metric("euclidean"), 10))
    assert left == [len(queries) if number < steps else 0 for number in range(2)]


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
@pytest.mark.parametrize("name", ["euclidean", "sqeuclidean", "inner_product"])
def test_distances_that_overflow_are_ranked_pair_by_pair(monkeypatch, name, tiny):
    rng = np.random.default_rng(2)
    items = sparse.matrix(rng, 20, 15, 0.3)
    queries = sparse.matrix(rng, 4, 15, 0.3)
    queries[1] = 0.0
    queries[1, :2] = 1.7e308, -1.7e308
    items[::2] *= 1e300
    ranked = []
    rank_all = _Search._rank_all

    def noted(self, rows):
        ranked.extend(rows.tolist())
        rank_all(self, rows)

    monkeypatch.setattr(_Search, "_rank_all", noted)
    excluded = exclusion(rng, 4, 20, 30)
    metric = resolve_metric(name)
    assert_same(*both(items, queries, metric, 20, tiny=tiny, exclude=excluded))
    assert 1 in ranked


@pytest.mark.parametrize("name", ["cosine", "euclidean", "inner_product"])
def test_one_item_of_very_many_values_does_not_make_products_useless(monkeypatch, name):
    rng = np.random.default_rng(13)
    items = sparse.matrix(rng, 30, 1 << 18, 1e-4)
    items[7, : (1 << 17) + 1000] = rng.standard_normal((1 << 17) + 1000) / 300
    queries = np.concatenate([items[5:8], sparse.matrix(rng, 2, 1 << 18, 1e-4)])
    ranked = []
    rank_all = _Search._rank_all

    def noted(self, rows):
        ranked.extend(rows.tolist())
        rank_all(self, rows)

    monkeypatch.setattr(_Search, "_rank_all", noted)
    assert_same(*both(items, queries, resolve_metric(name), 5))
    assert ranked == []


@pytest.mark.parametrize("exponent", [140, 155, 160, 161, 162, 165, 170])
def test_variances_so_different_that_squares_lose_bits(exponent):
    rng = np.random.default_rng(0)
    items, queries = rng.uniform(0.5, 1.5, (2, 300, 8))
    items[:, 0] = queries[:, 0] = 0.0
    variances = np.full(8, 10.0**exponent)
    variances[0] = 10.0**-exponent
    metric = resolve_metric("seuclidean", params={"V": variances})
    assert_same(*both(items, queries[:20], metric, 5))


@pytest.mark.parametrize("name", sparse.METRICS)
def test_float32_items_stay_as_they_are(name):
    rng = np.random.default_rng(3)
    dense = sparse.single(sparse.matrix(rng, 200, 30, 0.2))
    items = SparseRows.from_dense(dense)
    metric = sparse.metric_for(name, 30, rng)
    index = index_of(items, metric)
    assert index.matrix is items
    assert index.metric is metric
    assert index.storage == SPARSE
    queries = sparse.matrix(rng, 5, 30, 0.2)
    assert_same(*both(dense, queries, metric, 7))


@pytest.mark.parametrize("tiny", [False, True], ids=["as built", "tiny blocks"])
@pytest.mark.parametrize("name", sparse.METRICS)
def test_features_that_no_item_has(name, tiny):
    rng = np.random.default_rng(4)
    items, queries = sparse.matrix(rng, 30, 60, 0.1), sparse.matrix(rng, 6, 60, 0.2)
    items[:, 20:] = 0.0
    queries[0, :20] = 0.0
    queries[1, 20:] = 0.0
    metric = sparse.metric_for(name, 60, rng)
    for k in (3, 30):
        assert_same(*both(items, queries, metric, k, tiny=tiny, compact=True))


@pytest.mark.parametrize("name", sparse.METRICS)
def test_there_may_be_no_queries_and_only_rows_of_zeros(name):
    zeros = np.zeros((5, 4))
    metric = sparse.metric_for(name, 4, np.random.default_rng(0))
    for tiny in (False, True):
        assert_same(*both(zeros, zeros[:0], metric, 3, tiny=tiny))
        assert_same(*both(zeros, zeros[:3], metric, 3, tiny=tiny))
        assert_same(*both(np.eye(5, 4), zeros[:3], metric, 5, tiny=tiny))
        assert_same(*both(zeros, np.eye(3, 4), metric, 5, tiny=tiny))


# --- memory, and what an index is made of ---


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 60))
def test_blocks_have_a_bounded_number_of_values(lengths, k):
    lengths = np.array(lengths)
    row = np.repeat(np.arange(len(lengths)), lengths)
    column = np.concatenate([np.arange(length) for length in lengths])
    items = SparseRows.from_entries(row, column, np.ones(len(row)), (len(lengths), 30))
    blocks = list(TINY.blocks(items, k))
    assert [row for where in blocks for row in range(where.start, where.stop)] == list(
        range(len(lengths))
    )
    for where in blocks:
        count = where.stop - where.start
        assert count == 1 or lengths[where].sum() <= TINY.block_values
        assert count <= max(k if where.start == 0 else 0, TINY.first_items, TINY.block_items)
    if lengths[:k].sum() <= TINY.block_values:
        assert blocks[0].stop >= min(k, len(lengths))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 12))
def test_batches_have_a_bounded_number_of_queries(lengths, most):
    batches = list(TINY.batches(np.array(lengths, np.int64), most))
    assert [row for part in batches for row in range(part.start, part.stop)] == list(
        range(len(lengths))
    )
    assert all(part.stop - part.start <= most for part in batches)


def wide_rows(rng, n, dim, stored):
    """Rows of a dimension that no dense row could have."""
    index = np.sort(rng.integers(0, dim, (n, stored)), axis=1)
    index[:, 1:] = np.where(np.diff(index, axis=1) > 0, index[:, 1:], index[:, :-1])
    row = np.repeat(np.arange(n), stored)
    first = np.ones((n, stored), bool)
    first[:, 1:] = np.diff(index, axis=1) > 0
    value = rng.integers(1, 9, (n, stored)) / 2.0
    kept = first.ravel()
    return SparseRows.from_entries(row[kept], index.ravel()[kept], value.ravel()[kept], (n, dim))


def narrowed(rows, features):
    """The same rows with the given features only, dense."""
    return Numbering(rows.n_features, features).numbered(rows).dense()


@pytest.mark.parametrize("name", ["cosine", "euclidean", "inner_product", "jaccard", "dice"])
def test_nothing_is_as_large_as_the_dimension(name):
    rng = np.random.default_rng(10)
    dim = 2**31 - 1
    items = wide_rows(rng, 300, dim, 12)
    queries = SparseRows.merged(
        [items[:10], wide_rows(rng, 10, dim, 12), wide_rows(rng, 1, dim, 1)],
        np.arange(21),
    )
    metric = resolve_metric(name)
    tracemalloc.start()
    try:
        index = index_of(items, metric)
        found = index.kneighbors(queries, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    # The order of a sum depends on the dimension, so the last bits may differ.
    features = np.union1d(items.indices, queries.indices)
    rows, columns = narrowed(queries, features), narrowed(items, features)
    expected = PairwiseSearch(columns, metric).kneighbors(rows, 5)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", ["normal", "ones", "all equal"])
@pytest.mark.parametrize("name", ["cosine", "euclidean", "jaccard"])
def test_memory_is_bounded_with_any_number_of_ties(name, kind):
    rng = np.random.default_rng(11)
    dense = sparse.matrix(rng, 10_000, 60, 0.1, "normal" if kind == "all equal" else kind)
    if kind == "all equal":
        dense[:] = dense[0]
    items = SparseRows.from_dense(dense)
    index = index_of(items, resolve_metric(name))
    tracemalloc.start()
    try:
        index.kneighbors(items[:100], 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("name", sparse.METRICS)
def test_a_pickled_index_is_opened_over_read_only_memory(name):
    rng = np.random.default_rng(12)
    items = SparseRows.from_dense(sparse.matrix(rng, 3000, 200, 0.05))
    queries = sparse.read_only(items[:20].compact())
    index = index_of(items, sparse.metric_for(name, 200, rng))
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    size = len(head) + sum(buffer.raw().nbytes for buffer in buffers)
    assert size < items.nbytes + 8 * items.n_features * 4 + 16 * len(items) + 10_000
    mapped = pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert not mapped.matrix.data.flags.writeable
    assert_same(mapped.kneighbors(queries, 5), index.kneighbors(queries, 5))


@pytest.mark.parametrize("name", ["cosine", "jaccard"])
def test_an_index_of_numbered_columns_keeps_the_items_once(name):
    rng = np.random.default_rng(13)
    dim, features = 2**31 - 1, np.sort(rng.choice(2**31 - 1, 200))
    dense = sparse.matrix(rng, 3000, 200, 0.05)
    row, column = np.nonzero(dense)
    shape = len(dense), dim
    items = SparseRows.from_entries(row, features[column], dense[row, column], shape)
    index = index_of(items, resolve_metric(name))
    assert index.n_features == dim
    np.testing.assert_array_equal(index.matrix.indices, items.indices)
    buffers: list[pickle.PickleBuffer] = []
    pickle.dumps(index, protocol=5, buffer_callback=buffers.append)
    size = sum(buffer.raw().nbytes for buffer in buffers)
    assert size < items.nbytes + 8 * len(features) + 16 * len(items) + 1000


def test_minkowski_is_supported_with_p_of_2_only():
    assert SparseSearch.supports(resolve_metric("minkowski", 2.0, {"w": [1.0]}))
    assert not SparseSearch.supports(resolve_metric("minkowski", 3.0))
    assert not SparseSearch.supports(resolve_metric("jaccard"))
    assert not SparseSearch.supports(resolve_metric("cityblock"))
