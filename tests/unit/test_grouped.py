"""A search within groups gives the answers of a search of each group alone, to the bit."""

from __future__ import annotations

import copy
import io
import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.engine.ship.bundle import read_bundle, write_bundle
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.grouped import pairs, tables
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.grouped.queries import GroupQueries
from pyspark_knn.index.grouped.search import GroupSearch, Thresholds
from pyspark_knn.index.score_spaces import has_scores
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support import oracle, sparse
from tests.support.grouped import Grouped, answer, visits
from tests.support.strategies import METRIC_CASES, searches

NEVER = 10**9
WAYS = {
    "pairs": Thresholds(NEVER, NEVER, np.inf, 0, np.inf),
    "products": Thresholds(NEVER, NEVER, 0, 0, np.inf),
    "products of copies": Thresholds(NEVER, NEVER, 0, np.inf, np.inf),
    "an index for a search": Thresholds(NEVER, NEVER, np.inf, 0, 0),
    "an index of their own": Thresholds(1, 1, np.inf, 0, np.inf),
    "mixed": Thresholds(60, 60, 50, 1000, 100),
}
"""How groups are searched."""


def index_of(grouped, metric, way="mixed", *, storage="dense", algorithm="auto"):
    rows = grouped.matrix if storage == "dense" else SparseRows.from_dense(grouped.matrix)
    spec = IndexSpec(metric, algorithm)
    return GroupedIndex.build(rows, grouped.positions, grouped.starts, spec, WAYS[way])[0]


def read_only(*arrays):
    for array in arrays:
        array.flags.writeable = False


def check(grouped, metric, queries, rows, groups, k, way, storage="dense", **options):
    index = index_of(grouped, metric, way, storage=storage)
    asked = queries if storage == "dense" else SparseRows.from_dense(queries)
    found = index.search(GroupQueries(asked, rows, groups), k, **options)
    expected = grouped.nearest(queries, rows, groups, k, metric, **options)
    assert answer(found) == expected
    assert (found.distances.dtype, found.positions.dtype) == (np.float64, np.int64)
    assert found.offsets.dtype == np.int64


@st.composite
def cases(draw, metric_case):
    search = draw(searches(metric_case))
    if search.metric.name == "haversine":  # an index refuses items that are not angles
        search = replace(search, items=np.clip(search.items, -1.5, 1.5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    numbers = rng.integers(0, draw(st.integers(1, 6)), len(search.items))
    grouped = Grouped.of(search.items, numbers)
    rows, groups = visits(rng, len(search.queries), grouped.n_groups, draw(st.integers(1, 3)))
    return search, grouped, rows, groups


@pytest.mark.parametrize("metric_case", METRIC_CASES)
@given(data=st.data())
def test_every_metric(metric_case, data):
    search, grouped, rows, groups = data.draw(cases(metric_case))
    options = {"max_distance": search.max_distance, "exclude": search.exclude}
    way = data.draw(st.sampled_from(list(WAYS)))
    check(grouped, search.metric, search.queries, rows, groups, search.k, way, **options)


@pytest.mark.parametrize("way", ["pairs", "an index for a search", "mixed"])
@pytest.mark.parametrize("name", sparse.METRICS)
def test_sparse_vectors(name, way):
    for seed, kind in enumerate(sparse.KINDS):
        rng = np.random.default_rng(seed)
        items = sparse.matrix(rng, 150, 30, 0.2, kind)
        grouped = Grouped.of(items, np.sort(rng.integers(0, 3, 150) ** 2))
        queries = np.concatenate([items[:5], sparse.matrix(rng, 15, 30, 0.2, kind)])
        rows, groups = visits(rng, 20, grouped.n_groups, 2)
        metric = sparse.metric_for(name, 30, rng)
        excluded = Exclusion(rng.integers(0, 20, 60), np.sort(rng.integers(0, 150, 60)))
        check(grouped, metric, queries, rows, groups, 4, way, "sparse", exclude=excluded)


def test_sparse_vectors_of_very_many_features():
    rng = np.random.default_rng(0)
    narrow = SparseRows.from_dense(sparse.matrix(rng, 200, 60, 0.2))
    columns = np.sort(rng.choice(2**31 - 1, 60, replace=False)).astype(np.int32)
    wide = SparseRows(narrow.data, columns[narrow.indices], narrow.indptr, 2**31 - 1)
    grouped = Grouped.of(np.zeros((200, 1)), np.arange(200) % 3)
    wide = wide[grouped.positions]
    for name in ("cosine", "jaccard"):
        spec = IndexSpec(resolve_metric(name))
        for way in ("pairs", "an index for a search"):
            index, _ = GroupedIndex.build(wide, grouped.positions, grouped.starts, spec, WAYS[way])
            found = index.search(GroupQueries(wide[:10], np.arange(10), np.arange(10) % 3), 5)
            for row in range(10):
                inside = slice(grouped.starts[row % 3], grouped.starts[row % 3 + 1])
                alone = build_index(wide[inside], spec)[0].kneighbors(wide[row : row + 1], 5)
                here = slice(found.offsets[row], found.offsets[row + 1])
                positions = grouped.positions[inside][alone.positions[0]]
                np.testing.assert_array_equal(found.positions[here], positions)
                np.testing.assert_array_equal(found.distances[here], alone.distances[0])
            assert index.matrix.n_features == 2**31 - 1


SHAPES = {
    "one item each": lambda rng: np.arange(50),
    "one group": lambda rng: np.zeros(300, np.int64),
    "1,000 groups": lambda rng: rng.integers(0, 1000, 3000),
    "of all sizes": lambda rng: np.repeat(np.arange(9), 2 ** np.arange(9)),
}
ITEMS = {
    "normal": lambda rng, n: rng.standard_normal((n, 5)),
    "ties": lambda rng, n: rng.integers(0, 2, (n, 5)) * 0.1,
    "all equal": lambda rng, n: np.ones((n, 5)),
    "clusters": lambda rng, n: rng.integers(0, 9, (n, 1)) * 1e6 + rng.standard_normal((n, 5)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ITEMS)
def test_shapes_of_groups(kind, shape, way):
    rng = np.random.default_rng(0)
    numbers = SHAPES[shape](rng)
    for dtype in (np.float32, np.float64):
        items = ITEMS[kind](rng, len(numbers)).astype(dtype)
        grouped = Grouped.of(items, rng.permutation(numbers))
        queries = np.concatenate([items[:20], ITEMS[kind](rng, 20)])
        groups = rng.integers(0, grouped.n_groups, 40)
        read_only(grouped.matrix, grouped.positions, grouped.starts, queries, groups)
        for name in ("euclidean", "cosine"):
            metric = resolve_metric(name)
            for k in (1, 7, 400):
                check(grouped, metric, queries, np.arange(40), groups, k, way)


@pytest.mark.parametrize("name", ["euclidean", "inner_product", "cityblock", "correlation"])
def test_a_search_of_each_group_alone_gives_the_same(name):
    rng = np.random.default_rng(1)
    items = rng.standard_normal((3000, 6), dtype=np.float32)
    grouped = Grouped.of(items, rng.integers(0, 60, 3000) // rng.integers(1, 9, 3000))
    spec = IndexSpec(resolve_metric(name), "brute")
    queries = rng.standard_normal((400, 6))
    groups = rng.integers(0, grouped.n_groups, 400)
    for way in WAYS:
        index = index_of(grouped, spec.metric, way)
        found = index.search(GroupQueries(queries, np.arange(400), groups), 5)
        for group in range(grouped.n_groups):
            inside = slice(grouped.starts[group], grouped.starts[group + 1])
            size = inside.stop - inside.start
            alone, _ = build_index(grouped.matrix[inside], spec)
            rows = np.flatnonzero(groups == group)
            expected = alone.kneighbors(queries[rows], min(5, size))
            at = (found.offsets[rows, None] + np.arange(min(5, size))).ravel()
            positions = grouped.positions[inside][expected.positions.ravel()]
            np.testing.assert_array_equal(found.positions[at], positions)
            np.testing.assert_array_equal(found.distances[at], expected.distances.ravel())


def test_distances_are_those_of_plain_loops():
    rng = np.random.default_rng(2)
    items, queries = rng.standard_normal((300, 4)), rng.standard_normal((30, 4))
    grouped = Grouped.of(items, rng.integers(0, 7, 300))
    groups = rng.integers(0, 7, 30)
    found = answer(
        index_of(grouped, resolve_metric("euclidean")).search(
            GroupQueries(queries, np.arange(30), groups), 6
        )
    )
    for query, group, neighbors in zip(queries, groups, found, strict=True):
        members = grouped.positions[grouped.starts[group] : grouped.starts[group + 1]]
        expected = sorted((oracle.euclidean(query, items[each]), each) for each in members)[:6]
        assert [each for _, each in neighbors] == [each for _, each in expected]
        np.testing.assert_allclose([far for far, _ in neighbors], [far for far, _ in expected])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["euclidean", "jaccard", "haversine"])
def test_exclusions_and_limits(name, way):
    rng = np.random.default_rng(3)
    metric = resolve_metric(name)
    items = rng.integers(0, 3, (400, 2)) * 0.5
    grouped = Grouped.of(items, rng.integers(0, 4, 400))
    queries = np.concatenate([items[:10], rng.random((10, 2))])
    rows, groups = visits(rng, 20, grouped.n_groups, 3)
    # Of the first query nothing is left, and of others a few, some of them in no group of theirs.
    excluded = np.concatenate([np.zeros(400, int), rng.integers(0, 20, 300)])
    exclude = Exclusion(excluded, np.concatenate([np.arange(400), rng.integers(0, 400, 300)]))
    order = np.argsort(exclude.positions, kind="stable")
    exclude = Exclusion(*(each[order] for each in exclude))
    limit = float(metric.distances(queries, items, np.array([12]), np.array([7]))[0])
    for max_distance in (None, limit, np.nextafter(limit, -1), 0.0, -1.0, np.inf):
        options = {"max_distance": max_distance, "exclude": exclude}
        check(grouped, metric, queries, rows, groups, 5, way, **options)


def test_a_limit_at_the_distance_of_a_pair_is_inclusive():
    rng = np.random.default_rng(4)
    grouped = Grouped.of(rng.standard_normal((90, 3)), np.arange(90) % 3)
    query, metric = rng.standard_normal((1, 3)), resolve_metric("euclidean")
    for way in WAYS:
        index = index_of(grouped, metric, way)
        asked = GroupQueries(query, np.zeros(1, int), np.ones(1, int))
        every = index.search(asked, 90)
        limit = float(every.distances[11])
        near = index.search(
            GroupQueries(query, np.zeros(1, int), np.ones(1, int)), 90, max_distance=limit
        )
        np.testing.assert_array_equal(near.distances, every.distances[:12])
        below = np.nextafter(limit, 0)
        near = index.search(
            GroupQueries(query, np.zeros(1, int), np.ones(1, int)), 90, max_distance=below
        )
        assert len(near.distances) == 11


@pytest.mark.parametrize("way", WAYS)
def test_unions_of_groups_with_ties(way):
    rng = np.random.default_rng(5)
    items = rng.integers(0, 2, (500, 3)).astype(np.float32)
    grouped = Grouped.of(items, rng.integers(0, 8, 500))
    rows, groups = visits(rng, 50, 8, 8)
    for k in (1, 5, 600):
        check(grouped, resolve_metric("sqeuclidean"), items[:50], rows, groups, k, way)


def test_no_queries_and_no_groups():
    grouped = Grouped.of(np.eye(4), np.arange(4) // 2)
    nothing = np.zeros(0, np.int64)
    for way in WAYS:
        for storage in ("dense", "sparse"):
            index = index_of(grouped, resolve_metric("euclidean"), way, storage=storage)
            for n_queries in (0, 3):
                queries = np.zeros((n_queries, 4))
                asked = queries if storage == "dense" else SparseRows.from_dense(queries)
                found = index.search(GroupQueries(asked, nothing, nothing), 2)
                assert found.offsets.tolist() == [0] * (n_queries + 1)
                assert len(found.positions) == len(found.distances) == 0


def test_queries_beyond_the_bounds_of_products():
    rng = np.random.default_rng(6)
    items = rng.standard_normal((200, 3))
    queries = rng.standard_normal((40, 3))
    queries[::2] *= 1e300
    items[::7] *= 1e200
    grouped = Grouped.of(items, np.arange(200) % 4)
    ways = "products", "products of copies"
    for name, way in itertools.product(
        ("euclidean", "sqeuclidean", "cosine", "inner_product"), ways
    ):
        args = np.arange(40), np.arange(40) % 4
        check(grouped, resolve_metric(name), queries, *args, 5, way)


def test_crowded_groups_are_searched_by_an_index(monkeypatch):
    rng = np.random.default_rng(7)
    centers = rng.standard_normal((5, 8)) * 1e6
    numbers = rng.integers(0, 5, 2000)
    items = centers[numbers] + rng.standard_normal((2000, 8))
    grouped = Grouped.of(items, numbers)
    queries = items[:100] + 0.01
    alone = []
    run = GroupSearch._index_of

    def noted(self, part):
        alone.extend(part.numbers.tolist())
        return run(self, part)

    monkeypatch.setattr(GroupSearch, "_index_of", noted)
    exclude = Exclusion(np.arange(100), np.arange(100))
    args = queries, np.arange(100), numbers[:100], 5
    check(grouped, resolve_metric("euclidean"), *args, "products", exclude=exclude)
    assert sorted(alone) == list(range(100))


def test_crowded_groups_beside_groups_of_few_items():
    # Of the groups, 40 are small; two have thousands of items at one place, and one has few.
    sizes = np.array([5] * 40 + [3000, 20, 4000])
    rng = np.random.default_rng(17)
    items = np.zeros((sizes.sum(), 8), np.float32)
    items[:200], items[-2000:] = rng.normal(size=(200, 8)), rng.normal(size=(2000, 8))
    grouped = Grouped.of(items, np.repeat(np.arange(len(sizes)), sizes))
    queries = np.zeros((600, 8), np.float32)
    queries[::3] = rng.normal(size=(200, 8))
    rows = np.arange(600)
    groups = np.where(rows % 2, rng.integers(0, len(sizes), 600), 40 + 2 * (rows % 4 == 0))
    metric = resolve_metric("euclidean")
    thresholds = Thresholds(NEVER, NEVER, 0, 12_000, np.inf)
    index = GroupedIndex.build(
        items, grouped.positions, grouped.starts, IndexSpec(metric), thresholds
    )[0]
    found = index.search(GroupQueries(queries, rows, groups), 3)
    assert answer(found) == grouped.nearest(queries, rows, groups, 3, metric)


def test_blocks_do_not_change_answers(monkeypatch):
    rng = np.random.default_rng(8)
    items = rng.standard_normal((2000, 6), dtype=np.float32)
    grouped = Grouped.of(items, rng.integers(0, 300, 2000) // 7)
    rows, groups = visits(rng, 200, grouped.n_groups, 2)
    metrics = [resolve_metric(name) for name in ("euclidean", "correlation")]
    expected = [grouped.nearest(items[:200], rows, groups, 5, metric) for metric in metrics]
    for module, name in (
        (pairs, "_BLOCK_PAIRS"),
        (tables, "_QUERY_FLOATS"),
        (tables, "_ITEM_FLOATS"),
        (tables, "_COPIED_FLOATS"),
        (tables, "_TABLE_SCORES"),
        (tables, "_RANKED_PAIRS"),
        (tables, "_TERMS"),
    ):
        monkeypatch.setattr(module, name, 50)
    for way in ("pairs", "products", "products of copies"):
        for metric, each in zip(metrics, expected, strict=True):
            index = index_of(grouped, metric, way)
            assert answer(index.search(GroupQueries(items[:200], rows, groups), 5)) == each


@pytest.mark.parametrize("algorithm", ["brute", "kd_tree", "ball_tree"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bundle_stores_the_items_once(algorithm, dtype):
    rng = np.random.default_rng(9)
    items = rng.standard_normal((4000, 16)).astype(dtype)
    grouped = Grouped.of(items, rng.integers(0, 4, 4000))
    index = index_of(grouped, resolve_metric("euclidean"), algorithm=algorithm)
    assert len(index._search.large) == 4
    file = io.BytesIO()
    write_bundle(index, file)
    opened = read_bundle(memoryview(file.getvalue()).toreadonly())
    if algorithm == "brute":
        # A position, two norms, a term of its score and a place in its own group's list come to
        # each item.
        assert len(file.getvalue()) < items.nbytes + 4000 * 28 + 20_000
        assert all(
            np.shares_memory(opened.matrix, one.matrix) for one in opened._search.large.values()
        )
    assert not opened.matrix.flags.writeable
    args = GroupQueries(items[:300], np.arange(300), rng.integers(0, 4, 300)), 5
    exclude = Exclusion(np.arange(300), np.arange(300))
    for one in (opened, copy.deepcopy(index)):
        found = answer(one.search(*args, exclude=exclude))
        assert found == answer(index.search(*args, exclude=exclude))
    for name in ("n_groups", "algorithm", "exact", "storage", "n_features"):
        assert getattr(opened, name) == getattr(index, name)
    np.testing.assert_array_equal(opened.sizes, index.sizes)


@pytest.mark.parametrize("way", ["pairs", "an index for a search"])
@pytest.mark.parametrize("name", ["cosine", "euclidean", "jaccard"])
def test_a_bundle_of_sparse_items(name, way):
    rng = np.random.default_rng(10)
    items = sparse.matrix(rng, 500, 40, 0.2)
    grouped = Grouped.of(items, rng.integers(0, 5, 500))
    index = index_of(grouped, resolve_metric(name), way, storage="sparse")
    file = io.BytesIO()
    write_bundle(index, file)
    # The values, the features, the offsets, and for cosine the norms.
    assert len(file.getvalue()) < index.matrix.nbytes + 500 * 20 + 20_000
    opened = read_bundle(memoryview(file.getvalue()).toreadonly())
    queries = SparseRows.from_dense(items[:100])
    args = GroupQueries(queries, np.arange(100), rng.integers(0, 5, 100)), 5
    assert answer(opened.search(*args)) == answer(index.search(*args))
    assert (opened.storage, opened.n_features) == ("sparse", 40)


def test_what_an_index_says_of_itself():
    rng = np.random.default_rng(11)
    items = rng.standard_normal((100, 3))
    grouped = Grouped.of(items, np.arange(100) % 7)
    metric = resolve_metric("euclidean")
    spec = IndexSpec(metric)
    index, reason = GroupedIndex.build(grouped.matrix, grouped.positions, grouped.starts, spec)
    assert reason == "brute is fast enough for groups of up to 15 items"
    assert (index.algorithm, index.exact, index.storage, index.metric) == (
        "brute",
        True,
        "dense",
        metric,
    )
    assert (index.n_features, index.n_groups, index.sizes.tolist()) == (3, 7, [15, 15, *[14] * 5])
    assert index.matrix is grouped.matrix
    np.testing.assert_array_equal(index.vectors(slice(3, 60)), items[3:60])
    some = rng.integers(0, 100, 30)
    np.testing.assert_array_equal(index.vectors(some), items[some])
    own, reason = GroupedIndex.build(
        grouped.matrix,
        grouped.positions,
        grouped.starts,
        IndexSpec(metric, "kd_tree"),
        WAYS["an index of their own"],
    )
    assert own.algorithm == "kd_tree"
    assert reason == "for the largest group, 15 items: algorithm 'kd_tree' was requested"


def test_sparse_vectors_by_position():
    rng = np.random.default_rng(12)
    items = sparse.matrix(rng, 60, 20, 0.3)
    index = index_of(
        Grouped.of(items, np.arange(60) % 4), resolve_metric("cosine"), storage="sparse"
    )
    some = rng.integers(0, 60, 30)
    np.testing.assert_array_equal(index.vectors(some).dense(), items[some])
    np.testing.assert_array_equal(index.vectors(slice(2, 9)).dense(), items[2:9])


def test_auto_chooses_for_the_largest_group():
    rng = np.random.default_rng(13)
    items = rng.random((24_000, 2)) * 0.7
    numbers = np.concatenate([np.zeros(12_000), np.ones(9000), np.full(2500, 2), np.full(500, 3)])
    grouped = Grouped.of(items, numbers.astype(int))
    spec = IndexSpec(resolve_metric("haversine"))
    index, reason = GroupedIndex.build(grouped.matrix, grouped.positions, grouped.starts, spec)
    found = {group: one.algorithm for group, one in index._search.large.items()}
    assert found == {0: index.algorithm, 1: index.algorithm, 2: "brute"}
    fastest = f"for the largest group, 12000 items: {index.algorithm} is the fastest"
    assert reason.startswith(fastest)
    assert index.algorithm in ("kd_tree", "ball_tree")


@pytest.mark.parametrize(
    ("metric", "algorithm", "message"),
    [
        ("haversine", "auto", "requires 2 features"),
        ("cosine", "kd_tree", "does not support metric 'cosine'"),
        ("euclidean", "lsh", "unknown algorithm"),
    ],
)
def test_what_build_refuses(metric, algorithm, message):
    grouped = Grouped.of(np.eye(3), np.zeros(3, int))
    with pytest.raises(ValueError, match=message):
        index_of(grouped, resolve_metric(metric), "pairs", algorithm=algorithm)


@pytest.mark.parametrize("way", ["pairs", "products"])
def test_memory_is_bounded(way):
    # Of 8,000 groups and a large one; the vectors of all pairs would take a GiB.
    rng = np.random.default_rng(14)
    items = rng.standard_normal((32_000, 256), dtype=np.float32)
    grouped = Grouped.of(items, np.concatenate([np.arange(16_000) // 2, np.full(16_000, 8000)]))
    groups = np.where(np.arange(4000) % 100, rng.integers(0, 8000, 4000), 8000)
    index = index_of(grouped, resolve_metric("euclidean"), way)
    tracemalloc.start()
    index.search(GroupQueries(items[:4000], np.arange(4000), groups), 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20


@given(st.data())
def test_the_nearest_of_lists(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    counts = rng.integers(0, data.draw(st.sampled_from([3, 40, 400])), 30)
    values = [0.0, 1.0, np.inf] if data.draw(st.booleans()) else rng.random(500)
    distances = rng.choice(values, counts.sum())
    places = np.arange(counts.sum())
    k = data.draw(st.integers(1, 20))
    found = Lists(np.arange(30), counts, places, distances).nearest(k)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    expected = [
        sorted(range(start, stop), key=lambda place: (distances[place], place))[:k]
        for start, stop in itertools.pairwise(bounds)
    ]
    assert found.places.tolist() == [place for each in expected for place in each]
    assert found.counts.tolist() == [len(each) for each in expected]
    np.testing.assert_array_equal(found.distances, distances[found.places])


def test_products_serve_every_metric_with_scores():
    grouped = Grouped.of(np.eye(3), np.zeros(3, int))
    for case, make in METRIC_CASES.items():
        if not case.startswith("haversine"):
            metric = make(3)
            assert (index_of(grouped, metric)._search._tables is not None) == has_scores(metric)
