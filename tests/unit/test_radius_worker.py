"""Searches within a radius in a Python worker, without Spark: blocks, pieces of lists, pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.answers import DISTANCE, RANKS_BEFORE, FoundLists
from pyspark_knn.engine.search.batches import Request, Searchable, answer_batch
from pyspark_knn.engine.search.merge import merge_batches
from pyspark_knn.engine.search.pairs import PairRoutes, n_units, pairs_in_bundle
from pyspark_knn.engine.shared_search import Limits
from pyspark_knn.engine.ship.bundle import FileRef, write_bundle
from pyspark_knn.estimators.fit_multiple import _widest
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.similarity import distance_of
from tests.support import oracle
from tests.support.batches import array_column


def _data() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Items with many equal distances, and queries."""
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, 4, (70, 2)), rng.integers(0, 5, (20, 2))
    return drawn[0].astype(np.float64), drawn[1].astype(np.float64)


ITEMS, QUERIES = _data()
NAMES = [f"n{i:02d}" for i in range(70)]

LISTS = T.StructType(
    [
        T.StructField("near", T.ArrayType(T.StringType())),
        T.StructField("far", T.ArrayType(T.DoubleType())),
    ]
)
PIECES = T.StructType([*LISTS, T.StructField("before", T.IntegerType())])


def searchable() -> Searchable:
    index, _ = build_index(ITEMS, IndexSpec(resolve_metric("euclidean"), "brute"))
    return Searchable(Items(70, {"id": pa.array(NAMES)}), index)


def request_for(*, pieces: bool = False, **changes: Any) -> Request:
    names = ("id", DISTANCE, RANKS_BEFORE) if pieces else ("id", DISTANCE)
    settings: dict[str, Any] = {
        "k": None,
        "max_distance": 1.0,
        "handle_invalid": "keep",
        "features_col": "features",
        "inputs": ("values",),
        "answer": FoundLists(PIECES if pieces else LISTS, names),
    }
    return Request(**(settings | changes))


def rows_of(request: Request, queries: list[Any]) -> list[Any]:
    """For each query the list of its rows."""
    arrays = {"values": array_column(queries)[0]}
    return [row for out in answer_batch(searchable(), request, arrays) for row in out.to_pylist()]


def expected(radius: float = 1.0) -> list[list[tuple[str, float]]]:
    distances = oracle.direct_distances(QUERIES, ITEMS)
    return oracle.nearest(distances, NAMES, 70, max_distance=radius)


def joined(rows: list[Any]) -> list[tuple[str, float]]:
    return [pair for row in rows for pair in zip(row["near"], row["far"], strict=True)]


@pytest.mark.parametrize("block_numbers", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("invalid", [[], [0], [4, 5, 19, 20], list(range(20))])
@pytest.mark.parametrize("handle_invalid", ["skip", "keep"])
def test_blocks_are_divided_by_their_hits(block_numbers, invalid, handle_invalid):
    queries: list[Any] = QUERIES.tolist()
    wanted: list[Any] = [[each] for each in expected()]
    for at in invalid:
        queries.insert(at, None)
        wanted.insert(at, [] if handle_invalid == "skip" else [None])
    request = request_for(block_numbers=block_numbers, handle_invalid=handle_invalid)
    found = rows_of(request, queries)
    assert [[None if each is None else joined([each]) for each in rows] for rows in found] == wanted


def test_no_queries():
    assert rows_of(request_for(), []) == []


def test_every_list_is_short_enough_for_its_offsets():
    # Offsets of Arrow lists have 32 bits, so what is returned at a time must be bounded.
    arrays = {"values": array_column(QUERIES.tolist())[0]}
    most = max(map(len, expected()))
    for out in answer_batch(searchable(), request_for(block_numbers=50), arrays):
        assert len(out.flatten().field(0).flatten()) <= max(50, most)


def test_more_neighbors_than_fit_in_a_row():
    longest = max(map(len, expected()))
    assert rows_of(request_for(row_neighbors=longest), QUERIES.tolist())
    message = (
        f"a query has {longest} neighbors within maxDistance .* more than the {longest - 1} that "
        "fit in one row. Use KNNModel.kneighborsJoin"
    )
    with pytest.raises(ValueError, match=message):
        rows_of(request_for(row_neighbors=longest - 1), QUERIES.tolist())


@pytest.mark.parametrize("size", [1, 3, 4, 1000])
def test_pieces_of_lists(size):
    found = rows_of(request_for(pieces=True, row_neighbors=size), [*QUERIES.tolist(), None])
    assert found.pop() == [None]
    assert [joined(rows) for rows in found] == expected()
    for rows in found:
        lengths = [len(row["near"]) for row in rows]
        assert [row["before"] for row in rows] == [size * i for i in range(len(rows))]
        assert all(length == size for length in lengths[:-1])
        assert len(rows) == 1 or 0 < lengths[-1] <= size


@pytest.mark.parametrize("row_neighbors", [3, 1000])
def test_merged_lists_of_shards(row_neighbors):
    # Those of one shard after those of the other.
    near, far = ["b", "d", "a", "b", "c"], [0.5, 2.0, 0.5, 1.0, 1.5]
    batch = (
        pa.array([2, 2]),
        pa.array([2, 2]),
        pa.array([1, 1]),
        pa.array([far, []], pa.list_(pa.float64())),
        pa.array([near, []], pa.list_(pa.string())),
    )
    wanted = [("a", 0.5), ("b", 0.5), ("b", 1.0), ("c", 1.5), ("d", 2.0)]
    request = request_for(pieces=True, row_neighbors=row_neighbors)
    (out,) = merge_batches(request, [DISTANCE, "id"], iter([batch]))
    found = out.to_pylist()
    assert [joined(rows) for rows in found] == [wanted, []]
    assert [len(rows) for rows in found] == [2 if row_neighbors == 3 else 1, 1]
    if row_neighbors == 3:
        with pytest.raises(ValueError, match="kneighborsJoin"):
            list(merge_batches(request_for(row_neighbors=3), [DISTANCE, "id"], iter([batch])))


# --- pairs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> FileRef:
    path: Path = tmp_path_factory.mktemp("bundle") / "bundle"
    with path.open("wb") as file:
        digest = write_bundle(searchable(), file)
    return FileRef(digest, str(path))


def all_pairs(items: NDArray[np.float64], radius: float) -> list[tuple[str, str, float]]:
    distances = oracle.direct_distances(items, items).tolist()
    return [
        (NAMES[i], NAMES[j], distances[i][j])
        for i in range(len(items))
        for j in range(i + 1, len(items))
        if distances[i][j] <= radius
    ]


@pytest.mark.parametrize("block_items", [1, 2, 10, 23, 35, 70, 1000])
@pytest.mark.parametrize("most", [1, 40, 1 << 20])
def test_every_pair_of_a_bundle_once(ref, block_items, most):
    units = pa.RecordBatch.from_pydict({"id": pa.array(np.arange(n_units(70, block_items)))})
    batches = pairs_in_bundle(ref, 1.0, iter([units]), block_items, most)
    found = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert sorted(found) == all_pairs(ITEMS, 1.0)


@given(st.integers(1, 40))
def test_every_two_shards_are_compared_once(count):
    shards = tuple(range(3, 3 + 2 * count, 2))
    routes = PairRoutes(shards, 1.0, None, np.dtype(np.float64))
    compared = Counter()
    for own, shard in enumerate(shards):
        targets = routes.targets(shard).tolist()
        assert targets[0] == own
        compared.update(frozenset((own, other)) for other in targets)
    assert set(compared.values()) == {1}
    assert len(compared) == count * (count + 1) // 2
    # None is searched by many more queries than the others.
    loads = Counter(other for shard in shards for other in routes.targets(shard).tolist())
    assert max(loads.values()) - min(loads.values()) <= 1


def test_the_widest_search_of_a_grid():
    first = SimpleNamespace(numFeatures=3)
    estimators = [
        KNNEstimator(metric="cosine", minSimilarity=0.75),
        KNNEstimator(metric="cosine", k=9, maxDistance=0.125),
        # Refused when it is fitted, and ignored here.
        KNNEstimator(metric="cosine", k=None),
    ]
    k, farthest = _widest(first, estimators)
    assert (k, farthest) == (9, distance_of(0.75, "cosine", 3))
    estimators.append(KNNEstimator(metric="cosine", k=None, maxDistance=0.5))
    assert _widest(first, estimators) == (None, 0.5)
    estimators.append(KNNEstimator(metric="cosine", k=2))
    assert _widest(first, estimators) == (None, None)


def test_a_search_for_all_contains_the_others():
    everything = Limits(None, 2.0)
    assert Limits(5, 2.0).within(everything)
    assert Limits(None, 1.0).within(everything)
    assert not Limits(None, 2.5).within(everything)
    assert not Limits(5, None).within(everything)
    assert not everything.within(Limits(100, 2.0))
