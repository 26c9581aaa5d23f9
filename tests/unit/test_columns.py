"""Feature vectors from Arrow arrays: dense, sparse, mixed, null, sliced, empty."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.features import _attribute_names
from pyspark_knn.engine.rows.ids import changes_on_wire, check_id_type, wire_type
from pyspark_knn.engine.rows.invalid import describe_invalid, invalid_rows
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support.batches import Sparse, array_column, vector_batch, vector_columns

Vector = list[float] | Sparse | None

NUMBERS = st.sampled_from([0.0, 1.0, -2.5, 1e300, 0.1])


def dense(vector: Vector) -> list[float] | None:
    """The values of a vector as a list."""
    if not isinstance(vector, tuple):
        return vector
    return [vector[1].get(place, 0.0) for place in range(vector[0])]


@st.composite
def vectors(draw: st.DrawFn) -> Vector:
    dim = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["dense", "sparse", "null"]))
    if kind == "null":
        return None
    if kind == "dense":
        return draw(st.lists(NUMBERS, min_size=dim, max_size=dim))
    places = draw(st.sets(st.integers(0, dim - 1))) if dim else set()
    return dim, {place: draw(NUMBERS) for place in sorted(places)}


@given(given_vectors=st.lists(vectors(), max_size=12), data=st.data())
def test_vectors_of_all_kinds_in_whole_and_sliced_batches(given_vectors, data):
    start = data.draw(st.integers(0, len(given_vectors)))
    stop = data.draw(st.integers(start, len(given_vectors)))
    arrays = tuple(each.slice(start, stop - start) for each in vector_columns(given_vectors))
    expected = [dense(vector) for vector in given_vectors[start:stop]]
    batch = vector_batch(arrays)
    assert len(batch) == len(expected)
    assert batch.dims.tolist() == [-1 if row is None else len(row) for row in expected]
    for dim in set(batch.dims.tolist()) - {-1, 0}:
        rows = np.flatnonzero(batch.dims == dim)
        rows = rows[data.draw(st.integers(0, len(rows) - 1)) :]
        found = batch.dense(rows, dim)
        assert found.flags.c_contiguous
        assert found.tolist() == [expected[row] for row in rows]
        row, place, value = batch.entries(rows)
        again = np.zeros_like(found)
        again[row, place] = value
        assert again.tolist() == found.tolist()


@given(
    rows=st.lists(st.none() | st.lists(NUMBERS.filter(lambda v: v < 9), max_size=3), max_size=9),
    kind=st.sampled_from([pa.float32(), pa.float64()]),
    data=st.data(),
)
def test_arrays_of_numbers_keep_their_type(rows, kind, data):
    start = data.draw(st.integers(0, len(rows)))
    batch = vector_batch(tuple(a.slice(start) for a in array_column(rows, kind)))
    assert batch.dims.tolist() == [-1 if row is None else len(row) for row in rows[start:]]
    for dim in set(batch.dims.tolist()) - {-1, 0}:
        at = np.flatnonzero(batch.dims == dim)
        found = batch.dense(at, dim)
        assert found.dtype == kind.to_pandas_dtype()
        expected = np.array([rows[start + i] for i in at], kind.to_pandas_dtype())
        np.testing.assert_array_equal(found, expected)


def test_dense_rows_in_a_row_are_a_view():
    (array,) = array_column([[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]])
    batch = vector_batch((array,))
    memory = array.values.to_numpy()
    assert np.shares_memory(batch.dense(np.array([0, 1]), 2), memory)
    assert not batch.dense(np.array([0, 1]), 2).flags.writeable
    # A null has no values, so the rows around it are contiguous, but that is not detected.
    assert batch.dense(np.array([1, 3]), 2).tolist() == [[3, 4], [5, 6]]


def test_a_null_row_over_numbers_is_null():
    # Arrow allows a null to cover numbers in the buffer.
    offsets = pa.array([0, 2, 4, 6], pa.int32())
    array = pa.ListArray.from_arrays(
        offsets, pa.array([1.0, 2, 3, 4, 5, 6]), mask=pa.array([False, True, False])
    )
    batch = vector_batch((array,))
    assert batch.dims.tolist() == [2, -1, 2]
    assert batch.dense(np.array([0, 2]), 2).tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_a_null_element_is_a_nan(kind):
    batch = vector_batch(array_column([[1.0, None], [2.0, 3.0]], kind))
    assert batch.dims.tolist() == [2, 2]
    assert invalid_rows(batch.dense(np.array([0, 1]), 2)).tolist() == [True, False]


def test_no_rows():
    for arrays in (array_column([]), vector_columns([])):
        batch = vector_batch(arrays)
        assert len(batch) == 0
        assert batch.dense(np.zeros(0, np.int64), 3).shape == (0, 3)


def test_invalid_rows():
    matrix = np.array([[0.0, 1.0], [np.nan, 0.0], [0.0, -np.inf], [1e308, 1e308]])
    assert invalid_rows(matrix).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("vector", "dim", "what"),
    [
        (None, 2, "contains a null."),
        ([1.0], 2, "contains a vector of dimension 1 instead of 2."),
        ((3, {0: 1.0}), 2, "contains a vector of dimension 3 instead of 2."),
        ([], None, "contains a vector of dimension 0."),
        ([], 2, "contains a vector of dimension 0 instead of 2."),
        ([1.0, np.nan], 2, "contains a NaN (or a null element)."),
        ((2, {1: np.nan}), 2, "contains a NaN (or a null element)."),
        ([np.inf, 1.0], None, "contains an infinity."),
        ([np.inf, np.nan], None, "contains an infinity."),
    ],
)
def test_errors_of_invalid_rows(vector, dim, what):
    # The other rows are invalid in other ways; only the given row counts.
    batch = vector_batch(vector_columns([[1.0, np.inf, 3.0], vector, [np.nan]]))
    said = describe_invalid("featuresCol", "my features", batch, 1, dim)
    assert said.startswith(f"featuresCol 'my features' {what}")
    assert said.endswith(
        "Set handleInvalid to 'skip' to drop such rows, or to 'keep' to return such queries with "
        "null outputs."
    )


@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (T.DateType(), T.IntegerType()),
        (T.TimestampType(), T.LongType()),
        (T.TimestampNTZType(), T.LongType()),
        (T.DecimalType(20, 2), T.DecimalType(20, 2)),
        (T.StringType(), T.StringType()),
        (T.BinaryType(), T.BinaryType()),
        (T.BooleanType(), T.BooleanType()),
        (T.ByteType(), T.ByteType()),
    ],
)
def test_the_types_of_ids_and_their_arrow_types(kind, wire):
    assert check_id_type("idCol", T.StructField("id", kind)) == kind
    assert wire_type(kind) == wire
    assert changes_on_wire(kind) == (kind != wire)


@pytest.mark.parametrize(
    "kind", [T.ArrayType(T.LongType()), T.MapType(T.LongType(), T.LongType()), T.StructType([])]
)
def test_an_id_is_atomic(kind):
    with pytest.raises(TypeError, match=r"idCol 'my id' must be of an atomic type .* actually"):
        check_id_type("idCol", T.StructField("my id", kind))


@pytest.mark.parametrize(
    ("name", "quoted"), [("a", "`a`"), ("a.b c", "`a.b c`"), ("a`b", "`a``b`"), ("", "``")]
)
def test_names_are_quoted(name, quoted):
    assert columns.quoted(name) == quoted


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({}, None),
        ({"num_attrs": 2}, None),
        ({"attrs": {"numeric": [{"idx": 0, "name": "a"}]}, "num_attrs": 1}, ["a"]),
        ({"attrs": {"numeric": [{"idx": 0, "name": "a"}]}, "num_attrs": 2}, None),
        ({"attrs": {"numeric": [{"idx": 0}]}, "num_attrs": 1}, None),
        (
            {
                "attrs": {
                    "nominal": [{"idx": 1, "name": "b"}],
                    "numeric": [{"idx": 2, "name": "c"}, {"idx": 0, "name": "a"}],
                },
                "num_attrs": 3,
            },
            ["a", "b", "c"],
        ),
    ],
)
def test_the_names_of_features(attributes, names):
    assert _attribute_names(attributes) == names


@given(given_vectors=st.lists(vectors(), max_size=12))
def test_sparse_rows_hold_the_nonzero_values(given_vectors):
    batch = vector_batch(vector_columns(given_vectors))
    for dim in set(batch.dims.tolist()) - {-1, 0}:
        rows = np.flatnonzero(batch.dims == dim)
        stored = batch.sparse_rows(rows, dim)
        assert stored.dense().tolist() == [dense(given_vectors[row]) for row in rows]
        assert (stored.data != 0).all()
        assert (stored.indices.dtype, stored.indptr.dtype) == (np.int32, np.int64)


WELL_FORMED = [([2.5], [4, 3]), ([], [4]), ([1.0, 2.0], [4, 0, 3]), ([1.0, 2.0], []), (None, [])]
MALFORMED = {
    "negative": ([1.0, 2.0], [4, -1, 2]),
    "above the size": ([1.0], [4, 4]),
    "far above the size": ([1.0, 2.0], [4, 0, 2**31 - 1]),
    "repeated": ([1.0, 2.0], [4, 2, 2]),
    "descending": ([1.0, 2.0, 3.0], [4, 0, 2, 1]),
    "too many values": ([1.0, 2.0, 3.0], [4, 0, 2]),
    "too few values": ([1.0], [4, 0, 2]),
    "no values": ([], [4, 0]),
    "null values": (None, [4, 0]),
    "null values, no indices": (None, [4]),
    "negative size": ([], [-4]),
    "null index": ([1.0, 2.0], [4, None, 2]),
    "null last index": ([1.0, 2.0], [4, 0, None]),
    "null size": ([1.0, 2.0], [None, 0, 1]),
    "null indices": ([1.0, 2.0, 3.0, 4.0], None),
}


def layouts(rows):
    """The columns of vectors, given their values and their layouts."""
    values = pa.array([values for values, _ in rows], pa.list_(pa.float64()))
    return values, pa.array([layout for _, layout in rows], pa.list_(pa.int32()))


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
def test_malformed_vectors_are_found(bad):
    for place in range(len(WELL_FORMED) + 1):
        rows = [*WELL_FORMED[:place], bad, *WELL_FORMED[place:]]
        assert vector_batch(layouts(rows)).malformed().tolist() == [place]
        arrays = layouts([bad, *rows, bad])
        sliced = tuple(each.slice(1, len(rows)) for each in arrays)
        assert vector_batch(sliced).malformed().tolist() == [place]
    assert vector_batch(layouts(WELL_FORMED)).malformed().tolist() == []


@given(st.data())
def test_a_vector_is_malformed_if_mllib_refuses_it(data):
    rows = []
    for _ in range(data.draw(st.integers(0, 6))):
        size = data.draw(st.integers(-1, 4))
        indices = data.draw(st.lists(st.integers(-1, 4), max_size=4))
        values = [1.0] * max(0, len(indices) + data.draw(st.sampled_from([0, 0, 0, 1, -1])))
        rows.append((values, [size, *indices]))
    expected = []
    for number, (values, (size, *indices)) in enumerate(rows):
        ascending = all(a < b for a, b in itertools.pairwise(indices))
        inside = size >= 0 and all(0 <= each < size for each in indices)
        if not (ascending and inside and len(values) == len(indices)):
            expected.append(number)
    assert vector_batch(layouts(rows)).malformed().tolist() == expected


def test_invalid_rows_of_sparse_and_dense_vectors_are_the_same():
    matrix = np.array([[0, 1], [np.nan, 0], [0, 0], [0, np.inf], [-np.inf, np.nan], [2, 3.0]])
    expected = [False, True, False, True, True, False]
    stored = SparseRows.from_dense(matrix)
    assert invalid_rows(matrix).tolist() == invalid_rows(stored).tolist() == expected
    assert invalid_rows(stored[2:5]).tolist() == expected[2:5]
