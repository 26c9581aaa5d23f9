"""Distances of sparse vectors are those of the dense formulas, to the last bit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index import keyed_rows, sparse_kernels
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.keyed_rows import KeyedRows, Numbering, row_maxima
from pyspark_knn.index.sparse_kernels import SparseDistances
from pyspark_knn.index.sparse_rows import SparseRows
from tests.support import sparse

DIMS = (1, 2, 3, 5, 7, 16, 17, 33, 100, 257)


def distances(metric, queries, items, rows, positions, *, compact=False):
    """The distances of pairs, of dense matrices that are made sparse."""
    queries, items = SparseRows.from_dense(queries), SparseRows.from_dense(items)
    numbering = Numbering(items.n_features)
    if compact:
        numbering = Numbering(items.n_features, np.union1d(items.indices, np.int32(0)))
    kernel = SparseDistances(
        metric,
        KeyedRows.of_queries(metric, queries),
        KeyedRows.of_items(metric, numbering.numbered(items), numbering),
    )
    return kernel(rows, positions)


def assert_same_bits(metric, queries, items, **options):
    """All pairs, in an order that is not that of the rows."""
    rows = np.tile(np.arange(len(queries)), len(items))
    positions = np.repeat(np.arange(len(items)), len(queries))
    expected = metric.distances(queries, items, rows, positions)
    found = distances(metric, queries, items, rows, positions, **options)
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64), metric.name)
    return found


def related(rng, items, queries):
    """Queries of which some are equal, parallel or opposite to items, or nearly so."""
    count = min(len(items), len(queries)) // 2
    with np.errstate(over="ignore"):
        factor = rng.choice([1.0, 3.0, -1.0, 1 + 2.0**-52, 2.0**-30], (count, 1))
        queries[:count] = items[:count].astype(np.float64) * factor
    queries[~np.isfinite(queries)] = 1.0
    return queries


@settings(max_examples=15)
@pytest.mark.parametrize("name", sparse.PRODUCTS)
@given(st.data())
def test_distances_are_those_of_the_dense_formulas(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from(DIMS))
    share = data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    kinds = st.sampled_from(sorted(sparse.KINDS))
    items = sparse.matrix(rng, data.draw(st.integers(1, 12)), dim, share, data.draw(kinds))
    queries = sparse.matrix(rng, data.draw(st.integers(0, 9)), dim, share, data.draw(kinds))
    if data.draw(st.booleans()):
        items = sparse.single(items)
    queries = related(rng, items, queries)
    if data.draw(st.booleans()):
        queries = sparse.single(queries)
    metric = sparse.metric_for(name, dim, rng)
    compact = data.draw(st.booleans()) and not metric.params
    assert_same_bits(metric, queries, items, compact=compact)


@pytest.mark.parametrize("kind", sparse.KINDS)
@pytest.mark.parametrize("name", sparse.PRODUCTS)
def test_values_of_every_magnitude(name, kind):
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    items = sparse.matrix(rng, 12, 40, 0.2, kind)
    queries = related(rng, items, sparse.matrix(rng, 10, 40, 0.2, kind))
    metric = sparse.metric_for(name, 40, rng)
    assert_same_bits(metric, queries, items)
    assert_same_bits(metric, sparse.single(queries), sparse.single(items))


@pytest.mark.parametrize("name", sparse.PRODUCTS)
@pytest.mark.parametrize("dim", [4097, 65_536, 131_073, 1 << 18])
def test_wide_vectors(dim, name):
    rng = np.random.default_rng(dim)
    items = sparse.matrix(rng, 4, dim, 3e-4)
    queries = related(rng, items, sparse.matrix(rng, 4, dim, 3e-4))
    queries[-1] = rng.standard_normal(dim)
    metric = sparse.metric_for(name, dim, rng)
    assert_same_bits(metric, queries, items, compact=not metric.params)


@pytest.mark.parametrize("name", sparse.PRODUCTS)
def test_one_value_and_no_value(name):
    items = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, -5e-324, 0.0]])
    metric = sparse.metric_for(name, 3, np.random.default_rng(1))
    found = assert_same_bits(metric, items, items).reshape(4, 4)
    if name == "cosine":
        assert found[0].tolist() == [1.0, 1.0, 1.0, 1.0]
        assert found[1].tolist() == [1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("name", sparse.PRODUCTS)
def test_distances_beyond_float64_are_infinite(name):
    items = np.array([[1.7e308, 0.0, 1.7e308], [-1.7e308, 1.7e308, -1.7e308], [1e-308, 0.0, 0.0]])
    metric = resolve_metric(name, params={"V": np.ones(3)} if name == "seuclidean" else None)
    found = assert_same_bits(metric, items, items)
    assert np.isinf(found).any() == (name != "cosine")
    assert not np.isnan(found).any()


def test_a_weight_of_zero_ignores_differences_beyond_float64():
    items = np.array([[1.7e308, 1.0], [-1.7e308, 2.0]])
    metric = resolve_metric("minkowski", 2.0, {"w": [0.0, 4.0]})
    assert assert_same_bits(metric, items[:1], items).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("name", sparse.PRODUCTS)
def test_a_distance_does_not_depend_on_the_chunks(monkeypatch, name, size):
    rng = np.random.default_rng(size)
    monkeypatch.setattr(sparse_kernels, "_CHUNK_VALUES", size)
    monkeypatch.setattr(keyed_rows, "_CHUNK_VALUES", size)
    items = sparse.matrix(rng, 15, 30, 0.2, "all sizes")
    queries = related(rng, items, sparse.matrix(rng, 9, 30, 0.2, "all sizes"))
    assert_same_bits(sparse.metric_for(name, 30, rng), queries, items)


@pytest.mark.parametrize("name", sparse.PRODUCTS)
def test_rows_may_be_read_only_views(name):
    rng = np.random.default_rng(2)
    dense = sparse.matrix(rng, 30, 20, 0.3)
    metric = sparse.metric_for(name, 20, rng)
    rows = sparse.read_only(SparseRows.from_dense(dense))
    numbering = Numbering(20)
    kernel = SparseDistances(
        metric,
        KeyedRows.of_queries(metric, rows[20:]),
        KeyedRows.of_items(metric, rows[5:15], numbering),
    )
    pairs = np.arange(10)
    expected = metric.distances(dense[20:], dense[5:15], pairs, pairs)
    assert kernel(pairs, pairs).tobytes() == expected.tobytes()


@given(st.integers(0, 2**32 - 1))
def test_a_compact_numbering_drops_what_no_item_has(seed):
    rng = np.random.default_rng(seed)
    items = SparseRows.from_dense(sparse.matrix(rng, 3, 20, 0.2))
    dense = sparse.matrix(rng, 5, 20, 0.5)
    numbering = Numbering(20, np.union1d(items.indices, np.int32(0)))
    found = numbering.numbered(SparseRows.from_dense(dense))
    assert found.shape == (5, numbering.n_columns)
    np.testing.assert_array_equal(found.dense(), dense[:, numbering.features()])


def test_columns_are_numbered_once_the_dimension_exceeds_the_values():
    few = SparseRows.from_dense(np.eye(3))
    assert Numbering.of(few).used is None
    wide = SparseRows(few.data, few.indices + np.int32(70_000), few.indptr, 2**31 - 1)
    numbering = Numbering.of(wide)
    assert numbering.used.tolist() == [0, 70_000, 70_001, 70_002]
    assert numbering.features() is numbering.used
    # A view has the columns of its own rows only.
    assert Numbering.of(wide[1:2]).used.tolist() == [0, 70_001]
    assert Numbering.of(wide[:0]).used.tolist() == [0]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_largest_magnitude_of_each_row(monkeypatch, size):
    monkeypatch.setattr(keyed_rows, "_CHUNK_VALUES", size)
    dense = sparse.matrix(np.random.default_rng(size), 40, 9, 0.3)
    rows = SparseRows.from_dense(dense)[7:]
    assert row_maxima(rows).tolist() == np.abs(dense[7:]).max(axis=1).tolist()


def test_the_largest_magnitudes_take_no_copy_of_the_values():
    rows = SparseRows.from_dense(np.ones((4000, 500)))
    tracemalloc.start()
    try:
        row_maxima(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.data.nbytes / 3


def test_only_rows_for_cosine_have_units():
    rows = SparseRows.from_dense(np.eye(2))
    keyed = KeyedRows.of_queries(resolve_metric("euclidean"), rows)
    with pytest.raises(ValueError, match="cosine"):
        keyed.units(np.array([0]))
