"""Shards that are alike need no trial each, and answer as they would after one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pyspark_knn.index import block_search
from pyspark_knn.index.auto import Trials, build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.choices import SharedChoice
from pyspark_knn.index.distances import resolve_metric

SPEC = IndexSpec(resolve_metric("euclidean"))


class Timer:
    """A timer by which one algorithm is always the fastest."""

    def __init__(self, *winners: str) -> None:
        self.winners = list(winners)
        self.timed: Counter[int] = Counter()

    def __call__(self, index) -> float:
        self.timed[len(index.matrix)] += 1
        return 1e-6 if index.algorithm == self.winners[0] else 1e-3


def shards(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((size, 3)) for size in sizes]


def test_two_shards_decide_for_those_of_similar_sizes():
    timer = Timer("kd_tree")
    choice = SharedChoice(Trials(timer=timer))
    made = [choice.build(items, SPEC) for items in shards(3000, 2500, 2400, 3500, 4100)]
    assert [index.algorithm for index, _ in made] == ["kd_tree"] * 5
    assert not {2400, 3500, 4100} & set(timer.timed)
    assert made[1][1].startswith("kd_tree is the fastest: 1 us per query")
    assert made[2][1] == "kd_tree is the fastest for 2500 similar items"


def test_shards_of_other_sizes_are_timed():
    timer = Timer("kd_tree")
    choice = SharedChoice(Trials(timer=timer))
    for items in shards(2500, 2600, 5300, 1200):
        choice.build(items, SPEC)
    assert {5300, 1200} <= set(timer.timed)


def test_trials_that_differ_decide_nothing():
    timer = Timer("kd_tree")
    choice = SharedChoice(Trials(timer=timer))
    for winner in ("kd_tree", "brute", "kd_tree", "kd_tree"):
        timer.winners = [winner]
        assert choice.build(shards(2500)[0], SPEC)[0].algorithm == winner
    timer.winners = ["brute"]
    assert choice.build(shards(2500)[0], SPEC)[0].algorithm == "kd_tree"


@pytest.mark.parametrize("algorithm", ["auto", "brute"])
def test_axes_are_not_tried_again_where_they_did_not_pay(monkeypatch, algorithm):
    tried = []
    monkeypatch.setattr(block_search, "choose_plan", lambda *given: tried.append(given))
    choice = SharedChoice(Trials(timer=Timer("brute")))
    spec = IndexSpec(SPEC.metric, algorithm)
    choice.build(shards(2500)[0], spec)
    choice.build(shards(2500)[0], spec)
    before = len(tried)
    index, reason = choice.build(shards(2500)[0], spec)
    assert len(tried) == before > 0
    assert index.algorithm == "brute"
    assert ("was requested" in reason) == (algorithm == "brute")


def test_the_choice_changes_no_answer():
    choice = SharedChoice(Trials(timer=Timer("ball_tree")))
    queries = np.random.default_rng(1).standard_normal((20, 3))
    for items in shards(2500, 2500, 2500):
        index, _ = choice.build(items, SPEC)
        expected, _ = build_index(items, IndexSpec(SPEC.metric, "brute"))
        for found, right in zip(
            index.kneighbors(queries, 5), expected.kneighbors(queries, 5), strict=True
        ):
            np.testing.assert_array_equal(found, right)
