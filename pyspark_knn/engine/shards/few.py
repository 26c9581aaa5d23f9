"""Pack few items and build their shards at once, in a Python worker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pyspark.sql import Row

from pyspark_knn.engine.fit.chunks import COUNTED
from pyspark_knn.engine.fit.packing import PackRequest, pack
from pyspark_knn.engine.shards.build import ShardRequest, build_shards, pieces_of
from pyspark_knn.engine.ship.shard_rows import SHARD_SCHEMA
from pyspark_knn.engine.spark.arrow import cells_of, one_row, rows_of, stream_of
from pyspark_knn.index.found import SPARSE

COUNTS = -1
"""The shard of the row whose bytes are the `chunks.COUNTED` of all chunks, an Arrow stream."""

CHUNKS = -2
"""The shard of rows whose bytes are a chunk of items that are too many, an Arrow stream."""


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
        Rows of `shard_rows.SHARD_SCHEMA`: those of the shards, or of chunks (`CHUNKS`) if the items
        take more than `most_bytes`, and then one row of counts (`COUNTS`).
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
        yield from _built(request.shards, [chunk for batch in held for chunk in rows_of(batch)])
        yield _row(COUNTS, [batch.select(COUNTED) for batch in held])
        return
    counts: list[pa.RecordBatch] = []
    for batch in itertools.chain(held, packed):
        counts.append(batch.select(COUNTED))
        yield _row(CHUNKS, [batch])
    yield _row(COUNTS, counts)


def unpack_chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the chunks, rows of `chunks.CHUNK_SCHEMA`, of rows of `CHUNKS`."""
    for batch in batches:
        for cell in cells_of(batch.column("bytes")):
            yield from pa.ipc.open_stream(cell)


def counts_of(content: pa.Buffer) -> list[Row]:
    """Return the rows of `chunks.COUNTED`, given the bytes of the row of `COUNTS`."""
    return [Row(**row) for row in pa.ipc.open_stream(content).read_all().to_pylist()]


def _size(request: ShardRequest, chunk: Mapping[str, Any]) -> int:
    """Return the bytes of the items of a chunk, as packed or in a shard, if these are more."""
    if request.storage == SPARSE:
        return int(chunk["size"])
    width = 8 if chunk["dtype"] == "float64" else 4
    return max(int(chunk["size"]), int(chunk["rows"]) * request.dim * width)


def _built(request: ShardRequest, chunks: Sequence[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the shards of some chunks; none if there are problems."""
    if any(chunk["problem"] is not None for chunk in chunks):
        return
    filled = [chunk for chunk in chunks if chunk["rows"]]
    dtype = np.result_type(np.float32, *{chunk["dtype"] for chunk in filled})
    request = replace(request, dtype=dtype)
    divided = (piece for chunk in filled for piece in pieces_of(request, chunk, 0))
    pieces = sorted(divided, key=lambda piece: int(piece["shard"][0].as_py()))
    yield from build_shards(request, iter(pieces))


def _row(shard: int, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return a row of `shard_rows.SHARD_SCHEMA` that contains other rows; part 0 if of counts."""
    content = cast("pa.Buffer", stream_of(batches))
    part = 0 if shard == COUNTS else 1
    cells = {"shard": shard, "part": part, "head": content.size, "bytes": content}
    return one_row(SHARD_SCHEMA, cells)
