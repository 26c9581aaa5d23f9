"""The content of a shard as rows of a DataFrame: their format, the writer and the reader.

The content is two bundles, one after the other: the head, which is the items without their vectors,
and the body, which is the rest. So the ids of a shard are read without its vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.ship.bundle import ALIGNMENT, bundle_end, read_bundle, write_bundle
from pyspark_knn.engine.spark.arrow import one_row

PART_BYTES = 240 << 10
"""The bytes of one row. Java's garbage collector (G1) handles an array of more than half a region,
of which the smallest have 1 MiB, as an object of its own kind, and Spark makes arrays of up to
twice the bytes of a row. With rows of 1 MiB, it took a quarter of the JVM's time in a search."""

HEAD_BYTES = 8 << 20
"""A head of at most so many bytes is in one row, so that it can be fetched with the summary. Each
shard has one such row."""


@dataclass(frozen=True)
class Shard:
    """A summary of a shard, for the driver.

    Attributes
    ----------
    shard : int
        Its number, from 0; empty shards have none.
    rows, duplicates : int
        The number of items, and of those that have the same id as another one.
    size, head : int
        The bytes of the content, and of its head.
    digest : str
        Equal for equal items, regardless of their original order.
    algorithm, reason : str
        The algorithm of its index, and why it was chosen.
    radius : float or None
        Where shards are cells, the largest distance of an item from the center, in the unit of the
        metric.
    label : float or None
        The largest label; None if the items have no labels.
    converts : bool
        See `Placement.converts`.
    levels : list of int or None
        How thoroughly the index can be searched, see `ApproximateIndex.knob_levels`; None if it is
        exact.
    ranks, sample : list of float or None
        Where shards are cells, see `spreads.Spread`.
    ids : list of bytes or None
        The smallest and the largest id, see `id_ranges.range_of`; None if the range is unknown.
    """

    shard: int
    rows: int
    duplicates: int
    size: int
    head: int
    digest: str
    algorithm: str
    reason: str
    radius: float | None
    label: float | None
    converts: bool
    levels: list[int] | None = None
    ranks: list[float] | None = None
    sample: list[float] | None = None
    ids: list[bytes] | None = None


SHARD_FIELDS = tuple(each.name for each in fields(Shard))
"""The columns of `SHARD_SCHEMA` that make a `Shard`, set in part 0."""

SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("part", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("head", pa.int64()),
        ("digest", pa.string()),
        ("rows", pa.int64()),
        ("duplicates", pa.int64()),
        ("algorithm", pa.string()),
        ("reason", pa.string()),
        ("radius", pa.float64()),
        ("label", pa.float64()),
        ("converts", pa.bool_()),
        ("levels", pa.list_(pa.int64())),
        ("ranks", pa.list_(pa.float64())),
        ("sample", pa.list_(pa.float64())),
        ("ids", pa.list_(pa.binary())),
        ("bytes", pa.binary()),
        ("notes", pa.binary()),
    ]
)
"""A row for each part of the content: `bytes` are at `offset` of `size`. The fields of `Shard` are
set in part 0; `shard`, `size` and `digest` in every part. `notes`: see `shards.build_few`."""

SHARD_COLUMNS = ("shard", "offset", "size", "digest", "bytes")
"""The columns that `ShardReader` needs."""


class Body(Protocol):
    """The content of a shard without its head."""

    def joined(self, head: Any) -> Any:
        """Return the whole content."""


def write_content(head: object, body: Body, file: BinaryIO) -> int:
    """Write the content of a shard, and return the bytes of its head."""
    write_bundle(head, file)
    end = file.tell()
    file.write(b"\0" * (-end % ALIGNMENT))
    write_bundle(body, file)
    return end


def read_content(data: memoryview) -> Any:
    """Return the content of a shard, whose arrays are views of `data`."""
    end = bundle_end(data)
    body: Body = read_bundle(data[end + -end % ALIGNMENT :])
    return body.joined(read_bundle(data[:end]))


def shard_rows(shard: Shard, data: memoryview) -> Iterator[pa.RecordBatch]:
    """Yield the content of a shard as rows of `SHARD_SCHEMA`, part by part.

    Parameters
    ----------
    shard : Shard
        The summary; its size is that of `data`.
    data : memoryview
        The content.
    """
    first = max(PART_BYTES, shard.head) if shard.head <= HEAD_BYTES else PART_BYTES
    offsets = [0, *range(first, len(data), PART_BYTES), len(data)]
    for part, (offset, end) in enumerate(itertools.pairwise(offsets)):
        cells: dict[str, Any] = asdict(shard)
        if part > 0:
            cells = {name: cells[name] for name in ("shard", "size", "digest")}
        content = pa.py_buffer(data[offset:end])
        yield one_row(SHARD_SCHEMA, {**cells, "part": part, "offset": offset, "bytes": content})


def summary_of(row: Mapping[str, Any]) -> Shard:
    """Return the summary of a shard, given its first row."""
    return Shard(**{name: row[name] for name in SHARD_FIELDS})


def head_parts(shards: Iterable[Shard]) -> int:
    """Return the largest number of parts over which the head of a shard extends."""
    heads = [shard.head for shard in shards]
    return max(1 if head <= HEAD_BYTES else -(-head // PART_BYTES) for head in heads)


def first_numbers(shards: Iterable[Shard]) -> dict[int, int]:
    """Return the number of the first item of each shard, if their items are counted through."""
    first, numbers = 0, {}
    for shard in shards:
        numbers[shard.shard] = first
        first += shard.rows
    return numbers


class ShardReader:
    """A reader that opens the contents of shards from their rows, one shard after another.

    Parameters
    ----------
    digests : dict of int to str
        The digest that each shard had when it was first built.
    heads : bool, default=False
        Whether to read the heads alone. Then the parts after the head of a shard may be missing.
    """

    def __init__(self, digests: dict[int, str], *, heads: bool = False) -> None:
        self._digests = digests
        self._heads = heads
        self._end = 0
        self._shard = -1
        self._filled = 0
        self._buffer = np.empty(0, np.uint8)
        self._content: Any = None

    def add(self, columns: Mapping[str, pa.Array], row: int) -> bool:
        """Read the next part.

        Parameters
        ----------
        columns : mapping of str to pyarrow.Array
            The columns `SHARD_COLUMNS`, by name.
        row : int
            The row of the part.

        Returns
        -------
        bool
            Whether it is the last part of its shard, or of the head of its shard.

        Raises
        ------
        RuntimeError
            If a part is missing, or a rebuilt shard contains different items than at first.
        """
        names = ("shard", "offset", "size", "digest")
        shard, offset, size, digest = (columns[name][row].as_py() for name in names)
        part = columns["bytes"][row].as_buffer()
        if offset == 0:
            self._begin(shard, size, digest)
        if shard != self._shard or offset != self._filled:
            raise RuntimeError(f"the parts of shard {shard} are not in order")
        self._filled = offset + part.size
        self._buffer[offset : self._filled] = np.frombuffer(part, np.uint8)
        if offset == 0 and self._heads:
            self._end = bundle_end(self._buffer.data)
        if not offset < self._end <= self._filled:
            return False
        data = self._buffer.data
        self._content = read_bundle(data[: self._end]) if self._heads else read_content(data)
        return True

    def _begin(self, shard: int, size: int, digest: str) -> None:
        if self._digests[shard] != digest:
            raise RuntimeError(
                f"shard {shard} was lost, and rebuilding it produced different items: the items "
                "DataFrame is not deterministic. Persist it or write it to storage before fit, and "
                "set idCol."
            )
        self._content = None  # frees the memory of the previous shard
        # Memory that is never written, beyond the head, is never allocated.
        buffer = np.empty(size + ALIGNMENT, np.uint8)
        start = -buffer.ctypes.data % ALIGNMENT
        self._buffer = buffer[start : start + size]
        self._shard, self._filled, self._end = shard, 0, size

    def content(self, shard: int) -> Any:
        """Return the content of `shard`, all of whose parts must have been read."""
        if self._content is None or shard != self._shard:
            raise RuntimeError(f"a query of shard {shard} comes before the shard itself")
        return self._content


def open_shards(
    digests: dict[int, str], batches: Iterator[pa.RecordBatch], *, heads: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of one shard after another.

    Parameters
    ----------
    digests, heads
        See `ShardReader`.
    batches : iterator of pyarrow.RecordBatch
        Rows of `SHARD_COLUMNS`.
    """
    reader = ShardReader(digests, heads=heads)
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for row in range(batch.num_rows):
            if reader.add(columns, row):
                shard = columns["shard"][row].as_py()
                yield shard, reader.content(shard)
