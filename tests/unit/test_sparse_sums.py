"""Sums of the terms other than 0 are those of all terms, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.sparse.sums import KEY_BITS, Terms, features_of, fold_keys
from pyspark_knn.index.summation import fold

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 100, 1023, 4097, 65_535, 1 << 16, (1 << 18) - 1, 1 << 18)
WIDEST = (2**24 + 1, 2**31 - 1, 2**31)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_feature_has_a_key_of_its_own(width):
    features = np.arange(width)
    keys = fold_keys(features, width)
    assert len(np.unique(keys)) == width
    assert keys.min() >= 0
    assert keys.max() < 1 << (width - 1).bit_length()
    np.testing.assert_array_equal(features_of(keys, width), features)


@pytest.mark.parametrize("width", WIDEST)
def test_keys_of_wide_vectors_are_inverted(width):
    rng = np.random.default_rng(width)
    features = np.unique(np.r_[0, 1, width // 2, width - 1, rng.integers(0, width, 10_000)])
    for dtype in (np.int32, np.int64):
        kept = features[features <= np.iinfo(dtype).max].astype(dtype)
        keys = fold_keys(kept, width)
        assert len(np.unique(keys)) == len(kept)
        assert keys.min() >= 0
        assert keys.max() < 2**31
        np.testing.assert_array_equal(features_of(keys, width), kept)
        np.testing.assert_array_equal(kept, features[: len(kept)])


def sparse_sums(matrix, terms=None):
    row, feature = np.nonzero(matrix) if terms is None else terms
    keys = fold_keys(feature, matrix.shape[1])
    return Terms.of(row, keys, matrix[row, feature]).fold(len(matrix))


def assert_bits(found, expected):
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


@settings(max_examples=40)
@given(st.data())
def test_sums_are_those_of_all_terms(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    width = data.draw(st.sampled_from(WIDTHS[:-4]) | st.integers(1, 300))
    count = data.draw(st.integers(0, 8))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    scale = data.draw(st.sampled_from([0, 0, 30, 300]))
    matrix = rng.standard_normal((count, width)) * (rng.random((count, width)) < share)
    matrix *= 10.0 ** rng.integers(-scale, scale + 1, matrix.shape)
    matrix += 0.0  # without -0.0, which would be the sum of a row of -0.0
    assert_bits(sparse_sums(matrix), fold(matrix.copy()))


@pytest.mark.parametrize("width", WIDTHS[-4:])
def test_sums_of_wide_rows(width):
    rng = np.random.default_rng(width)
    matrix = np.zeros((3, width))
    for row, stored in enumerate((1, 50, 20_000)):
        features = rng.choice(width, stored, replace=False)
        matrix[row, features] = rng.standard_normal(stored) * 10.0 ** rng.integers(-9, 9, stored)
    assert_bits(sparse_sums(matrix), fold(matrix.copy()))


def test_the_order_of_the_terms_does_not_matter():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((20, 37)) * (rng.random((20, 37)) < 0.5)
    row, feature = np.nonzero(matrix)
    order = rng.permutation(len(row))
    assert_bits(sparse_sums(matrix, (row[order], feature[order])), fold(matrix.copy()))


def test_terms_of_zero_and_beyond_the_range_are_terms():
    matrix = np.array([[0.0, np.inf, 1.0, -np.inf], [1e308, 1e308, 0.0, 1.0], [0.0] * 4])
    every = np.indices(matrix.shape).reshape(2, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = fold(matrix.copy())
        np.testing.assert_array_equal(sparse_sums(matrix), expected)
        np.testing.assert_array_equal(sparse_sums(matrix, tuple(every)), expected)


def test_two_terms_of_one_key_are_added():
    sums, keys = np.array([1, 0, 1, 1]), np.array([3, 2, 0, 3])
    terms = Terms.of(sums, keys, np.array([1.5, 8.0, 4.0, -0.5]))
    assert terms.sums.tolist() == [0, 1, 1]
    assert terms.keys.tolist() == [2, 0, 3]
    assert terms.values.tolist() == [8.0, 4.0, 1.0]
    assert terms.fold(3).tolist() == [8.0, 5.0, 0.0]
    assert terms.largest(3).tolist() == [8.0, 4.0, 0.0]


def test_no_terms():
    terms = Terms.of(*np.zeros((2, 0), np.int64), np.zeros(0))
    assert terms.fold(2).tolist() == [0.0, 0.0]
    assert terms.largest(2).tolist() == [0.0, 0.0]
    assert terms.fold(0).tolist() == []


def test_the_keys_leave_room_for_the_number_of_a_sum():
    keys = np.array([2**31 - 1, 0])
    sums = np.array([2**KEY_BITS // 4, 5])
    terms = Terms.of(sums, keys, np.ones(2))
    assert terms.sums.tolist() == sorted(sums.tolist())
    assert terms.keys.tolist() == [0, 2**31 - 1]
