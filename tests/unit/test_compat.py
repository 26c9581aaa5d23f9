"""What needs no Spark of all that depends on its version."""

import pyarrow as pa
import pytest

from pyspark_knn.engine.compat import _cells


@pytest.mark.parametrize("start", [0, 1, 3, 5])
@pytest.mark.parametrize("cells", [[b"ab", None, b"", b"cde", None], [None] * 5, [b"x"] * 5])
def test_binary_cells_of_a_slice_are_buffers(cells, start):
    found = _cells(pa.array(cells, pa.binary()).slice(start))
    assert [None if each is None else bytes(each) for each in found] == cells[start:]


def test_other_cells_are_python_values():
    assert _cells(pa.array([1, None])) == [1, None]
