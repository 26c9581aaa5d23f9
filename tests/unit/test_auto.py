"""The choice of "auto" and its reason; the choice never changes an answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from pyspark_knn.index.auto import Trials, build_index, seconds_per_query
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.terms.search import TermSearch


def build(items, metric="euclidean", algorithm="auto", **trials):
    return build_index(items, IndexSpec(resolve_metric(metric), algorithm), Trials(**trials))


def test_brute_is_the_block_search_where_there_are_scores():
    items = np.eye(4)
    index, reason = build(items, "cosine", "brute")
    assert isinstance(index, BlockSearch)
    assert reason == "algorithm 'brute' was requested"
    assert isinstance(build(items, "cityblock", "brute")[0], TermSearch)
    assert isinstance(build(items, "jaccard", "brute")[0], PairwiseSearch)


def test_few_items_need_no_timing():
    index, reason = build(np.eye(5))
    assert index.algorithm == "brute"
    assert "5 items" in reason


def test_metrics_with_one_algorithm_need_no_timing():
    index, reason = build(np.ones((5000, 2)), "cosine")
    assert index.algorithm == "brute"
    assert "cosine" in reason


@pytest.mark.parametrize(
    ("costs", "winner"),
    [
        ({"brute": 1.0, "kd_tree": 2.0, "ball_tree": 8.0}, "brute"),
        ({"brute": 9.0, "kd_tree": 1.0, "ball_tree": 8.0}, "kd_tree"),
        ({"brute": 9.0, "kd_tree": 7.0, "ball_tree": 2.0}, "ball_tree"),
    ],
)
def test_the_fastest_is_chosen_and_the_reason_reports_the_timings(costs, winner):
    # Without growth, every estimate of a tree stays what it is.
    items = np.random.default_rng(0).standard_normal((3000, 2))
    index, reason = build(items, timer=lambda index: 1e-6 * costs[index.algorithm])
    assert index.algorithm == winner
    assert reason.startswith(f"{winner} is the fastest: {costs[winner]:.0f} us per query")
    assert all(algorithm in reason for algorithm in costs)


def test_no_ball_tree_is_timed_where_a_kd_tree_is_hopeless():
    timed = []

    def cost(index):
        timed.append(index.algorithm)
        return 1e-6 if index.algorithm == "brute" else 1e-5

    items = np.random.default_rng(0).standard_normal((3000, 2))
    assert build(items, timer=cost)[0].algorithm == "brute"
    assert set(timed) == {"brute", "kd_tree"}
    timed.clear()
    # kd_tree does not support this metric, so its timing cannot rule out ball_tree.
    assert build(items, "canberra", timer=cost)[0].algorithm == "brute"
    assert set(timed) == {"brute", "ball_tree"}


def test_a_close_call_is_timed_with_all_items():
    timed = []

    def cost(index):
        timed.append((index.algorithm, len(index.matrix)))
        if index.algorithm == "brute":
            return len(index.matrix) * 1e-6
        # As fast as brute in the sample, much slower than it in truth.
        return len(index.matrix) * (1e-6 if len(index.matrix) < 4000 else 2e-6)

    items = np.random.default_rng(0).standard_normal((4000, 2))
    index, reason = build(items, sample_items=1000, small_sample_items=100, timer=cost)
    assert index.algorithm == "brute"
    assert "all items" in reason
    assert {(name, 4000) for name in ("brute", "kd_tree", "ball_tree")} <= set(timed)


@pytest.mark.parametrize(("algorithm", "queries"), [("brute", 40), ("kd_tree", 8)])
def test_the_time_of_a_search_is_the_time_of_this_thread(monkeypatch, algorithm, queries):
    clock = iter(range(100))
    monkeypatch.setattr(time, "thread_time", lambda: float(next(clock)))
    index = build(np.eye(40), algorithm=algorithm)[0]
    assert seconds_per_query(index) == 1.0 / queries


def test_an_approximate_search_is_timed_with_many_queries(monkeypatch):
    pytest.importorskip("faiss")
    asked = []
    index = build(np.random.default_rng(0).standard_normal((6000, 8)), algorithm="ivf")[0]
    search = type(index).kneighbors
    clock = iter(np.arange(0, 10, 0.005))  # a search of 5 ms
    monkeypatch.setattr(time, "thread_time", lambda: float(next(clock)))
    monkeypatch.setattr(
        type(index), "kneighbors", lambda self, q, k: asked.append(len(q)) or search(self, q, k)
    )
    seconds_per_query(index)
    assert asked[0] == 256
    assert asked[-1] == 4096


@pytest.mark.parametrize("max_floats", [0, 1 << 25])
def test_a_tree_that_leads_is_timed_against_brute_with_all_items(max_floats):
    timed = []

    def cost(index):
        timed.append((index.algorithm, len(index.matrix)))
        if index.algorithm == "brute":
            return len(index.matrix) * 1e-6
        # Ten times faster in the sample, as it seems.
        return 1e-4 if len(index.matrix) < 4000 else 1.0

    index, _ = build(
        np.random.default_rng(0).standard_normal((4000, 2)),
        sample_items=1000,
        small_sample_items=100,
        max_floats=max_floats,
        timer=cost,
    )
    assert index.algorithm == "brute"
    # Of two equal trees in many items, one is tried.
    trees = sum(size == 4000 and name != "brute" for name, size in timed)
    assert trees == (1 if max_floats == 0 else 2)


def test_timing_uses_one_thread_and_restores_the_others():
    threads = []

    def cost(index):
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return 1.0

    before = [pool["num_threads"] for pool in threadpool_info()]
    build(np.random.default_rng(0).standard_normal((2500, 2)), timer=cost)
    assert set(threads) == {1}
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "chebyshev"])
def test_answers_do_not_depend_on_the_choice(metric):
    rng = np.random.default_rng(1)
    # A lattice: ties everywhere.
    items, queries = rng.integers(0, 9, (2500, 3)) * 0.1, rng.integers(0, 9, (40, 3)) * 0.1
    picked = build(items, metric)[0].kneighbors(queries, 9)
    for algorithm in ("brute", "kd_tree", "ball_tree"):
        other = build(items, metric, algorithm)[0].kneighbors(queries, 9)
        np.testing.assert_array_equal(picked.positions, other.positions)
        np.testing.assert_array_equal(picked.distances, other.distances)


CLUSTERED = np.repeat(np.random.default_rng(0).standard_normal((100, 8)), 30, axis=0)
CLUSTERED += 0.01 * np.random.default_rng(1).standard_normal(CLUSTERED.shape)


def within_recall(target):
    trials = Trials(timer=lambda index: 1e-6 if index.exact else 1e-7, sample_items=2000)
    return build_index(
        CLUSTERED, IndexSpec(resolve_metric("euclidean"), target_recall=target), trials
    )


def test_a_target_recall_allows_an_approximate_index():
    pytest.importorskip("faiss")
    index, reason = within_recall(0.9)
    assert (index.algorithm, index.exact) == ("ivf", False)
    assert "ivf is the fastest at recall 0.9: ivf 0 us per query, brute 1" in reason
    exact = build(CLUSTERED, algorithm="brute")[0].kneighbors(CLUSTERED[::9], 10)
    found = index.kneighbors(CLUSTERED[::9], 10)
    assert (found.distances <= exact.distances[:, -1:]).mean() > 0.87


@pytest.mark.parametrize(
    ("target", "metric", "items", "said"),
    [
        (1.0, "euclidean", 2000, "is the fastest"),
        (0.9, "cityblock", 2000, "ivf does not support metric 'cityblock'"),
        (0.9, "euclidean", 9999, "exact search is fast enough for 3000 items"),
        (0.9, "euclidean", 2000, "ivf is not faster at recall 0.9: ivf 3 us per query, brute 1"),
    ],
)
def test_when_the_index_stays_exact(target, metric, items, said):
    pytest.importorskip("faiss")
    spec = IndexSpec(resolve_metric(metric), target_recall=target)
    trials = Trials(timer=lambda index: 1e-6 if index.exact else 3e-6, sample_items=items)
    index, reason = build_index(CLUSTERED, spec, trials)
    assert index.exact
    assert said in reason


def test_a_library_that_is_not_installed_is_not_tried(monkeypatch):
    monkeypatch.setattr("pyspark_knn.index.approximate.choice.is_installed", lambda name: False)
    index, reason = within_recall(0.9)
    assert index.exact
    assert reason.endswith("ivf was not tried, since faiss is not installed")
