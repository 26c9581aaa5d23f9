"""The recall, its interval, and the search for the cheapest knob."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate.ivf import IVFSearch
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.recall import (
    Curve,
    Recall,
    calibrate,
    held_out_positions,
    measure,
    recall,
)

INF = np.inf


def table(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


def test_recall_of_distances():
    exact = table([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, 2.0, INF], [INF, INF, INF])
    found = table([1.0, 3.0, 4.0], [1.0, 1.0, 1.0], [1.0, INF, INF], [INF, INF, INF])
    assert recall(found, exact).tolist() == pytest.approx([2 / 3, 1.0, 0.5, 1.0])


def test_items_tied_at_the_last_place_are_equally_good():
    assert recall(table([1.0, 2.0]), table([1.0, 2.0])).tolist() == [1.0]
    assert recall(table([2.0, 2.0]), table([1.0, 2.0])).tolist() == [1.0]


def test_the_interval_is_that_of_wilson():
    # Brown, Cai and DasGupta's formula, as statsmodels computes it: 45 of 50, and 50 of 50.
    some = Recall.of(np.repeat([1.0, 0.0], [45, 5]), 1, 8)
    assert (some.low, some.high) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    every = Recall.of(np.ones(50), 1, 8)
    assert (every.mean, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(0.9287, abs=1e-4)


def test_neighbors_that_are_missed_together_count_once():
    together = np.repeat([1.0, 0.0], [180, 20])
    apart = np.random.default_rng(0).permutation(np.repeat([1.0, 0.9], [0, 200]))
    assert Recall.of(together, 10, 1).low == pytest.approx(Recall.of(together, 1, 1).low)
    narrow = Recall.of(apart, 10, 1)
    wide = Recall.of(together, 10, 1)
    assert narrow.high - narrow.low < 0.4 * (wide.high - wide.low)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=60))
def test_an_interval_contains_its_mean_and_is_never_empty(hits):
    found = Recall.of(np.array(hits) / 10, 10, 1)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("truth", [0.8, 0.99, 0.999])
@pytest.mark.parametrize("together", [0.0, 0.3, 0.7])
def test_the_interval_covers_the_truth(k, truth, together):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        apart = rng.random((1000, k)) < truth
        whole = np.repeat(rng.random((1000, 1)) < truth, k, axis=1)
        hits = np.where(rng.random((1000, 1)) < together, whole, apart)
        covered.append(Recall.of(hits.mean(axis=1), k, 1).low <= truth)
    # The lower end is what a target is compared with: 97.5 % by the name of the interval.
    assert np.mean(covered) > 0.945


def levels_of(*pairs: tuple[int, float]) -> Curve:
    return Curve.of(Recall(low, low, low, 100, 10, knob) for knob, low in pairs)


def test_the_cheapest_level_that_reaches_a_target():
    curve = levels_of((16, 0.98), (1, 0.5), (4, 0.9), (8, 0.97))
    assert [each.knob for each in curve.levels] == [1, 4, 8, 16]
    assert [curve.reaching(target).knob for target in (0.1, 0.9, 0.91, 0.98, 0.999)] == [
        *(1, 4, 8, 16, 16),
    ]
    assert [curve.at(knob).knob for knob in (1, 3, 4, 15, 99)] == [1, 1, 4, 8, 16]
    assert levels_of((4, 0.9)).at(1).knob == 4


def test_the_best_level_where_none_reaches_the_target():
    assert levels_of((1, 0.5), (2, 0.9), (4, 0.8)).reaching(0.95).knob == 2


def fake(reached_at: dict[float, int]) -> tuple[list[int], object]:
    asked: list[int] = []

    def measured(knob: int) -> Recall:
        asked.append(knob)
        low = max([level for level, at in reached_at.items() if knob >= at], default=0.0)
        return Recall(low, low, 1.0, 100, 10, knob)

    return asked, measured


def test_calibration_bisects_and_goes_on():
    asked, measured = fake({0.5: 1, 0.9: 20, 0.95: 37, 0.99: 200, 0.9995: 900})
    curve = calibrate(measured, [1, 2, 3, 4, 6, 8, 11, 16, 23, 33, 47, 66, 94, 133, 2000], 0.95)
    best = curve.reaching(0.95).knob
    assert 37 <= best <= 1.05 * 37 + 1
    assert len(asked) == len(set(asked)) < 16
    # Higher targets are known, too.
    assert curve.reaching(0.99).low >= 0.99
    assert curve.levels[-1].knob == 2000


def test_calibration_ends_early_or_at_the_last_level():
    asked, measured = fake({1.0: 1})
    assert calibrate(measured, [1, 2, 3, 4], 0.9).reaching(0.9).knob == 1
    assert asked == [1]
    asked, measured = fake({0.5: 1})
    assert calibrate(measured, [1, 2, 3], 0.9).reaching(0.9).low == 0.5
    assert asked[-1] == 3
    asked, measured = fake({0.5: 1, 0.9: 2, 0.9999: 4})
    assert [each.knob for each in calibrate(measured, [1, 2, 3, 4, 5, 6]).levels] == [1, 3, 5]


def test_the_drawn_items():
    drawn = held_out_positions(10_000, seed=3)
    assert len(drawn) == 2048
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert drawn.tolist() == held_out_positions(10_000, seed=3).tolist()
    assert drawn.tolist() != held_out_positions(10_000, seed=4).tolist()
    assert [len(held_out_positions(many)) for many in (1, 2, 3, 10, 4095, 5000)] == [
        1,
        1,
        1,
        5,
        2047,
        2048,
    ]
    assert set(held_out_positions(10_000, 3, many=9)) < set(drawn)


@pytest.fixture(scope="module")
def index() -> IVFSearch:
    pytest.importorskip("faiss")
    items = np.random.default_rng(0).standard_normal((6000, 12))
    return IVFSearch.build(items, IndexSpec(resolve_metric("euclidean"), "ivf"))


def test_the_recall_of_held_out_items_is_that_of_other_queries(index):
    curve = measure(index, held_out_positions(6000, many=1000), 10, target=0.9)
    chosen = curve.reaching(0.9)
    assert chosen.low >= 0.9
    assert chosen.queries == 1000
    others = np.random.default_rng(1).standard_normal((2000, 12))
    other = measure(index, None, 10, levels=[chosen.knob], queries=others).levels[0]
    assert other.mean > 0.9 - 0.01
    assert curve.levels[-1].mean > 0.99


def test_given_levels_are_measured_and_no_others(index):
    positions = held_out_positions(6000, many=200)
    curve = measure(index, positions, 3, levels=[8, 2])
    assert [each.knob for each in curve.levels] == [2, 8]
    assert curve.levels[0].mean < curve.levels[1].mean
    assert curve.levels[0].k == 3
    with pytest.raises(ValueError, match="either positions or queries"):
        measure(index, None, 3)
