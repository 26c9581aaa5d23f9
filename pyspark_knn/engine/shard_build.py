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
from pyspark_knn.engine.items import Items
from pyspark_knn.engine.packing import one_row, stream_of, unpack
from pyspark_knn.engine.worker import Searchable, task_threads
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import Cut

PIECE_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("narrow", pa.bool_()),
        ("keys", pa.binary()),
        ("values", pa.binary()),
    ]
)
"""The items of one chunk that belong to one shard. `keys`: an Arrow stream."""

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
    chunks : ndarray of shape (n_chunks, 4), dtype int64
        Partition, chunk, position of the first item and number of items of each chunk.
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


# --- chunks -> pieces -----------------------------------------------------------------------------


def split_chunks(
    request: ShardRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Cut packed chunks into the pieces that belong to each shard.

    Parameters
    ----------
    request : ShardRequest
    batches : iterator of pyarrow.RecordBatch
        Of `packing.CHUNK_SCHEMA`.

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
    for batch in batches:
        for chunk in batch.to_pylist():
            if chunk["chunk"] < 0 or chunk["dim"] != request.dim:
                continue  # the row that closes a partition, or vectors that are left out
            start, rows = starts.get((chunk["partition"], chunk["chunk"]), (0, -1))
            if rows != chunk["rows"]:
                raise RuntimeError(
                    "the reference DataFrame gives other rows each time that it is computed: "
                    "persist it, or write it down first"
                )
            yield from _pieces(request, chunk, start)


def _pieces(
    request: ShardRequest, chunk: Mapping[str, Any], start: int
) -> Iterator[pa.RecordBatch]:
    matrix = unpack(chunk, request.dim)
    keys = _keys(request, chunk, start)
    hashes = spread(keys["id"])
    if request.cut is None:
        shards = hashes % np.uint64(request.num_shards)
    else:
        shards = request.cut.shards(matrix, hashes)
    order = np.argsort(shards, kind="stable")
    found, firsts = np.unique(shards[order], return_index=True)
    for shard, rows in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
        part = keys.take(pa.array(rows)).combine_chunks()
        cells = {
            "shard": shard,
            "narrow": chunk["narrow"],
            "keys": stream_of(part.to_batches()),
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
    pieces = (piece for batch in batches for piece in batch.to_pylist())
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
    dtype = np.float32 if request.narrow else np.float64
    tables, matrices = [], []
    for piece in pieces:
        tables.append(pa.ipc.open_stream(piece["keys"]).read_all())
        stored = np.float32 if piece["narrow"] else np.float64
        values: NDArray[np.floating] = np.frombuffer(piece["values"], dtype=stored)
        matrices.append(values.astype(dtype, copy=False).reshape(-1, request.dim))
    keys, matrix = pa.concat_tables(tables), np.concatenate(matrices)
    by = [(name, "ascending") for name in request.order]
    if len(keys) > 1 and pc.count_distinct(keys["id"]).as_py() < len(keys):
        # Items that their keys do not tell apart go by their vectors: a shard that is lost and
        # built again must be the same.
        rows = matrix.view(np.dtype((np.void, matrix.strides[0]))).ravel()
        _, ranks = np.unique(rows, return_inverse=True)
        order = pc.sort_indices(keys.append_column(" ", pa.array(ranks)), [*by, (" ", "ascending")])
    else:
        order = pc.sort_indices(keys, by)
    return keys.take(order).combine_chunks(), matrix[order.to_numpy()]


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
