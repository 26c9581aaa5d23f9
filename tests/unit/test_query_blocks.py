"""Blocks of queries: packed, answered by each shard, and merged, without Spark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search import query_blocks
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.search.batches import EXCLUDED, Request, answer_batch
from pyspark_knn.engine.search.known_distances import KnownDistances, KnownInShard
from pyspark_knn.engine.search.query_blocks import answer_blocks, merge_blocks, pack_blocks
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.spark.arrow import cells_of
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.choices import build_index
from pyspark_knn.index.distances import resolve_metric

INPUTS = ("values", EXCLUDED)
LISTS = struct_type({"distance": T.ArrayType(T.DoubleType()), "id": T.ArrayType(T.StringType())})
SHARDS = 3


def request_for(**changes: Any) -> Request:
    answer = FoundLists(
        struct_type({"n": T.ArrayType(T.StringType()), "d": T.ArrayType(T.DoubleType())}),
        ("id", "distance"),
    )
    asked = Request(
        k=4,
        max_distance=1.0,
        handle_invalid="keep",
        features_col="features",
        inputs=INPUTS,
        answer=answer,
    )
    return replace(asked, **changes)


def drawn(seed: int = 5) -> tuple[np.ndarray, list[str], tuple[pa.Array, pa.Array]]:
    """Items on a lattice, so with ties, and queries, some of them null, too short or NaN."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 3, (60, 2)) / 2.0
    ids = [f"item {i:02d}" for i in rng.permutation(60)]
    rows: list[Any] = (rng.integers(0, 3, (23, 2)) / 2.0).tolist()
    rows[4], rows[9], rows[22] = None, [1.0], [float("nan"), 0.0]
    excluded = [[] if i % 3 else [ids[i], ids[i + 1]] for i in range(23)]
    inputs = pa.array(rows, pa.list_(pa.float64())), pa.array(excluded, pa.list_(pa.string()))
    return matrix, ids, inputs


def searchable(matrix: np.ndarray, ids: list[str]) -> Searchable:
    order = np.argsort(np.array(ids))
    items = Items(len(ids), {"id": pa.array([ids[i] for i in order])})
    return Searchable(items, build_index(matrix[order], IndexSpec(resolve_metric("euclidean")))[0])


def packed(inputs: tuple[pa.Array, ...], most: int, batch: int) -> list[dict[str, Any]]:
    """The rows that the queries are packed in, in batches of so many queries."""
    count = len(inputs[0])
    numbers = pa.array(100 + np.arange(count))
    batches = (
        tuple(each.slice(start, batch) for each in (numbers, *inputs))
        for start in range(0, count, batch)
    )
    rows = [row for array in pack_blocks(INPUTS, most, batches) for row in array.to_pylist()]
    assert [len(row) for row in rows] == [1] * count
    return [row for (row,) in rows]


def found_rows(
    request: Request,
    parts: list[Searchable],
    rows: list[dict[str, Any]],
    known: KnownDistances | None = None,
) -> list[tuple[int, int, int, bytes | None]]:
    """The rows before the merge, in its order: block, place, mark, found."""
    keep = "error" if request.handle_invalid == "error" else "keep"
    asked = replace(request, answer=FoundLists(LISTS, ("distance", "id")), handle_invalid=keep)
    leaders = [row for row in rows if row["data"] is not None]
    blocks = cells_of(pa.array([row["data"] for row in leaders], pa.binary()))
    merged = [(row["block"], row["place"], row["mark"], None) for row in rows]
    names = [row["block"] for row in leaders]
    for shard, part in enumerate(parts):
        so_far = None if known is None else KnownInShard(known, shard, names)
        answers = list(answer_blocks(part, asked, blocks, so_far))
        found = zip(leaders, answers, strict=True)
        merged += [(row["block"], -1, row["mark"], each) for row, each in found]
    return sorted(merged, key=lambda row: row[:2])


def merged_rows(request: Request, rows: list[Any], batch: int = 7) -> list[Any]:
    """The answers to the queries: a list for each of at most one struct."""

    def batches() -> Iterator[tuple[pa.Array, ...]]:
        kinds = pa.int64(), pa.int32(), pa.int64(), pa.binary()
        for start in range(0, len(rows), batch):
            columns = zip(*rows[start : start + batch], strict=True)
            yield tuple(pa.array(each, kind) for each, kind in zip(columns, kinds, strict=True))

    answers = list(merge_blocks(request, SHARDS, ("distance", "id"), batches()))
    lists = [each for array in answers for each in array.to_pylist()]
    assert len(lists) == len(rows)
    assert all(not each for each, row in zip(lists, rows, strict=True) if row[1] < 0)
    return [each for each, row in zip(lists, rows, strict=True) if row[1] >= 0]


def divided(matrix: np.ndarray, ids: list[str]) -> list[Searchable]:
    return [searchable(matrix[i::SHARDS], ids[i::SHARDS]) for i in range(SHARDS)]


@pytest.mark.parametrize("handle_invalid", ["keep", "skip"])
@pytest.mark.parametrize(("most", "batch"), [(256, 100), (5, 100), (5, 7), (1, 4)])
def test_blocks_get_the_answers_of_all_items(handle_invalid: str, most: int, batch: int) -> None:
    matrix, ids, inputs = drawn()
    request = request_for(handle_invalid=handle_invalid)
    rows = found_rows(request, divided(matrix, ids), packed(inputs, most, batch))
    expected = answer_batch(searchable(matrix, ids), request, request.named(inputs))
    answers = [each for array in expected for each in array.to_pylist()]
    for size in (1, 7, 1000):
        assert merged_rows(request, rows, size) == answers
    assert sum(each == [None] or not each for each in answers) == 3


def count_of(rows: list[Any]) -> int:
    """How many neighbors the shards returned."""
    streams = [pa.ipc.open_stream(row[3]).read_all() for row in rows if row[3] is not None]
    return sum(len(part["found"].combine_chunks().field("id").flatten()) for part in streams)


@pytest.mark.parametrize("max_distance", [None, 0.5])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_known_distances_spare_neighbors_and_change_no_answer(
    k: int, max_distance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_blocks, "_SEARCHED_AT_ONCE", 7)
    matrix, ids, inputs = drawn()
    request = request_for(k=k, max_distance=max_distance)
    rows = packed(inputs, 5, 100)
    plain = found_rows(request, divided(matrix, ids), rows)
    sparing = found_rows(request, divided(matrix, ids), rows, KnownDistances(k))
    answers = merged_rows(request, plain)
    assert merged_rows(request, sparing) == answers
    assert (count_of(sparing) < count_of(plain)) == (k < 30)
    # What was found before a retry is not counted again.
    known = KnownDistances(k)
    for _ in range(3):
        found_rows(request, divided(matrix, ids)[:1], rows, known)
    assert merged_rows(request, found_rows(request, divided(matrix, ids), rows, known)) == answers


def test_blocks_are_named_and_counted() -> None:
    *_, inputs = drawn()
    rows = packed(inputs, 4, 10)
    sizes = [4, 4, 2, 4, 4, 2, 3]
    firsts = np.append(0, np.cumsum(sizes))[:-1]
    assert [row["block"] for row in rows] == (100 + np.repeat(firsts, sizes)).tolist()
    assert [row["place"] for row in rows] == [i for size in sizes for i in range(size)]
    assert [row["turn"] for row in rows] == np.repeat(np.arange(7), sizes).tolist()
    assert [i for i, row in enumerate(rows) if row["data"] is not None] == firsts.tolist()
    assert len({row["mark"] for row in rows}) == 7


def test_blocks_of_long_vectors_are_small() -> None:
    values = pa.array([[0.5] * 4096] * 100, pa.list_(pa.float64()))
    rows = packed((values, pa.nulls(100, pa.list_(pa.string()))), 256, 100)
    blocks = [row["data"] for row in rows if row["data"] is not None]
    assert len(blocks) == 4
    assert max(map(len, blocks)) < 1.1 * (1 << 20)


def test_an_invalid_query_fails_with_error() -> None:
    matrix, ids, inputs = drawn()
    request = request_for(handle_invalid="error")
    with pytest.raises(ValueError, match="features"):
        found_rows(request, divided(matrix, ids), packed(inputs, 5, 100))


@pytest.mark.parametrize("accident", ["missing", "twice", "other", "late", "lost", "shorter"])
def test_other_queries_after_a_retry_are_detected(accident: str) -> None:
    matrix, ids, inputs = drawn()
    request = request_for()
    rows = found_rows(request, divided(matrix, ids), packed(inputs, 5, 100))
    candidates = [i for i, row in enumerate(rows) if row[1] < 0]
    one = candidates[4]
    if accident == "missing":
        del rows[one]
    elif accident == "twice":
        rows.insert(one, rows[one])
    elif accident == "other":
        rows[one] = (*rows[one][:2], rows[one][2] + 1, rows[one][3])
    elif accident == "late":
        rows[one + 5], rows[one + 6] = rows[one + 6], rows[one + 5]
    elif accident == "lost":
        del rows[one + 5]
    else:
        del rows[-1]
    for size in (1, 7, 1000):
        with pytest.raises(RuntimeError, match="different query rows"):
            merged_rows(request, rows, size)
