"""The largest of some numbers, by sorting integers."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_knn.index.axes.nearest import largest_columns, largest_first


@pytest.mark.parametrize("width", [16, 17, 300])
def test_largest_columns_are_those_of_the_largest_numbers(width):
    numbers = np.random.default_rng(width).permuted(
        np.tile(np.arange(width, dtype=np.float32) - width // 2, (20, 1)), axis=1
    )
    columns = largest_columns(numbers, 5)
    found = np.sort(np.take_along_axis(numbers, columns.astype(np.int64), axis=1), axis=1)
    assert (found == np.arange(width - 5, width) - width // 2).all()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_entries_are_sorted_by_row_and_by_descending_number(scale):
    rng = np.random.default_rng(7)
    rows = rng.integers(0, 2048, 9000)
    numbers = scale * rng.permutation(np.arange(-4500, 4500) * 3.0)
    order = largest_first(rows, numbers)
    assert np.array_equal(order, np.lexsort((-numbers, rows)))


def test_no_entries_have_no_order():
    assert not largest_first(np.zeros(0, np.int64), np.zeros(0)).size
