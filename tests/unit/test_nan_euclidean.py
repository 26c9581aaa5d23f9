"""The metric nan_euclidean: the distance of a pair, and searches among missing values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.pairwise import nan_euclidean_distances

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.grouped.queries import GroupQueries
from pyspark_knn.index.grouped.search import Thresholds
from pyspark_knn.index.pairwise import PairwiseSearch
from tests.support import exact
from tests.support.grouped import Grouped, answer
from tests.support.sorting import ask, assert_same, by_sorting
from tests.support.strategies import Search, exclusions, limits, rows

NAN = math.nan
METRIC = resolve_metric("nan_euclidean")

Rows = np.ndarray[Any, np.dtype[np.floating]]


def knocked_out(matrix: Rows, share: float, seed: int = 0) -> Rows:
    """A copy in which some values are missing."""
    missing = np.random.default_rng(seed).random(matrix.shape) < share
    return np.where(missing, matrix.dtype.type(NAN), matrix)


@st.composite
def gappy(draw: st.DrawFn, count: int, dim: int, *, single: bool = False) -> Rows:
    """Vectors with missing values, some of them without any value."""
    matrix = draw(rows(count, dim, single=single))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    return knocked_out(matrix, share, draw(st.integers(0, 99)))


def figures(metric: Metric, left: Rows, right: Rows) -> list[float]:
    """The distances of pairs of rows."""
    every = np.arange(len(left))
    return metric.distances(left, right, every, every).tolist()


# --- the distance of a pair ---


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([3.0, NAN, 1.0], [0.0, 2.0, NAN], math.sqrt(27)),
        ([3.0, NAN, 4.0, 1.0], [0.0, 2.0, 0.0, NAN], math.sqrt(50)),
        ([1.0, NAN], [1.0, 2.0], 0.0),
        ([1.0, NAN], [NAN, 2.0], NAN),
        ([NAN, NAN], [1.0, 2.0], NAN),
        ([NAN], [NAN], NAN),
    ],
)
def test_the_distance_is_that_of_the_features_in_common(left, right, expected):
    found = figures(METRIC, np.array([left]), np.array([right]))
    assert found == pytest.approx([expected], rel=0, abs=0, nan_ok=True)
    assert figures(METRIC, np.array([right]), np.array([left])) == pytest.approx(
        found, rel=0, abs=0, nan_ok=True
    )


@pytest.mark.parametrize("weighted", [False, True])
@given(data=st.data())
def test_distances_are_accurate_at_every_magnitude(weighted, data):
    dim = data.draw(st.integers(1, 9))
    weights = np.arange(dim) % 3 * 0.7
    metric = resolve_metric("nan_euclidean", params={"w": weights} if weighted else None)
    left, right = data.draw(gappy(3, dim)), data.draw(gappy(3, dim))
    for i, figure in enumerate(figures(metric, left, right)):
        true = exact.distance(metric, left[i], right[i])
        assert figure == pytest.approx(true, rel=8e-15, abs=3 * 2.0**-1074, nan_ok=True)


@given(data=st.data())
def test_without_missing_values_it_is_the_euclidean_distance(data):
    dim = data.draw(st.integers(1, 9))
    left, right = data.draw(rows(3, dim)), data.draw(rows(3, dim))
    assert figures(METRIC, left, right) == figures(resolve_metric("euclidean"), left, right)


@given(data=st.data())
def test_a_distance_depends_on_its_pair_alone(data):
    dim = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    left, right = (knocked_out(rng.normal(size=(5, dim)), 0.3, i) for i in range(2))
    together = np.array(figures(METRIC, left, right)).tobytes()
    alone = [figures(METRIC, left[i : i + 1], right[i : i + 1])[0] for i in range(5)]
    assert np.array(alone).tobytes() == together
    fortran = figures(METRIC, np.asfortranarray(left), np.asfortranarray(right))
    assert np.array(fortran).tobytes() == together


def test_it_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    left, right = (knocked_out(rng.normal(size=(40, 7)), 0.5, i) for i in range(2))
    left[0] = NAN
    found = PairwiseSearch(right, METRIC).kneighbors(left, 40)
    theirs = nan_euclidean_distances(left, right)
    assert np.isnan(theirs).any()
    for row, (distances, positions) in enumerate(zip(*found, strict=True)):
        there = positions >= 0
        assert np.count_nonzero(there) == np.count_nonzero(~np.isnan(theirs[row]))
        np.testing.assert_allclose(distances[there], theirs[row, positions[there]], rtol=1e-7)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_no_digits_are_lost_at_large_offsets(offset):
    rng = np.random.default_rng(4)
    left, right = (knocked_out(offset + rng.normal(size=(30, 5)), 0.3, i) for i in range(2))
    true = [exact.distance(METRIC, *pair) for pair in zip(left, right, strict=True)]
    assert figures(METRIC, left, right) == pytest.approx(true, rel=4e-15, nan_ok=True)
    # Products of large numbers differ by less than they are rounded.
    theirs = np.diag(nan_euclidean_distances(left, right))
    assert np.nanmax(np.abs(theirs / true - 1)) > 1e-6


# --- parameters ---


def test_a_weight_scales_its_feature_and_does_not_change_what_is_present():
    left, right = np.array([[1.0, NAN, 5.0]]), np.array([[4.0, 2.0, 1.0]])
    metric = resolve_metric("nan_euclidean", params={"w": [4.0, 1.0, 0.0]})
    assert figures(metric, left, right) == [math.sqrt(3 / 2 * 36)]
    left[0, 0] = NAN
    assert figures(metric, left, right) == [0.0]


def test_weights_are_those_of_scaled_vectors():
    rng = np.random.default_rng(5)
    left, right = (knocked_out(rng.normal(size=(20, 6)), 0.3, i) for i in range(2))
    weights = rng.random(6)
    metric = resolve_metric("nan_euclidean", params={"w": weights.tolist()})
    scaled = figures(METRIC, left * np.sqrt(weights), right * np.sqrt(weights))
    assert figures(metric, left, right) == pytest.approx(scaled, rel=1e-14, nan_ok=True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": [1.0, -1.0]}, r"metricParams\['w'\] must contain numbers >= 0"),
        ({"w": [1.0, NAN]}, r"metricParams\['w'\] must contain finite numbers"),
        ({"w": 1.0}, r"metricParams\['w'\] must be a list with one number for each feature"),
        (
            {"V": [1.0]},
            r"metricParams\['V'\] is not a parameter of metric 'nan_euclidean'. Supported: 'w'",
        ),
    ],
)
def test_wrong_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        resolve_metric("nan_euclidean", params=params)


def test_the_weights_must_be_as_many_as_the_features():
    metric = resolve_metric("nan_euclidean", params={"w": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"metricParams\['w'\] is for 2 features, but .* have 3"):
        build_index(np.zeros((2, 3)), IndexSpec(metric))


# --- searches ---


@st.composite
def gappy_searches(draw: st.DrawFn) -> Search:
    """A search among missing values: ties, duplicates, and items with nothing in common."""
    dim = draw(st.integers(1, 6))
    weighted = draw(st.booleans())
    weights = {"w": np.arange(dim) % 3 * 0.7} if weighted else None
    metric = resolve_metric("nan_euclidean", params=weights)
    single = draw(st.booleans())
    items = draw(gappy(draw(st.integers(1, 12)), dim, single=single))
    if draw(st.booleans()):
        order = np.random.default_rng(draw(st.integers(0, 9))).integers(0, len(items), 250)
        items = np.ascontiguousarray(items[order])
    n_queries = draw(st.integers(0, 5))
    queries = draw(gappy(n_queries, dim, single=single))
    if n_queries and draw(st.booleans()):
        queries[0] = items[-1]
    k = draw(st.one_of(st.integers(1, min(4, len(items))), st.integers(1, len(items))))
    exclude = draw(st.none() | exclusions(n_queries, len(items)))
    farthest = draw(st.none() | limits(metric, queries, items))
    farthest = None if farthest is None or math.isnan(farthest) else farthest
    return Search(metric, items, queries, k, farthest, exclude, 30)


def spec_of(search: Search) -> IndexSpec:
    return IndexSpec(search.metric)


@pytest.mark.parametrize("build", [PairwiseSearch.build, lambda *args: build_index(*args)[0]])
@given(search=gappy_searches())
def test_answers_agree_with_sorting_all_distances(build, search):
    assert_same(ask(build(search.items, spec_of(search)), search), by_sorting(search))


@pytest.mark.parametrize("build", [PairwiseSearch.build, lambda *args: build_index(*args)[0]])
@given(search=gappy_searches())
def test_all_items_within_a_distance(build, search):
    limit = math.inf if search.max_distance is None else search.max_distance
    index = build(search.items, spec_of(search))
    found = index.within(search.queries, limit, exclude=search.exclude)
    everything = Search(
        search.metric, search.items, search.queries, len(search.items), limit, search.exclude, 30
    )
    expected = by_sorting(everything)
    there = expected.positions >= 0
    np.testing.assert_array_equal(np.diff(found.offsets), there.sum(axis=1))
    np.testing.assert_array_equal(found.positions, expected.positions[there])
    assert found.distances.tobytes() == expected.distances[there].tobytes()


@pytest.mark.parametrize(
    "thresholds",
    [Thresholds(), Thresholds(missing_work=0, missing_queries=1)],
    ids=["pairs", "index"],
)
@given(search=gappy_searches(), seed=st.integers(0, 99))
def test_groups(thresholds, search, seed):
    rng = np.random.default_rng(seed)
    grouped = Grouped.of(search.items, rng.integers(0, 3, len(search.items)))
    spec = IndexSpec(search.metric)
    index, _ = GroupedIndex.build(
        grouped.matrix, grouped.positions, grouped.starts, spec, thresholds
    )
    every = np.arange(len(search.queries))
    groups = rng.integers(0, grouped.n_groups, len(every))
    queries = GroupQueries(search.queries, every, groups)
    rest = {"max_distance": search.max_distance, "exclude": search.exclude}
    found = index.search(queries, search.k, **rest)
    expected = grouped.nearest(
        search.queries, every, groups, search.k, search.metric, *rest.values()
    )
    assert answer(found) == expected
    limit = math.inf if search.max_distance is None else search.max_distance
    within = index.within(queries, limit, exclude=search.exclude)
    everything = grouped.nearest(
        search.queries, every, groups, len(search.items), search.metric, limit, search.exclude
    )
    assert within is not None
    assert answer(within) == everything


def test_the_answers_of_scikit_learn_where_all_pairs_have_a_distance():
    # By its distances and not by NearestNeighbors, which refuses NaN in old releases.
    rng = np.random.default_rng(6)
    items = knocked_out(rng.normal(size=(3000, 8)), 0.2)
    items[:, 0] = rng.normal(size=3000)
    queries = knocked_out(items[:200], 0.2, 1)
    queries[:, 0] = rng.normal(size=200)
    figures = nan_euclidean_distances(queries, items)
    positions = np.argsort(figures, axis=1)[:, :7]
    distances = np.take_along_axis(figures, positions, axis=1)
    found = build_index(items, IndexSpec(METRIC))[0].kneighbors(queries, 7)
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-7, atol=1e-7)


def test_nothing_in_common_is_no_neighbor():
    items = np.array([[NAN, 1.0], [NAN, NAN], [5.0, NAN], [2.0, 2.0]])
    queries = np.array([[2.0, NAN], [NAN, NAN], [NAN, 3.0]])
    index = build_index(items, IndexSpec(METRIC))[0]
    found = index.kneighbors(queries, 4)
    assert found.positions.tolist() == [[3, 2, -1, -1], [-1] * 4, [3, 0, -1, -1]]
    excluded = Exclusion(np.array([2, 0]), np.array([0, 3]))
    found = index.kneighbors(queries, 1, exclude=excluded)
    assert found.positions.tolist() == [[2], [-1], [3]]
    within = index.within(queries, math.inf)
    assert within is not None
    assert within.positions.tolist() == [3, 2, 3, 0]


@given(
    matrix=hnp.arrays(np.float64, (40, 3), elements=st.sampled_from([NAN, 0.0, 1.0, 2.0, -1.0])),
    k=st.integers(1, 40),
)
def test_a_lattice_full_of_ties(matrix, k):
    search = Search(METRIC, matrix, matrix[:10], k, None, None, 30)
    index = build_index(matrix, IndexSpec(METRIC))[0]
    assert_same(ask(index, search), by_sorting(search))
