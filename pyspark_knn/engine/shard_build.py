"""What builds shards on the executors: packed chunks -> pieces of shards -> bundles, in parts."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.bundle import write_bundle
from pyspark_knn.engine.chunks import (
    CHANGED,
    CONTENT_WRAP,
    one_row,
    rows_of,
    stream_of,
    unpack,
)
from pyspark_knn.engine.items import Items
from pyspark_knn.engine.worker import Searchable, task_threads
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import ShardAssignment as Cut

PIECE_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("narrow", pa.bool_()),
        ("keys", pa.binary()),
        ("values", pa.binary()),
    ]
)
"""Items of one chunk that belong to one shard. `keys`: an Arrow stream."""

SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("part", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("digest", pa.string()),
        ("rows", pa.int64()),
        ("duplicates", pa.int64()),
        ("algorithm", pa.string()),
        ("reason", pa.string()),
        ("radius", pa.float64()),
        ("converts", pa.bool_()),
        ("bytes", pa.binary()),
    ]
)
"""A shard's bundle in parts: `bytes` stand at `offset` of `size`. `digest` names the items of the
shard, whatever order they came in. What follows it, and tells of the shard, is in part 0 alone."""

_CHANGED = CHANGED.format(what="other rows were cut into shards than had been counted before")

_PART_BYTES = 8 << 20
"""Rows of this size pass every buffer of Spark; no batch of them outgrows Arrow's 2 GiB."""


@dataclass(frozen=True)
class ShardRequest:
    """What a task that builds shards must know.

    Attributes
    ----------
    dim : int
        The dimension of the vectors; chunks of another one are left out.
    narrow : bool
        Whether the vectors are float32, in all shards alike.
    num_shards : int
        Shards, some of which may come out empty.
    keys : tuple of str
        The columns of a chunk's keys.
    order : tuple of str
        What sorts the items of a shard, from "id" on.
    chunks : ndarray of shape (n_chunks, 5), dtype int64
        Partition, chunk, position of the first item, number of items and content of each chunk.
    spec : IndexSpec
        The index to build.
    cut : Cut or None
        The cells that shards are made of; None deals items out by a hash of their ids.
    """

    dim: int
    narrow: bool
    num_shards: int
    keys: tuple[str, ...]
    order: tuple[str, ...]
    chunks: NDArray[np.int64]
    spec: IndexSpec
    cut: Cut | None = None

    @property
    def named(self) -> bool:
        """Whether items have ids or positions of their own, wherever they stand."""
        return "id" in self.keys or "position" in self.keys


# --- chunks -> pieces -----------------------------------------------------------------------------


def split_chunks(
    request: ShardRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Cut packed chunks into the pieces that belong to each shard.

    Parameters
    ----------
    request : ShardRequest
    batches : iterator of pyarrow.RecordBatch
        Of `chunks.CHUNK_SCHEMA`.

    Yields
    ------
    pyarrow.RecordBatch
        Of `PIECE_SCHEMA`.

    Raises
    ------
    RuntimeError
        If the chunks are not those that were counted before.
    """
    starts = {(row[0], row[1]): (row[2], row[3]) for row in request.chunks.tolist()}
    found: dict[int, _Tally] = {}
    for batch in batches:
        for chunk in rows_of(batch):
            tally = found.setdefault(chunk["partition"], _Tally())
            if chunk["chunk"] < 0 or chunk["dim"] != request.dim:
                continue  # the row that closes a partition, or vectors that are left out
            tally.add(chunk["rows"], chunk["content"])
            start, rows = starts.get((chunk["partition"], chunk["chunk"]), (0, -1))
            if rows != chunk["rows"] and not request.named:
                raise RuntimeError(_CHANGED)
            yield from _pieces(request, chunk, start)
    # By partitions, not by chunks: what is out of a shuffle may come in another order.
    for partition, tally in found.items():
        counted = _Tally()
        for *_, rows, content in request.chunks[request.chunks[:, 0] == partition].tolist():
            counted.add(rows, content)
        if tally != counted:
            raise RuntimeError(_CHANGED)


@dataclass
class _Tally:
    """What the chunks of a partition hold together."""

    rows: int = 0
    content: int = 0

    def add(self, rows: int, content: int) -> None:
        self.rows += rows
        self.content = (self.content + content) % CONTENT_WRAP


def _pieces(
    request: ShardRequest, chunk: Mapping[str, Any], start: int
) -> Iterator[pa.RecordBatch]:
    keys = _keys(request, chunk, start)
    for first, matrix in unpack(chunk, request.dim):
        part = keys.slice(first, len(matrix))
        hashes = spread(part["id"])
        if request.cut is None:
            shards = hashes % np.uint64(request.num_shards)
        else:
            shards = request.cut.shards(matrix, hashes)
        order = np.argsort(shards, kind="stable")
        found, firsts = np.unique(shards[order], return_index=True)
        for shard, rows in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
            cells = {
                "shard": shard,
                "narrow": chunk["narrow"],
                "keys": stream_of(part.take(pa.array(rows)).combine_chunks().to_batches()),
                "values": pa.py_buffer(matrix[rows]),
            }
            yield one_row(PIECE_SCHEMA, cells)


def _keys(request: ShardRequest, chunk: Mapping[str, Any], start: int) -> pa.Table:
    """The keys of a chunk's items, positions standing for ids where there are none."""
    rows = chunk["rows"]
    keys = pa.table({})
    if chunk["keys"] is not None:
        keys = pa.ipc.open_stream(chunk["keys"]).read_all().rename_columns(list(request.keys))
    if "id" in keys.column_names:
        return keys
    if "position" in keys.column_names:
        names = ["id" if name == "position" else name for name in keys.column_names]
        return keys.rename_columns(names)
    positions = pa.array(np.arange(start, start + rows))
    return keys.append_column("id", positions) if keys.num_columns else pa.table({"id": positions})


def spread(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A hash of each id: equal ids share a shard, and no pattern in ids makes a large one."""
    if pa.types.is_integer(ids.type):
        plain = ids.to_numpy().astype(np.int64).view(np.uint64)
        return np.asarray(pd.util.hash_array(plain))
    if not (pa.types.is_binary(ids.type) or pa.types.is_large_binary(ids.type)):
        ids = ids.cast(pa.string())
    objects = np.asarray(ids.to_pandas(), dtype=object)
    return np.asarray(pd.util.hash_array(objects, categorize=False))


# --- pieces -> shards -----------------------------------------------------------------------------


def build_shards(
    request: ShardRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Build the index of each shard and hand its bundle out in parts.

    Parameters
    ----------
    request : ShardRequest
    batches : iterator of pyarrow.RecordBatch
        Of `PIECE_SCHEMA`, the pieces of a shard next to each other.

    Yields
    ------
    pyarrow.RecordBatch
        Of `SHARD_SCHEMA`.
    """
    pieces = (piece for batch in batches for piece in rows_of(batch))
    with threadpool_limits(limits=task_threads()):
        for shard, group in itertools.groupby(pieces, key=lambda piece: int(piece["shard"])):
            yield from _shard(request, shard, group)


def _shard(
    request: ShardRequest, shard: int, pieces: Iterable[Mapping[str, Any]]
) -> Iterator[pa.RecordBatch]:
    keys, matrix = _sorted(request, pieces)
    items = Items(
        len(matrix),
        keys["id"].combine_chunks(),
        keys["label"].to_numpy() if "label" in keys.column_names else None,
        keys["weight"].to_numpy() if "weight" in keys.column_names else None,
    )
    index, reason = build_index(matrix, request.spec)
    facts: dict[str, Any] = {
        "digest": _digest(keys, matrix),
        "rows": items.count,
        "duplicates": items.duplicates(),
        "algorithm": index.algorithm,
        "reason": reason,
        "radius": None if request.cut is None else request.cut.radius(shard, matrix),
        "converts": request.spec.metric.converts(matrix),
    }
    del keys, matrix
    yield from parts_of(shard, Searchable(items, index), facts)


def _sorted(
    request: ShardRequest, pieces: Iterable[Mapping[str, Any]]
) -> tuple[pa.Table, NDArray[np.floating]]:
    """The items of a shard in the order of their ids, whatever order the pieces come in."""
    keys, matrix = _placed(request, pieces)
    # Arrow keeps what the pieces took for later: as much as the shard, which is to be copied now.
    pa.default_memory_pool().release_unused()
    if len(keys) < 2 or pc.count_distinct(keys["id"]).as_py() == len(keys):
        return keys, matrix
    # Items that their keys do not tell apart go by their vectors: a shard that is lost and built
    # again must be the same.
    rows = matrix.view(np.dtype((np.void, matrix.strides[0]))).ravel()
    ranks = np.empty(len(keys), np.int64)
    ranks[np.argsort(rows, kind="stable")] = np.arange(len(keys))
    order = _order(request, keys.append_column(" ", pa.array(ranks)), " ")
    return keys.take(order).combine_chunks(), matrix[order.to_numpy()]


def _placed(
    request: ShardRequest, pieces: Iterable[Mapping[str, Any]]
) -> tuple[pa.Table, NDArray[np.floating]]:
    """The items of a shard, sorted by their keys alone.

    Each vector goes straight to its place, so that no more than two copies of a shard are here at
    a time: nothing of the pieces outlives this function.
    """
    tables, stored = [], []
    for piece in pieces:
        tables.append(pa.ipc.open_stream(piece["keys"]).read_all())
        dtype = np.float32 if piece["narrow"] else np.float64
        stored.append(np.frombuffer(piece["values"], dtype=dtype).reshape(-1, request.dim))
    keys = pa.concat_tables(tables)
    order = _order(request, keys)
    place = np.empty(len(keys), np.int64)
    place[order.to_numpy()] = np.arange(len(keys))
    matrix = np.empty((len(keys), request.dim), np.float32 if request.narrow else np.float64)
    start = 0
    for values in stored:
        matrix[place[start : start + len(values)]] = values
        start += len(values)
    return keys.take(order).combine_chunks(), matrix


def _order(request: ShardRequest, keys: pa.Table, *more: str) -> pa.Array:
    return pc.sort_indices(keys, [(name, "ascending") for name in (*request.order, *more)])


def _digest(keys: pa.Table, matrix: NDArray[np.floating]) -> str:
    digest = hashlib.blake2b(stream_of(keys.to_batches()) or b"", digest_size=16)
    digest.update(matrix.data)
    return digest.hexdigest()


def parts_of(shard: int, content: Searchable, facts: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """The bundle of a shard as rows of `SHARD_SCHEMA`.

    Parameters
    ----------
    shard : int
        Its number.
    content : Searchable
        Its items and their index.
    facts : mapping
        ``digest``, and what part 0 shall tell: ``rows``, ``duplicates``, ``algorithm``,
        ``reason``, ``radius``, ``converts``.
    """
    file = io.BytesIO()
    write_bundle(content, file)
    data = file.getbuffer()
    for part, offset in enumerate(range(0, len(data), _PART_BYTES)):
        told = facts if part == 0 else {"digest": facts["digest"]}
        cells = {
            "shard": shard,
            "part": part,
            "offset": offset,
            "size": len(data),
            "bytes": pa.py_buffer(data[offset : offset + _PART_BYTES]),
            **told,
        }
        yield one_row(SHARD_SCHEMA, cells)
