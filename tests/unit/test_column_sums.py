"""Means and variances of columns, to the last bit whatever the order of the rows."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyspark_knn.index import column_sums
from pyspark_knn.index.column_sums import add_up, partial_squares, partial_sums

FINITE = st.floats(allow_nan=True, allow_infinity=False)


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=FINITE),
    st.integers(1, 40),
)
def test_the_exact_mean_in_any_parts(matrix, size):
    parts = [partial_sums(matrix[at : at + size]) for at in range(0, len(matrix), size)]
    counts, means = add_up(np.concatenate(parts), matrix.shape[1])
    for i, column in enumerate(matrix.T):
        values = [Fraction(value) for value in column.tolist() if not math.isnan(value)]
        assert counts[i] == len(values)
        if values:
            assert means[i] == float(sum(values) / len(values))
        else:
            assert math.isnan(means[i])


def test_blocks(monkeypatch):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(500, 3)) * 10.0 ** random.integers(-9, 9, (500, 3))
    whole = add_up(partial_sums(matrix), 3)
    monkeypatch.setattr(column_sums, "_BLOCK", 7)
    parts = add_up(partial_sums(matrix), 3)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])
    np.testing.assert_allclose(whole[1], matrix.mean(axis=0), rtol=1e-9)


def test_variances_do_not_depend_on_the_order_or_on_an_offset():
    random = np.random.default_rng(1)
    matrix = random.normal([0.0, 1e9], size=(1000, 2))
    matrix[random.random(matrix.shape) < 0.2] = math.nan
    _, means = add_up(partial_sums(matrix), 2)
    _, variances = add_up(partial_squares(matrix, means), 2)
    np.testing.assert_allclose(variances, np.nanvar(matrix, axis=0), rtol=1e-9)
    shuffled = matrix[random.permutation(1000)]
    assert np.array_equal(add_up(partial_squares(shuffled, means), 2)[1], variances)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_values(dtype):
    largest = float(np.finfo(dtype).max)
    matrix = np.array([[largest, 5e-324, math.nan], [largest, 0.0, math.nan]], dtype)
    counts, means = add_up(partial_sums(matrix), 3)
    assert counts.tolist() == [2, 2, 0]
    assert means[0] == largest
    _, variances = add_up(partial_squares(np.array([[1e308], [-1e308]]), np.zeros(1)), 1)
    assert variances[0] == np.finfo(np.float64).max
