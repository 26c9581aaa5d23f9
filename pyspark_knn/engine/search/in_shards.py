"""Search shards in a Python worker: the rows of a shard come just before its queries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.search.batches import Request, answer_batch
from pyspark_knn.engine.search.known_distances import KnownInShard, known_distances
from pyspark_knn.engine.search.query_blocks import answer_blocks
from pyspark_knn.engine.search.searchable import Searchable, task_threads, time_search
from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS, ShardReader, open_shards
from pyspark_knn.engine.spark.arrow import cells_of

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows

PASSING = -1
"""As the number of a shard: a query that passes through, and is not searched here."""


def search_shards(
    request: Request,
    digests: dict[int, str],
    batches: Iterator[tuple[pa.Array, ...]],
) -> Iterator[pa.Array]:
    """Search shards.

    Parameters
    ----------
    request : Request
        What to search; its answer is `FoundLists`.
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    batches : iterator of tuples of pyarrow.Array
        `SHARD_COLUMNS`, of which a query has the first alone, and then `request.inputs`.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct, null for one that is invalid or passes through; for
        each part of a shard an empty list.
    """

    def search(
        _: int, searchable: Searchable, inputs: Mapping[str, pa.Array]
    ) -> Iterator[pa.Array]:
        return answer_batch(searchable, request, inputs)

    return _search_rows(request, digests, request.inputs, _arrow_type(request), search, batches)


def search_blocks(
    search: str,
    request: Request,
    digests: dict[int, str],
    batches: Iterator[tuple[pa.Array, ...]],
) -> Iterator[pa.Array]:
    """Search shards by blocks of queries.

    Parameters
    ----------
    search : str
        A name that no other search has.
    request, digests
        See `search_shards`.
    batches : iterator of tuples of pyarrow.Array
        `SHARD_COLUMNS`, of which a query has the first alone, and then the numbers, the marks and
        the content of blocks, see `query_blocks.PACKED`.

    Yields
    ------
    pyarrow.ListArray
        For each block a list of one struct: its answers, see `query_blocks.answer_blocks`; null for
        a row that passes through. For each part of a shard an empty list.
    """
    found = pa.struct([("found", pa.binary())])
    known = known_distances(search, request)

    def answers_of(
        shard: int, searchable: Searchable, arrays: Mapping[str, pa.Array]
    ) -> Iterator[pa.Array]:
        # By content, too: after a retry, a block may have the number of another one.
        names = list(zip(arrays["block"].to_pylist(), arrays["mark"].to_pylist(), strict=True))
        so_far = None if known is None else KnownInShard(known, shard, names)
        for answers in answer_blocks(searchable, request, cells_of(arrays["data"]), so_far):
            yield pa.array([[{"found": answers}]], pa.list_(found))

    return _search_rows(request, digests, ("block", "mark", "data"), found, answers_of, batches)


def _search_rows(
    request: Request,
    digests: dict[int, str],
    inputs: tuple[str, ...],
    result: pa.DataType,
    search: Callable[[int, Searchable, Mapping[str, pa.Array]], Iterator[pa.Array]],
    batches: Iterator[tuple[pa.Array, ...]],
) -> Iterator[pa.Array]:
    """Read shards, and yield what `search` finds in each for the rows after it."""
    reader, opened = ShardReader(digests), _Opened(request)
    names = (*SHARD_COLUMNS, *inputs)
    nothing = pa.array([[]], pa.list_(result))
    with threadpool_limits(limits=task_threads()):
        for arrays in batches:
            columns = dict(zip(names, arrays, strict=True))
            for start, stop, is_query in _runs(columns):
                shard = columns["shard"][start].as_py()
                if shard == PASSING:
                    yield pa.array([[None]] * (stop - start), nothing.type)
                elif is_query:
                    asked = {name: columns[name][start:stop] for name in inputs}
                    # Not in a variable, which would keep the shard while the next one is read.
                    yield from search(shard, opened.prepared(shard, reader.content(shard)), asked)
                else:
                    opened.forget()
                    for row in range(start, stop):
                        reader.add(columns, row)
                        yield nothing


class _Opened:
    """The content of the last shard that was read, in the form in which it is searched."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._content: Searchable | None = None

    def forget(self) -> None:
        """Free the memory of the shard, before another one is read."""
        self._content = None

    def prepared(self, shard: int, content: Searchable) -> Searchable:
        """Return the content of the shard with numbered items, and without those held out."""
        if self._content is None:
            firsts, held_out = self._request.firsts, self._request.held_out
            found = content if firsts is None else content.numbered(firsts[shard])
            self._content = found if held_out is None else found.held_out(held_out)
        return self._content


def _arrow_type(request: Request) -> pa.DataType:
    from pyspark.sql.pandas.types import to_arrow_type

    return to_arrow_type(request.answer.result_type)


def _runs(columns: Mapping[str, pa.Array]) -> Iterator[tuple[int, int, bool]]:
    """Yield stretches of rows of one shard that are all queries, or all parts of it."""
    shard = columns["shard"].to_numpy(zero_copy_only=False)
    is_query = columns["offset"].is_null().to_numpy(zero_copy_only=False)
    changes = (np.diff(shard) != 0) | (np.diff(is_query.astype(np.int8)) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(shard)]
    for start, stop in itertools.pairwise(bounds):
        if start < stop:
            yield start, stop, bool(is_query[start])


def time_shards(
    digests: dict[int, str],
    queries: Rows,
    k: int,
    knob: int | None,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield `batches.time_search` in each of the shards in `batches`, rows of `SHARD_COLUMNS`."""
    for _, searchable in open_shards(digests, batches):
        yield time_search(searchable.tuned(knob), queries, k)
