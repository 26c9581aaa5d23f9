"""The smallest scores of each row, sorted as integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate import ivf_selection
from pyspark_knn.index.approximate.ivf_selection import (
    NOTHING,
    Candidates,
    keys_of,
    scores_and_numbers,
    smallest,
)

FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2**32 - 1)), min_size=1, max_size=50))
def test_keys_are_in_the_order_of_scores_then_numbers(pairs):
    scores = np.array([score for score, _ in pairs], np.float32)
    scores[scores == 0] = 0  # -0.0 sorts before 0.0, which changes no order of scores
    numbers = np.array([number for _, number in pairs], np.int64)
    keys = keys_of(scores, numbers)
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.lexsort((numbers, scores)))
    assert (keys < NOTHING).all()
    found, names = scores_and_numbers(keys)
    np.testing.assert_array_equal(found, scores)
    np.testing.assert_array_equal(names, numbers)


def test_nothing_has_no_score():
    scores, _ = scores_and_numbers(np.array([[NOTHING]]))
    assert scores.shape == (1, 1)
    assert np.isnan(scores[0, 0])


@given(data=st.data())
def test_the_smallest_keys_of_rows_of_any_length(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    longest = data.draw(st.sampled_from([1, 64, 65, 700, 9000]))
    counts = np.minimum(longest, rng.geometric(data.draw(st.sampled_from([0.5, 0.02])), 30))
    counts[rng.integers(0, 30, 3)] = [0, longest, longest]
    many = data.draw(st.sampled_from([1, 2, 13, 100]))
    keys = rng.integers(-50, 50, counts.sum()) if data.draw(st.booleans()) else None
    keys = rng.integers(-(2**62), 2**62, counts.sum()) if keys is None else keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf_selection, "_SORTED_KEYS", data.draw(st.sampled_from([1, 1 << 16])))
        found = smallest(keys, counts, many)
    for row, part in enumerate(np.split(keys, np.cumsum(counts)[:-1])):
        expected = np.full(many, NOTHING)
        expected[: min(many, len(part))] = np.sort(part)[:many]
        np.testing.assert_array_equal(found[row], expected)


def test_no_rows_and_no_keys():
    assert smallest(np.empty(0, np.int64), np.zeros(0, np.int64), 3).shape == (0, 3)
    empty = smallest(np.array([5]), np.array([0, 1, 0]), 2)
    np.testing.assert_array_equal(empty, [[NOTHING] * 2, [5, NOTHING], [NOTHING] * 2])


@pytest.mark.parametrize("waiting", [0, 1 << 22])
@pytest.mark.parametrize("limit", [-1.0, -0.9, 0.5, 1.0])
def test_candidates_are_the_lowest_scores_within_the_limits(limit, waiting, monkeypatch):
    monkeypatch.setattr(ivf_selection, "_MOST_WAITING", waiting)
    rng = np.random.default_rng(4)
    scores = rng.uniform(-1, 1, (50, 400)).astype(np.float32) - np.float32(limit)
    scores[7] = 1
    candidates = Candidates(50, 9)
    names = rng.permutation(400)
    for columns in np.split(np.arange(400), 8):
        rows = rng.permutation(50)
        candidates.add(rows, np.ascontiguousarray(scores[np.ix_(rows, columns)]), names[columns])
    positions, found = candidates.nearest()
    for row in range(50):
        within = np.flatnonzero(scores[row] <= 0)
        expected = within[np.argsort(scores[row, within])][:9]
        np.testing.assert_array_equal(positions[row, : len(expected)], names[expected])
        np.testing.assert_array_equal(found[row, : len(expected)], scores[row, expected])
        assert (positions[row, len(expected) :] == -1).all()
        assert (found[row, len(expected) :] == 0).all()
    assert (positions[7] == -1).all()


def test_no_candidates():
    candidates = Candidates(3, 2)
    candidates.add(np.arange(3), np.ones((3, 4), np.float32), np.arange(4))
    positions, scores = candidates.nearest()
    assert (positions == -1).all()
    assert (scores == 0).all()
