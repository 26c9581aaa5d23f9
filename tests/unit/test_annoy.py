"""Annoy: the contract of its answers, its recall, and the file that processes share."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.engine.ship.bundle import map_file, read_bundle, write_bundle
from pyspark_knn.index.approximate.annoy import AnnoySearch
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.recall import held_out_positions, measure, recall
from tests.support.approximate_contract import check_contract
from tests.support.sorting import assert_same
from tests.support.strategies import METRIC_CASES, Search, exclusions, limits

pytest.importorskip("annoy")

METRICS = ("euclidean", "cosine", "correlation", "inner_product")
K = 10


def spec_of(metric="euclidean", **params):
    return IndexSpec(resolve_metric(metric), "annoy", index_params=params, seed=5)


@pytest.fixture(scope="module")
def index(digits):
    return AnnoySearch.build(digits[0], spec_of())


def file_of(index):
    file = io.BytesIO()
    write_bundle(index, file)
    return file.getvalue()


@pytest.mark.parametrize("case", METRICS)
@given(data=st.data())
@settings(max_examples=6)
def test_answers_keep_the_contract(case, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    points = rng.normal(size=(220, rng.integers(1, 12))).round(rng.choice([0, 1, 16]))
    items, queries = points[:200], points[190:]
    metric = METRIC_CASES[case](points.shape[1])
    exclude = data.draw(st.none() | exclusions(len(queries), len(items)))
    bound = data.draw(st.none() | limits(metric, queries, items))
    search = Search(metric, items, queries, data.draw(st.integers(1, 40)), bound, exclude, 30)
    check_contract(AnnoySearch.build(items, IndexSpec(metric)), search)


@pytest.mark.parametrize("metric", METRICS)
def test_a_higher_knob_finds_more(digits, metric):
    items, queries = digits
    index = AnnoySearch.build(items, spec_of(metric))
    exact = index.exact_index.kneighbors(queries, K).distances
    levels = index.knob_levels()
    assert (levels[0], levels[-1]) == (50, 8192)
    found = [
        recall(index.with_knob(knob).kneighbors(queries, K).distances, exact).mean()
        for knob in (50, 400, 1500)
    ]
    assert found[0] < found[1] <= found[2]
    assert found[2] >= 0.99


def test_the_seed_and_the_number_of_trees_alone_change_the_trees(digits, index):
    items = digits[0]
    assert file_of(AnnoySearch.build(items, spec_of())) == file_of(index)
    assert file_of(AnnoySearch.build(items, replace(spec_of(), seed=6))) != file_of(index)
    few = AnnoySearch.build(items, spec_of(nTrees=5))
    assert few.added_bytes < index.added_bytes
    assert few.knob_levels()[0] == 5


def test_processes_share_one_file_in_the_folder_of_the_executor(
    digits, index, tmp_path, monkeypatch
):
    bundle, local = tmp_path / "bundle", tmp_path / "local"
    bundle.write_bytes(file_of(index))
    local.mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{local},{tmp_path}/other")
    inodes = set()
    for _ in range(2):
        mapped = read_bundle(map_file(str(bundle)))
        assert_same(mapped.kneighbors(digits[1], K), index.kneighbors(digits[1], K))
        (file,) = local.iterdir()
        inodes.add(file.stat().st_ino)
    assert len(inodes) == 1


def test_the_file_of_a_process_is_deleted_at_once(digits, index, tmp_path, monkeypatch):
    monkeypatch.delenv("SPARK_LOCAL_DIRS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = AnnoySearch.build(digits[0], spec_of())
    assert_same(other.kneighbors(digits[1], K), index.kneighbors(digits[1], K))
    assert not list(tmp_path.iterdir())


def test_items_are_added_by_building_again(digits, index):
    items = np.ascontiguousarray(np.concatenate(digits))
    extended = index.with_knob(300).extended(items, np.arange(len(digits[0])))
    assert extended.knob == 300
    assert file_of(extended.with_knob(index.knob)) == file_of(AnnoySearch.build(items, spec_of()))
    restored = AnnoySearch.restored(digits[0], spec_of(), index.structure())
    assert file_of(restored) == file_of(index)


@pytest.mark.parametrize(
    "items", [np.ones((1, 3)), np.ones((300, 3)), np.arange(7.0)[:, None], np.zeros((50, 2))]
)
def test_few_or_equal_items(items):
    index = AnnoySearch.build(items, spec_of())
    for k in {1, len(items) // 5 + 1, len(items)}:
        expected = index.exact_index.kneighbors(items[:5], k)
        found = index.kneighbors(items[:5], k)
        np.testing.assert_array_equal(found.distances, expected.distances)


def test_few_items_are_all_found_by_the_most_thorough_search():
    items = np.random.default_rng(0).normal(size=(60, 30)).astype(np.float32)
    index = AnnoySearch.build(items, spec_of())
    found = measure(index, held_out_positions(60), 5, target=0.95)
    assert found.reaching(0.95).mean == 1.0
