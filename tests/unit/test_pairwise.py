"""Brute force for every metric, compared with a search that sorts all distances."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.equal_rows import distinct_rows
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch, block_distances
from pyspark_knn.index.selection import exclusion_of_rows
from tests.support.sorting import ask, assert_same, by_sorting
from tests.support.strategies import METRIC_CASES, Search, searches


def build(search: Search) -> PairwiseSearch:
    return PairwiseSearch.build(search.items, IndexSpec(search.metric, "brute"))


@pytest.mark.parametrize("case", METRIC_CASES)
@given(data=st.data())
def test_answers_agree_with_sorting_all_distances(case, data):
    search = data.draw(searches(case))
    assert_same(ask(build(search), search), by_sorting(search))


@pytest.mark.parametrize("case", ["euclidean", "jaccard", "braycurtis"])
@given(data=st.data())
def test_the_size_of_blocks_changes_nothing(case, data):
    search = data.draw(searches(case))
    index = PairwiseSearch(
        search.items,
        search.metric,
        block_pairs=data.draw(st.integers(1, 60)),
        block_queries=data.draw(st.integers(1, 3)),
    )
    assert_same(ask(index, search), by_sorting(search))


@pytest.mark.parametrize("case", METRIC_CASES)
def test_queries_one_by_one_and_together_have_the_same_answer(case):
    seed = np.random.default_rng(6)
    items = seed.integers(-2, 3, size=(60, 2)) * 0.3
    search = Search(METRIC_CASES[case](2), items, seed.normal(size=(30, 2)), 7, None, None, 30)
    index = build(search)
    alone = [ask(index, replace(search, queries=row[None, :])) for row in search.queries]
    together = Neighbors(*map(np.concatenate, zip(*alone, strict=True)))
    assert_same(ask(index, search), together)


@pytest.mark.parametrize("case", METRIC_CASES)
def test_float32_and_float64_of_the_same_values_have_the_same_answer(case):
    seed = np.random.default_rng(7)
    items = seed.normal(size=(50, 2)).astype(np.float32)
    queries = seed.normal(size=(9, 2)).astype(np.float32)
    metric = METRIC_CASES[case](2)
    narrow = Search(metric, items, queries, 5, None, None, 30)
    expected = ask(build(narrow), narrow)
    for left, right in [(items, queries), (items, queries * 1.0), (items * 1.0, queries)]:
        wide = replace(narrow, items=left.astype(np.float64), queries=right)
        assert_same(ask(build(wide), wide), expected)


def test_the_order_on_a_lattice_is_that_of_whole_numbers():
    axis = np.arange(7)
    items = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    queries = np.array([[3, 3, 3], [0, 1, 2], [6, 6, 5]])
    squares = ((queries[:, None, :] - items[None, :, :]) ** 2).sum(axis=2)
    order = np.argsort(squares, axis=1, kind="stable")
    # A tenth has no exact float: near-ties are not ties any more, and yet the ties must stay.
    for scale in (1.0, 0.125, 2.0**-1000):
        index = PairwiseSearch.build(items * scale, IndexSpec(resolve_metric("euclidean")))
        found = index.kneighbors(queries * scale, len(items))
        np.testing.assert_array_equal(found.positions, order)
        expected = np.sqrt(np.take_along_axis(squares, order, axis=1)) * scale
        np.testing.assert_array_equal(found.distances, expected)


def test_excluding_everything_leaves_nothing():
    items = np.zeros((4, 1))
    pairs = np.arange(4).repeat(2)
    exclude = Exclusion(np.tile([0, 1], 4), pairs)
    index = PairwiseSearch.build(items, IndexSpec(resolve_metric("euclidean")))
    found = index.kneighbors(np.zeros((3, 1)), 2, exclude=exclude)
    assert found.positions.tolist() == [[-1, -1], [-1, -1], [0, 1]]
    assert found.distances.tolist() == [[np.inf, np.inf], [np.inf, np.inf], [0, 0]]


def test_items_at_infinite_distance_are_neighbors():
    # Of [1, -1] and its opposite, braycurtis is 4 / 0.
    index = PairwiseSearch.build(
        np.array([[-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]]), IndexSpec(resolve_metric("braycurtis"))
    )
    found = index.kneighbors(np.array([[1.0, -1.0]]), 3)
    assert found.positions.tolist() == [[2, 0, 1]]
    assert found.distances.tolist() == [[0.0, np.inf, np.inf]]
    assert index.kneighbors(np.array([[1.0, -1.0]]), 3, max_distance=9.0).positions.tolist() == [
        [2, -1, -1]
    ]


def test_the_items_are_not_copied():
    items = np.eye(3, dtype=np.float32)
    assert PairwiseSearch.build(items, IndexSpec(resolve_metric("cosine"))).matrix is items


@pytest.mark.parametrize("case", METRIC_CASES)
def test_block_distances_are_the_distances_of_pairs(case):
    seed = np.random.default_rng(8)
    metric = METRIC_CASES[case](2)
    queries, items = seed.integers(-1, 2, size=(5, 2)) * 1.0, seed.normal(size=(7, 2))
    rows, positions = np.divmod(np.arange(35), 7)
    expected = metric.distances(queries, items, rows, positions).reshape(5, 7)
    assert block_distances(metric, queries, items).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["jaccard", "russellrao", "yule", "hamming"])
def test_equal_queries_are_searched_once_and_all_answered(name):
    rng = np.random.default_rng(3)
    items, queries = (rng.integers(-1, 2, (count, 3)) * 1.0 for count in (90, 200))
    queries[::7] *= -0.0
    metric = resolve_metric(name)
    index = build_index(items, IndexSpec(metric, "brute"))[0]
    for exclude in (None, Exclusion(np.arange(0, 50), np.arange(0, 50))):
        together = index.kneighbors(queries, 5, exclude=exclude)
        for row in range(len(queries)):
            own = None if exclude is None else exclusion_of_rows(exclude, row, row + 1)
            alone = PairwiseSearch(items, metric).kneighbors(queries[row : row + 1], 5, exclude=own)
            assert_same(alone, Neighbors(*(each[row : row + 1] for each in together)))


def test_rows_of_which_few_are_equal_are_left_alone():
    assert distinct_rows(np.arange(20.0).reshape(10, 2)) is None
    assert distinct_rows(np.ones((10, 17))) is None
    assert distinct_rows(np.ones((0, 2))) is None
    distinct, which = distinct_rows(np.array([[0.0, 2.0], [-0.0, 2.0], [1.0, 2.0], [1.0, 2.0]]))
    assert which.tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert sorted(distinct[which].tolist()) == [0, 0, 2, 2]
