"""Lists that many queries search at once, by products: the same neighbors as one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate import ivf_products, ivf_search
from pyspark_knn.index.approximate.ivf import IVFSearch
from pyspark_knn.index.approximate.ivf_bounds import bounds, factors, squared_norms
from pyspark_knn.index.approximate.ivf_products import ListProducts
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion, Neighbors

pytest.importorskip("faiss")

U = 2.0**-24

KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lattice": lambda rng, shape: rng.integers(0, 4, shape),
    "tenths": lambda rng, shape: rng.integers(0, 9, shape) / 10,
    "copies": lambda rng, shape: np.repeat(rng.normal(size=(1 + shape[0] // 50, shape[1])), 50, 0)[
        : shape[0]
    ],
    "far away": lambda rng, shape: 1e3 + rng.normal(size=shape),
    "tiny": lambda rng, shape: 1e-15 * rng.normal(size=shape),
    "tiny and large": lambda rng, shape: rng.normal(size=shape) ** 25,
}


def built(items: np.ndarray, metric: str = "euclidean", **params: object) -> IVFSearch:
    return IVFSearch.build(items, IndexSpec(resolve_metric(metric), "ivf", index_params=params))


def one_by_one(index: IVFSearch, queries: np.ndarray, k: int, **options: object) -> Neighbors:
    found = [index.kneighbors(each[None], k, **options) for each in queries]
    return Neighbors(*(np.concatenate(each) for each in zip(*found, strict=True)))


def check_same(found: Neighbors, expected: Neighbors) -> None:
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)


@given(data=st.data())
def test_neighbors_are_those_of_each_query_alone(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    dim = data.draw(st.sampled_from([1, 2, 3, 8, 20]))
    make = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    rows = make(rng, (500, dim)).astype(dtype)
    rng.shuffle(rows)
    items, queries = rows[:440], rows[440:]
    metric = data.draw(st.sampled_from(["euclidean", "cosine", "inner_product"]))
    index = built(items, metric, nlist=data.draw(st.sampled_from([1, 2, 5])))
    index = index.with_knob(data.draw(st.integers(1, 3)))
    k = data.draw(st.sampled_from([1, 3, 10]))
    check_same(index.kneighbors(queries, k), one_by_one(index, queries, k))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_left_to_faiss(dtype, metric, monkeypatch):
    calls = counted(monkeypatch)
    # Half of the queries have no ties, among them the first ones.
    rng = np.random.default_rng(11)
    normal, ties = rng.normal(size=(2000, 3)), rng.integers(1, 6, (1500, 3)) / 10
    items = np.concatenate([normal[:1000], ties[:1000]])[rng.permutation(2000)].astype(dtype)
    queries = np.concatenate([normal[1000:1400], ties[1000:1400]]).astype(dtype)
    index = built(items, metric, nlist=9).with_knob(4)
    for k in (2, 10):
        check_same(index.kneighbors(queries, k), one_by_one(index, queries, k))
    assert calls


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_further_candidates_are_ranked_where_vectors_are_long(dtype, monkeypatch):
    many = watched(monkeypatch)
    # Vectors that are long beside their distances, and a quarter that are so long that products
    # prove nothing, but not among the first queries.
    rng = np.random.default_rng(12)
    groups = 10 * rng.normal(size=(40, 6))
    groups[30:] *= 100
    group = rng.integers(0, 40, 3600)
    rows = groups[group] + 0.1 * rng.normal(size=(3600, 6))
    items, queries = rows[:2800].astype(dtype), rows[2800:]
    queries = queries[np.argsort(group[2800:] >= 30, kind="stable")].astype(dtype)
    index = built(items, nlist=9).with_knob(3)
    check_same(index.kneighbors(queries, 5), one_by_one(index, queries, 5))
    assert many[0] == 5 + 2 + (6 if dtype == np.float64 else 0) + 1


def test_ties_among_further_candidates_are_left_to_faiss(monkeypatch):
    many = watched(monkeypatch)
    # Two lattices that are far away from each other.
    rng = np.random.default_rng(13)
    rows = rng.integers(1, 13, (2800, 3)) / 10 + 30 * rng.choice([-1, 1], (2800, 1))
    index, queries = built(rows[:2000], nlist=9).with_knob(4), rows[2000:]
    check_same(index.kneighbors(queries, 5), one_by_one(index, queries, 5))
    assert many[0] == 5 + 2 + 6 + 1


@pytest.mark.parametrize("kind", ["normal", "tenths"])
def test_neighbors_are_the_nearest_items_of_the_lists(kind, monkeypatch):
    calls = counted(monkeypatch)
    rng = np.random.default_rng(5)
    rows = KINDS[kind](rng, (3000, 6)).astype(np.float32)
    index, queries = built(rows[:2500], nlist=12).with_knob(3), rows[2500:]
    found = index.kneighbors(queries, 7)
    assert calls[0] == len(queries)
    lists = index._opened()
    chosen = lists.centroids.nearest(index.space.queries(queries), 3)[0]
    there = (index.structure()["cells"][None, None] == chosen[:, :, None]).any(axis=1)
    near = np.repeat(np.arange(500), 2500)
    positions = np.tile(np.arange(2500), 500)
    distances = index.metric.distances(queries, index.matrix, near, positions).reshape(500, 2500)
    distances[~there] = np.inf
    expected = np.argsort(distances, axis=1, kind="stable")[:, :7]
    right = (found.positions == expected).all(axis=1)
    # Of more than two candidates that float32 cannot tell from the last one, FAISS keeps some.
    nearest = np.sort(distances, axis=1)
    assert right[nearest[:, 6] < (1 - 1e-5) * nearest[:, 9]].all()
    assert right.mean() > 0.9


def test_exclusions_limits_and_more_neighbors_than_lists_have_items(monkeypatch):
    calls = counted(monkeypatch)
    items = np.random.default_rng(6).normal(size=(2000, 4)).astype(np.float32)
    index, queries = built(items, nlist=20).with_knob(2), items[:400]
    exclude = Exclusion(np.arange(400), np.arange(400))
    found = index.kneighbors(queries, 5, exclude=exclude, max_distance=0.5)
    assert calls[0] == 400
    for row in range(100):
        alone = Exclusion(np.zeros(1, np.int64), np.array([row]))
        expected = index.kneighbors(queries[[row]], 5, exclude=alone, max_distance=0.5)
        np.testing.assert_array_equal(found.positions[row], expected.positions[0])
    found = index.kneighbors(queries, 300)
    assert (found.positions >= 0).all()
    check_same(found, one_by_one(index, queries, 300))


def test_lists_that_have_fewer_items_than_are_ranked(monkeypatch):
    monkeypatch.setattr(ivf_products, "_SCORES_PER_LIST", 0)
    monkeypatch.setattr(ivf_search, "_WORTHWHILE", 0.0)
    rng = np.random.default_rng(16)
    # Vectors are long beside their distances, since their mean is about 0.
    items = (rng.choice([-300, 300], (300, 1)) + rng.normal(size=(300, 4))).astype(np.float32)
    # The last item is near to all queries: it must not take the place of an item that is missing.
    items[-1] = 300
    index = built(items, nlist=60)
    queries = (300 + 0.5 * rng.normal(size=(200, 4))).astype(np.float32)
    found = index.candidates(queries, 9, 2)
    for row, query in enumerate(queries):
        alone = index.candidates(query[None], 9, 2)
        assert set(found[row].tolist()) == set(alone[0].tolist())


def test_products_are_not_computed_where_they_prove_little(monkeypatch):
    calls = counted(monkeypatch)
    rng = np.random.default_rng(7)
    copies = np.repeat(rng.normal(size=(40, 8)), 50, axis=0).astype(np.float32)
    index = built(copies, nlist=10).with_knob(3)
    index.kneighbors(copies[:1000], 5)
    assert calls == []
    items = rng.normal(size=(2000, 8)).astype(np.float32)
    built(items, nlist=10).with_knob(3).kneighbors(items[:1000], 5)
    assert calls == [1000]


def test_products_are_for_many_queries_and_lists_of_floats():
    items = np.random.default_rng(8).normal(size=(4000, 8)).astype(np.float32)
    lists = built(items, nlist=100)._opened().lists
    # 2,000 scores a list are 50 queries of each list of 40 items.
    assert [ListProducts(lists).pay(n) for n in (4999, 5000)] == [False, True]
    assert not ListProducts(built(items, nlist=100, encoding="sq8")._opened().lists).pay(10**9)


def test_lists_may_be_empty_and_larger_than_the_buffer(monkeypatch):
    monkeypatch.setattr(ivf_products, "_BUFFER_SCORES", 1000)
    rng = np.random.default_rng(9)
    items = np.repeat(rng.normal(size=(3, 4)), [1000, 1500, 10], axis=0).astype(np.float32)
    items[2400:] += rng.normal(size=(110, 4)).astype(np.float32)
    index = built(items, nlist=9)
    lists = index._opened()
    queries = items[2400:]
    chosen = np.tile(np.arange(9), (110, 1))
    positions, squares, _ = lists._products.nearest(queries, chosen, 2510, None)
    assert (np.sort(positions, axis=1) == np.arange(2510)).all()
    gaps = queries[:, None].astype(np.float64) - items[positions]
    np.testing.assert_allclose(squares, np.square(gaps).sum(axis=2), atol=1e-4)
    # There are no more items.
    positions, squares, _ = lists._products.nearest(queries[:2], chosen[:2, :1], 2511, None)
    missing = positions < 0
    assert missing.any()
    assert (squares[missing] >= np.finfo(np.float32).max).all()


@given(
    n=st.integers(1, 300),
    q=st.floats(1e-3, 1e3),
    ratio=st.floats(-2, 2),
    limit=st.floats(0, 4),
    sign=st.sampled_from([-1, 1]),
)
def test_bounds_allow_for_all_rounding_errors(n, q, ratio, limit, sign):
    # The largest error that a score may have, of an item on the line through the query and zero.
    q = float(np.float32(q))
    x, m = q * (1 + ratio), limit * q**2
    square, off = (x - q) ** 2, _largest_error(q, x, m, n)
    least, most = bounds(np.array([square + sign * off]), np.array([q**2 + m / 5]), n)
    assert least[0] <= square * (1 + 1e-12) + 1e-30
    assert most[0] >= square * (1 - 1e-12) - 1e-30


@pytest.mark.parametrize("m", [0.0, 1.0, 1e6])
def test_half_the_bounds_would_not_be_enough(m):
    # The worst case: an item that is half as far from the query as the query is from zero.
    q, n = 2.0, 3
    for sign, side in ((1, 0), (-1, 1)):
        computed = np.array([1 + sign * _largest_error(q, 3.0, m, n)])
        bound = bounds(computed, np.array([q**2 + m / 5]), n)[side]
        assert sign * (1 - bound[0]) >= -1e-12 * max(1, m)
        half = computed + (bound - computed) / 2
        assert sign * (1 - half[0]) < -1e-7


def _largest_error(q: float, x: float, m: float, n: int) -> float:
    g = (n + 3) * U / (1 - (n + 3) * U)
    return g * ((q + abs(x)) ** 2 + m)


def test_scores_less_limits_are_within_their_error():
    # Items near to a query far from zero: limits and norms cancel out.
    rng = np.random.default_rng(15)
    queries = (100 + rng.normal(size=(50, 7))).astype(np.float32)
    items = (100 + rng.normal(size=(60, 7))).astype(np.float32)
    limits = (rng.uniform(0, 30, 50) - squared_norms(queries)).astype(np.float32)
    norms = squared_norms(items).astype(np.float32)
    columns = np.column_stack([items, norms, np.ones(60, np.float32)])
    scores = factors(queries, limits) @ columns.T
    exact = squared_norms(items) - 2 * queries.astype(np.float64) @ items.T.astype(np.float64)
    exact -= limits[:, None]
    largest = _largest_error(np.sqrt(squared_norms(queries).max()), 290.0, 30.0, 7)
    assert np.abs(scores - exact).max() <= largest
    np.testing.assert_array_equal(factors(queries), factors(queries, limits)[:, :-1])


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("kind", [each for each in sorted(KINDS) if each != "tiny and large"])
def test_squared_distances_are_within_the_bounds(kind, limited):
    rng = np.random.default_rng(10)
    items = np.abs(KINDS[kind](rng, (600, 24))).astype(np.float32)
    index = built(items, nlist=2)
    chosen = np.tile(np.arange(2), (600, 1))
    queries = index.space.queries(items)
    coordinates = index.space.coordinates(items).astype(np.float64)
    most = np.full(600, 1e8, np.float32) if limited else None
    positions, squares, sizes = index._opened()._products.nearest(queries, chosen, 20, most)
    true = np.square(queries[:, None] - coordinates[positions]).sum(axis=2)
    for column in range(20):
        least, most = bounds(squares[:, column], sizes, queries.shape[1])
        assert ((least <= true[:, column]) & (true[:, column] <= most)).all()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each search by products adds its number of queries."""
    return _recorded(monkeypatch, lambda queries, many: len(queries))


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each search by products adds its number of candidates."""
    return _recorded(monkeypatch, lambda queries, many: many)


def _recorded(monkeypatch, figure) -> list[int]:
    found: list[int] = []
    nearest = ListProducts.nearest

    def recording(self, queries, chosen, many, most):
        found.append(figure(queries, many))
        return nearest(self, queries, chosen, many, most)

    monkeypatch.setattr(ListProducts, "nearest", recording)
    return found
