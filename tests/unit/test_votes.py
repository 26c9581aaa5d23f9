"""Votes and means of neighbors, compared with scikit-learn and with plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from pyspark_knn.index.found import Found, Neighbors
from pyspark_knn.index.votes import (
    WEIGHTS,
    class_votes,
    probabilities,
    vote_weights,
    weighted_means,
    winners,
)

CLASSES = 4


@st.composite
def searches(draw: st.DrawFn) -> tuple[Found, np.ndarray]:
    """The neighbors of a few queries among k items, which are all found, and their distances."""
    k = draw(st.integers(1, 12))
    queries = draw(st.integers(1, 5))
    figure = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]) | st.floats(1e-6, 1e6)
    cells = draw(st.lists(figure, min_size=k * queries, max_size=k * queries))
    distances = np.array(cells).reshape(queries, k)
    order = np.argsort(distances, axis=1, kind="stable")
    nearest = Neighbors(np.take_along_axis(distances, order, axis=1), order)
    return Found.from_padded(nearest), distances


def seeded(size: int) -> np.random.Generator:
    return np.random.default_rng(size)


def sklearn_fit(kind: type, distances: np.ndarray, labels: np.ndarray, weights: str) -> object:
    """A reference for which every item is a neighbor, so that it has no ties to break."""
    k = distances.shape[1]
    return kind(k, weights=weights, metric="precomputed").fit(np.zeros((k, k)), labels)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(search=searches())
def test_classes_agree_with_scikit_learn(weights: str, search: tuple[Found, np.ndarray]) -> None:
    found, distances = search
    labels = seeded(distances.size).integers(0, CLASSES, distances.shape[1])
    oracle = sklearn_fit(KNeighborsClassifier, distances, labels, weights)
    votes = class_votes(found, vote_weights(found, weights), labels.astype(float), CLASSES)
    expected = np.zeros((len(distances), CLASSES))
    expected[:, oracle.classes_] = oracle.predict_proba(distances)
    np.testing.assert_allclose(probabilities(votes), expected, rtol=1e-12, atol=1e-15)
    best = np.sort(votes, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 1e-9 * best[:, 1]
    assert (winners(votes) == oracle.predict(distances))[clear].all()


@pytest.mark.parametrize("weights", WEIGHTS)
@given(search=searches())
def test_means_agree_with_scikit_learn(weights: str, search: tuple[Found, np.ndarray]) -> None:
    found, distances = search
    values = seeded(distances.size).normal(0, 100, distances.shape[1])
    oracle = sklearn_fit(KNeighborsRegressor, distances, values, weights)
    means = weighted_means(found, vote_weights(found, weights), values)
    np.testing.assert_allclose(means, oracle.predict(distances), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(search=searches())
def test_a_weight_counts_as_that_many_copies(
    weights: str, search: tuple[Found, np.ndarray]
) -> None:
    found, distances = search
    random = seeded(distances.size)
    labels = random.integers(0, CLASSES, distances.shape[1])
    copies = random.integers(1, 4, distances.shape[1])
    spread, names = np.repeat(distances, copies, axis=1), np.repeat(labels, copies)
    weighed = vote_weights(found, weights, copies.astype(float))
    shares = probabilities(class_votes(found, weighed, labels.astype(float), CLASSES))
    oracle = sklearn_fit(KNeighborsClassifier, spread, names, weights)
    expected = oracle.predict_proba(spread)
    np.testing.assert_allclose(shares[:, oracle.classes_], expected, rtol=1e-12, atol=1e-15)
    means = weighted_means(found, weighed, labels.astype(float))
    oracle = sklearn_fit(KNeighborsRegressor, spread, names.astype(float), weights)
    np.testing.assert_allclose(means, oracle.predict(spread), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", WEIGHTS)
@given(search=searches(), more=st.integers(1, 9))
def test_padding_changes_no_bit(weights: str, search: tuple[Found, np.ndarray], more: int) -> None:
    found, distances = search
    labels = seeded(distances.size).integers(0, CLASSES, distances.shape[1]).astype(float)
    shape = distances.shape
    wider = Neighbors(
        np.pad(found.distances.reshape(shape), ((0, 0), (0, more)), constant_values=np.inf),
        np.pad(found.positions.reshape(shape), ((0, 0), (0, more)), constant_values=-1),
    )
    padded = Found.from_padded(wider)
    for each in (class_votes, weighted_means):
        extra = (CLASSES,) if each is class_votes else ()
        one = each(found, vote_weights(found, weights), labels, *extra)
        other = each(padded, vote_weights(padded, weights), labels, *extra)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_query_has_its_own_number_of_neighbors(weights: str) -> None:
    """Also none, in front, in between and at the end."""
    lengths = np.array([0, 2, 0, 0, 3, 1, 0])
    offsets = np.append(0, np.cumsum(lengths))
    distances = np.array([0.0, 2.0, 1e-200, 1.0, 4.0, 0.5])
    positions = np.array([2, 0, 1, 3, 0, 3])
    labels, factors = np.array([1.0, 0, 2, 1]), np.array([1.0, 3, 0.5, 1])
    every = Found(offsets, distances, positions)
    weighed = vote_weights(every, weights, factors)
    votes = class_votes(every, weighed, labels, 3)
    means = weighted_means(every, weighed, labels)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = Found(np.array([0, stop - start]), distances[start:stop], positions[start:stop])
        own = vote_weights(alone, weights, factors)
        assert class_votes(alone, own, labels, 3).tobytes() == votes[i : i + 1].tobytes()
        assert weighted_means(alone, own, labels).tobytes() == means[i : i + 1].tobytes()


def test_queries_without_neighbors() -> None:
    nobody = Found.from_padded(Neighbors(np.full((2, 3), np.inf), np.full((2, 3), -1)))
    labels = np.array([1.0])
    for weights in WEIGHTS:
        weighed = vote_weights(nobody, weights, np.ones(1))
        votes = class_votes(nobody, weighed, labels, 2)
        assert votes.dtype == np.float64
        assert not votes.any()
        assert not probabilities(votes).any()
        assert np.isnan(winners(votes)).all()
        assert np.isnan(winners(votes, np.array([0.5, 0.0]))).all()
        assert np.isnan(weighted_means(nobody, weighed, labels)).all()


def test_neighbors_with_weight_zero_do_not_vote() -> None:
    found = Found.from_padded(Neighbors(np.array([[1.0, 2.0]]), np.array([[0, 1]])))
    weighed = vote_weights(found, "uniform", np.zeros(2))
    assert np.isnan(winners(class_votes(found, weighed, np.array([0.0, 1.0]), 2))).all()
    assert np.isnan(weighted_means(found, weighed, np.array([3.0, 4.0]))).all()


def test_ties_go_to_the_smaller_class() -> None:
    votes = np.array([[1.0, 2.0, 2.0], [0.5, 0.5, 0.5], [0.0, 0.0, 3.0]])
    assert winners(votes).tolist() == [1.0, 0.0, 2.0]


@given(
    shares=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0]), min_size=3, max_size=3),
    thresholds=st.lists(st.sampled_from([0.1, 0.5, 1.0]), min_size=3, max_size=3),
    zero=st.none() | st.integers(0, 2),
)
def test_thresholds_by_the_rule_of_mllib(
    shares: list[float], thresholds: list[float], zero: int | None
) -> None:
    if not any(shares):
        return
    if zero is not None:
        thresholds[zero] = 0.0
    total = sum(shares)
    best, chosen = -math.inf, 0.0
    for i, (share, threshold) in enumerate(zip(shares, thresholds, strict=True)):
        over_zero = math.inf if share else math.nan
        scaled = share / total / threshold if threshold else over_zero
        if scaled > best:
            best, chosen = scaled, float(i)
    assert winners(np.array([shares]), np.array(thresholds)).tolist() == [chosen]


def test_tiny_and_infinite_distances_give_finite_votes() -> None:
    found = Found.from_padded(
        Neighbors(np.array([[6e-309, 6e-309, 7e-309, np.inf]]), np.array([[0, 1, 2, 3]]))
    )
    weighed = vote_weights(found, "distance")
    shares = probabilities(class_votes(found, weighed, np.array([0.0, 1.0, 1.0, 1.0]), 2))
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0, 0] == pytest.approx(7 / 20)
    mean = weighted_means(found, weighed, np.array([1e300, 2e300, 3e300, 1.0]))
    assert mean[0] == pytest.approx((1e300 * 7 + 2e300 * 7 + 3e300 * 6) / 20)
