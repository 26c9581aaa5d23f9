"""Pack few items and build their shards at once, in a Python worker."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_knn.engine.fit.chunks import COUNTED, columns_of
from pyspark_knn.engine.fit.packing import PackRequest, pack
from pyspark_knn.engine.shards.build import ShardRequest, build_shards, pieces_of
from pyspark_knn.engine.ship.bundle import write_bundle
from pyspark_knn.engine.ship.shard_rows import HEAD_BYTES, SHARD_SCHEMA, Shard, summary_of
from pyspark_knn.engine.spark.arrow import cells_of, one_row, rows_of, stream_of
from pyspark_knn.index.found import SPARSE

NO_SHARD = -1
"""The shard of rows that belong to none: of the notes, if no shards were built, and of chunks."""

_FETCHED_IDS = 1 << 20
"""The largest number of ids in the notes."""


class Notes(NamedTuple):
    """What the task tells the driver: the column "notes" of one row, as a bundle.

    Attributes
    ----------
    counts : pyarrow.Table
        The columns `chunks.COUNTED` of all chunks.
    shards : list of Shard
        The shards that were built.
    ids : pyarrow.Array or None
        The distinct ids of the items, if they are few.
    """

    counts: pa.Table
    shards: list[Shard]
    ids: pa.Array | None


@dataclass(frozen=True)
class FewRequest:
    """The parameters of a task that packs items and builds their shards.

    Attributes
    ----------
    pack : PackRequest
        How to pack the items.
    shards : ShardRequest
        The shards, whose vectors have the type of the packed ones. The items have ids.
    most_bytes : int
        The largest size of the items in bytes. If they take more, no shards are built.
    """

    pack: PackRequest
    shards: ShardRequest
    most_bytes: int


def pack_and_build(
    request: FewRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Pack the rows of the only partition, and build their shards unless they are too many.

    Parameters
    ----------
    request : FewRequest
        What to build.
    batches : iterator of pyarrow.RecordBatch
        The rows, see `packing.pack`.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `shard_rows.SHARD_SCHEMA`: those of the shards or, if the items take more than
        `most_bytes`, one for each chunk. One row has `Notes`.
    """
    packed = pack(request.pack, batches)
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in packed:
        held.append(batch)
        size += sum(_size(request.shards, chunk) for chunk in rows_of(batch))
        if size > request.most_bytes:
            break
    if size <= request.most_bytes:
        chunks = [chunk for batch in held for chunk in rows_of(batch)]
        yield from _noted(_built(request.shards, chunks), chunks, _counts(held))
        return
    counts: list[pa.RecordBatch] = []
    for batch in itertools.chain(held, packed):
        counts.append(batch.select(COUNTED))
        yield one_row(SHARD_SCHEMA, {"shard": NO_SHARD, "bytes": stream_of([batch])})
    yield from _noted([], [], _counts(counts))


def unpack_chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the chunks, rows of `chunks.CHUNK_SCHEMA`, of rows that are not of a shard."""
    for batch in batches:
        for cell in cells_of(batch.column("bytes")):
            yield from pa.ipc.open_stream(cell)


def _counts(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches([batch.select(COUNTED) for batch in batches])


def _size(request: ShardRequest, chunk: Mapping[str, Any]) -> int:
    """Return the bytes of the items of a chunk, as packed or in a shard, if these are more."""
    if request.storage == SPARSE:
        return int(chunk["size"])
    width = 8 if chunk["dtype"] == "float64" else 4
    return max(int(chunk["size"]), int(chunk["rows"]) * request.dim * width)


def _built(request: ShardRequest, chunks: Sequence[Mapping[str, Any]]) -> list[pa.RecordBatch]:
    """Return the rows of the shards of some chunks; none if there are problems."""
    if any(chunk["problem"] is not None for chunk in chunks):
        return []
    filled = [chunk for chunk in chunks if chunk["rows"]]
    dtype = np.result_type(np.float32, *{chunk["dtype"] for chunk in filled})
    request = replace(request, dtype=dtype)
    divided = (piece for chunk in filled for piece in pieces_of(request, chunk, 0))
    pieces = sorted(divided, key=lambda piece: int(piece["shard"][0].as_py()))
    return list(build_shards(request, iter(pieces)))


def _noted(
    rows: list[pa.RecordBatch], chunks: Sequence[Mapping[str, Any]], counts: pa.Table
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the shards of chunks, of which one gets the notes, or a row of its own."""
    firsts = [i for i, batch in enumerate(rows) if batch["part"][0].as_py() == 0]
    shards = [summary_of(row) for i in firsts for row in rows_of(rows[i])]
    file = io.BytesIO()
    write_bundle(Notes(counts, shards, _few_ids(chunks) if shards else None), file)
    notes = pa.array([file.getvalue()], pa.binary())
    if not rows:
        yield one_row(SHARD_SCHEMA, {"shard": NO_SHARD, "notes": file.getvalue()})
        return
    # Of a record batch, pyarrow 12 cannot replace a column.
    columns = [*rows[firsts[0]].columns[:-1], notes]
    rows[firsts[0]] = pa.RecordBatch.from_arrays(columns, schema=SHARD_SCHEMA)
    yield from rows


def _few_ids(chunks: Iterable[Mapping[str, Any]]) -> pa.Array | None:
    """Return the distinct ids of the items of chunks; None if they are too many to be fetched."""
    ids = pc.unique(pa.concat_tables(columns_of(each) for each in chunks if each["rows"])["id"])
    return ids if len(ids) <= _FETCHED_IDS and ids.nbytes <= HEAD_BYTES else None
