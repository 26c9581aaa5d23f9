"""Cells: no cell with a neighbor is skipped, and most other cells are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.cell_metrics import METRICS, check_cells
from pyspark_knn.index.cells import Cells, ShardAssignment
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.spreads import Pivots, apart_of, pivots_of, spread_of
from tests.support.strategies import MAGNITUDES


def metric_of(name: str, dim: int) -> Metric:
    params = {"V": np.linspace(0.5, 3.0, dim)} if name == "seuclidean" else None
    if name == "haversine":
        params = {"radius": 6371.0088}
    return resolve_metric(name, 3.0, params)


def between(metric: Metric, left, right):
    """All distances, computed as in answers."""
    rows, columns = np.divmod(np.arange(len(left) * len(right)), len(right))
    return metric.distances(left, right, rows, columns).reshape(len(left), len(right))


def cut_up(metric: Metric, items, centers):
    """Cells of these items, and the cell of each."""
    ways = np.ones(len(centers), np.int64)
    cut = ShardAssignment(centers, np.arange(len(centers)), ways, metric)
    home = cut.cells(items)
    numbers = np.unique(home)
    spreads = [cut.spread(number, items[home == number]) for number in numbers]
    radii = np.array([spread.radius for spread in spreads])
    return Cells(
        numbers, centers[numbers], radii, metric, pivots=pivots(centers[numbers], spreads)
    ), home


def pivots(centers, spreads):
    return pivots_of(
        centers, [spread.ranks for spread in spreads], [spread.sample for spread in spreads]
    )


def with_appended(cells: Cells, home, cut: ShardAssignment, items):
    """Cells with a further shard for each cell that gets new items, and the shard of each item."""
    first = len(cut.centers)
    added = cut.cells(items)
    numbers = np.unique(added)
    spreads = [cut.spread(number, items[added == number]) for number in numbers]
    both = [cells.pivots, pivots(cut.centers[numbers], spreads)]
    width = max(each.ranks.shape[1] for each in both)
    ranks = [
        np.pad(each.ranks, ((0, 0), (0, width - each.ranks.shape[1])), constant_values=np.inf)
        for each in both
    ]
    all_cells = np.concatenate([cells.numbers, numbers])
    grown = Cells(
        np.concatenate([cells.numbers, first + numbers]),
        cut.centers[all_cells],
        np.concatenate([cells.radii, [spread.radius for spread in spreads]]),
        cells.metric,
        all_cells,
        Pivots(np.concatenate([each.points for each in both]), np.concatenate(ranks)),
    )
    return grown, np.concatenate([home, first + added])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_neighbor_is_in_a_skipped_cell(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    name = data.draw(st.sampled_from(sorted(METRICS)))
    dim = 2 if name == "haversine" else data.draw(st.sampled_from([1, 2, 5]))
    metric = metric_of(name, dim)
    step = data.draw(st.sampled_from([0.0, 0.5, 1e-9]))  # 0.5: a lattice, full of ties
    # Squares of the small ones underflow, and of the large ones overflow.
    size = 1.0 if name == "haversine" else data.draw(st.sampled_from(MAGNITUDES))

    def points(count):
        spread = rng.uniform(-1.5, 1.5, (count, dim))
        return size * (np.round(spread / 0.5) * 0.5 if step == 0.5 else spread + step)

    items, queries = points(60), points(12)
    centers = np.unique(items[: data.draw(st.integers(1, 10))], axis=0)
    cells, home = cut_up(metric, items, centers)
    if data.draw(st.booleans()):
        more = 2.0 * points(20) if name != "haversine" else points(20)
        ways = np.ones(len(centers), np.int64)
        cut = ShardAssignment(centers, np.arange(len(centers)), ways, metric)
        cells, home = with_appended(cells, home, cut, more)
        items = np.concatenate([items, more])
    distances = between(metric, queries, items)
    k = data.draw(st.integers(1, 5))
    limits = np.sort(distances, axis=1)[:, k - 1]
    opened = cells.within(queries, limits)
    at_once = cells.within(queries, np.full(12, np.inf), np.full(12, k))
    for query, item in zip(*np.nonzero(distances <= limits[:, None]), strict=True):
        assert opened[query, cells.numbers.tolist().index(home[item])]
        assert at_once[query, cells.numbers.tolist().index(home[item])]


def test_a_cell_of_two_clusters_is_skipped_from_a_third():
    metric = resolve_metric("euclidean")
    noise = 0.01 * np.random.default_rng(0).standard_normal((100, 2))
    # The second cell has a cluster on either side: the ball around both holds the query too.
    clusters = np.array([[0.0, 2.0], [-20.0, -15.0], [20.0, -15.0]])
    items = np.concatenate([place + noise for place in clusters])
    cells, home = cut_up(metric, items, np.array([[0.0, 2.0], [0.0, -15.0]]))
    assert np.bincount(home).tolist() == [100, 200]
    query = np.array([[0.0, 2.0]])
    assert between(metric, query, cells.centers)[0, 1] < cells.radii[1]
    assert cells.within(query, np.array([0.5])).tolist() == [[True, False]]


@pytest.mark.parametrize("name", ["euclidean", "haversine"])
def test_subnormal_distances_skip_no_near_cell(name):
    """Below 2**-1022 rounding exceeds the relative slack of larger distances."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        if name == "haversine":
            metric = resolve_metric(name, params={"radius": 10.0 ** -rng.integers(321, 324)})
            items, queries = (rng.uniform(-1.5, 1.5, (count, 2)) for count in (40, 10))
        else:
            metric = resolve_metric(name)
            items, queries = (rng.integers(-3, 4, (count, 2)) * 2.0**-1073 for count in (40, 10))
        cells, home = cut_up(metric, items, np.unique(items[:6], axis=0))
        distances = between(metric, queries, items)
        limits = np.sort(distances, axis=1)[:, 2]
        opened = cells.within(queries, limits)
        opened &= cells.within(queries, np.full(10, np.inf), np.full(10, 3))
        for query, item in zip(*np.nonzero(distances <= limits[:, None]), strict=True):
            assert opened[query, cells.numbers.tolist().index(home[item])]


@pytest.mark.parametrize("size", [1.0, 2.0**-530, 2.0**-538, 2.0**-1070])
def test_the_limit_of_squared_distances_is_that_of_their_roots(size):
    """Near ties: the roots of squares that are equal or differ in their last place may differ."""
    metric = resolve_metric("sqeuclidean")
    steps = 1.0 + np.arange(-6, 7) * 2.0**-52 if size > 2.0**-1000 else np.arange(1.0, 14.0)
    items = np.concatenate([steps, -steps])[:, None] * size
    cells, home = cut_up(metric, items, np.array([[size], [-size]]))
    query = np.zeros((1, 1))
    squares = between(metric, query, items)[0]
    for limit in np.unique(squares):
        opened = cells.within(query, np.array([limit]))[0]
        assert set(home[squares <= limit]) <= set(cells.numbers[opened])


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 8, 9])
def test_the_bound_by_ranks_needs_the_next_power_of_two(wanted):
    """The nine items at 1, 2, ..., 9 from the first center, and one far away."""
    items = np.append(np.arange(1.0, 10.0), 100.0)[:, None]
    cells, _ = cut_up(resolve_metric("euclidean"), items, np.array([[0.0], [100.0]]))
    # The query is in the first center, and the other cell is at 50 or more.
    ranks = cells.pivots.ranks[[0, -1]]
    ranks[1] = np.inf
    cells = replace(cells, pivots=Pivots(cells.centers, ranks))
    most = cells._most(np.zeros((1, 1)), np.array([wanted]))[0]
    known = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8}.get(wanted, np.inf)
    assert most == pytest.approx(known, rel=1e-5)
    opened = cells.within(np.zeros((1, 1)), np.array([np.inf]), np.array([wanted]))
    assert opened.tolist() == [[True, known > 50]]


def test_clusters_far_apart_need_no_search_to_be_ruled_out():
    rng = np.random.default_rng(0)
    places = 20.0 * rng.integers(0, 9, (8, 3))
    home = rng.integers(0, 8, 900)
    items = places[home] + rng.normal(size=(900, 3))
    cells, _ = cut_up(resolve_metric("euclidean"), items, np.unique(places, axis=0))
    queries = places[home[:50]] + rng.normal(size=(50, 3))
    nearest = np.sort(between(cells.metric, queries, items), axis=1)[:, 9]
    best = cells.within(queries, nearest)
    at_once = cells.within(queries, np.full(50, np.inf), np.full(50, 10))
    assert (at_once >= best).all()
    assert at_once.sum() <= 1.2 * best.sum() <= 1.2 * 60


def test_a_spread_is_of_ranks_and_a_sample():
    items = np.arange(6.0)[::-1, None] * [1.0, 0.0]
    spread = spread_of(np.zeros((1, 2)), items, resolve_metric("sqeuclidean"))
    assert spread.radius == 5.0
    assert spread.ranks[:6] == [0.0, 1.0, 3.0, 0.0, 1.0, 3.0]
    assert len(spread.ranks) == 7 * 3
    assert np.reshape(spread.sample, (-1, 2)).tolist() == items.tolist()
    found = pivots_of(np.zeros((1, 2)), [spread.ranks], [spread.sample])
    assert found.points.tolist() == [[0.0, 0.0], *items[:4].tolist()]
    assert found.ranks.shape == (5, 3)
    assert apart_of([spread.sample], 2).tolist() == items[4:].tolist()


def test_squared_distances_skip_the_same_cells():
    rng = np.random.default_rng(4)
    items = rng.normal(size=(300, 2)) + 20.0 * rng.integers(0, 4, (300, 2))
    centers = items[:12]
    queries = rng.normal(size=(50, 2)) + 20.0 * rng.integers(0, 4, (50, 2))
    plain, _ = cut_up(resolve_metric("euclidean"), items, centers)
    squared, _ = cut_up(resolve_metric("sqeuclidean"), items, centers)
    limits = np.full(50, 3.0)
    opened = squared.within(queries, limits**2)
    assert opened.tolist() == plain.within(queries, limits).tolist()
    assert opened.mean() < 0.5
    assert squared.nearest(queries, 3).tolist() == plain.nearest(queries, 3).tolist()


@pytest.mark.parametrize("name", ["cosine", "braycurtis"])
def test_metrics_without_the_triangle_inequality_are_refused(name):
    with pytest.raises(ValueError, match="triangle inequality"):
        check_cells(resolve_metric(name))


def test_the_error_for_cosine_names_the_alternative():
    with pytest.raises(ValueError, match=r"pyspark\.ml\.feature\.Normalizer.*'euclidean'"):
        check_cells(resolve_metric("cosine"))


def test_shards_of_one_cell_count_as_one():
    metric = resolve_metric("euclidean")
    centers = np.array([[0.0], [10.0], [20.0]])
    cells = Cells(
        numbers=np.array([0, 2, 3, 4, 6]),
        centers=centers[[0, 1, 1, 2, 1]],
        radii=np.ones(5),
        metric=metric,
        cells=np.array([0, 1, 1, 2, 1]),
    )
    queries = np.array([[9.0], [1.0], [21.0]])
    assert cells.count == 3
    assert cells.nearest(queries, 1).tolist() == [[2], [0], [4]]
    assert cells.nearest(queries, 2).tolist() == [[2, 0], [0, 2], [4, 2]]
    assert cells.nearest(queries, 9).shape == (3, 3)
    assert cells.probed(queries, 1).tolist() == [[2, 3, 6], [0, -1, -1], [4, -1, -1]]
    assert cells.probed(queries[1:2], 2).tolist() == [[0, -1, -1, 2, 3, 6]]
    assert cells.probed(queries[:0], 2).shape == (0, 6)


def assert_opened(metric, items, centers, queries, k):
    """All of the k nearest are in cells that are opened, at once and within their distances."""
    cells, home = cut_up(metric, items, centers)
    distances = between(metric, queries, items)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    limits = np.take_along_axis(distances, order[:, -1:], 1)[:, 0]
    columns = np.searchsorted(cells.numbers, home)[order]
    for opened in (
        cells.within(queries, np.full(len(queries), np.inf), np.full(len(queries), k)),
        cells.within(queries, limits),
    ):
        assert np.take_along_axis(opened, columns, 1).all()


@pytest.mark.parametrize("size", [1e154, 1e160, 1e300])
def test_squared_distances_that_overflow_are_as_far_in_every_cell(size):
    items = size * np.array([[0.0], [1.0], [9.0], [8.0], [10.0]])
    query = size * np.array([[30.0]])
    # All are at distance inf, so the first items are the neighbors, not those of the last cell.
    metric = resolve_metric("sqeuclidean")
    assert np.isinf(between(metric, query, items)).all()
    assert_opened(metric, items, items[[1, 3]], query, 2)


@pytest.mark.parametrize("name", ["chebyshev", "cityblock", "euclidean", "minkowski"])
def test_a_center_at_a_distance_that_overflows_may_have_near_items(name):
    items = 1e308 * np.array([[0.2, 0.5], [-0.9, 0.5], [1.5, 0.5], [-1.0, 0.5]])
    query = 1e308 * np.array([[1.0, 0.5]])
    assert_opened(metric_of(name, 2), items, items[1:3], query, 2)


@pytest.mark.parametrize("radius", [1.0, 6371.0088])
def test_longitudes_a_turn_apart_are_next_to_each_other(radius):
    """Half of their difference is about pi, of whose sine rounding leaves no digit."""
    metric = resolve_metric("haversine", params={"radius": radius})
    for seed in range(300):
        rng = np.random.default_rng(seed)
        turns = rng.choice([-2.0, -1.0, 1.0, 2.0], 40) * np.pi
        turns *= 1.0 + rng.integers(-4, 4, 40) * 2.0**-53
        items = np.stack([rng.normal(size=40) * rng.choice([0.0, 1e-15]), turns], axis=1)
        centers = np.unique(items[:4], axis=0)
        for k in (1, 5):
            assert_opened(metric, items, centers, items[:10], k)
