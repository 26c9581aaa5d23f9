"""Packed chunks as they are read."""

import pyarrow as pa
import pytest

from pyspark_knn.engine.spark.arrow import cells_of


@pytest.mark.parametrize("start", [0, 1, 3, 5])
@pytest.mark.parametrize("cells", [[b"ab", None, b"", b"cde", None], [None] * 5, [b"x"] * 5])
def test_binary_cells_of_a_slice_are_buffers(cells, start):
    found = cells_of(pa.array(cells, pa.binary()).slice(start))
    assert [None if each is None else bytes(each) for each in found] == cells[start:]


def test_other_cells_are_python_values():
    assert cells_of(pa.array([1, None])) == [1, None]
