"""The search by principal axes: its answers, its bounds on rounding, and when it is chosen."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.axes import bounds, choice
from pyspark_knn.index.axes.choice import Plan, choose_plan
from pyspark_knn.index.axes.rotation import Rotation, principal_axes
from pyspark_knn.index.axes.search import AxesSearch
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.score_space import squared_norms
from pyspark_knn.index.score_spaces import score_space
from tests.support.sorting import assert_same
from tests.unit.test_block_search import DATA, exclusion, metric_for, products

METRICS = ("euclidean", "sqeuclidean", "seuclidean", "minkowski", "cosine", "correlation")


def low_rank(rng, n, dim, rank=3, noise=0.01):
    axes = np.random.default_rng(5).standard_normal((rank, dim))
    return rng.standard_normal((n, rank)) @ axes + noise * rng.standard_normal((n, dim))


KINDS = {**DATA, "low rank": low_rank}


def planned(items, metric, n_axes, cell_size=64):
    """Return an index that searches by axes, whatever they cost; None if the metric does not."""
    space = score_space(metric, items)
    if not space.ranks_by_distance(items):
        return None
    rotation = principal_axes(space.vectors(items, slice(None))).first(n_axes)
    return BlockSearch._planned(items, metric, space, Plan(rotation, cell_size))


def check(items, queries, metric, k, n_axes, **limits):
    index = planned(items, metric, n_axes)
    if index is not None:
        found = index.kneighbors(queries, k, **limits)
        expected = PairwiseSearch(items, metric).kneighbors(queries, k, **limits)
        assert_same(found, expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_all_pairs(kind, name):
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    for n, dim, n_axes, k, dtype in ((700, 9, 4, 5, np.float64), (300, 30, 16, 1, np.float32)):
        with np.errstate(over="ignore"):
            items = np.ascontiguousarray(KINDS[kind](rng, n, dim).astype(dtype))
        if not np.isfinite(items).all():
            continue
        own = items[rng.integers(0, n, 9)]
        near = own * (1 + 1e-9 * rng.standard_normal(own.shape)).clip(-1, 1)
        queries = np.concatenate([own, KINDS[kind](rng, 9, dim), near])
        metric = metric_for(name, dim, rng)
        check(items, queries, metric, k, n_axes)
        expected = PairwiseSearch(items, metric).kneighbors(queries, k)
        finite = expected.distances[np.isfinite(expected.distances)]
        limit = float(np.median(finite)) if finite.size else 0.0
        excluded = exclusion(rng, len(queries), n, 300)
        check(items, queries, metric, k, n_axes, max_distance=limit, exclude=excluded)
        check(items, queries, metric, k, n_axes, max_distance=-1.0)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_near_ties_in_the_last_place_are_ordered(data):
    """Items on a sphere around the query, up to some units in the last place."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    name = data.draw(st.sampled_from(METRICS))
    dim = data.draw(st.sampled_from([5, 16, 65]))
    n = data.draw(st.integers(60, 600))
    scale = 2.0 ** data.draw(st.sampled_from([-1030, -600, -200, -30, 0, 0, 0, 30, 200, 500, 950]))
    offset = data.draw(st.sampled_from([0.0, 0.0, 1.0, 1e3, 1e8]))
    center = rng.standard_normal(dim) + offset
    shell = low_rank(rng, n, dim) if data.draw(st.booleans()) else rng.standard_normal((n, dim))
    shell /= np.linalg.norm(shell, axis=1)[:, None]
    ulps = 1 + rng.integers(-3, 4, (n, dim)) * 2.0 ** -data.draw(st.sampled_from([53, 40, 24, 10]))
    radius = data.draw(st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e4]))
    items = (center + radius * shell * ulps) * scale
    queries = np.stack([center, center + radius * shell[0], -center, items[-1] / scale]) * scale
    if data.draw(st.booleans()) and scale == 1.0:
        items = items.astype(np.float32)
    excluded = exclusion(rng, len(queries), n, data.draw(st.integers(0, 2 * n)))
    n_axes = data.draw(st.integers(1, dim - 1))
    check(items, queries, metric_for(name, dim, rng), 6, n_axes, exclude=excluded)


def exact_square(left, right):
    pairs = zip(left.tolist(), right.tolist(), strict=True)
    return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_bound_covers_every_order_of_summation(data):
    """A neighbor at exactly the limit is never ruled out, in whatever order products are added."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([4, 33, 80]))
    n_axes = data.draw(st.integers(1, dim))
    offset = data.draw(st.sampled_from([0.0, 3.0, 1e5]))
    spread = data.draw(st.sampled_from([1e-7, 1e-3, 1.0, 100.0]))
    items = low_rank(rng, 50, dim) + offset
    rotation = principal_axes(items).first(n_axes)
    near = items[:4] + spread * rng.standard_normal((4, dim))
    left, right = rotation.extended(near), rotation.extended(items)
    pairs = zip(near, items[:4], strict=True)
    limits = np.array([float(exact_square(*pair)) ** 0.5 for pair in pairs])
    squares = squared_norms(left)
    reaches = bounds.reach(limits, np.sqrt(squares), rotation)
    needed = bounds.thresholds(reaches, squares, n_axes)
    for row in range(4):
        a = np.concatenate([left[row], [1.0, -needed[row]]]).astype(np.float32)
        b = np.concatenate([right[row], [-0.5 * squared_norms(right)[row], 1.0]])
        for product in products(a, b.astype(np.float32), np.float32):
            assert product >= 0
    cells = bounds.box_error(n_axes)
    between = ((left - right[:4]) ** 2).sum(axis=1, dtype=np.float32)
    assert (between * (1 - cells) <= reaches**2).all()


@pytest.mark.parametrize("n_axes", [100, 1000])
def test_half_the_bound_of_a_product_is_too_small(n_axes):
    # The first term is a little above 1, and each of the others below half a unit in the last place
    # of that: added in order, all of them are lost.
    small = 2.0**-12 * (1 - 2.0**-10)
    query, item = np.full((2, n_axes + 1), small, np.float32)
    query[0], item[0] = 1 - 2.0**-10, 1 + 2.0**-9
    square = float(squared_norms(query[None])[0])
    limit = float(exact_square(query, item)) ** 0.5
    exact = bounds.thresholds(np.array([limit]), np.array([square]), n_axes)[0]
    error = bounds.product_error(n_axes) * (square**0.5 + limit) ** 2
    term = np.float32(-0.5 * squared_norms(item[None])[0])

    def product(share):
        total = np.float32(0)
        left = np.append(query, [1.0, -(exact + (1 - share) * error)]).astype(np.float32)
        for a, b in zip(left, np.append(item, [term, np.float32(1)]), strict=True):
            total += a * b
        return total

    assert product(1.0) >= 0 > product(0.5)


@pytest.mark.parametrize("n_axes", [100, 1000])
def test_half_the_error_of_a_product_makes_no_ceiling(n_axes):
    # The terms are those of the test above: what a product adds up is too small.
    small = 2.0**-12 * (1 - 2.0**-10)
    query, item = np.full((2, n_axes + 1), small, np.float32)
    query[0], item[0] = 1 - 2.0**-10, 1 + 2.0**-9
    squares = squared_norms(np.stack([query, item]))
    limit = np.array([float(exact_square(query, item)) ** 0.5])
    needed = bounds.thresholds(limit, squares[:1], n_axes).astype(np.float32)
    total = np.float32(0)
    for a, b in zip(
        np.append(query, [1.0, -needed[0]]).astype(np.float32),
        np.append(item, [-0.5 * squares[1], 1.0]).astype(np.float32),
        strict=True,
    ):
        total += a * b
    pairs = zip(query.tolist(), item.tolist(), strict=True)
    exact = float(sum(Fraction(a) * Fraction(b) for a, b in pairs) - Fraction(squares[1]) / 2)
    error = bounds.errors(limit, squares[:1], n_axes)[0]
    assert float(total) + needed[0] + error / 2 < exact <= float(total) + needed[0] + error


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_smaller_limit_rules_out_no_pair_within_it(data):
    """A neighbor at exactly the new limit is left, however much larger the old one was."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([4, 33, 80]))
    items = low_rank(rng, 90, dim) + data.draw(st.sampled_from([0.0, 3.0, 1e4]))
    spread = data.draw(st.sampled_from([1e-7, 1e-3, 1.0]))
    queries = items[:6] + spread * rng.standard_normal((6, dim))
    n_axes = data.draw(st.integers(1, dim))
    index = planned(items, resolve_metric("euclidean"), n_axes, cell_size=32)
    asked = index._prefixes.queries(index._space.queries(queries).vectors)
    new = np.array(
        [float(exact_square(*pair)) ** 0.5 for pair in zip(queries, items[:6], strict=True)]
    )
    asked.demand(new * data.draw(st.sampled_from([1.0, 1.5, 100.0])) + 1e-9)
    found = [*asked.near_survivors(), *asked.far_survivors()]
    rows, positions, ceilings = (np.concatenate(part) for part in zip(*found, strict=True))
    asked.demand(new)
    near = asked.matter(rows, ceilings)
    left = set(zip(rows[near].tolist(), positions[near].tolist(), strict=True))
    assert left >= {(row, row) for row in range(6)}


def test_the_error_of_a_rotation_grows_with_the_skew_of_its_axes():
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 30)))[0]
    straight = Rotation.of(np.zeros(30), axes).error
    assert straight < 1e-5
    assert Rotation.of(np.zeros(30), axes * (1 + 1e-3)).error > 1e-3


def test_queries_with_too_many_candidates_are_left_to_the_block_search():
    rng = np.random.default_rng(1)
    items = np.concatenate([low_rank(rng, 2000, 20), np.ones((2000, 20))])
    metric = resolve_metric("euclidean")
    index = planned(items, metric, 8)
    search = AxesSearch(index._prefixes, items, index._space, 5)
    queries = np.concatenate([items[:50], np.ones((3, 20))])
    (rows, _), crowded = search.candidates(queries, np.full(53, np.inf), None)
    assert crowded.tolist() == [False] * 50 + [True] * 3
    assert np.bincount(rows).min() >= 5
    check(items, queries, metric, 5, 8)


def test_far_outliers_loosen_no_bound():
    rng = np.random.default_rng(2)
    items = low_rank(rng, 3000, 40).astype(np.float32)
    items[7] = 1e9
    index = planned(items, resolve_metric("euclidean"), 8)
    search = AxesSearch(index._prefixes, items, index._space, 5)
    (rows, _), crowded = search.candidates(items[:300], np.full(300, np.inf), None)
    assert np.flatnonzero(crowded).tolist() == [7]
    assert len(rows) < 20 * 300


def test_near_pairs_far_from_zero_are_told_apart():
    """Rounded to float32, coordinates are off by more than the distances in the cluster."""
    rng = np.random.default_rng(6)
    items = low_rank(rng, 3000, 30)
    items[:400] = items[0] + 3e-7 * rng.standard_normal((400, 30))
    items = items.astype(np.float32)
    queries = items[rng.integers(0, 400, 20)]
    index = planned(items, resolve_metric("euclidean"), 8)
    search = AxesSearch(index._prefixes, items, index._space, 5)
    (rows, _), crowded = search.candidates(queries, np.full(20, np.inf), None)
    assert not crowded.any()
    assert len(rows) < 10 * 20
    check(items, queries, resolve_metric("euclidean"), 5, 8)
    # Not so for queries that are not float32.
    others = queries.astype(np.float64) * (1 + 2.0**-40)
    assert search.candidates(others, np.full(20, np.inf), None)[1].all()
    check(items, others, resolve_metric("euclidean"), 5, 8)


def test_axes_are_chosen_where_they_save_time():
    rng = np.random.default_rng(3)
    metric = resolve_metric("euclidean")
    flat = low_rank(rng, 20_000, 128).astype(np.float32)
    full = rng.standard_normal((20_000, 64)).astype(np.float32)
    index = BlockSearch.build(flat, IndexSpec(metric))
    assert index._prefixes is not None
    assert BlockSearch.build(full, IndexSpec(metric))._prefixes is None
    queries = low_rank(rng, 40, 128)
    expected = PairwiseSearch(flat, metric).kneighbors(queries, 10)
    assert_same(index.kneighbors(queries, 10), expected)
    for k in (1, 200):  # more neighbors than a cell can give
        assert_same(
            index.kneighbors(queries[:3], k),
            PairwiseSearch(flat, metric).kneighbors(queries[:3], k),
        )


@pytest.mark.parametrize(
    ("items", "name"),
    [
        (np.zeros((choice._LEAST_ITEMS - 1, 20), np.float32), "euclidean"),
        (np.zeros((choice._LEAST_ITEMS, 5), np.float32), "euclidean"),
        (np.ones((choice._LEAST_ITEMS, 20), np.float32), "inner_product"),
        (np.zeros((choice._LEAST_ITEMS, 20), np.float32), "cosine"),
        (np.ones((choice._LEAST_ITEMS, 20), np.float32), "correlation"),
    ],
    ids=["few items", "few features", "a product", "no direction", "constant rows"],
)
def test_other_items_have_no_axes(items, name):
    def searches(*_):
        raise AssertionError("nothing is timed")

    metric = resolve_metric(name)
    assert choose_plan(score_space(metric, items), items, searches) is None


def test_a_constant_matrix_is_no_problem():
    items = np.ones((choice._LEAST_ITEMS, 20), np.float32)
    metric = resolve_metric("euclidean")
    index = BlockSearch.build(items, IndexSpec(metric))
    assert index.kneighbors(items[:3], 4).positions.tolist() == [[0, 1, 2, 3]] * 3


def test_a_pickled_index_has_prefixes_and_works():
    rng = np.random.default_rng(4)
    items = low_rank(rng, 2000, 30).astype(np.float32)
    index = planned(items, resolve_metric("euclidean"), 6)
    other = pickle.loads(pickle.dumps(index))
    assert_same(other.kneighbors(items[:9], 5), index.kneighbors(items[:9], 5))
    # 6 coordinates, the norm of the rest, two terms, and a position of 8 bytes for each item
    extra = len(pickle.dumps(index)) - len(
        pickle.dumps(BlockSearch(items, index.metric, index._space))
    )
    assert extra < 2000 * (9 * 4 + 8) + 20_000


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_items_within_a_distance_are_those_of_all_pairs(kind, name):
    """The limits are distances themselves, to the bit; they are inclusive."""
    rng = np.random.default_rng(sum(map(ord, kind + name)))
    with np.errstate(over="ignore"):
        items, queries = KINDS[kind](rng, 500, 12), KINDS[kind](rng, 30, 12)
    metric = metric_for(name, 12, rng)
    index = planned(items, metric, 5)
    if index is None:
        return
    plain = PairwiseSearch(items, metric)
    last = plain.kneighbors(queries, 12).distances
    after = rng.integers(-1, 500, 30)
    for limit in (-1.0, 0.0, float(last[3, 0]), float(last[5, 11]), float(last.max())):
        options = {"exclude": exclusion(rng, 30, 500, 900), "after": after if limit else None}
        for one, other in zip(
            index.within(queries, limit, **options),
            plain.within(queries, limit, **options),
            strict=True,
        ):
            assert np.array_equal(one, other)
    assert index.within(queries, np.inf, most=100) is None
