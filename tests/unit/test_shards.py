"""Shards without Spark: however items are split, the merged answers are those of one index."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import Row
from pyspark.sql import types as T

from pyspark_knn.engine.fit import packing
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.features import Features, valid_sample
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.vectors import VectorBatch
from pyspark_knn.engine.search import routing
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.search.batches import Request, answer_batch
from pyspark_knn.engine.search.in_shards import search_shards
from pyspark_knn.engine.search.merge import merge_batches
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.shards import build as shard_build
from pyspark_knn.engine.shards import sizing, updating
from pyspark_knn.engine.ship import shard_rows
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS
from pyspark_knn.engine.spark.arrow import one_row, stream_of
from pyspark_knn.engine.spark.heap import heap_of
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import Cells
from pyspark_knn.index.distances import resolve_metric
from tests.support.batches import vector_columns

DOUBLES = T.ArrayType(T.DoubleType())


def packed(
    matrix: np.ndarray, ids: list[Any] | None, *, partitions: int = 2
) -> tuple[list[pa.RecordBatch], np.ndarray]:
    """Items packed as the executors would, and the table of their chunks."""
    request = packing.PackRequest(
        features_col="features",
        columns=() if ids is None else ("id",),
        id_col=None if ids is None else "id",
        dim=None,
        handle_invalid="error",
        dtype="auto",
        chunk_bytes=200,
    )
    batches: list[pa.RecordBatch] = []
    for partition, rows in enumerate(np.array_split(np.arange(len(matrix)), partitions)):
        cells = {"values": pa.array(matrix[rows].tolist(), pa.list_(pa.float64()))}
        if ids is not None:
            cells["id"] = pa.array([ids[row] for row in rows], pa.array(ids).type)
        batch = pa.RecordBatch.from_pydict(cells)
        for chunk in packing.pack(request, iter([batch])):
            # There is no Spark task here that knows the partition.
            column = pa.array([partition], pa.int32())
            cells = [column, *chunk.columns[1:]]
            batches.append(pa.RecordBatch.from_arrays(cells, schema=chunk.schema))
    rows_of = [row for batch in batches for row in batch.to_pylist() if row["chunk"] >= 0]
    known = [(r["partition"], r["chunk"], 0, r["rows"], r["content"]) for r in rows_of]
    table = np.array(known, np.int64)
    table[:, 2] = np.cumsum(table[:, 3]) - table[:, 3]
    return batches, table


def build(
    matrix: np.ndarray,
    ids: list[Any] | None,
    shards: int,
    *,
    seed: int = 0,
    partitions: int = 2,
    storage: str = "dense",
) -> tuple[shard_build.ShardRequest, dict[int, list[pa.RecordBatch]]]:
    """The rows of each shard, with its pieces in any order."""
    batches, table = packed(matrix, ids, partitions=partitions)
    request = shard_build.ShardRequest(
        dim=matrix.shape[1],
        dtype=np.dtype(np.float64),
        num_shards=shards,
        order=("id",),
        has_ids=ids is not None,
        chunks=table,
        spec=IndexSpec(resolve_metric("euclidean")),
        storage=storage,
    )
    pieces = list(shard_build.split_chunks(request, iter(batches)))
    order = np.random.default_rng(seed).permutation(len(pieces))
    pieces = sorted((pieces[i] for i in order), key=lambda piece: piece["shard"][0].as_py())
    rows: dict[int, list[pa.RecordBatch]] = {}
    for row in shard_build.build_shards(request, iter(pieces)):
        rows.setdefault(row["shard"][0].as_py(), []).append(row)
    return request, rows


def sharded(
    request: Request, rows: dict[int, list[pa.RecordBatch]], inputs: list[pa.Array], kind: Any
) -> list[Any]:
    """The answers of shards that one task searches."""
    fields = [T.StructField("distance", DOUBLES), T.StructField("id", T.ArrayType(kind))]
    answer = FoundLists(T.StructType(fields), ("distance", "id"))
    keep = "error" if request.handle_invalid == "error" else "keep"
    wanted = replace(request, answer=answer, handle_invalid=keep)
    digests = {number: parts[0]["digest"][0].as_py() for number, parts in rows.items()}
    count = len(inputs[0])
    found = list(search_shards(wanted, digests, _stream(rows, inputs)))
    lists = [each for array in found for each in array.to_pylist() if each]
    pairs: list[dict[str, list[Any]]] = [{"distance": [], "id": []} for _ in range(count)]
    answered = [0] * count
    for i, (one,) in enumerate(lists):
        if one is not None:
            answered[i % count] += 1
            for name, cell in one.items():
                pairs[i % count][name] += cell
    kinds = {"distance": pa.float64(), "id": pa.array([], found[0].type).type.value_type.field(1)}
    batch = (
        pa.array([len(rows)] * count, pa.int32()),
        pa.array(answered, pa.int32()),
        pa.array([1] * count, pa.int32()),
        pa.array([pair["distance"] for pair in pairs], pa.list_(kinds["distance"])),
        pa.array([pair["id"] for pair in pairs], kinds["id"].type),
    )
    merged = merge_batches(request, ["distance", "id"], iter([batch]))
    return [each for array in merged for each in array.to_pylist()]


def _stream(
    rows: dict[int, list[pa.RecordBatch]], inputs: list[pa.Array]
) -> Iterator[tuple[pa.Array, ...]]:
    """A shard, its queries, the next shard, and so on, in batches that start at any row."""
    names = SHARD_COLUMNS
    types = [rows[min(rows)][0].schema.field(name).type for name in names]
    tables = []
    for number, parts in rows.items():
        empty = [pa.nulls(len(parts), each.type) for each in inputs]
        cells = [pa.concat_arrays([part[name] for part in parts]) for name in names]
        tables.append(pa.table([*cells, *empty], names=[*names, *map(str, range(len(inputs)))]))
        shard = [pa.array([number] * len(inputs[0]), types[0])]
        blank = [pa.nulls(len(inputs[0]), kind) for kind in types[1:]]
        tables.append(pa.table([*shard, *blank, *inputs], names=tables[0].column_names))
    for batch in pa.concat_tables(tables).combine_chunks().to_batches(max_chunksize=7):
        yield tuple(batch.columns)


def whole(
    request: Request, matrix: np.ndarray, ids: list[Any] | None, inputs: list[pa.Array]
) -> list[Any]:
    """The answers of one index of all items."""
    order = np.arange(len(matrix)) if ids is None else np.argsort(np.array(ids), kind="stable")
    columns = {} if ids is None else {"id": pa.array([ids[i] for i in order])}
    items = Items(len(matrix), columns)
    index, _ = build_index(matrix[order], IndexSpec(resolve_metric("euclidean")))
    found = answer_batch(Searchable(items, index), request, request.named(tuple(inputs)))
    return [each for array in found for each in array.to_pylist()]


def request_for(kind: Any, **changes: Any) -> Request:
    fields = [T.StructField("n", T.ArrayType(kind)), T.StructField("d", DOUBLES)]
    asked = Request(
        k=3,
        max_distance=None,
        handle_invalid="keep",
        features_col="features",
        inputs=("values",),
        answer=FoundLists(T.StructType(fields), ("id", "distance")),
    )
    return replace(asked, **changes)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 30),
    dim=st.integers(1, 3),
    shards=st.integers(1, 7),
    k=st.integers(1, 40),
    limit=st.sampled_from([None, 0.0, 1.0, 2.5]),
    invalid=st.sampled_from(["skip", "keep"]),
    ids=st.sampled_from(["none", "distinct", "repeated", "strings"]),
    excluding=st.booleans(),
    storage=st.sampled_from(["dense", "sparse"]),
)
def test_shards_answer_as_one_index(
    seed: int,
    n_items: int,
    dim: int,
    shards: int,
    k: int,
    limit: float | None,
    invalid: str,
    ids: str,
    excluding: bool,
    storage: str,
) -> None:
    random = np.random.default_rng(seed)
    matrix = random.integers(-1, 2, (n_items, dim)).astype(np.float64)
    queries = random.integers(-1, 2, (9, dim)).astype(np.float64).tolist()
    queries[4], queries[5] = None, [np.nan] * dim
    names: list[Any] | None = {
        "none": None,
        "distinct": random.permutation(100)[:n_items].tolist(),
        "repeated": random.integers(0, 5, n_items).tolist(),
        "strings": [f"ß{i}" for i in random.integers(0, 9, n_items).tolist()],
    }[ids]
    inputs = [pa.array(queries, pa.list_(pa.float64()))]
    known = list(range(n_items)) if names is None else names
    if excluding:
        banned = [random.choice(known, 2).tolist() for _ in queries]
        inputs.append(pa.array(banned, pa.list_(pa.array(known).type)))
    kind = T.StringType() if ids == "strings" else T.LongType()
    given = ("values", "excluded")[: len(inputs)]
    request = request_for(kind, k=k, max_distance=limit, handle_invalid=invalid, inputs=given)
    _, rows = build(matrix, names, shards, seed=seed, storage=storage)
    assert sharded(request, rows, inputs, kind) == whole(request, matrix, names, inputs)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_a_shard_does_not_depend_on_the_order_of_its_pieces(storage: str) -> None:
    random = np.random.default_rng(1)
    matrix = random.integers(0, 3, (60, 2)).astype(np.float64)
    ids = random.integers(0, 20, 60).tolist()
    digests = []
    for seed in range(3):
        order = random.permutation(60)
        options: dict[str, Any] = {"seed": seed, "partitions": 1 + seed, "storage": storage}
        _, rows = build(matrix[order], [ids[i] for i in order], 4, **options)
        digests.append({number: parts[0]["digest"][0].as_py() for number, parts in rows.items()})
    assert digests[0] == digests[1] == digests[2]
    _, rows = build(matrix + 1e-12, ids, 4, storage=storage)
    assert all(parts[0]["digest"][0].as_py() != digests[0][n] for n, parts in rows.items())


def test_ids_are_compared_in_little_memory() -> None:
    """A count of distinct ids takes much more memory than small items do."""
    count = 100_000
    ids = pa.RecordBatch.from_pydict({"id": np.arange(count)})
    values = np.ones((count, 1), np.float32)
    cells = {"shard": 0, "dtype": "float32", "columns": stream_of([ids])}
    piece = one_row(shard_build.PIECE_SCHEMA, cells | {"values": pa.py_buffer(values)})
    request = shard_build.ShardRequest(
        dim=1,
        dtype=np.dtype(np.float32),
        num_shards=1,
        order=("id",),
        has_ids=True,
        chunks=np.zeros((0, 5), np.int64),
        spec=IndexSpec(resolve_metric("euclidean"), "brute"),
    )
    plain = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(plain)
    pa.set_memory_pool(counted)
    try:
        list(shard_build.build_shards(request, iter([piece])))
    finally:
        pa.set_memory_pool(plain)
    assert counted.max_memory() < 60 * count


def test_a_shard_with_changed_content_is_refused() -> None:
    _, rows = build(np.eye(3), [1, 2, 3], 1)
    (parts,) = rows.values()
    inputs = [pa.array([[0.0, 0.0, 0.0]])]
    search = search_shards(request_for(T.LongType()), {0: "another"}, _stream({0: parts}, inputs))
    with pytest.raises(RuntimeError, match="shard 0 was lost"):
        list(search)


def _columns_of(rows: dict[int, list[pa.RecordBatch]]) -> list[pa.RecordBatch]:
    return [part.select(list(SHARD_COLUMNS)) for parts in rows.values() for part in parts]


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["int", "str"])
def test_a_shard_without_some_items_is_that_of_the_others(storage: str, kind: str) -> None:
    matrix = np.random.default_rng(3).integers(0, 3, (60, 4)).astype(float)
    ids: list[Any] = [i // 2 if kind == "int" else f"n{i // 2}" for i in range(60)]
    request, rows = build(matrix, ids, 3, storage=storage)
    removed = [ids[4], ids[20], ids[21], ids[40]]
    kept = [i for i in range(60) if ids[i] not in removed]
    _, others = build(matrix[kept], [ids[i] for i in kept], 3, storage=storage)
    digests = {number: parts[0]["digest"][0].as_py() for number, parts in rows.items()}
    wanted = pa.array([*removed, removed[0]]).unique()
    found = pa.Table.from_batches(
        updating.find_ids(digests, wanted, iter(_columns_of(rows)))
    ).to_pylist()
    lost = {number: rows[number][0]["rows"][0].as_py() for number in rows}
    lost = {number: lost[number] - others[number][0]["rows"][0].as_py() for number in rows}
    assert {row["shard"]: row["rows"] for row in found} == {n: m for n, m in lost.items() if m}
    which = sorted(i for row in found for i in np.frombuffer(row["wanted"], np.int64).tolist())
    assert which == [0, 1, 2]
    removal = updating.RemovalRequest(wanted, request.spec)
    built = list(updating.remove_items(removal, digests, iter(_columns_of(rows))))
    names = ["shard", "part", "rows", "duplicates", "digest", "algorithm"]
    again = pa.Table.from_batches(built).select(names).to_pylist()
    assert again == [part.select(names).to_pylist()[0] for (part,) in others.values()]


def test_a_small_head_is_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_rows, "PART_BYTES", 1000)
    _, rows = build(np.random.default_rng(3).normal(size=(200, 30)), list(range(200)), 1)
    (parts,) = rows.values()
    head = parts[0]["head"][0].as_py()
    sizes = [len(part["bytes"][0].as_py()) for part in parts]
    assert sizes[0] == head > 1000
    assert set(sizes[1:-1]) == {1000}
    assert sum(sizes) == parts[0]["size"][0].as_py()
    shard = shard_rows.Shard(**parts[0].select(list(shard_rows.SHARD_FIELDS)).to_pylist()[0])
    assert shard_rows.head_parts([shard]) == 1
    digests = {shard.shard: shard.digest}
    for read in (parts[:1], parts):
        ids = pa.Table.from_batches(updating.read_ids(digests, iter(_columns_of({0: read}))))
        assert sorted(ids["id"].to_pylist()) == list(range(200))


def test_the_head_of_a_shard_is_read_without_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_rows, "PART_BYTES", 1000)
    monkeypatch.setattr(shard_rows, "HEAD_BYTES", 1000)
    _, rows = build(np.random.default_rng(3).normal(size=(200, 30)), list(range(200)), 2)
    digests = {number: parts[0]["digest"][0].as_py() for number, parts in rows.items()}
    shards = [parts[0].select(list(shard_rows.SHARD_FIELDS)) for parts in rows.values()]
    most = shard_rows.head_parts(shard_rows.Shard(**each.to_pylist()[0]) for each in shards)
    cut = {number: parts[:most] for number, parts in rows.items()}
    assert 1 < most < min(map(len, rows.values()))
    for parts in (cut, rows):
        ids = pa.Table.from_batches(updating.read_ids(digests, iter(_columns_of(parts))))
        assert sorted(ids["id"].to_pylist()) == list(range(200))


def test_the_number_of_shards_after_an_append() -> None:
    assert sizing.enough_shards(0) == 1
    assert sizing.enough_shards(256 << 20) == 1
    assert sizing.enough_shards((256 << 20) + 1) == 2
    gib, many = 1 << 30, 10**6
    assert sizing.grown_num_shards(4, (gib, many), (2 * gib, many), 2, "hash") == 8
    assert sizing.grown_num_shards(3, (gib, many), (2 * gib, many), 2, "hash") == 3
    assert sizing.grown_num_shards(3, (gib, many), (4 * gib, many), 2, "hash") == 4
    assert sizing.grown_num_shards(122, (gib, many), (gib, 2 * many), 2, "kmeans") == 244


@pytest.mark.parametrize("ids", [None, [7, 8, 9]], ids=["positions", "ids"])
@pytest.mark.parametrize("column", [3, 4], ids=["rows", "content"])
def test_chunks_with_changed_content_are_refused(ids: list[int] | None, column: int) -> None:
    batches, table = packed(np.eye(3), ids)
    request, _ = build(np.eye(3), ids, 1)
    table[0, column] += 1
    with pytest.raises(RuntimeError, match="the items DataFrame is not deterministic"):
        list(shard_build.split_chunks(replace(request, chunks=table), iter(batches)))


def test_rows_of_a_partition_may_change_their_order() -> None:
    """A shuffle reads them in another order after an executor was lost."""
    matrix, order = np.arange(60.0).reshape(20, 3), np.random.default_rng(0).permutation(20)
    ids = [f"{n:0{1 + n}d}" for n in range(20)]  # chunks of other lengths
    request, _ = build(matrix, ids, 2, partitions=1)
    batches, table = packed(matrix[order], [ids[i] for i in order], partitions=1)
    assert table[:, 3].tolist() != request.chunks[:, 3].tolist()
    pieces = list(shard_build.split_chunks(request, iter(batches)))
    assert sum(len(piece["values"][0].as_py()) for piece in pieces) == matrix.nbytes // 2


@pytest.mark.parametrize(
    ("sent", "answered", "rows"), [(2, 1, 1), (2, 3, 1), (2, 2, 0), (2, 2, 2), (None, 2, 0)]
)
def test_an_incomplete_query_is_refused(sent: int | None, answered: int, rows: int) -> None:
    counts = [pa.array([cell], pa.int32()) for cell in (sent, answered, rows)]
    lists = [pa.array([[1.0]]), pa.array([[7]])]
    with pytest.raises(RuntimeError, match="a retried task produced different query rows"):
        list(
            merge_batches(request_for(T.LongType()), ["distance", "id"], iter([(*counts, *lists)]))
        )


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["", "a", "ß", "a" * 99]),
        pa.array([b"\xff\x00", b"", b"ab", b"c"]),
        pa.array([0.5, -0.5, 1e300, 2.0]),
        pa.array([-1, 2, 3, 4], pa.int8()),
        pa.array([True, False, True, False]),
        pa.array([1, 2, 3, 4]).cast(pa.decimal128(38, 2)),
    ],
)
def test_equal_ids_of_any_type_share_a_shard(ids: pa.Array) -> None:
    once = shard_build.spread(pa.chunked_array([ids]))
    twice = shard_build.spread(pa.chunked_array([ids, ids]))
    assert twice.tolist() == [*once.tolist(), *once.tolist()]
    assert len(set(once.tolist())) == len(set(ids.to_pylist()))


def test_consecutive_ids_fill_shards_evenly() -> None:
    ids = pa.chunked_array([pa.array(np.arange(80_000) * 8)])
    assert np.bincount((shard_build.spread(ids) % 8).astype(np.int64)).min() > 9_500


def test_the_number_of_shards() -> None:
    mib, gib = 1 << 20, 1 << 30
    assert sizing.choose_num_shards(None, 900 * mib, 10**6, 2) == 4
    assert sizing.choose_num_shards(None, mib, 10**6, 2) == 2
    assert sizing.choose_num_shards(None, mib, 10**6, 320) == 8
    assert sizing.choose_num_shards(None, mib, 3, 320) == 3
    assert sizing.choose_num_replicas(8, 2) == 1
    assert sizing.choose_num_replicas(1, 2) == 2
    assert sizing.choose_num_replicas(3, 8) == 5
    assert sizing.choose_num_replicas(954, 320) == 1
    assert sizing.choose_num_shards(7, mib, 10**6, 2) == 7
    with pytest.raises(ValueError, match="numShards must be >= 3"):
        sizing.choose_num_shards(2, 3 * gib, 10**6, 2)


def test_shards_are_smaller_if_the_heap_is_small() -> None:
    """Two tasks that read shards of 256 MiB from disk failed in a heap of 1 GiB."""
    mib = 1 << 20
    assert sizing.shard_bytes_of(2048 * mib) == 256 * mib
    assert sizing.shard_bytes_of(512 * mib) == 64 * mib
    assert sizing.shard_bytes_of(0) == 32 * mib
    assert sizing.choose_num_shards(None, 1500 * mib, 10**6, 2, shard_bytes=64 * mib) == 24
    assert sizing.choose_num_shards(3, 1500 * mib, 10**6, 2, shard_bytes=64 * mib) == 3
    assert sizing.enough_shards(128 * mib, 64 * mib) == 2
    assert sizing.enough_tasks(1500 * mib, 2, 64 * mib) == 24
    many = 10**6
    grown = sizing.grown_num_shards(2, (128 * mib, many), (512 * mib, many), 2, "hash", 64 * mib)
    assert grown == 8


@pytest.mark.parametrize(
    ("given", "cores", "mib"),
    [
        ({"spark.master": "local[2]"}, 2, 512),
        ({"spark.master": "local", "spark.driver.memory": "3g"}, 1, 3072),
        ({"spark.master": "local[4]", "spark.driver.memory": "4096"}, 4, 1024),
        ({"spark.master": "local[4]", "spark.executor.memory": "8g"}, 4, 256),
        ({"spark.master": "yarn", "spark.driver.memory": "8g"}, 320, 1024),
        (
            {"spark.master": "yarn", "spark.executor.memory": "8g", "spark.executor.cores": "4"},
            320,
            2048,
        ),
        ({"spark.executor.cores": "4", "spark.task.cpus": "2"}, 320, 512),
        ({"spark.master": "local-cluster[2,1,3072]", "spark.driver.memory": "512m"}, 2, 1024),
    ],
)
def test_the_heap_of_a_task(given: dict[str, str], cores: int, mib: int) -> None:
    assert heap_of(given.get, cores) == mib << 20  # type: ignore[arg-type]


def test_wide_sparse_queries_are_routed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    dim = 1000
    vectors: list[Any] = [(dim, {i % dim: 1.0}) if i % 5 else None for i in range(50)]
    centers = np.eye(3, dim) * 2.0
    cells = Cells(np.arange(3), centers, np.full(3, 0.5), resolve_metric("euclidean"))
    arrays = vector_columns(vectors)
    searched, found = pa.array([0] * 50, pa.int32()), pa.array([[1.0, 2.0, 9.0]] * 50)

    def routes(**changes: Any) -> list[Any]:
        request = request_for(T.LongType(), inputs=("values", "layout"), **changes)
        nearest = routing.route_nearest(request, cells, 2, iter([arrays]))
        within = routing.route_within(request, cells, iter([(*arrays, searched, found)]))
        return [each for batch in (*nearest, *within) for each in batch.to_pylist()]

    whole = routes()
    assert len(whole) == 100
    sizes = []
    dense = VectorBatch.dense

    def watched(batch: VectorBatch, rows: Any, dim: int) -> Any:
        sizes.append(len(rows) * dim * 8)
        return dense(batch, rows, dim)

    monkeypatch.setattr(VectorBatch, "dense", watched)
    assert routes(block_bytes=7 * 8 * dim) == whole
    assert max(sizes) <= 7 * 8 * dim


def test_a_sample_of_wide_queries_is_bounded() -> None:
    row = Row(values=[1.0], layout=[1 << 18, 3])
    types = {"values": DOUBLES, "layout": T.ArrayType(T.IntegerType())}
    inputs = {name: columns.Input(None, kind) for name, kind in types.items()}
    features = Features(inputs, None, None)
    assert valid_sample([row] * 256, features, 1 << 18, "dense").vectors.nbytes <= 8 << 20
    assert len(valid_sample([row] * 256, features, 1 << 24, "dense").vectors) == 0
    stored = valid_sample([row] * 256, features, 1 << 18, "sparse")
    assert len(stored.vectors) == 256
    assert stored.mean_bytes < 32


@pytest.mark.skipif(sys.platform == "win32", reason="there is no module resource")
@pytest.mark.parametrize("ids", ["distinct", "repeated"])
def test_a_task_needs_twice_its_shard_and_128_mib(ids: str, tmp_path: Path) -> None:
    """The bound of docs/scaling.md, for a shard of wide sparse vectors."""
    program = [sys.executable, "-m", "tests.support.one_shard", ids, str(tmp_path / "pieces")]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    assert found["shard"] > 100
    assert found["split"] < 128
    assert found["build"] < 2 * found["shard"] + 128
