"""HNSW by FAISS: the contract of its answers, its recall, and all that is done with its graph."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.ship.bundle import map_file, read_bundle, write_bundle
from pyspark_knn.index.approximate.hnsw import HNSWSearch
from pyspark_knn.index.approximate.knobs import check_index_params
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.recall import recall
from tests.support.approximate_contract import check_contract
from tests.support.sorting import assert_same
from tests.support.strategies import METRIC_CASES, Search, exclusions, limits, searches

faiss = pytest.importorskip("faiss")

METRICS = ("euclidean", "sqeuclidean", "seuclidean", "cosine", "correlation", "inner_product")
K = 10


def spec_of(metric="euclidean", **params):
    resolved = METRIC_CASES[metric](64) if metric == "seuclidean" else resolve_metric(metric)
    return IndexSpec(resolved, "hnsw", index_params=params, seed=5)


@pytest.fixture(scope="module")
def index(digits):
    return HNSWSearch.build(digits[0], spec_of())


def mean_recall(index, queries, exclude=None):
    found = index.kneighbors(queries, K, exclude=exclude).distances
    return recall(found, index.exact_index.kneighbors(queries, K, exclude=exclude).distances).mean()


def many_items(case, seed, dtype):
    """So many items that candidates of the graph are ranked; with ties, offsets, magnitudes."""
    rng = np.random.default_rng(seed)
    digits, offset = rng.choice([0, 1, 16]), rng.choice([0.0, 1e4])
    magnitude = 1.0 if dtype == np.float32 else rng.choice([1.0, 1e120, 1e-170])
    points = rng.normal(size=(220, rng.integers(2, 12))).round(digits) + offset
    points = (points * magnitude).astype(dtype)
    return METRIC_CASES[case](points.shape[1]), points[:200], points[190:]


@pytest.mark.parametrize("case", METRICS)
@given(data=st.data())
def test_answers_of_few_items_keep_the_contract(case, data):
    search = data.draw(searches(case))
    check_contract(HNSWSearch.build(search.items, IndexSpec(search.metric)), search)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", METRICS)
@given(data=st.data())
@settings(max_examples=6)
def test_answers_of_many_items_keep_the_contract(case, dtype, data):
    metric, items, queries = many_items(case, data.draw(st.integers(0, 999)), dtype)
    exclude = data.draw(st.none() | exclusions(len(queries), len(items)))
    bound = data.draw(st.none() | limits(metric, queries, items))
    search = Search(metric, items, queries, data.draw(st.integers(1, 40)), bound, exclude, 30)
    check_contract(HNSWSearch.build(items, IndexSpec(metric)), search)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_most_neighbors_are_found(digits, metric, dtype):
    items, queries = (part.astype(dtype) for part in digits)
    index = HNSWSearch.build(items, spec_of(metric)).with_knob(128)
    assert mean_recall(index, queries) >= 0.99


def test_a_higher_knob_finds_more():
    points = np.random.default_rng(0).normal(size=(1600, 32))
    index = HNSWSearch.build(points[:1500], spec_of(M=8))
    found = [mean_recall(index.with_knob(knob), points[1500:]) for knob in (8, 64, 1500)]
    assert found[0] < found[1] < found[2]
    assert found[2] >= 0.999
    assert index.knob_levels()[0] == 8
    assert index.knob_levels()[-1] == 1500


@pytest.mark.skipif(
    not hasattr(faiss, "hnsw_add_vertices_deterministic"), reason="one thread before faiss 1.15"
)
def test_the_number_of_threads_changes_nothing(digits, index):
    with threadpool_limits(limits=3, user_api="openmp"):
        assert faiss.omp_get_max_threads() == 3
        other = HNSWSearch.build(digits[0], spec_of())
    assert_same_structure(index, other)


def test_the_seed_alone_changes_the_graph(digits, index):
    assert_same_structure(index, HNSWSearch.build(digits[0], spec_of()))
    other = HNSWSearch.build(digits[0], replace(spec_of(), seed=6))
    assert (other.structure()["levels"] != index.structure()["levels"]).any()


def assert_same_structure(one, other):
    parts = one.structure(), other.structure()
    assert parts[0].keys() == parts[1].keys()
    for name, part in parts[0].items():
        np.testing.assert_array_equal(part, parts[1][name])


def test_more_links_and_candidates_find_more(digits):
    few = HNSWSearch.build(digits[0], spec_of(M=2, efConstruction=10)).with_knob(16)
    many = HNSWSearch.build(digits[0], spec_of(M=24, efConstruction=200)).with_knob(16)
    assert mean_recall(few, digits[1]) < mean_recall(many, digits[1])


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_a_mapped_bundle_gives_the_same_answers(digits, metric, tmp_path):
    items, queries = digits
    index = HNSWSearch.build(items, spec_of(metric))
    with open(tmp_path / "bundle", "wb") as file:
        write_bundle(index, file)
    data = map_file(str(tmp_path / "bundle"))
    mapped = read_bundle(data)
    assert not mapped.matrix.flags.writeable
    assert_same(mapped.kneighbors(queries, K), index.kneighbors(queries, K))
    vectors = items.nbytes if metric == "cosine" else 0
    assert index.added_bytes == pytest.approx(vectors + 132 * len(items), rel=0.05)
    # Vectors that are the items themselves are stored once.
    assert len(data) < items.nbytes + index.added_bytes + 10_000


def test_too_many_links_are_an_error():
    check_index_params("hnsw", HNSWSearch.index_names, {"M": 1024})
    with pytest.raises(ValueError, match=r"indexParams\['M'\] must be <= 1024, got 1025"):
        check_index_params("hnsw", HNSWSearch.index_names, {"M": 1025})


def test_a_mapped_index_can_be_extended(digits, index, tmp_path):
    with open(tmp_path / "bundle", "wb") as file:
        write_bundle(index, file)
    mapped = read_bundle(map_file(str(tmp_path / "bundle")))
    everything = np.ascontiguousarray(np.concatenate(digits))
    old = np.arange(len(digits[0]))
    found = mapped.extended(everything, old)
    assert_same_structure(found, index.extended(everything, old))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_an_extended_index_finds_old_and_new_items(digits, metric):
    items, queries = digits
    rng = np.random.default_rng(3)
    old = np.sort(rng.choice(len(items), 1000, replace=False))
    # Some of the new items are equal to old ones, before and after them.
    items = items.copy()
    items[np.setdiff1d(np.arange(1500), old)[:200]] = items[rng.choice(old, 200)]
    index = HNSWSearch.build(np.ascontiguousarray(items[old]), spec_of(metric)).with_knob(128)
    extended = index.extended(items, old)
    assert extended.knob == 128
    assert mean_recall(extended, queries) >= 0.99
    check_contract(
        extended, Search(extended.metric, items, queries[:20], K, None, None, leaf_size=30)
    )
    # The structure is that of an index of all items.
    restored = HNSWSearch.restored(items, extended.spec, extended.structure()).with_knob(128)
    assert_same(restored.kneighbors(queries, K), extended.kneighbors(queries, K))


def test_the_first_zero_vector_is_added(digits):
    items, queries = np.append(digits[0], np.zeros((1, digits[0].shape[1])), axis=0), digits[1]
    index = HNSWSearch.build(items[:-1], spec_of("cosine")).extended(items, np.arange(1500))
    built = HNSWSearch.build(items, spec_of("cosine"))
    assert_same_structure(index, built)
    assert_same(index.kneighbors(queries, K), built.kneighbors(queries, K))


def test_an_index_is_extended_many_times(digits):
    items, queries = digits
    index = HNSWSearch.build(items[:100], spec_of())
    for n_items in range(300, 1501, 200):
        index = index.extended(items[:n_items], np.arange(n_items - 200))
    assert mean_recall(index.with_knob(128), queries) >= 0.99


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_is_restored_from_its_structure(digits, metric):
    items, queries = digits
    index = HNSWSearch.build(items, spec_of(metric))
    parts = {name: part.copy() for name, part in index.structure().items()}
    restored = HNSWSearch.restored(items, spec_of(metric), parts)
    assert_same(restored.kneighbors(queries, K), index.kneighbors(queries, K))
    assert_same_structure(restored, index)


@given(data=st.data())
@settings(max_examples=80)
def test_a_damaged_structure_is_an_error_or_every_search_ends(data, digits, index):
    structure = index.structure()
    name = data.draw(st.sampled_from(sorted(structure)))
    part = structure[name].copy()
    if data.draw(st.booleans()):
        raw = part.view(np.uint8)
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, raw.size - 1))] = data.draw(st.integers(0, 255))
    else:
        rng = np.random.default_rng(data.draw(st.integers(0, 9)))
        part = rng.permuted(part)[: data.draw(st.sampled_from([len(part), len(part) - 1, 0]))]
    try:
        restored = HNSWSearch.restored(digits[0], spec_of(), {**structure, name: part})
    except ValueError as error:
        assert "the saved index is damaged: '" in str(error)  # noqa: PT017
        return
    search = Search(restored.metric, digits[0], digits[1][:3], K, None, None, 30)
    check_contract(restored.with_knob(16), search)
    restored.held_out(np.arange(100)).kneighbors(digits[1][:3], K)
    more = np.concatenate([digits[0], digits[1][:20]])
    restored.extended(more, np.arange(len(digits[0]))).kneighbors(digits[1][:3], K)


def test_a_structure_of_other_parts_or_items_is_an_error(digits, index):
    items, structure = digits[0], index.structure()
    without = {name: part for name, part in structure.items() if name != "links"}
    with pytest.raises(ValueError, match="'links' is missing"):
        HNSWSearch.restored(items, spec_of(), without)
    with pytest.raises(ValueError, match="'cells' is unknown"):
        HNSWSearch.restored(items, spec_of(), {**structure, "cells": structure["links"]})
    with pytest.raises(ValueError, match="'levels' must have shape"):
        HNSWSearch.restored(items[1:], spec_of(), structure)
    with pytest.raises(ValueError, match="'graph' has M 16"):
        HNSWSearch.restored(items, spec_of(M=8), structure)
    twice = items.copy()
    twice[7] = twice[3]
    with pytest.raises(ValueError, match="'levels' must be 0 for all but one"):
        HNSWSearch.restored(twice, spec_of(), structure)


@pytest.mark.parametrize("many", [40, 500])
@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_items_that_are_held_out_are_not_found(digits, metric, many):
    items = digits[0]
    index = HNSWSearch.build(items, spec_of(metric))
    held = np.sort(np.random.default_rng(1).choice(len(items), many, replace=False))
    queries, exclude = items[held], Exclusion(np.arange(many), held)
    without = index.held_out(held)
    found = without.kneighbors(queries, K, exclude=exclude)
    exact = without.exact_index.kneighbors(queries, K, exclude=exclude)
    assert not np.isin(found.positions, held).any()
    rest = np.setdiff1d(np.arange(len(items)), held)
    other = HNSWSearch.build(np.ascontiguousarray(items[rest]), spec_of(metric))
    expected = other.exact_index.kneighbors(queries, K)
    np.testing.assert_array_equal(exact.positions, rest[expected.positions])
    assert recall(found.distances, exact.distances).mean() >= 0.9


def test_an_item_with_equal_items_is_not_held_out_alone(digits):
    items = np.repeat(digits[0][:200], 3, axis=0)
    held = np.array([0, 3, 4, 5, 7, 8])
    index = HNSWSearch.build(items, spec_of()).held_out(held)
    found = index.kneighbors(items[:6], 5).positions
    assert np.isin([0, 1, 2], found[0]).all()
    assert not np.isin([3, 4, 5], found).any()
    assert_same(index.exact_index.kneighbors(items[:6], 5), index.kneighbors(items[:6], 5))


def test_no_item_or_all_items_can_be_held_out(digits, index):
    assert index.held_out(np.zeros(0, np.int64)) is index
    everything = np.arange(len(digits[0]))
    exclude = Exclusion(everything, everything)
    found = index.held_out(everything).kneighbors(digits[0], 1, exclude=exclude)
    assert (found.positions[:, 0] != everything).all()


@pytest.mark.parametrize("k", [1, 10, 100, 150, 1000])
@pytest.mark.parametrize("extends", [False, True])
def test_all_of_many_equal_items_are_found(k, extends):
    rng = np.random.default_rng(0)
    items = rng.permutation(np.repeat(rng.normal(size=(50, 16)), 100, axis=0))
    if extends:
        old = np.sort(rng.choice(len(items), 3000, replace=False))
        index = HNSWSearch.build(items[old], spec_of()).extended(items, old)
    else:
        index = HNSWSearch.build(items, spec_of())
    rows = np.arange(40)
    exclude = Exclusion(rows, rows)
    found = index.kneighbors(items[:40], k, exclude=exclude)
    assert_same(found, index.exact_index.kneighbors(items[:40], k, exclude=exclude))


@pytest.mark.parametrize(
    "items",
    [np.ones((1, 3)), np.ones((900, 3)), np.arange(7.0)[:, None], np.zeros((50, 2), np.float32)],
    ids=["one item", "all equal", "fewer than links", "all zero"],
)
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_few_or_equal_items(items, metric):
    index = HNSWSearch.build(items, spec_of(metric))
    for k in {1, len(items) // 5 + 1, len(items)}:
        expected = index.exact_index.kneighbors(items[:5], k)
        assert_same(index.kneighbors(items[:5], k), expected)
    restored = HNSWSearch.restored(items, spec_of(metric), index.structure())
    assert_same(restored.kneighbors(items[:5], 1), index.kneighbors(items[:5], 1))


@pytest.mark.parametrize(("clusters", "size"), [(10, 200), (400, 5), (50, 40)])
def test_the_neighbors_in_clusters_far_apart_are_found(clusters, size):
    rng = np.random.default_rng(0)
    centers = 1000 * rng.normal(size=(clusters, 16))
    items = rng.permutation(np.repeat(centers, size, axis=0)) + rng.normal(size=(2000, 16))
    queries = centers[:50] + rng.normal(size=(min(50, clusters), 16))
    assert mean_recall(HNSWSearch.build(items, spec_of()).with_knob(128), queries) >= 0.99


def test_the_bytes_of_a_bundle_are_the_same_for_the_same_items(digits):
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_bundle(HNSWSearch.build(digits[0], spec_of()), file)
    assert files[0].getvalue() == files[1].getvalue()
