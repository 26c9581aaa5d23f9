"""Batches of queries that are searched together, without Spark."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.search.batches import Request, search_batches
from pyspark_knn.engine.search.gathering import gathered, queries_at_once
from pyspark_knn.engine.search.indexing import index_items
from pyspark_knn.engine.ship.bundle import FileRef, write_bundle
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from tests.support.batches import array_column

LISTS = {"neighbors": T.ArrayType(T.LongType()), "distances": T.ArrayType(T.DoubleType())}
ANSWER = FoundLists(
    T.StructType([T.StructField(name, kind) for name, kind in LISTS.items()]), ("id", "distance")
)


@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 12))
def test_no_row_is_lost_and_none_is_too_late(lengths: list[int], most: int) -> None:
    numbers = itertools.count()
    batches = [
        tuple([pa.array([next(numbers) for _ in range(n)], pa.int64())] * 2) for n in lengths
    ]
    joined = [
        tuple(column.to_pylist() for column in each) for each in gathered(iter(batches), most)
    ]
    assert all(one == other for one, other in joined)
    assert [each for one, _ in joined for each in one] == list(range(sum(lengths)))
    sizes = [len(one) for one, _ in joined]
    assert all(size <= max(most, *lengths) for size in sizes)
    # Two that follow one another would not have fitted in one.
    assert all(one + other > most for one, other in itertools.pairwise(sizes) if other)


def test_a_batch_that_is_large_enough_does_not_wait_for_the_next_one() -> None:
    batches = iter([(pa.array([1, 2, 3]),)])
    found = gathered(itertools.chain(batches, _failing()), 3)
    assert next(found)[0].to_pylist() == [1, 2, 3]


def test_batches_of_many_bytes_are_not_joined() -> None:
    long, short = pa.array(["x" * 50] * 10), pa.array(["x"] * 10)
    batches = [short, short, long, short, long[:2], long[:2], long[:2], short]
    found = gathered(iter([(each,) for each in batches]), 1000, most_bytes=400)
    assert [len(column) for (column,) in found] == [20, 10, 16, 10]


def _failing() -> Any:
    raise RuntimeError("a batch too many was read")
    yield


def keyed(n_items: int, n_groups: int, n_features: int, metric: str = "euclidean") -> Any:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((n_items, n_features), dtype=np.float32)
    keys = pa.array(rng.permutation(np.arange(n_items) % n_groups))
    items = Items(n_items, {"id": pa.array(np.arange(n_items)), "key": keys})
    groups = Groups.of(items, ["key"])
    spec = IndexSpec(resolve_metric(metric))
    return index_items(items, matrix[groups.positions], groups, spec)[0]


def test_many_queries_at_once_for_small_groups_only() -> None:
    assert queries_at_once(keyed(3000, 10, 8)) == 640
    assert queries_at_once(keyed(20_000, 2000, 2)) == 40_000
    assert queries_at_once(keyed(3000, 10, 8, metric="cityblock")) == 1
    assert queries_at_once(keyed(40_000, 2, 256)) < 1000
    items = Items(10, {"id": pa.array(np.arange(10))})
    matrix = np.zeros((10, 2), np.float32)
    alone, _ = index_items(items, matrix, None, IndexSpec(resolve_metric("euclidean")))
    assert queries_at_once(alone) == 1


def request_for(**changes: Any) -> Request:
    return Request(2, None, "skip", "features", ("values", "key"), ANSWER, keys=("key",), **changes)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_the_answers_are_those_of_each_batch(tmp_path: Any, kind: pa.DataType) -> None:
    path = tmp_path / "bundle"
    with path.open("wb") as file:
        ref = FileRef(write_bundle(keyed(300, 7, 3), file), str(path))
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 3)).astype(np.float32).tolist()
    vectors[17], vectors[31] = None, [np.nan] * 3
    keys = rng.integers(0, 9, 50)

    def batches(step: int) -> Any:
        for start in range(0, 50, step):
            part = slice(start, start + step)
            # A slice, whose buffers contain more than its rows.
            yield array_column(vectors, kind)[0][part], pa.array(keys)[part]

    parts = {step: list(search_batches(ref, request_for(), batches(step))) for step in (1, 8, 50)}
    assert [len(each) for each in parts.values()] == [1, 1, 1]
    one, *others = (pa.concat_arrays(each).to_pylist() for each in parts.values())
    assert all(each == one for each in others)
    assert [row for row in one if not row] == [[], []]
    few = list(search_batches(ref, request_for(block_bytes=8 * 3 * 20), batches(8)))
    assert [len(each) for each in few] == [16, 16, 18]
    assert pa.concat_arrays(few).to_pylist() == one


def test_many_queries_at_once_for_lists_that_are_multiplied() -> None:
    pytest.importorskip("faiss")
    items = Items(4000, {"id": pa.array(np.arange(4000))})
    matrix = np.random.default_rng(0).standard_normal((4000, 4), dtype=np.float32)

    def at_once(metric: str = "euclidean", **changes: Any) -> int:
        spec = IndexSpec(resolve_metric(metric), "ivf", **changes)
        return queries_at_once(index_items(items, matrix, None, spec)[0])

    # 128 queries of each of 100 lists, of which a query searches 8.
    assert at_once() == 1600
    assert at_once("cosine", search_params={"nprobe": 100}) == 128
    assert at_once(search_params={"nprobe": 1}) == 12_800
    assert at_once(index_params={"encoding": "sq8"}) == 1


def test_lists_answer_unequal_batches_as_they_answer_each_query(tmp_path: Any) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((2000, 6), dtype=np.float32)
    # Ties, too: FAISS decides them.
    matrix[:600] = np.round(matrix[:600])
    items = Items(2000, {"id": pa.array(np.arange(2000))})
    spec = IndexSpec(resolve_metric("euclidean"), "ivf", index_params={"nlist": 10})
    with (tmp_path / "bundle").open("wb") as file:
        searchable = index_items(items, matrix, None, spec)[0]
        ref = FileRef(write_bundle(searchable, file), str(tmp_path / "bundle"))
    request = Request(5, None, "skip", "features", ("values",), ANSWER)
    vectors = rng.standard_normal((700, 6)).astype(np.float32)
    vectors[::3] = np.round(vectors[::3])
    column = array_column(vectors.tolist(), pa.float32())[0]

    def answers(sizes: list[int]) -> list[Any]:
        ends = np.cumsum([0, *sizes])
        parts = [(column[one:other],) for one, other in itertools.pairwise(ends)]
        return list(search_batches(ref, request, iter(parts)))

    # 160 queries wait for no others: that is 128 queries of each list, of which 8 of 10 each.
    found = answers([1, 7, 150, 3, 332, 60, 147])
    assert [len(each) for each in found] == [158, 3, 332, 60, 147]
    alone = pa.concat_arrays(
        [each for row in range(700) for each in search_one(ref, request, column, row)]
    )
    assert pa.concat_arrays(found).to_pylist() == alone.to_pylist()


def search_one(ref: FileRef, request: Request, column: pa.Array, row: int) -> Any:
    return search_batches(ref, request, iter([(column[row : row + 1],)]))
