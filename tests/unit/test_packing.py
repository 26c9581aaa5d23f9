"""Packing batches of rows into chunks: the same rows, in chunks of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.engine.fit.chunks import CONTENT_WRAP, unpack
from pyspark_knn.engine.fit.packing import PackRequest, pack
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support.batches import Sparse, array_column, vector_columns

REQUEST = PackRequest(
    features_col="features",
    columns=("id",),
    id_col="id",
    dim=None,
    handle_invalid="skip",
    dtype="auto",
    chunk_bytes=1 << 20,
)
NAMES = ["values", "layout", "id"]


def batch(vectors: Sequence[list[float] | Sparse | None], ids: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([*vector_columns(vectors), ids], names=NAMES)


def packed(
    request: PackRequest, batches: list[pa.RecordBatch]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks, and the row that closes the partition."""
    *chunks, last = (row for out in pack(request, iter(batches)) for row in out.to_pylist())
    assert last["chunk"] == -1
    assert last["rows"] == 0
    assert [chunk["chunk"] for chunk in chunks] == list(range(len(chunks)))
    assert all(
        chunk["size"] == sum(len(cell) for cell in chunk.values() if isinstance(cell, bytes))
        for chunk in chunks
    )
    return chunks, last


def dense(chunk: dict[str, Any], **options: int) -> np.ndarray:
    """All vectors of a chunk."""
    slices = list(unpack(chunk, chunk["dim"], **options))
    starts = np.cumsum([0, *(len(matrix) for _, matrix in slices)]).tolist()
    assert [start for start, _ in slices] == starts[:-1]
    return np.concatenate([matrix for _, matrix in slices])


def unpacked(chunks: list[dict[str, Any]]) -> dict[Any, list[float]]:
    """Id -> vector, of all chunks."""
    found = {}
    for chunk in chunks:
        matrix = dense(chunk)
        (ids,) = pa.ipc.open_stream(chunk["columns"]).read_all().columns
        assert len(matrix) == len(ids) == chunk["rows"]
        found |= zip(ids.to_pylist(), matrix.tolist(), strict=True)
    return found


NUMBERS = st.sampled_from([0.0, 1.5, -2.0, 0.1, 1e300, np.nan, np.inf])


@st.composite
def vectors(draw: st.DrawFn) -> list[float] | Sparse | None:
    dim = draw(st.integers(0, 3)) if draw(st.booleans()) else 40
    kind = draw(st.sampled_from(["dense", "sparse", "null"]))
    if kind == "null":
        return None
    if kind == "dense":
        return draw(st.lists(NUMBERS, min_size=min(dim, 3), max_size=min(dim, 3)))
    places = draw(st.sets(st.integers(0, dim - 1), max_size=3)) if dim else set()
    return dim, {place: draw(NUMBERS) for place in sorted(places)}


@given(rows=st.lists(vectors(), max_size=20), data=st.data())
def test_valid_rows_are_packed_and_the_others_counted(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    request = replace(REQUEST, chunk_bytes=data.draw(st.sampled_from([1, 50, 1 << 20])))
    parts = [
        batch(rows[:cut], pa.array(range(cut), pa.int64())),
        batch(rows[cut:], pa.array(range(cut, len(rows)), pa.int64())),
    ]
    expected = {}
    for i, row in enumerate(rows):
        plain = [row[1].get(j, 0.0) for j in range(row[0])] if isinstance(row, tuple) else row
        if plain and np.isfinite(plain).all():
            expected[i] = plain
    chunks, last = packed(request, parts)
    assert unpacked(chunks) == expected
    assert last["skipped"] == len(rows) - len(expected)
    assert last["problem"] is None


def test_no_batches_and_empty_batches():
    for batches in ([], [batch([], pa.array([], pa.int64()))]):
        chunks, last = packed(REQUEST, batches)
        assert chunks == []
        assert (last["skipped"], last["problem"], last["size"]) == (0, None, 0)


def test_rows_keep_their_order_within_a_dimension():
    rows = [[float(i), 1.0] if i % 3 else [float(i)] for i in range(50)]
    chunks, _ = packed(replace(REQUEST, chunk_bytes=100), [batch(rows, pa.array(range(50)))])
    for dim in (1, 2):
        values = [v for chunk in chunks if chunk["dim"] == dim for v in dense(chunk)[:, 0]]
        assert values == sorted(values)


def test_vectors_are_float32_where_that_is_exact():
    def narrow(rows: list[Any], **changes: object) -> list[bool]:
        request = replace(REQUEST, chunk_bytes=1, **changes)
        chunks, _ = packed(request, [batch(rows, pa.array(range(len(rows))))])
        for chunk, row in zip(chunks, rows, strict=True):
            assert len(chunk["values"]) == len(row) * (4 if chunk["dtype"] == "float32" else 8)
        return [chunk["dtype"] == "float32" for chunk in chunks]

    assert narrow([[0.5], [0.1], [2.0**24], [2.0**24 + 1], [1e300], [1e-300], [-0.0]]) == [
        *(True, False, True, False, False, False, True)
    ]
    assert narrow([[0.1]], dtype="float32") == [True]


def test_float32_arrays_stay_float32():
    arrays = array_column([[0.1, 0.2], [0.3, 0.4]], pa.float32())
    rows = pa.RecordBatch.from_arrays(list(arrays), names=["values"])
    request = replace(REQUEST, columns=(), id_col=None)
    (chunk,), _ = packed(request, [rows])
    assert chunk["dtype"] == "float32"
    assert chunk["columns"] is None
    np.testing.assert_array_equal(dense(chunk), np.array([[0.1, 0.2], [0.3, 0.4]], np.float32))


def test_overflow_in_float32_is_reported():
    _, last = packed(replace(REQUEST, dtype="float32"), [batch([[1e39]], pa.array([1]))])
    assert last["problem"] == (
        "featuresCol 'features' contains values beyond the range of float32. Use dtype='auto'."
    )


def test_sparse_vectors_stay_sparse_if_that_is_smaller():
    full = (4, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0})
    wide = (1000, {3: 1.5, 999: -2.0})
    chunks, _ = packed(REQUEST, [batch([full, wide, (1000, {})], pa.array([1, 2, 3]))])
    by_dim = {chunk["dim"]: chunk for chunk in chunks}
    assert by_dim[4]["lengths"] is None
    assert np.frombuffer(by_dim[1000]["lengths"], np.int64).tolist() == [2, 0]
    assert by_dim[1000]["size"] < 1000
    found = unpacked(chunks)
    assert found[1] == [1.0, 2.0, 3.0, 4.0]
    assert (found[2][3], found[2][999], sum(map(bool, found[2]))) == (1.5, -2.0, 2)
    assert found[3] == [0.0] * 1000


@pytest.mark.parametrize(
    ("dim", "vector", "problem"),
    [
        (None, None, "contains a null"),
        (None, [], "contains a vector of dimension 0"),
        (2, [1.0], "contains a vector of dimension 1 instead of 2"),
        (None, [1.0, np.nan], "contains a NaN"),
        (None, (90, {4: np.inf}), "contains an infinity"),
    ],
)
def test_an_invalid_vector_is_reported_by_the_last_row(dim, vector, problem):
    rows = batch([[1.0, 2.0], vector], pa.array([1, 2]))
    request = replace(REQUEST, dim=dim, handle_invalid="error")
    _, last = packed(request, [rows, rows])
    assert f"featuresCol 'features' {problem}" in last["problem"]
    chunks, last = packed(replace(request, handle_invalid="skip"), [rows, rows])
    assert (last["skipped"], last["problem"]) == (2, None)
    assert unpacked(chunks) == {1: [1.0, 2.0]}


def test_all_input_is_read_after_a_problem():
    def batches() -> Iterator[pa.RecordBatch]:
        yield batch([None], pa.array([1]))
        yield batch([[1.0]], pa.array([2]))
        read.append(True)

    read: list[bool] = []
    list(pack(replace(REQUEST, handle_invalid="error"), batches()))
    assert read == [True]


@pytest.mark.parametrize(
    ("ids", "missing"), [([1, None], "null"), ([1.0, None], "null"), ([1.0, np.nan], "NaN")]
)
def test_a_missing_id_is_reported(ids, missing):
    """A missing id is a null or, with pandas, a NaN."""
    _, last = packed(REQUEST, [batch([[1.0], [2.0]], pa.array(ids))])
    assert last["problem"] == f"idCol 'id' contains a {missing}. Every item needs an id."


@pytest.mark.parametrize(
    "vector",
    [[1.0], [0.1] * 50, (1000, {1: 0.5, 2: 0.5}), (1000, {})],
    ids=["one", "fifty", "sparse", "empty"],
)
@pytest.mark.parametrize("width", [1, 400])
def test_chunks_are_bounded_for_every_kind_of_content(vector, width):
    """Also with long ids, and with sparse vectors of few values."""
    ids = pa.array([f"{i:0{width}d}" for i in range(2000)])
    rows = batch([vector] * 2000, ids)
    limit = 20_000
    chunks, _ = packed(replace(REQUEST, chunk_bytes=limit), [rows, rows])
    assert sum(chunk["rows"] for chunk in chunks) == 4000
    assert max(chunk["size"] for chunk in chunks) < 2.5 * limit
    # Chunks are not small either, because each is a row for Spark.
    assert sum(chunk["size"] for chunk in chunks) > len(chunks) * limit / 4


def test_sparse_chunks_are_made_dense_slice_by_slice():
    rows: list[Any] = [
        (1000, {i % 1000: float(i), 999: 1.0}) if i % 7 else (1000, {}) for i in range(90)
    ]
    (chunk,), _ = packed(REQUEST, [batch(rows, pa.array(range(90)))])
    assert max(matrix.nbytes for _, matrix in unpack(chunk, 1000, dense_bytes=10_000)) <= 10_000
    np.testing.assert_array_equal(dense(chunk, dense_bytes=10_000), dense(chunk))
    assert len(list(unpack(chunk, 1000, dense_bytes=1))) == 90


def test_dense_chunks_are_one_slice_without_a_copy():
    (chunk,), _ = packed(REQUEST, [batch([[0.1, 0.2]] * 9, pa.array(range(9)))])
    ((start, matrix),) = unpack(chunk, 2, dense_bytes=1)
    assert (start, matrix.shape, matrix.flags.owndata) == (0, (9, 2), False)


def sparse(chunk: dict[str, Any]) -> SparseRows:
    """All vectors of a chunk, which are yielded at once."""
    ((start, rows),) = unpack(chunk, chunk["dim"], "sparse", dense_bytes=1)
    assert (start, len(rows)) == (0, chunk["rows"])
    return rows


@pytest.mark.parametrize("requested", [False, True], ids=["auto", "sparse"])
def test_vectors_are_unpacked_in_either_form(requested):
    """Whether a chunk is packed dense or sparse depends on the rows beside a vector."""
    rows: list[Any] = [[0.0, 0.1, 0.0], (3, {2: 0.5}), [1.0] * 3, (40, {7: 1.5, 39: -2.0})]
    request = replace(REQUEST, sparse=requested)
    chunks, _ = packed(request, [batch(rows, pa.array(range(4)))])
    assert [chunk["stored"] for chunk in chunks] == [5 if requested else None, 2]
    for chunk in chunks:
        found = sparse(chunk)
        np.testing.assert_array_equal(found.dense(), dense(chunk))
        assert found.size == np.count_nonzero(dense(chunk))
        assert found.dtype == chunk["dtype"]


def test_zeros_of_sparse_vectors_are_dropped():
    """So that the number of stored values is known exactly."""
    rows: list[Any] = [(90, {1: 0.0, 4: 2.0}), (90, {3: -0.0}), (90, {})]
    (chunk,), _ = packed(REQUEST, [batch(rows, pa.array(range(3)))])
    assert chunk["stored"] == 1
    assert np.frombuffer(chunk["lengths"], np.int64).tolist() == [1, 0, 0]
    assert np.frombuffer(chunk["indices"], np.int32).tolist() == [4]


def test_values_that_are_rounded_to_zero_are_dropped():
    rows: list[Any] = [(90, {1: 1e-60, 4: 2.0}), (90, {3: -1e-50})]
    request = replace(REQUEST, dtype="float32")
    (chunk,), _ = packed(request, [batch(rows, pa.array(range(2)))])
    assert (chunk["stored"], chunk["dtype"]) == (1, "float32")
    assert np.frombuffer(chunk["lengths"], np.int64).tolist() == [1, 0]


def test_zeros_do_not_change_whether_a_vector_is_valid():
    rows: list[Any] = [(90, {1: 0.0, 4: np.nan}), (90, {1: 0.0, 4: 1.0})]
    chunks, last = packed(replace(REQUEST, sparse=True), [batch(rows, pa.array([7, 8]))])
    assert last["skipped"] == 1
    assert [key for key in unpacked(chunks)] == [8]


def test_the_largest_dimension_is_packed():
    size = 2**31 - 1
    (chunk,), _ = packed(REQUEST, [batch([(size, {0: 1.0, size - 1: 2.0})], pa.array([1]))])
    rows = sparse(chunk)
    assert rows.shape == (1, size)
    assert rows.indices.tolist() == [0, size - 1]


IDS = {
    "long": pa.array([5, 1, 2, 9, 5, 7], pa.int64()),
    "byte": pa.array([5, 1, 2, 9, 5, 7], pa.int8()),
    "string": pa.array(["b", "", "aé", "x", "b", "yy"]),
    "boolean": pa.array([True, False, True, True, True, False]),
    "decimal": pa.array([5, 1, 2, 9, 5, 7]).cast(pa.decimal128(38, 2)),
}


@pytest.mark.parametrize("kind", IDS)
def test_the_content_of_a_partition_depends_on_its_rows_alone(kind):
    """Not on their order, on where chunks begin, or on how the rows beside them are stored."""
    rows: list[Any] = [
        *([0.5, 0.1, 0.0], (40, {3: 1.5}), (40, {}), [0.0] * 40, (3, {1: 0.1}), [1.0, 2.0, 3.0])
    ]

    def content(order: Sequence[int], size: int, ids: pa.Array = IDS[kind], **changes: bool) -> int:
        some = batch([rows[i] for i in order], ids.take(pa.array(order)))
        chunks, _ = packed(replace(REQUEST, chunk_bytes=size, **changes), [some])
        return sum(chunk["content"] for chunk in chunks) % CONTENT_WRAP

    found = content(range(6), 1)
    assert found == content([3, 1, 5, 0, 4, 2], 1) == content([5, 4, 3, 2, 1, 0], 1 << 20)
    assert found == content(range(6), 1 << 20, sparse=True)
    assert found != content(range(6), 1, ids=pa.concat_arrays([IDS[kind][1:], IDS[kind][1:2]]))
    rows[5] = [1.0, 3.0, 2.0]
    assert found != content(range(6), 1)


def test_the_digest_of_a_chunk_covers_all_its_content():
    def digests(vectors: list[Any], ids: list[int]) -> list[int]:
        chunks, _ = packed(REQUEST, [batch(vectors, pa.array(ids))])
        return [chunk["digest"] for chunk in chunks]

    first = digests([[1.0], [2.0]], [1, 2])
    assert first == digests([[1.0], [2.0]], [1, 2])
    assert first != digests([[2.0], [1.0]], [2, 1])
    assert first != digests([[1.0], [2.0]], [2, 1])
    assert digests([(9, {1: 1.0})], [1]) != digests([(9, {2: 1.0})], [1])
