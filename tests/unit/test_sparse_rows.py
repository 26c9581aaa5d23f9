"""Sparse rows are the rows of a dense matrix, whatever is taken of them."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pyspark_knn.index.sparse.rows import SparseRows, slices_of
from tests.support import sparse

SHARES = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@st.composite
def matrices(draw, least=0):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(least, 9)), draw(st.integers(1, 9))
    matrix = sparse.matrix(rng, n, dim, draw(SHARES))
    return matrix.astype(draw(st.sampled_from([np.float32, np.float64])))


def assert_valid(rows: SparseRows) -> None:
    """The layout that `SparseRows` promises."""
    assert rows.indices.dtype == np.int32
    assert rows.indptr.dtype == np.int64
    assert len(rows.data) == len(rows.indices)
    assert rows.indptr[0] >= 0
    assert rows.indptr[-1] <= len(rows.data)
    assert (np.diff(rows.indptr) >= 0).all()
    for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        indices = rows.indices[start:stop]
        assert (np.diff(indices) > 0).all()
        assert ((indices >= 0) & (indices < rows.n_features)).all()
        assert (rows.data[start:stop] != 0).all()


def assert_rows(rows: SparseRows, expected: np.ndarray) -> None:
    assert_valid(rows)
    found = rows.dense()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert rows.shape == expected.shape
    assert len(rows) == len(expected)
    assert rows.size == np.count_nonzero(expected)
    assert rows.lengths.tolist() == np.count_nonzero(expected, axis=1).tolist()


@given(matrices())
def test_the_rows_of_a_dense_matrix_are_those_of_scipy(matrix):
    rows = SparseRows.from_dense(matrix)
    assert_rows(rows, matrix)
    assert rows.dtype == matrix.dtype
    expected = csr_matrix(matrix)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))
    assert rows.nbytes == rows.size * (matrix.itemsize + 4) + 8 * (len(matrix) + 1)


@given(matrices(), st.data())
def test_stored_zeros_are_dropped(matrix, data):
    every = np.indices(matrix.shape).reshape(2, -1)
    kept = (matrix.ravel() != 0) | np.array(
        data.draw(st.lists(st.booleans(), min_size=matrix.size, max_size=matrix.size)), bool
    )
    entries = every[0][kept], every[1][kept], matrix.ravel()[kept]
    assert_rows(SparseRows.from_entries(*entries, matrix.shape), matrix)


@given(matrices(), st.data())
def test_slices_are_views(matrix, data):
    rows = SparseRows.from_dense(matrix)
    bounds = st.integers(-12, 12) | st.none()
    part = slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1])))
    view = rows[part]
    assert_rows(view, matrix[part])
    assert view.data is rows.data
    assert view.indices is rows.indices
    # Everything that is taken of a view is taken of its rows.
    assert_rows(view[1:], matrix[part][1:])
    assert_rows(view[::-1], matrix[part][::-1])
    assert_rows(view.compact(), matrix[part])
    assert view.compact().indptr[0] == 0
    assert len(view.compact().data) == view.size
    assert view.compact().compact() is view.compact() or view.size < len(rows.data)


@given(matrices(least=1), st.data())
def test_rows_are_taken_by_number_or_by_mask(matrix, data):
    start = data.draw(st.integers(0, len(matrix) - 1))
    rows, dense = SparseRows.from_dense(matrix)[start:], matrix[start:]
    numbers = st.lists(st.integers(0, len(dense) - 1), max_size=12)
    chosen = np.array(data.draw(numbers), np.int64)
    assert_rows(rows.take(chosen), dense[chosen])
    assert_rows(rows[chosen], dense[chosen])
    mask = np.isin(np.arange(len(dense)), chosen)
    assert_rows(rows[mask], dense[mask])
    row, at = rows.entries(chosen)
    found = np.zeros((len(chosen), dense.shape[1]), dense.dtype)
    found[row, rows.indices[at]] = rows.data[at]
    np.testing.assert_array_equal(found, dense[chosen])
    assert (np.diff(row) >= 0).all()


@given(matrices(least=1), st.data())
def test_parts_are_merged_into_any_order(matrix, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(matrix)), max_size=3)))
    rows = SparseRows.from_dense(matrix)
    edges = [0, *cuts, len(matrix)]
    parts = [rows[start:stop] for start, stop in itertools.pairwise(edges)]
    places = np.array(data.draw(st.permutations(range(len(matrix)))))
    expected = np.empty_like(matrix)
    expected[places] = matrix
    assert_rows(SparseRows.merged(list(parts), places), expected)
    wide = SparseRows.merged(parts, places, np.dtype(np.float64))
    assert_rows(wide, expected.astype(np.float64))
    assert parts == []


@given(matrices())
def test_other_values_keep_the_layout(matrix):
    rows = SparseRows.from_dense(matrix)
    assert_rows(rows.replaced(-2 * rows.data), -2 * matrix)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20), st.none() | st.integers(1, 5))
def test_slices_have_a_bounded_number_of_values(lengths, most_values, most_rows):
    lengths = np.array(lengths, np.int64)
    parts = slices_of(lengths, most_values, most_rows)
    covered = [row for part in parts for row in range(part.start, part.stop)]
    assert covered == list(range(len(lengths)))
    for part in parts:
        count = part.stop - part.start
        assert count == 1 or lengths[part].sum() <= most_values
        assert 1 <= count <= (most_rows or most_values)
    for part, following in itertools.pairwise(parts):
        full = lengths[part].sum() + lengths[following.start] > most_values
        assert full or part.stop - part.start == (most_rows or most_values)


def test_no_rows_and_no_values():
    empty = SparseRows.from_dense(np.zeros((0, 3)))
    assert_rows(empty, np.zeros((0, 3)))
    assert_rows(empty[:5], np.zeros((0, 3)))
    assert_rows(empty.take(np.zeros(0, np.int64)), np.zeros((0, 3)))
    zeros = SparseRows.from_dense(np.zeros((4, 3)))
    assert_rows(zeros[np.array([3, 0])], np.zeros((2, 3)))


def test_the_dimension_may_be_as_large_as_an_index():
    dim = 2**31 - 1
    rows = SparseRows.from_entries(
        np.array([0, 0, 2]), np.array([0, dim - 1, 7]), np.array([1.0, 2.0, 3.0]), (3, dim)
    )
    assert_valid(rows)
    assert rows.shape == (3, dim)
    assert rows.take(np.array([2, 0])).indices.tolist() == [7, 0, dim - 1]
    assert rows.nbytes < 100


def test_read_only_rows_are_pickled_out_of_band():
    rows = sparse.read_only(SparseRows.from_dense(np.eye(300)))
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(rows, protocol=5, buffer_callback=buffers.append)
    assert sum(buffer.raw().nbytes for buffer in buffers) == rows.nbytes
    assert len(head) < 1000
    mapped = pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert_rows(mapped[5:].take(np.array([1, 0])), np.eye(300)[[6, 5]])
    with pytest.raises(ValueError, match="read-only"):
        mapped.data[0] = 2.0
