"""Each item searched among the others in a Python worker, without Spark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T

from pyspark_knn.engine.rows.items import NUMBER, Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.engine.search.answers import DISTANCE, FoundLists
from pyspark_knn.engine.search.batches import ITSELF, Request, answer_batch
from pyspark_knn.engine.search.indexing import index_items
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.search.self_search import SelfSearch, found_schema, self_search_in_bundle
from pyspark_knn.engine.ship.bundle import FileRef, write_bundle
from pyspark_knn.engine.ship.shard_rows import Shard, first_numbers
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support import oracle
from tests.support.batches import array_column

N = 50
ITEMS = np.random.default_rng(3).integers(0, 3, (N, 2)).astype(np.float64)
"""Points of a grid, most of which occur several times."""

IDS = np.arange(N) // 2
"""In ascending order, each twice."""

KINDS = np.arange(N) % 3


def dense(spec: IndexSpec) -> Searchable:
    return index_items(Items(N, {"id": pa.array(IDS)}), ITEMS, None, spec)[0]


def sparse(spec: IndexSpec) -> Searchable:
    return index_items(Items(N, {"id": pa.array(IDS)}), SparseRows.from_dense(ITEMS), None, spec)[0]


def without_ids(spec: IndexSpec) -> Searchable:
    return index_items(Items(N, {}), ITEMS, None, spec)[0]


def keyed(spec: IndexSpec) -> Searchable:
    items = Items(N, {"id": pa.array(IDS), "key0": pa.array(KINDS)})
    groups = Groups.of(items, ["key0"])
    return index_items(items, ITEMS[groups.positions], groups, spec)[0]


def expected(k: int, limit: float, *, by_key: bool = False) -> list[list[tuple[int, float]]]:
    """For each position those of its neighbors, with distances."""
    distances = oracle.direct_distances(ITEMS, ITEMS)
    if by_key:
        distances[KINDS[:, None] != KINDS] = np.inf
    itself = [[position] for position in range(N)]
    near = oracle.nearest(distances, range(N), k, max_distance=limit, excluded=itself)
    return [[(position, far) for position, far in one if np.isfinite(far)] for one in near]


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (dense, "brute"),
        (dense, "kd_tree"),
        (sparse, "brute"),
        (without_ids, "brute"),
        (keyed, "brute"),
    ],
)
@pytest.mark.parametrize("block_numbers", [1, 30, 1 << 20])
def test_each_item_among_the_others(
    make: Callable[[IndexSpec], Searchable], algorithm: str, block_numbers: int, tmp_path: Path
) -> None:
    with (tmp_path / "bundle").open("wb") as file:
        made = make(IndexSpec(resolve_metric("euclidean"), algorithm))
        ref = FileRef(write_bundle(made, file), str(tmp_path / "bundle"))
    ids = np.arange(N) if make is without_ids else IDS
    batches = [
        pa.RecordBatch.from_pydict({"id": pa.array(np.arange(a, b))})
        for a, b in [(0, 7), (7, 7), (7, N)]
    ]
    for k, limit in [(1, None), (5, None), (5, 1.0), (N - 1, None), (N + 9, None)]:
        wanted = SelfSearch(k, limit)
        found = self_search_in_bundle(ref, wanted, iter(batches), block_numbers)
        rows = [row for batch in found for row in batch.to_pylist()]
        assert [row[NUMBER] for row in rows] == list(range(N))
        assert [row["id"] for row in rows] == ids.tolist()
        near = [list(zip(row["numbers"], row["distances"], strict=True)) for row in rows]
        assert near == expected(k, np.inf if limit is None else limit, by_key=make is keyed)
        assert all(row["neighbors"] == ids[row["numbers"]].tolist() for row in rows)


@given(st.integers(1, N - 1), st.integers(1, 9))
def test_two_shards_leave_out_each_item_once(cut: int, k: int) -> None:
    fields = found_schema(T.LongType()).fields[2:]
    names = (NUMBER, "id", DISTANCE)
    request = Request(
        k=k,
        max_distance=None,
        handle_invalid="error",
        features_col="features",
        inputs=("values", ITSELF),
        answer=FoundLists(T.StructType(fields), names),
    )
    # The copies of the items that are sent to a shard come in any order.
    order = np.random.default_rng(cut).permutation(N)
    arrays = {"values": array_column(ITEMS[order].tolist())[0], ITSELF: pa.array(order)}
    found: list[list[tuple[float, int]]] = [[] for _ in range(N)]
    for first, last in [(0, cut), (cut, N)]:
        part = Items(last - first, {"id": pa.array(IDS[first:last])})
        made = index_items(part, ITEMS[first:last], None, IndexSpec(resolve_metric("euclidean")))
        answers = answer_batch(made[0].numbered(first), request, arrays)
        rows = [row for lists in answers for (row,) in lists.to_pylist()]
        for number, row in zip(order.tolist(), rows, strict=True):
            found[number] += zip(row["distances"], row["numbers"], strict=True)
    nearest = [[(number, far) for far, number in sorted(each)[:k]] for each in found]
    assert nearest == expected(k, np.inf)


def test_the_first_number_of_each_shard() -> None:
    filled = [
        Shard(number, rows, 0, 1, 1, "", "brute", "", None, None, False)
        for number, rows in [(0, 3), (2, 1), (5, 4)]
    ]
    assert first_numbers(filled) == {0: 0, 2: 3, 5: 4}
