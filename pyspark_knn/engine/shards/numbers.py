"""Shards whose items get further columns of numbers, which were computed after the fit.

The index of a shard stays as it is, so it is copied and not built again. Only equal ids, which the
new columns order, may change the order of the items.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.fit.chunks import CHANGED
from pyspark_knn.engine.fit.merging import order_of, with_numbers
from pyspark_knn.engine.search.scoring import numbers_of, values_of
from pyspark_knn.engine.search.searchable import Searchable, ShardBody, task_threads
from pyspark_knn.engine.shards.build import written_shard
from pyspark_knn.engine.shards.frames import ShardSource, SharedFrame, union_of
from pyspark_knn.engine.shards.jobs import summaries_of
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import (
    SHARD_COLUMNS,
    SHARD_SCHEMA,
    Shard,
    ShardReader,
    shard_rows,
    write_content,
)
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.arrow import one_row, rows_of
from pyspark_knn.engine.spark.caching import persisted
from pyspark_knn.engine.spark.spreading import repartition_evenly
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.spreads import Spread

_PIECE_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("part", pa.int32()), ("places", pa.binary()), ("values", pa.binary())]
)
"""Values of items of one shard: their positions in it as int64, and one column of double after the
other. The part number is -1, which sorts them before the shard."""


@dataclass(frozen=True)
class NumbersRequest:
    """The parameters of a task that adds numbers to the items of shards.

    Attributes
    ----------
    names : tuple of str
        The new item columns.
    known : dict of int to Shard
        The summaries of the shards.
    spec : IndexSpec
        The index to build for a shard with equal ids.
    keys : tuple of str
        The item columns of keys; empty if there are no keys.
    cells : Cells or None
        The cells that the shards are; None if they are not cells.
    """

    names: tuple[str, ...]
    known: dict[int, Shard]
    spec: IndexSpec
    keys: tuple[str, ...]
    cells: Cells | None


def split_values(
    names: Sequence[str], firsts: Mapping[int, int], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Divide values of items by the shards of the items, into rows of `_PIECE_SCHEMA`.

    Parameters
    ----------
    names : sequence of str
        The columns to keep.
    firsts : mapping of int to int
        The number of the first item of each shard.
    batches : iterator of pyarrow.RecordBatch
        Rows of `scoring.VALUE_SCHEMA`.
    """
    shards = sorted(firsts, key=lambda shard: firsts[shard])
    starts = np.array([firsts[shard] for shard in shards])
    for row in (row for batch in batches for row in rows_of(batch)):
        numbers = numbers_of(row["numbers"])
        values = np.stack([values_of(row[name]) for name in names])
        which = np.searchsorted(starts, numbers, side="right") - 1
        for number in np.unique(which).tolist():
            own = which == number
            cells = {
                "shard": shards[number],
                "part": -1,
                "places": pa.py_buffer(numbers[own] - starts[number]),
                "values": pa.py_buffer(np.ascontiguousarray(values[:, own])),
            }
            yield one_row(_PIECE_SCHEMA, cells)


def add_numbers(
    request: NumbersRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Write shards again with further columns of numbers.

    Parameters
    ----------
    request : NumbersRequest
        The shards.
    batches : iterator of pyarrow.RecordBatch
        The columns of `_PIECE_SCHEMA` and `SHARD_COLUMNS`: the pieces of a shard, then its parts.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `shard_rows.SHARD_SCHEMA`.
    """
    reader = ShardReader({number: shard.digest for number, shard in request.known.items()})
    values = _Numbers(request, -1)
    with threadpool_limits(limits=task_threads()):
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for row, shard in enumerate(columns["shard"].to_pylist()):
                if shard != values.shard:
                    values = _Numbers(request, shard)
                if columns["bytes"][row].is_valid:
                    if reader.add(columns, row):
                        yield from _written(request, shard, reader.content(shard), values)
                else:
                    values.add(*(columns[name][row].as_buffer() for name in ("places", "values")))


class _Numbers:
    """The values of all items of a shard, collected from its pieces."""

    def __init__(self, request: NumbersRequest, shard: int) -> None:
        rows = request.known[shard].rows if shard >= 0 else 0
        self.shard = shard
        self.columns = {name: np.full(rows, np.nan) for name in request.names}
        self._left = rows

    def add(self, places: pa.Buffer, values: pa.Buffer) -> None:
        where = numbers_of(places)
        cells = values_of(values).reshape(len(self.columns), len(where))
        for column, row in zip(self.columns.values(), cells, strict=True):
            column[where] = row
        self._left -= len(where)

    def complete(self) -> dict[str, NDArray[np.float64]]:
        if self._left:
            raise RuntimeError(CHANGED.format(what=f"{self._left} items of a shard have no values"))
        return self.columns


def _written(
    request: NumbersRequest, number: int, searchable: Searchable, values: _Numbers
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard with its new columns."""
    known, columns = request.known[number], values.complete()
    items = with_numbers(searchable.items, columns, request.keys)
    if known.duplicates:
        order = order_of(items)
        table = pa.table(dict(items.columns)).take(pa.array(order)).combine_chunks()
        content = table, searchable.vectors(order)
        spread = functools.partial(_spread, request.cells, number)
        yield from written_shard(number, content, request.spec, request.keys, spread)
        return
    digest = hashlib.blake2b(known.digest.encode(), digest_size=16)
    for column in columns.values():
        digest.update(column.data)
    file = io.BytesIO()
    head = write_content(items, ShardBody(searchable.index, searchable.keys), file)
    shard = replace(known, size=file.tell(), head=head, digest=digest.hexdigest())
    yield from shard_rows(shard, file.getbuffer())


def _spread(cells: Cells | None, shard: int, matrix: Any) -> Spread | None:
    return None if cells is None else cells.spread(shard, matrix)


def build_with_numbers(
    sources: Sequence[ShardSource],
    values: DataFrame,
    firsts: Mapping[int, int],
    request: NumbersRequest,
    partitions: int,
) -> ShardSource:
    """Write all shards again with further columns of numbers.

    Parameters
    ----------
    sources : sequence of ShardSource
        The shards.
    values : DataFrame
        Persisted rows of `scoring.VALUE_SCHEMA`, which are unpersisted with the result.
    firsts : mapping of int to int
        The number of the first item of each shard.
    request : NumbersRequest
        What to add.
    partitions : int
        The number of partitions of the shuffle.

    Returns
    -------
    ShardSource
        The shards, with the same numbers.
    """
    split = guarded(functools.partial(split_values, request.names, firsts))
    pieces = values.mapInArrow(split, from_arrow_schema(_PIECE_SCHEMA))
    both = union_of(sources).select("part", *SHARD_COLUMNS)
    both = both.unionByName(pieces, allowMissingColumns=True)
    rows = repartition_evenly(both, partitions, "shard").sortWithinPartitions("shard", "part")
    run = guarded(functools.partial(add_numbers, request))
    built = rows.mapInArrow(run, from_arrow_schema(SHARD_SCHEMA))
    title = f"pyspark_knn: add columns to {len(request.known)} shards"
    with compat.described(values.sparkSession, title), persisted(built) as frame:
        shards, _ = summaries_of(frame)
        counts = {number: shard.rows for number, shard in request.known.items()}
        if {shard.shard: shard.rows for shard in shards} != counts:
            raise RuntimeError(CHANGED.format(what="the rows in rebuilt shards differ"))
    return ShardSource(SharedFrame(frame, values), shards)
