"""Packed chunks as they are read."""

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn.engine.fit.chunks import unpack, vector_cells
from pyspark_knn.engine.spark.arrow import cells_of
from pyspark_knn.index.sparse.rows import SparseRows


@pytest.mark.parametrize("start", [0, 1, 3, 5])
@pytest.mark.parametrize("cells", [[b"ab", None, b"", b"cde", None], [None] * 5, [b"x"] * 5])
def test_binary_cells_of_a_slice_are_buffers(cells, start):
    found = cells_of(pa.array(cells, pa.binary()).slice(start))
    assert [None if each is None else bytes(each) for each in found] == cells[start:]


def test_other_cells_are_python_values():
    assert cells_of(pa.array([1, None])) == [1, None]


@pytest.mark.parametrize("part", [slice(None), slice(2, 5), slice(0, 0), slice(3, 4)])
@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_vectors_become_cells_and_vectors_again(storage, part):
    """Also a slice of rows, which is a view of all of them."""
    matrix = np.random.default_rng(0).integers(-1, 2, (6, 4)).astype(np.float32)
    matrix[3] = 0
    rows = matrix[part] if storage == "dense" else SparseRows.from_dense(matrix)[part]
    cells = {"dtype": "float32", **vector_cells(rows)}
    ((start, found),) = unpack(cells, 4, storage)
    assert start == 0
    dense = found if storage == "dense" else found.dense()
    np.testing.assert_array_equal(dense, matrix[part])


def test_parts_are_merged_in_any_order():
    random = np.random.default_rng(1)
    matrix = random.integers(-1, 2, (9, 5)).astype(np.float64)
    matrix[[2, 7]] = 0
    rows = SparseRows.from_dense(matrix)
    parts = [rows[:4], rows[4:4], rows[4:]]
    places = random.permutation(9)
    merged = SparseRows.merged(parts, places, np.dtype(np.float32))
    assert (merged.dtype, merged.shape, parts) == (np.float32, (9, 5), [])
    np.testing.assert_array_equal(merged.dense()[places], matrix)
