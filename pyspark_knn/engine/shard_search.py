"""What searches shards on the executors, and what merges their answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.bundle import ALIGNMENT as _ALIGNMENT
from pyspark_knn.engine.bundle import read_bundle
from pyspark_knn.engine.items import Items
from pyspark_knn.engine.worker import (
    Request,
    Searchable,
    answer_batch,
    fan_out,
    item_rows,
    item_step,
    list_offsets,
    task_threads,
    time_search,
)
from pyspark_knn.index.base import Neighbors

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

_MERGED_AT_ONCE = 1 << 20
"""Candidates that are merged at a time."""

PASSING = -1
"""As the number of a shard: a query that is on its way and is not to be searched here."""

SHARD_COLUMNS = ("shard", "offset", "size", "digest", "bytes")
"""What the search needs of a shard's rows; in a query's rows `shard` alone is set."""


class _Opening:
    """Puts the parts of shards together, one shard after another.

    Parameters
    ----------
    digests : dict of int to str
        What each shard must be, as it was when it was built first.
    """

    def __init__(self, digests: dict[int, str]) -> None:
        self._digests = digests
        self._shard = -1
        self._filled = 0
        self._buffer = np.empty(0, np.uint8)
        self._content: Searchable | None = None

    def add(self, shard: int, offset: int, size: int, digest: str, part: pa.Buffer) -> None:
        """Take the next part in."""
        if offset == 0:
            self._begin(shard, size, digest)
        if shard != self._shard or offset != self._filled:
            raise RuntimeError(f"the parts of shard {shard} came in a wrong order")
        self._filled = offset + part.size
        self._buffer[offset : self._filled] = np.frombuffer(part, np.uint8)
        if self._filled == len(self._buffer):
            self._content = read_bundle(self._buffer.data)

    def _begin(self, shard: int, size: int, digest: str) -> None:
        if self._digests[shard] != digest:
            raise RuntimeError(
                f"shard {shard} was lost, and came out with other items when it was built again: "
                "persist the items before fit, or write them down, and set idCol"
            )
        self._content = None  # frees the memory of the last one
        room = np.empty(size + _ALIGNMENT, np.uint8)
        start = -room.ctypes.data % _ALIGNMENT
        self._buffer = room[start : start + size]
        self._shard, self._filled = shard, 0

    def content(self, shard: int) -> Searchable:
        """The content of `shard`, all of whose parts must have come."""
        if self._content is None or shard != self._shard:
            raise RuntimeError(f"the queries of shard {shard} came before the shard itself")
        return self._content


@dataclass(frozen=True)
class Candidates:
    """The answer of one shard: what the merge needs of each neighbour.

    Attributes
    ----------
    result_type : StructType
        Lists of "distance", "id", and, where the stage needs them, "label" and "weight".
    """

    result_type: StructType
    width = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """All that items have."""
        return tuple(name for name in self.result_type.names if name != "distance")

    def rows(self, neighbors: Neighbors, items: Items) -> pa.StructArray:
        """One struct of lists for each query, nearest first."""
        there = neighbors.positions >= 0
        positions = neighbors.positions[there]
        cells = {
            "distance": pa.array(neighbors.distances[there]),
            "id": items.take_ids(positions),
            "label": None if items.labels is None else pa.array(items.labels[positions]),
            "weight": None if items.weights is None else pa.array(items.weights[positions]),
        }
        names = self.result_type.names
        offsets = list_offsets(there.sum(axis=1))
        lists = [pa.ListArray.from_arrays(offsets, cells[name]) for name in names]
        return pa.StructArray.from_arrays(lists, names=names)


def search_shards(
    request: Request,
    digests: dict[int, str],
    batches: Iterator[tuple[pa.Array, ...]],
) -> Iterator[pa.Array]:
    """Search shards, each of which comes just before its queries.

    Parameters
    ----------
    request : Request
        What is wanted; its answer is `Candidates`.
    digests : dict of int to str
        What each shard must be.
    batches : iterator of tuples of pyarrow.Array
        `SHARD_COLUMNS`, and then the columns of `worker.search_batches`.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct, null for one that is invalid or passes; for each part
        of a shard an empty list.
    """
    opening = _Opening(digests)
    width = len(SHARD_COLUMNS)
    nothing = pa.array([[]], pa.list_(_arrow_type(request)))
    with threadpool_limits(limits=task_threads()):
        for arrays in batches:
            for start, stop, is_query in _runs(arrays):
                number = arrays[0][start].as_py()
                if number == PASSING:
                    yield pa.array([[None]] * (stop - start), nothing.type)
                    continue
                if is_query:
                    searchable = opening.content(number)
                    inputs = tuple(each[start:stop] for each in arrays[width:])
                    yield from answer_batch(searchable, request, inputs)
                    continue
                for row in range(start, stop):
                    shard, offset, size, digest = (each[row].as_py() for each in arrays[:4])
                    opening.add(shard, offset, size, digest, arrays[4][row].as_buffer())
                    yield nothing


def _arrow_type(request: Request) -> pa.DataType:
    from pyspark.sql.pandas.types import to_arrow_type

    return to_arrow_type(request.answer.result_type)


def _runs(arrays: tuple[pa.Array, ...]) -> Iterator[tuple[int, int, bool]]:
    """Stretches of rows that are all of one shard, and all queries or all parts of it."""
    shard = arrays[0].to_numpy(zero_copy_only=False)
    is_query = arrays[1].is_null().to_numpy(zero_copy_only=False)
    changes = (np.diff(shard) != 0) | (np.diff(is_query.astype(np.int8)) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(shard)]
    for start, stop in itertools.pairwise(bounds):
        if start < stop:
            yield start, stop, bool(is_query[start])


def merge_candidates(
    request: Request, names: list[str], batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer queries out of what their shards found.

    Parameters
    ----------
    request : Request
        What is wanted.
    names : list of str
        Of the candidates' columns: "distance", "id", and so on.
    batches : iterator of tuples of pyarrow.Array
        How many shards a query went to, how many of them answered, how many rows it has (one, if
        all is well), and the lists that `names` tells.

    Yields
    ------
    pyarrow.ListArray
        See `worker.search_batches`.

    Raises
    ------
    RuntimeError
        If the queries came out otherwise when a lost task ran again.
    """
    for sent, answered, rows, *lists in batches:
        asked = sent.fill_null(-1).to_numpy(zero_copy_only=False)
        found = answered.to_numpy(zero_copy_only=False)
        whole = (rows.to_numpy(zero_copy_only=False) == 1) & ((found == asked) | (found == 0))
        if not whole.all():
            raise RuntimeError(
                "the queries came out otherwise when a lost task ran again: their DataFrame gives "
                "other rows each time that it is computed; persist it, or write it down first"
            )
        size = len(lists[0].flatten()) // max(1, len(found)) + 1
        step = max(1, _MERGED_AT_ONCE // size)
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            valid = found[part] > 0
            pick = pa.array(np.flatnonzero(valid))
            merged = _merge(request.k, names, [each[part].take(pick) for each in lists])
            answers = request.answer.rows(*merged)
            yield fan_out(answers, valid, keep=request.handle_invalid == "keep")


def _merge(k: int, names: list[str], lists: list[pa.Array]) -> tuple[Neighbors, Items]:
    """The k nearest of the candidates of each query, and the items that those are."""
    counts = lists[0].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    query = np.repeat(np.arange(len(counts)), counts)
    keys = pa.table([each.flatten() for each in lists], names=names)
    distance = keys["distance"].to_numpy()
    order = np.lexsort((distance, query))
    if _ties(query[order], distance[order]):
        ranks = np.empty(len(keys), np.int64)
        by = [(name, "ascending") for name in names if name != "distance"]
        ranks[pc.sort_indices(keys, by).to_numpy()] = np.arange(len(keys))
        order = np.lexsort((ranks, distance, query))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, place = order[place < k], place[place < k]
    row = query[order]
    shape = (len(counts), max(1, min(k, int(counts.max(initial=0)))))
    distances, positions = np.full(shape, np.inf), np.full(shape, -1)
    distances[row, place] = distance[order]
    positions[row, place] = np.arange(len(order))
    kept = {name: keys[name].combine_chunks().take(pa.array(order)) for name in names}
    items = Items(
        len(order),
        kept["id"],
        kept["label"].to_numpy() if "label" in kept else None,
        kept["weight"].to_numpy() if "weight" in kept else None,
    )
    return Neighbors(distances, positions), items


def _ties(query: NDArray[np.int64], distance: NDArray[np.float64]) -> bool:
    """Whether any query has two candidates at the same distance; all in order."""
    return bool(((query[1:] == query[:-1]) & (distance[1:] == distance[:-1])).any())


def time_shards(
    digests: dict[int, str],
    queries: NDArray[np.floating],
    k: int,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """`worker.time_search` in each shard that comes."""
    for searchable in _opened(digests, batches):
        yield time_search(searchable, queries, k)


def read_shards(
    digests: dict[int, str], with_ids: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The items of shards, as rows.

    Parameters
    ----------
    digests : dict of int to str
        What each shard must be.
    with_ids : bool
        Whether ids are ids; if not, they are positions.
    batches : iterator of pyarrow.RecordBatch
        `SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        id or position, features, label and weight, as far as the items have them.
    """
    for searchable in _opened(digests, batches):
        yield from _item_rows(searchable, with_ids=with_ids)


def _opened(digests: dict[int, str], batches: Iterator[pa.RecordBatch]) -> Iterator[Searchable]:
    """The content of one shard after another, out of rows of `SHARD_COLUMNS`."""
    opening = _Opening(digests)
    for batch in batches:
        for row in range(batch.num_rows):
            shard, offset, size, digest = (each[row].as_py() for each in batch.columns[:4])
            part = batch.column(4)[row].as_buffer()
            opening.add(shard, offset, size, digest, part)
            if offset + part.size == size:
                yield opening.content(shard)


def _item_rows(searchable: Searchable, *, with_ids: bool) -> Iterator[pa.RecordBatch]:
    items, step = searchable.items, item_step(searchable)
    if not with_ids:
        searchable = replace(searchable, items=replace(items, ids=None))
    for start in range(0, items.count, step):
        positions = np.arange(start, min(start + step, items.count))
        # Where ids are positions they take the first column, where ids are ids it falls away.
        rows = item_rows(searchable, start, items.take_ids(positions))
        yield rows.select(rows.schema.names[1:]) if with_ids else rows
