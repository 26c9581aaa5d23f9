"""A program that builds one shard as its tasks do and prints the memory used in MiB."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.fit import packing
from pyspark_knn.engine.shards import build as shard_build
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric

ROWS, DIM, STORED, SHARDS = 8_000, 8_192, 4, 4
BATCH_BYTES = 64 << 20
"""Size of a batch in Spark 4."""


def chunks(ids: pa.Array) -> list[pa.RecordBatch]:
    """Sparse vectors, packed: less than 1 MiB, and 500 MiB as dense ones."""
    random = np.random.default_rng(0)
    layout = np.sort(random.integers(0, DIM, (ROWS, 1 + STORED), np.int32), axis=1)
    layout[:, 1:] += np.arange(STORED, dtype=np.int32)
    layout[:, 0] = DIM + STORED
    values = random.random(ROWS * STORED)
    offsets = np.arange(ROWS + 1, dtype=np.int32)
    columns = [
        pa.ListArray.from_arrays(offsets * STORED, values),
        pa.ListArray.from_arrays(offsets * (1 + STORED), layout.ravel()),
        ids,
    ]
    request = packing.PackRequest(
        features_col="features",
        columns=("id",),
        id_col="id",
        dim=None,
        handle_invalid="error",
        dtype="auto",
        chunk_bytes=8 << 20,
    )
    batch = pa.RecordBatch.from_arrays(columns, ["values", "layout", "id"])
    return list(packing.pack(request, iter([batch])))


def table_of(batches: list[pa.RecordBatch]) -> np.ndarray:
    """The table of chunks that the driver collects."""
    rows = [row for batch in batches for row in batch.to_pylist() if row["chunk"] >= 0]
    names = ("partition", "chunk", "chunk", "rows", "content")
    return np.array([[row.get(name, 0) for name in names] for row in rows], np.int64)


def read(path: Path) -> Iterator[pa.RecordBatch]:
    """Read the pieces as Spark passes them, one batch at a time."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def write(path: Path, pieces: Iterator[pa.RecordBatch]) -> int:
    """Write the pieces of the first shard to disk; return the size of its vectors in bytes."""
    size = 0
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, shard_build.PIECE_SCHEMA) as out,
    ):
        waiting: list[pa.RecordBatch] = []
        for piece in pieces:
            if piece["shard"][0].as_py() != 0:
                continue
            size += len(piece["values"].buffers()[-1])
            waiting.append(piece)
            if sum(each.nbytes for each in waiting) > BATCH_BYTES:
                out.write_table(pa.Table.from_batches(waiting).combine_chunks())
                waiting = []
        if waiting:
            out.write_table(pa.Table.from_batches(waiting).combine_chunks())
    return size


def peak() -> float:
    """The peak memory of this process in MiB."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(kind: str, path: Path) -> None:
    """Print the size of the shard and the additional memory of its two tasks, in MiB."""
    numbers = np.random.default_rng(1).permutation(ROWS)
    batches = chunks(pa.array(numbers if kind == "distinct" else numbers // 2))
    request = shard_build.ShardRequest(
        dim=DIM + STORED,
        dtype=np.dtype(np.float64),
        num_shards=SHARDS,
        order=("id",),
        has_ids=True,
        chunks=table_of(batches),
        spec=IndexSpec(resolve_metric("euclidean"), "brute"),
    )
    before = peak()
    size = 0
    for piece in shard_build.split_chunks(request, iter(batches)):
        size += (piece["shard"][0].as_py() == 0) * len(piece["values"].buffers()[-1])
    split = peak()
    write(path, shard_build.split_chunks(request, iter(batches)))
    between = peak()
    for _ in shard_build.build_shards(request, read(path)):
        pass
    # Writing the pieces is not counted, and does not hide the memory of the build.
    figures = {"shard": size / 2**20, "split": split - before, "build": peak() - before}
    print(json.dumps(figures | {"written": between - before}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
