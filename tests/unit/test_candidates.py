"""The candidates of a search: which pairs are kept, and which queries have too many of them."""

from __future__ import annotations

import numpy as np

from pyspark_knn.index.candidates import Candidates


def candidates_of(scores, k, room, slack=0.0):
    """Return the candidates after all pairs of some queries were added at once."""
    rows = np.repeat(np.arange(len(scores)), [len(each) for each in scores])
    positions = np.concatenate([np.arange(len(each)) for each in scores])
    found = Candidates(k, np.full(len(scores), -np.inf), np.full(len(scores), slack))
    found.add(rows, positions, np.concatenate(scores), np.zeros(len(rows)), room)
    found.settle()
    return found


def test_a_query_of_many_pairs_is_kept_if_few_of_them_reach_the_new_threshold():
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(count).astype(np.float32) for count in (2000, 3, 40, 0, 17)]
    found = candidates_of(scores, k=3, room=4)
    assert not found.crowded.any()
    rows, positions = found.pairs()
    for row, each in enumerate(scores):
        expected = np.sort(np.argsort(-each)[:3])
        assert np.sort(positions[rows == row]).tolist() == expected.tolist()


def test_a_query_of_many_ties_is_crowded():
    scores = [np.ones(30, np.float32), np.arange(30, dtype=np.float32)]
    found = candidates_of(scores, k=3, room=4)
    assert found.crowded.tolist() == [True, False]
    assert np.unique(found.pairs()[0]).tolist() == [1]


def test_thresholds_are_those_of_the_kth_pair_of_each_query():
    rng = np.random.default_rng(1)
    scores = [rng.standard_normal(count).astype(np.float32) for count in (5, 64, 1, 500, 0, 63)]
    thresholds = candidates_of(scores, k=2, room=900, slack=0.5).thresholds()
    kth = [np.sort(each)[-2] - 1.0 if len(each) > 1 else -np.inf for each in scores]
    assert thresholds.tolist() == kth
