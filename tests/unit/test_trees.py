"""kd_tree and ball_tree for every metric they support, compared with sorting all distances."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import BallTree

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sklearn_index import BallTreeSearch, KDTreeSearch, TreeSearch
from pyspark_knn.index.tree_batches import candidate_batches, spare_candidates
from pyspark_knn.index.tree_order import spatial_order
from pyspark_knn.index.tree_space import TreeSpace, sums_of_sizes
from tests.support.sorting import ask, assert_same, by_sorting
from tests.support.strategies import METRIC_CASES, Search, searches

TREES: tuple[type[TreeSearch], ...] = (KDTreeSearch, BallTreeSearch)
PAIRS = [
    pytest.param(tree, case, id=f"{tree.algorithm}-{case}")
    for tree in TREES
    for case in METRIC_CASES
    if tree.supports(METRIC_CASES[case](2))
]


def build(tree: type[TreeSearch], search: Search) -> TreeSearch:
    return tree.build(search.items, IndexSpec(search.metric, tree.algorithm, search.leaf_size))


@pytest.mark.parametrize(("tree", "case"), PAIRS)
@given(data=st.data())
def test_answers_agree_with_sorting_all_distances(tree, case, data):
    search = data.draw(searches(case))
    assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize(("tree", "case"), PAIRS)
@given(data=st.data())
def test_answers_among_many_items_agree_with_brute_force(tree, case, data):
    seed = np.random.default_rng(data.draw(st.integers(0, 999)))
    dim = 2 if case.startswith("haversine") else data.draw(st.integers(1, 12))
    digits = data.draw(st.sampled_from([0, 1, 16]))
    offset = data.draw(st.sampled_from([0.0, 1.0, 1e5]))
    points = (seed.normal(size=(220, dim)).round(digits) + offset) * data.draw(
        st.sampled_from([1.0, 1e120, 1e-170])
    )
    k = data.draw(st.integers(1, 12))
    items, queries = points[:200], points[190:]
    search = Search(METRIC_CASES[case](dim), items, queries, k, None, None, 10)
    index = PairwiseSearch.build(items, IndexSpec(search.metric))
    assert_same(ask(build(tree, search), search), ask(index, search))


@pytest.mark.parametrize("tree", TREES)
@given(data=st.data())
def test_the_size_of_blocks_changes_nothing(tree, data):
    search = data.draw(searches("euclidean"))
    index = tree(
        search.items,
        search.metric,
        TreeSpace.of(search.metric, search.items),
        search.leaf_size,
        batch_candidates=data.draw(st.integers(1, 40)),
        batch_queries=data.draw(st.integers(1, 3)),
    )
    assert_same(ask(index, search), by_sorting(search))


@pytest.mark.parametrize(("tree", "case"), PAIRS)
def test_queries_one_by_one_and_together_in_float32_and_float64(tree, case):
    seed = np.random.default_rng(6)
    items = seed.integers(-2, 3, size=(200, 2)).astype(np.float32) * np.float32(0.3)
    queries = seed.normal(size=(12, 2)).astype(np.float32)
    search = Search(METRIC_CASES[case](2), items, queries, 7, None, None, 5)
    index = build(tree, search)
    expected = ask(index, search)
    alone = [ask(index, replace(search, queries=row[None, :])) for row in queries]
    assert_same(Neighbors(*map(np.concatenate, zip(*alone, strict=True))), expected)
    wide = replace(search, items=items.astype(np.float64), queries=queries.astype(np.float64))
    assert_same(ask(build(tree, wide), wide), expected)


@pytest.mark.parametrize("tree", TREES)
def test_more_ties_than_neighbors(tree):
    # 300 items are at the same distance, and the tree breaks ties otherwise than the search.
    angles = np.linspace(0.0, 2 * np.pi, 301)[:-1]
    items = np.concatenate([np.stack([np.cos(angles), np.sin(angles)], axis=1), np.ones((900, 2))])
    metric = resolve_metric("chebyshev")
    queries = np.zeros((3, 2))
    search = Search(metric, items, queries, 5, None, None, 10)
    assert_same(ask(build(tree, search), search), by_sorting(search))
    same = replace(search, items=np.repeat(items[:1], 500, axis=0))
    assert ask(build(tree, same), same).positions.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("tree", TREES)
def test_excluding_everything_and_nearly_everything(tree):
    items = np.arange(40.0)[:, None]
    metric = resolve_metric("euclidean")
    rows = np.tile([0, 1], 40)
    exclude = Exclusion(rows[:-1], np.arange(40).repeat(2)[:-1])
    search = Search(metric, items, np.zeros((3, 1)), 3, None, exclude, 2)
    found = ask(build(tree, search), search)
    assert found.positions.tolist() == [[-1, -1, -1], [39, -1, -1], [0, 1, 2]]
    assert found.distances.tolist() == [[np.inf] * 3, [39.0, np.inf, np.inf], [0.0, 1.0, 2.0]]


@pytest.mark.parametrize("tree", TREES)
def test_the_items_are_returned_and_held_once(tree):
    items = np.random.default_rng(1).normal(size=(50, 3))
    index = tree.build(items, IndexSpec(resolve_metric("euclidean"), tree.algorithm))
    assert np.shares_memory(index.matrix, items)
    narrow = items.astype(np.float32)
    index = tree.build(narrow, IndexSpec(resolve_metric("euclidean"), tree.algorithm))
    assert index.matrix is narrow


COUNTEREXAMPLES = {
    "braycurtis": ([[0, 4], [1, 1], [2, 4]], [3, 0]),
    # The center of the first two is (0, 1, 0, 0), which shares nothing with the query.
    "dice": ([[1, 1, 0, 0], [-1, 1, 0, 0], [1, 0, 5, 5], [1, 0, 5, 5]], [1, 0, 0, 0]),
}


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
def test_why_a_ball_tree_is_refused(name):
    items, query = (np.array(each, dtype=np.float64) for each in COUNTEREXAMPLES[name])
    metric = resolve_metric(name)
    search = Search(metric, items, query[None, :], 1, None, None, 1)
    true = by_sorting(search)
    distances, positions = BallTree(items, leaf_size=1, metric=name).query(search.queries, 1)
    assert positions[0, 0] != true.positions[0, 0]
    assert distances[0, 0] > true.distances[0, 0] + 0.04
    assert not BallTreeSearch.supports(metric)


@pytest.mark.parametrize("name", ["braycurtis", "dice"])
def test_metrics_that_are_refused_break_the_triangle_inequality(name):
    metric = resolve_metric(name)
    corners = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    straight, there, back = metric.distances(
        corners, corners, np.array([0, 0, 2]), np.array([1, 2, 1])
    )
    assert straight > there + back + 0.3


@pytest.mark.parametrize(("tree", "case"), PAIRS)
def test_ties_below_the_normal_numbers(tree, case):
    """Subnormal distances have few digits: they are rounded by more than a relative epsilon."""
    around = np.array([[1, 1], [-1, 1], [1, -1], [0, 2], [2, 0]]) * 2.0**-1060
    items = around[np.random.default_rng(5).integers(0, len(around), 200)]
    search = Search(METRIC_CASES[case](2), items, np.zeros((1, 2)), 1, None, None, 2)
    assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize(("tree", "case"), PAIRS)
def test_ties_far_from_zero(tree, case):
    """The coordinates of a tree are rounded by more there than the distances are."""
    offset, step = (1.0, 2.0**-40) if case.startswith("haversine") else (1e6, 2.0**-20)
    lattice = np.stack(np.meshgrid(np.arange(9), np.arange(9)), axis=-1).reshape(-1, 2)
    items = np.random.default_rng(3).permutation(lattice) * step + offset
    for k in (2, 4, 11):
        search = Search(METRIC_CASES[case](2), items, items[:40], k, None, None, 2)
        assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize("tree", TREES)
@given(data=st.data())
def test_haversine_at_the_poles_at_the_date_line_and_of_antipodes(tree, data):
    seed = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = data.draw(st.sampled_from([1e-160, 1e-15, 1e-8, 1e-3, 0.3]))
    latitude = data.draw(st.sampled_from([0.0, 0.7, np.pi / 2, -np.pi / 2]))
    longitude = data.draw(st.sampled_from([0.0, np.pi, -np.pi, 2 * np.pi]))
    around = np.array([latitude, longitude])
    near = around + scale * seed.integers(-3, 4, size=(60, 2))
    opposite = around * [-1, 1] - [0, np.pi] + scale * seed.integers(-3, 4, size=(40, 2))
    items = seed.permutation(np.concatenate([near, opposite]))
    queries = np.concatenate([items[:6], [around, -around, [np.pi / 2, 1.0], [0.0, 0.0]]])
    k = data.draw(st.sampled_from([1, 5, 70]))
    search = Search(resolve_metric("haversine"), items, queries, k, None, None, 5)
    assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize("tree", TREES)
@given(data=st.data())
def test_a_table_of_candidates_has_ties_limits_and_small_k(tree, data):
    """The tree breaks ties arbitrarily: candidates are ranked again."""
    seed = np.random.default_rng(data.draw(st.integers(0, 99)))
    items = seed.integers(0, 6, size=(300, 2)) * data.draw(st.sampled_from([1.0, 0.1, 1e-200]))
    k = data.draw(st.integers(1, 20))
    limit = data.draw(st.none() | st.sampled_from([0.0, 0.1, 1.0, -1.0]))
    search = Search(resolve_metric("euclidean"), items, items[:50], k, limit, None, 5)
    assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (50, 1), (50, 2), (50, 3), (50, 9)])
def test_the_spatial_order_has_each_query_once(shape):
    coordinates = np.random.default_rng(1).normal(size=shape)
    assert sorted(spatial_order(coordinates)) == list(range(len(coordinates)))
    assert sorted(spatial_order(1e308 * np.sign(coordinates))) == list(range(len(coordinates)))


def test_queries_that_follow_one_another_are_close():
    coordinates = np.random.default_rng(1).uniform(size=(2000, 2)) * [1.0, 1e-300] + [1e6, 0.0]
    ordered = coordinates[spatial_order(coordinates)]
    for column in range(2):
        gaps = np.abs(np.diff(ordered[:, column])).mean()
        assert gaps < 0.1 * np.abs(np.diff(coordinates[:, column])).mean()


def test_a_tree_is_asked_for_one_more_candidate_unless_values_repeat():
    items = np.random.default_rng(1).normal(size=(3000, 2))
    assert spare_candidates(items) == 1
    assert spare_candidates(np.stack([items[:, 0].round(1), items[:, 1]], axis=1)) == 1
    assert spare_candidates(items.round(1)) == 2


def test_queries_are_asked_in_batches_of_as_many_candidates():
    served = np.array([True, False, True, True, True])
    batches = [(many, rows.tolist()) for many, rows in candidate_batches(served, 6, 100, 12, None)]
    assert batches == [(6, [0, 2]), (6, [3, 4])]
    exclude = Exclusion(np.array([0, 0, 0, *[3] * 40]), np.arange(43))
    batches = [
        (many, rows.tolist()) for many, rows in candidate_batches(served, 6, 100, 12, exclude)
    ]
    # Query 0 needs 4 more, rounded up, and query 3 more than there is room for.
    assert batches == [(6, [2, 4]), (10, [0])]
    assert next(candidate_batches(served, 6, 4, 100, None))[0] == 4


@pytest.mark.parametrize("dim", [1, 2, 8, 9])
def test_sums_of_sizes_of_short_and_long_rows(dim):
    rows = np.random.default_rng(1).normal(size=(20, dim))
    origin = rows[3]
    expected = [sum(map(abs, (row - origin).tolist())) for row in rows]
    np.testing.assert_allclose(sums_of_sizes(rows, origin), expected, rtol=1e-14)
    np.testing.assert_allclose(sums_of_sizes(rows), np.abs(rows).sum(axis=1), rtol=1e-14)


@pytest.mark.parametrize("tree", TREES)
def test_leaves_have_no_more_items_than_they_should(tree):
    items = np.random.default_rng(1).normal(size=(1000, 2))
    for leaf_size in (1, 10, 30):
        index = tree.build(items, IndexSpec(resolve_metric("euclidean"), tree.algorithm, leaf_size))
        nodes = np.asarray(index._tree.node_data)
        leaves = nodes[nodes["is_leaf"] == 1]
        assert (leaves["idx_end"] - leaves["idx_start"]).max() <= max(2, leaf_size)


def test_haversine_of_angles_that_are_many_turns():
    """The difference of such angles is rounded, so that no tree can be sure of it."""
    seed = np.random.default_rng(2)
    for turns in (1.0, 1e3, 1e9, 1e120):
        items = seed.normal(size=(400, 2)) * turns
        search = Search(resolve_metric("haversine"), items, items[:40] + 0.1, 3, None, None, 5)
        for tree in TREES:
            assert_same(ask(build(tree, search), search), by_sorting(search))


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", ["euclidean", "cityblock", "chebyshev"])
@given(data=st.data())
def test_distances_of_a_tree_that_are_final_figures(tree, name, data):
    """Also where squares underflow, and of equal points."""
    seed, exponent = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, -150, -180, 30]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64])) if exponent > -100 else np.float64
    vectors = np.random.default_rng(seed).standard_normal((80, 2)) * 10.0**exponent
    vectors = vectors.astype(dtype)
    vectors[20:40] = vectors[:20]
    vectors[40:60] = np.nextafter(vectors[:20], dtype(0))
    vectors[0] = dtype(1.0)  # the others are small beside it, but not scaled
    metric = resolve_metric(name)
    index = tree.build(vectors, IndexSpec(metric))
    assert index._figures is not None
    found = index.kneighbors(vectors[10:50], 7)
    assert_same(found, PairwiseSearch(vectors, metric).kneighbors(vectors[10:50], 7))


def test_other_distances_of_a_tree_are_computed_again():
    for name, dim in (("euclidean", 3), ("cityblock", 3), ("sqeuclidean", 2), ("haversine", 2)):
        index = KDTreeSearch.build(np.ones((9, dim)), IndexSpec(resolve_metric(name)))
        assert index._figures is None
    large = KDTreeSearch.build(np.full((9, 2), 1e250), IndexSpec(resolve_metric("euclidean")))
    assert large._figures is None


def test_most_queries_of_braycurtis_need_no_radius(monkeypatch):
    """The tree's order, by differences, is nearly that of the metric."""
    rng = np.random.default_rng(12)
    items, queries = rng.random((2000, 2)), rng.random((400, 2))
    metric = resolve_metric("braycurtis")
    index = KDTreeSearch.build(items, IndexSpec(metric))
    expected = PairwiseSearch(items, metric).kneighbors(queries, 10)
    uncertain = []
    ask = KDTreeSearch._ask_radius

    def noted(self, best, queries, rows, exclude):
        uncertain.append(len(rows))
        return ask(self, best, queries, rows, exclude)

    monkeypatch.setattr(KDTreeSearch, "_ask_radius", noted)
    found = index.kneighbors(queries, 10)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert sum(uncertain) < 40
