"""Blocks of queries, in Python workers: many queries in one row on their way through the shards.

Where every query is sent to every shard, Spark would handle a row for each of these pairs, several
times. So the queries of a partition are packed in blocks. A shard answers a block by one row, and
the answers of all shards are merged for all queries of the block at once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import LIMIT, Request, answer_batch
from pyspark_knn.engine.search.merge import check_same_queries, merge_parts
from pyspark_knn.engine.spark.arrow import cells_of, stream_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.search.known_distances import KnownInShard
    from pyspark_knn.engine.search.searchable import Searchable

LARGEST_BLOCK = 256
"""Queries in a block: enough that the rows of blocks cost little, and few enough that the blocks of
a small search are shared by all tasks."""

_BLOCK_BYTES = 1 << 20
"""About the largest block in bytes, so that a worker can search as many blocks at once as it
likes."""

_SEARCHED_AT_ONCE = 4096
"""Queries that are searched at a time, in several blocks: two batches of the block search."""

PACKED = pa.schema(
    [
        ("block", pa.int64()),
        ("place", pa.int32()),
        ("turn", pa.int32()),
        ("mark", pa.int64()),
        ("data", pa.binary()),
    ]
)
"""The columns of `pack_blocks`: the number of the first query of the block, which names it; the
place of the query in it; the number of the block among those of the task; a hash of the block; and,
beside the first query, the block itself."""


def pack_blocks(
    names: Sequence[str], most: int, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Pack queries in blocks.

    Parameters
    ----------
    names : sequence of str
        The inputs of a query.
    most : int
        The largest number of queries in a block.
    batches : iterator of tuples of pyarrow.Array
        The numbers of the queries, and their inputs.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct of `PACKED`.
    """
    turn = 0
    for numbers, *inputs in batches:
        whole = pa.RecordBatch.from_arrays(list(inputs), names=list(names))
        count = len(numbers)
        step = int(min(most, max(1, _BLOCK_BYTES * count // max(1, whole.nbytes))))
        data: list[bytes | None] = [None] * count
        mark = np.zeros(count, np.int64)
        for start in range(0, count, step):
            block = slice(start, start + step)
            data[start] = packed = _written(whole.slice(start, step))
            digest = hashlib.blake2b(packed, digest_size=8).digest()
            mark[block] = int.from_bytes(digest, "little", signed=True)
        place = np.arange(count) % step
        block_of = np.asarray(numbers)[np.arange(count) - place]
        turns = turn + np.arange(count) // step
        turn = int(turns[-1]) + 1 if count else turn
        values = (block_of, place, turns, mark, data)
        cells = [pa.array(each, kind) for each, kind in zip(values, PACKED.types, strict=True)]
        structs = pa.StructArray.from_arrays(cells, names=PACKED.names)
        yield pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), structs)


def answer_blocks(
    searchable: Searchable,
    request: Request,
    blocks: Sequence[pa.Buffer],
    known: KnownInShard | None = None,
) -> Iterator[bytes]:
    """Yield the answers to blocks of queries, as an Arrow stream for each.

    Parameters
    ----------
    searchable : Searchable
        The shard.
    request : Request
        What to search. It does not skip invalid queries.
    blocks : sequence of pyarrow.Buffer
        Blocks of `pack_blocks`.
    known : KnownInShard, optional
        The distances that other shards found. Those of this shard are added.
    """
    waiting: list[pa.RecordBatch] = []
    rows = first = 0
    for block in blocks:
        waiting.append(_read(block))
        rows += waiting[-1].num_rows
        if rows >= _SEARCHED_AT_ONCE:
            yield from _answers(searchable, request, waiting, first, known)
            first += len(waiting)
            waiting, rows = [], 0
    if waiting:
        yield from _answers(searchable, request, waiting, first, known)


def _written(batch: pa.RecordBatch) -> bytes:
    """Return a batch as an Arrow stream, without the values around it if it is a slice."""
    stream: pa.Buffer = stream_of([batch])
    written: bytes = stream.to_pybytes()
    return written


def _read(block: pa.Buffer) -> pa.RecordBatch:
    with pa.ipc.open_stream(block) as stream:
        return stream.read_next_batch()


def _answers(
    searchable: Searchable,
    request: Request,
    blocks: Sequence[pa.RecordBatch],
    first: int,
    known: KnownInShard | None,
) -> Iterator[bytes]:
    arrays = {
        name: pa.concat_arrays([block.column(name) for block in blocks]) for name in request.inputs
    }
    limits = None if known is None else known.limits(first, [len(block) for block in blocks])
    if limits is not None:
        arrays[LIMIT] = pa.array(limits)
    found = pa.concat_arrays(list(answer_batch(searchable, request, arrays)))
    # Of one struct for each query, null for an invalid one.
    whole = pa.RecordBatch.from_arrays([found.flatten()], names=["found"])
    start = 0
    for number, block in enumerate(blocks, first):
        part = whole.slice(start, block.num_rows)
        if known is not None:
            known.add(number, part.column(0).field(DISTANCE))
        yield _written(part)
        start += block.num_rows


def merge_blocks(
    request: Request, shards: int, names: Sequence[str], batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer queries from what the shards found for their blocks.

    Parameters
    ----------
    request : Request
        What to return.
    shards : int
        The number of shards that each block was sent to.
    names : sequence of str
        `DISTANCE` and the item columns, in the order that breaks ties.
    batches : iterator of tuples of pyarrow.Array
        The number of the block, the place of the query in it, its mark, and what a shard found. The
        rows of shards have the place -1, and come just before the queries of their block, which
        follow in order.

    Yields
    ------
    pyarrow.ListArray
        See `batches.search_batches`; an empty list for the row of a shard.

    Raises
    ------
    RuntimeError
        If a retried task produced different queries than at first.
    """
    merged = _Merged(request, shards, names)
    for blocks, places, marks, found in batches:
        block, place, mark = (each.to_numpy() for each in (blocks, places, marks))
        starts = np.flatnonzero(np.diff(place < 0) | (np.diff(block) != 0)) + 1
        bounds = [0, *starts.tolist(), len(block)]
        for start, stop in itertools.pairwise(bounds):
            if start == stop:
                continue
            check_same_queries((mark[start:stop] == mark[start]).all())
            name = int(block[start]), int(mark[start])
            if place[start] < 0:
                merged.add(name, cells_of(found.slice(start, stop - start)))
                yield merged.nothing(stop - start)
            else:
                yield merged.answers(name, place[start:stop])
    merged.finish()


class _Merged:
    """The answers to the queries of one block after another."""

    def __init__(self, request: Request, shards: int, names: Sequence[str]) -> None:
        from pyspark.sql.pandas.types import to_arrow_type

        self._request, self._shards, self._names = request, shards, names
        self._type = pa.list_(to_arrow_type(request.answer.result_type))
        self._name = (-1, -1)
        self._parts: list[pa.Array] = []
        self._answers: pa.ListArray | None = None
        self._done = self._count = 0

    def nothing(self, rows: int) -> pa.ListArray:
        """Return as many empty lists."""
        return pa.array([[]] * rows, self._type)

    def add(self, name: tuple[int, int], found: Sequence[pa.Buffer]) -> None:
        """Add what shards found for the queries of a block."""
        if name != self._name:
            self.finish()
            self._name, self._parts, self._answers, self._done = name, [], None, 0
        check_same_queries(self._answers is None)
        self._parts += (_read(each).column(0) for each in found)
        self._count = len(self._parts[0])

    def answers(self, name: tuple[int, int], places: NDArray[np.int32]) -> pa.ListArray:
        """Return the answers to the next queries of the block."""
        stop = self._done + len(places)
        check_same_queries(name == self._name and len(self._parts) in (0, self._shards))
        check_same_queries(bool((places == np.arange(self._done, stop)).all()))
        check_same_queries(stop <= self._count)
        if self._answers is None:
            self._answers = merge_parts(self._request, self._names, self._parts)
            self._parts = []
        found = self._answers[self._done : stop]
        self._done = stop
        return found

    def finish(self) -> None:
        """Check that no query of the block is missing."""
        check_same_queries(self._name == (-1, -1) or self._done == self._count)
