"""The search of batches of queries in a Python worker, without Spark."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.vectors import VectorBatch
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.search.batches import Request, search_batches
from pyspark_knn.engine.search.export import read_items
from pyspark_knn.engine.search.searchable import Searchable, time_search
from pyspark_knn.engine.ship.bundle import FileRef, write_bundle
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support import oracle
from tests.support.batches import Sparse, array_column, vector_columns

Vector = list[float] | Sparse | None

POINTS = np.array([[0.0, 0], [1, 0], [1, 0], [4, 3], [0, 2]], np.float32)
IDS = ["a", "b", "b", "c", "d"]
RESULT = T.StructType(
    [
        T.StructField("neighbors", T.ArrayType(T.StringType())),
        T.StructField("distances", T.ArrayType(T.DoubleType())),
    ]
)


class Spy(NeighborIndex):
    """An index that records its arguments."""

    algorithm = "brute"
    asked: ClassVar[list[tuple[int, int]]] = []
    threads: ClassVar[set[int]] = set()

    def __init__(self, index: NeighborIndex) -> None:
        self._index = index

    @classmethod
    def build(cls, matrix: Any, spec: IndexSpec) -> NeighborIndex:
        return cls(PairwiseSearch.build(matrix, spec))

    @property
    def matrix(self) -> Any:
        return self._index.matrix

    @property
    def metric(self) -> Any:
        return self._index.metric

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        self.asked.append((len(queries), k))
        self.threads.update(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        assert queries.flags.c_contiguous
        assert np.isfinite(queries).all()
        return self._index.kneighbors(queries, k, **options)


def shipped(folder: Path, content: Searchable) -> FileRef:
    path = folder / "bundle"
    with path.open("wb") as file:
        digest = write_bundle(content, file)
    return FileRef(digest, str(path))


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> FileRef:
    index = Spy.build(POINTS, IndexSpec(resolve_metric("euclidean")))
    return shipped(
        tmp_path_factory.mktemp("bundle"), Searchable(Items(5, {"id": pa.array(IDS)}), index)
    )


def request_for(columns: int = 2, **changes: Any) -> Request:
    settings = {
        "k": 2,
        "max_distance": None,
        "handle_invalid": "error",
        "features_col": "my features",
        "inputs": ("values", "layout", "excluded")[:columns],
        "answer": FoundLists(RESULT, ("id", "distance")),
    }
    return Request(**{**settings, **changes})


def answers(
    ref: FileRef, request: Request, batches: list[tuple[pa.Array, ...]]
) -> list[list[list[tuple[str, float]] | None]]:
    """For each query a list of no or one answer, which is a list of pairs or None."""
    rows = [row for out in search_batches(ref, request, iter(batches)) for row in out.to_pylist()]
    return [
        [
            None if each is None else list(zip(each["neighbors"], each["distances"], strict=True))
            for each in row
        ]
        for row in rows
    ]


def expected(
    queries: list[list[float]], k: int, excluded: list[list[str]] | None = None, **options: Any
) -> list[list[tuple[str, float]]]:
    distances = oracle.direct_distances(np.array(queries).reshape(-1, 2), POINTS)
    return oracle.nearest(distances, IDS, k, excluded=excluded, **options)


def is_valid(vector: Vector) -> bool:
    plain = dense(vector)
    return plain is not None and len(plain) == 2 and bool(np.isfinite(plain).all())


def dense(vector: Vector) -> list[float] | None:
    if not isinstance(vector, tuple):
        return vector
    return [vector[1].get(place, 0.0) for place in range(vector[0])]


QUERIES: st.SearchStrategy[Vector] = st.sampled_from(
    [
        *([0.0, 0.0], [1.0, 0.5], [4.0, 3.0], (2, {}), (2, {1: 2.0}), (2, {0: 1.0, 1: 0.1})),
        *(None, [], [1.0], [1.0, 2.0, 3.0], (3, {0: 1.0}), [np.nan, 0.0], (2, {1: np.inf})),
    ]
)


@pytest.mark.parametrize("handle_invalid", ["skip", "keep"])
@given(data=st.data())
def test_valid_and_invalid_queries_in_batches_of_all_sizes(ref, handle_invalid, data):
    batches = data.draw(st.lists(st.lists(QUERIES, max_size=6), max_size=4))
    k = data.draw(st.integers(1, 7))
    max_distance = data.draw(st.sampled_from([None, 0.0, 1.0, 2.5]))
    excluded = data.draw(st.lists(st.lists(st.sampled_from("abcx")), min_size=24, max_size=24))
    request = request_for(
        3,
        k=k,
        handle_invalid=handle_invalid,
        max_distance=max_distance,
        block_bytes=data.draw(st.sampled_from([1, 48, 1 << 20])),
    )
    arrays, start = [], 0
    for batch in batches:
        part = excluded[start : start + len(batch)]
        arrays.append((*vector_columns(batch), pa.array(part, pa.list_(pa.string()))))
        start += len(batch)
    found = answers(ref, request, arrays)
    every = [vector for batch in batches for vector in batch]
    valid = [i for i, vector in enumerate(every) if is_valid(vector)]
    bound = np.inf if max_distance is None else max_distance
    banned = [excluded[i] for i in valid]
    right = expected([dense(every[i]) for i in valid], k, banned, max_distance=bound)
    wanted = [[] if handle_invalid == "skip" else [None] for _ in every]
    for i, answer in zip(valid, right, strict=True):
        wanted[i] = [answer]
    assert found == wanted


@pytest.mark.parametrize("handle_invalid", ["error", "skip", "keep"])
def test_queries_that_are_all_valid_or_none(ref, handle_invalid):
    request = request_for(handle_invalid=handle_invalid)
    good = answers(ref, request, [vector_columns([[1.0, 0.0], [4.0, 4.0]])])
    assert good == [[row] for row in expected([[1.0, 0.0], [4.0, 4.0]], 2)]
    assert answers(ref, request, [vector_columns([])]) == []
    assert answers(ref, request, []) == []
    if handle_invalid != "error":
        bad = answers(ref, request, [vector_columns([None, [1.0]])])
        assert bad == ([[], []] if handle_invalid == "skip" else [[None], [None]])


@pytest.mark.parametrize(
    ("vector", "what"),
    [
        (None, "a null"),
        ([1.0], "a vector of dimension 1 instead of 2"),
        ((3, {}), "a vector of dimension 3 instead of 2"),
        ([0.0, np.nan], "a NaN"),
        ((2, {0: -np.inf}), "an infinity"),
    ],
)
def test_an_invalid_query_is_an_error_where_it_is_reached(ref, vector, what):
    batches = [vector_columns([[0.0, 0.0]]), vector_columns([[0.0, 0.0], vector])]
    found = search_batches(ref, request_for(), iter(batches))
    assert len(next(found)) == 1
    with pytest.raises(ValueError, match=f"featuresCol 'my features' contains {what}"):
        next(found)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_arrays_of_numbers(ref, kind):
    found = answers(ref, request_for(1), [array_column([[1.0, 0.5], [0.0, 0.0]], kind)])
    assert found == [[row] for row in expected([[1.0, 0.5], [0.0, 0.0]], 2)]


def test_k_above_the_number_of_items_returns_all_items(ref):
    (row,) = answers(ref, request_for(k=10**12), [vector_columns([[0.0, 0.0]])])
    assert [name for name, _ in row[0]] == ["a", "b", "b", "d", "c"]


def test_excluded_items_do_not_count_towards_k(ref):
    queries = [[0.0, 0.0]] * 4
    banned = [[], ["b"], ["a", "b", "b", "nobody"], ["a", "b", "c", "d"]]
    batch = (*vector_columns(queries), pa.array(banned))
    found = answers(ref, request_for(3), [batch])
    assert [[name for name, _ in row[0]] for row in found] == [
        *(["a", "b"], ["a", "d"], ["d", "c"], [])
    ]


def test_exclusion_by_position_without_ids(tmp_path):
    index = PairwiseSearch.build(POINTS, IndexSpec(resolve_metric("euclidean")))
    anonymous = shipped(tmp_path, Searchable(Items(5, {}), index))
    batch = (*vector_columns([[1.0, 0.0]]), pa.array([[1, 99, -1]]))
    (row,) = answers(anonymous, request_for(3), [batch])
    assert row == [[(2, 0.0), (0, 1.0)]]


@pytest.mark.parametrize(
    ("block_bytes", "block_numbers", "k", "blocks"),
    [
        (1 << 20, 1 << 20, 2, [10]),
        (16 * 4, 1 << 20, 2, [4, 4, 2]),
        (1 << 20, 9, 3, [3, 3, 3, 1]),
        (1 << 20, 9, 100, [1] * 10),
        (1, 1, 1, [1] * 10),
    ],
)
def test_blocks_are_bounded_by_queries_and_by_answers(ref, block_bytes, block_numbers, k, blocks):
    queries = np.random.default_rng(0).normal(size=(10, 2)).tolist()
    Spy.asked.clear()
    request = request_for(k=k, block_bytes=block_bytes, block_numbers=block_numbers)
    found = answers(ref, request, [vector_columns(queries)])
    assert found == [[row] for row in expected(queries, k)]
    assert Spy.asked == [(size, min(k, 5)) for size in blocks]


def test_one_thread_unless_spark_assigns_more(ref):
    Spy.threads.clear()
    before = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    answers(ref, request_for(), [vector_columns([[0.0, 0.0]])])
    assert Spy.threads == {1}
    assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == before


@pytest.mark.parametrize("column", ["neighbors", "distances"])
def test_one_of_the_two_columns_alone(ref, column):
    kept = T.StructType([field for field in RESULT if field.name == column])
    lists = FoundLists(kept, ("id" if column == "neighbors" else "distance",))
    found = list(
        search_batches(ref, request_for(answer=lists), iter([vector_columns([[0.0, 0.0]])]))
    )
    assert found[0].to_pylist() == [
        [{"neighbors": ["a", "b"]} if column == "neighbors" else {"distances": [0.0, 1.0]}]
    ]


def test_the_items_are_read_by_position(tmp_path):
    index = PairwiseSearch.build(POINTS, IndexSpec(resolve_metric("euclidean")))
    columns = {"id": IDS, "label": np.arange(5) * 1.5, "density": np.ones(5)}
    items = Items(5, {name: pa.array(each) for name, each in columns.items()})
    full = shipped(tmp_path, Searchable(items, index))
    names = ["position", "id", "features", "label", "density"]

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_arrays([pa.array([0, 1, 2])], names=["id"])
        yield pa.RecordBatch.from_arrays([pa.array([], pa.int64())], names=["id"])
        yield pa.RecordBatch.from_arrays([pa.array([3, 4])], names=["id"])

    found = list(read_items(full, names, batches(), batch_bytes=8 * 2 * 2))
    assert [out.num_rows for out in found] == [2, 1, 2]
    rows = [row for out in found for row in out.to_pylist()]
    assert rows == [
        {
            "position": i,
            "id": IDS[i],
            "features": POINTS[i].tolist(),
            "label": i * 1.5,
            "density": 1.0,
        }
        for i in range(5)
    ]


class Slow:
    """Stands for an index: a search takes a time for each query, on a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.now = 0.0
        self.asked: list[int] = []
        self._seconds = seconds

    def search(self, queries: Any, k: int) -> None:
        self.asked.append(len(queries))
        self.now += self._seconds * len(queries)


@pytest.mark.parametrize(
    ("seconds", "asked"),
    [
        (0.0, [1, 2, 4, 8, 16, 32, 64, 100]),
        (0.02, [1, 2, 4, 8]),
        (0.1, [1, 2]),
        (5.0, [1]),
    ],
)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_slow_search_is_timed_with_few_queries(
    seconds: float, asked: list[int], form: str
) -> None:
    index: Any = Slow(seconds)
    queries: Any = np.ones((100, 3))
    queries = SparseRows.from_dense(queries) if form == "sparse" else queries
    timing = time_search(Searchable(Items(7, {}), index), queries, 5, lambda: float(index.now))
    assert index.asked == asked
    found = timing.to_pylist()[0]
    assert found == {
        "seconds": pytest.approx(seconds * asked[-1]),
        "queries": asked[-1],
        "items": 7,
    }


def test_a_search_without_valid_queries_is_timed() -> None:
    index: Any = Slow(1.0)
    timing = time_search(Searchable(Items(7, {}), index), np.ones((0, 3)), 5)
    assert timing.to_pylist()[0]["queries"] == 0


def sparse_request(**changes: Any) -> Request:
    return request_for(**{"k": 3, **changes})


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileRef, FileRef]:
    """The same items with dense and with sparse storage."""
    rng = np.random.default_rng(0)
    items = np.where(rng.random((40, 9)) < 0.3, rng.integers(1, 4, (40, 9)), 0).astype(float)
    metric = resolve_metric("euclidean")
    columns = {"id": pa.array([f"{i:02}" for i in range(40)])}
    dense = build_index(items, IndexSpec(metric))[0]
    sparse = build_index(SparseRows.from_dense(items), IndexSpec(metric))[0]
    assert (dense.storage, sparse.storage) == ("dense", "sparse")
    return tuple(
        shipped(tmp_path_factory.mktemp(index.storage), Searchable(Items(40, columns), index))
        for index in (dense, sparse)
    )


MIXED: list[Vector] = [
    (9, {0: 1.0, 4: 2.0}),
    [0.0, 1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 1.0],
    (9, {}),
    (9, {2: 0.0, 8: 1.0}),
    None,
    (8, {1: 1.0}),
    (9, {1: float("nan")}),
    [0.0] * 8 + [float("inf")],
    (9, {8: -2.0}),
]


@pytest.mark.parametrize("how", ["skip", "keep"])
@pytest.mark.parametrize("block_bytes", [1, 300, 32 << 20])
def test_queries_of_sparse_items_have_the_answers_of_dense_ones(
    stored: tuple[FileRef, FileRef], how: str, block_bytes: int
) -> None:
    excluded = pa.array([[f"{i:02}"] for i in range(9)], pa.list_(pa.string()))
    batch = (*vector_columns(MIXED), excluded)
    plain = (*array_column([row for row in MIXED if isinstance(row, list)]),)
    for columns, arrays in ((2, batch[:2]), (3, batch), (1, plain)):
        request = sparse_request(
            columns=columns, handle_invalid=how, block_bytes=block_bytes, max_distance=5.0
        )
        dense, sparse = (answers(ref, request, [arrays]) for ref in stored)
        assert dense == sparse
        assert any(row for row in sparse)


@pytest.mark.parametrize("storage", [0, 1])
@pytest.mark.parametrize("bad", MIXED[4:8])
def test_an_invalid_query_of_sparse_items_is_an_error(
    stored: tuple[FileRef, FileRef], storage: int, bad: Vector
) -> None:
    batch = vector_columns([MIXED[0], bad])
    with pytest.raises(ValueError, match="featuresCol 'my features' contains a"):
        answers(stored[storage], sparse_request(), [batch])


@pytest.mark.parametrize("storage", [0, 1])
@pytest.mark.parametrize("how", ["error", "skip", "keep"])
def test_a_damaged_query_is_always_an_error(
    stored: tuple[FileRef, FileRef], storage: int, how: str
) -> None:
    batch = vector_columns([MIXED[0], (9, {-1: 1.0})])
    with pytest.raises(ValueError, match="'my features' contains a damaged sparse vector"):
        answers(stored[storage], sparse_request(handle_invalid=how), [batch])


def test_blocks_of_sparse_queries_are_bounded_by_values_and_by_rows(
    stored: tuple[FileRef, FileRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[tuple[int, int]] = []
    sparse_rows = VectorBatch.sparse_rows

    def watched(batch: VectorBatch, rows: Any, dim: int) -> SparseRows:
        found = sparse_rows(batch, rows, dim)
        blocks.append((len(found), found.size))
        return found

    monkeypatch.setattr(VectorBatch, "sparse_rows", watched)
    many = vector_columns([(9, {i % 9: 1.0}) for i in range(20_000)])
    expected = answers(stored[0], sparse_request(), [many])
    assert answers(stored[1], sparse_request(), [many]) == expected
    assert max(rows for rows, _ in blocks) <= 8192
    blocks.clear()
    small = sparse_request(block_bytes=128 * 50)
    assert answers(stored[1], small, [many]) == expected
    assert max(size for _, size in blocks) <= 50


def test_sparse_queries_of_any_dimension_take_no_dense_vectors(tmp_path: Path) -> None:
    dim = 2**31 - 1
    items = SparseRows.from_entries(np.arange(4), np.arange(4), np.ones(4), (4, dim))
    index = build_index(items, IndexSpec(resolve_metric("cosine")))[0]
    content = Searchable(Items(4, {"id": pa.array(list("abcd"))}), index)
    ref = shipped(tmp_path, content)
    batch = vector_columns([(dim, {i % 4: 2.0, dim - 1 - i: 1.0}) for i in range(300)])
    tracemalloc.start()
    try:
        found = answers(ref, sparse_request(k=1), [batch])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row[0][0][0] for row in found if row[0]] == list("abcd") * 75
    assert peak < 16 << 20
