"""Build shards in Python workers: packed chunks -> pieces of shards -> bundles."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.fit.chunks import (
    ASSIGNING,
    CHANGED,
    CONTENT_WRAP,
    KEY_HASH,
    POSITION,
    SERIES,
    columns_of,
    placed,
    unpack,
    vector_cells,
)
from pyspark_knn.engine.fit.merging import row_bytes
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.engine.search.indexing import index_items
from pyspark_knn.engine.search.searchable import ShardBody, task_threads
from pyspark_knn.engine.shards.id_ranges import range_of
from pyspark_knn.engine.shards.key_shards import KeyShards
from pyspark_knn.engine.shards.restoring import RestoringChoice
from pyspark_knn.engine.shards.saved_layout import SavedLayout
from pyspark_knn.engine.ship.shard_rows import Shard, shard_rows, write_content
from pyspark_knn.engine.spark.arrow import one_row, rows_of, stream_of
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cells import ShardAssignment
from pyspark_knn.index.choices import SharedChoice
from pyspark_knn.index.found import DENSE

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.spreads import Spread

PIECE_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("dtype", pa.string()),
        ("columns", pa.binary()),
        ("lengths", pa.binary()),
        ("indices", pa.binary()),
        ("values", pa.binary()),
    ]
)
"""Items of one chunk that belong to one shard: their vectors, as in `chunks.CHUNK_SCHEMA`, and
their columns, an Arrow stream."""

_CHANGED = CHANGED.format(what="the rows divided into shards differ from the rows counted before")


@dataclass(frozen=True)
class ShardRequest:
    """The parameters of a task that builds shards.

    Attributes
    ----------
    dim : int
        The dimension of the vectors; chunks of another dimension are skipped.
    dtype : numpy dtype
        The type of the vectors in all shards, float32 or float64.
    num_shards : int
        The number of shards; some of them may be empty.
    order : tuple of str
        The item columns that sort the items of a shard, "id" first.
    has_ids : bool
        Whether the items have ids or saved positions. If not, the positions come from `chunks`.
    chunks : ndarray of shape (n_chunks, 5), dtype int64
        Partition, chunk, position of the first item, number of items and content of each chunk.
    spec : IndexSpec
        The index to build.
    first : int
        The number of the first shard.
    storage : {"dense", "sparse"}
        How it stores vectors.
    assignment : ShardAssignment or KeyShards or SavedLayout or None
        The cells that the shards are, the shards of keys, or those of a saved model; None assigns
        items to shards by a hash of their ids.
    keys : tuple of str
        The item columns of keys; empty if there are no keys.
    saved_at : str
        The folder that the structures of approximate shards come from; empty if there are none.
    """

    dim: int
    dtype: np.dtype[np.floating]
    num_shards: int
    order: tuple[str, ...]
    has_ids: bool
    chunks: NDArray[np.int64]
    spec: IndexSpec
    first: int = 0
    storage: str = DENSE
    assignment: ShardAssignment | KeyShards | SavedLayout | None = None
    keys: tuple[str, ...] = ()
    saved_at: str = ""


# --- chunks -> pieces -----------------------------------------------------------------------------


def split_chunks(
    request: ShardRequest, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Divide packed chunks into pieces, one for each shard that their items belong to.

    Parameters
    ----------
    request : ShardRequest
        The shards.
    batches : iterator of pyarrow.RecordBatch
        Rows of `chunks.CHUNK_SCHEMA`.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `PIECE_SCHEMA`.

    Raises
    ------
    RuntimeError
        If the chunks differ from those that were counted before.
    """
    starts = {(row[0], row[1]): (row[2], row[3]) for row in request.chunks.tolist()}
    found: dict[int, _Tally] = {}
    for batch in batches:
        for chunk in rows_of(batch):
            tally = found.setdefault(chunk["partition"], _Tally())
            if chunk["chunk"] < 0 or chunk["dim"] != request.dim:
                continue  # the row that closes a partition, or vectors of another dimension
            tally.add(chunk["rows"], chunk["content"])
            start, rows = starts.get((chunk["partition"], chunk["chunk"]), (0, -1))
            if rows != chunk["rows"] and not request.has_ids:
                raise RuntimeError(_CHANGED)
            yield from pieces_of(request, chunk, start)
    # Partitions are compared, not chunks, since a shuffle may return rows in a different order.
    for partition, tally in found.items():
        counted = _Tally()
        for *_, rows, content in request.chunks[request.chunks[:, 0] == partition].tolist():
            counted.add(rows, content)
        if tally != counted:
            raise RuntimeError(_CHANGED)


@dataclass
class _Tally:
    """The number of rows and the content of all chunks of a partition."""

    rows: int = 0
    content: int = 0

    def add(self, rows: int, content: int) -> None:
        self.rows += rows
        self.content = (self.content + content) % CONTENT_WRAP


def pieces_of(
    request: ShardRequest, chunk: Mapping[str, Any], start: int
) -> Iterator[pa.RecordBatch]:
    """Divide a chunk into pieces; `start` is the position of its first item."""
    columns = _columns(chunk, start)
    for first, matrix in unpack(chunk, request.dim, request.storage):
        part = columns.slice(first, len(matrix))
        shards = _shards(request, part, matrix)
        part = part.drop([name for name in ASSIGNING if name in part.column_names])
        order = np.argsort(shards, kind="stable")
        found, firsts = np.unique(shards[order], return_index=True)
        for shard, rows in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
            cells = {
                "shard": request.first + shard,
                "dtype": chunk["dtype"],
                "columns": stream_of(part.take(pa.array(rows)).combine_chunks().to_batches()),
                **vector_cells(matrix[rows]),
            }
            yield one_row(PIECE_SCHEMA, cells)


def _shards(request: ShardRequest, columns: pa.Table, matrix: Rows) -> NDArray[np.integer]:
    """Return the shard of each item, given its columns and its vector."""
    hashes = spread(columns["id"])
    if isinstance(request.assignment, KeyShards):
        return request.assignment.of_items(columns[KEY_HASH].to_numpy(), hashes)
    if isinstance(request.assignment, SavedLayout):
        # A series that is missing is damage, too.
        numbers = pc.fill_null(columns[SERIES], -1).to_numpy()
        return request.assignment.shards(numbers, cast("NDArray[np.floating]", matrix), hashes)
    if request.assignment is not None:
        return request.assignment.shards(cast("NDArray[np.floating]", matrix), hashes)
    return hashes % np.uint64(request.num_shards)


def _columns(chunk: Mapping[str, Any], start: int) -> pa.Table:
    """Return the columns of a chunk's items, with positions as "id" if they have no ids."""
    columns = pa.table({}) if chunk["columns"] is None else columns_of(chunk)
    given = {name: columns[name] for name in columns.column_names}
    positions = given.pop(POSITION, None)
    if "id" not in given:
        counted = np.arange(start, start + chunk["rows"])
        given = {"id": counted if positions is None else positions, **given}
    return pa.table(given)


def spread(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Hash ids: equal ids get the same shard, and no pattern in the ids makes a shard large."""
    import pandas as pd  # not at the top: PySpark 3.5 does without it on the driver

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
    """Build the index of each shard, and yield its bundle part by part.

    Parameters
    ----------
    request : ShardRequest
        The shards.
    batches : iterator of pyarrow.RecordBatch
        Rows of `PIECE_SCHEMA`, and those of `SavedShards.pieces` if there are structures; the rows
        of a shard follow one another.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `shard_rows.SHARD_SCHEMA`.
    """
    pieces = (piece for batch in batches for piece in rows_of(batch))
    choice = SharedChoice()
    with threadpool_limits(limits=task_threads()):
        for shard, group in itertools.groupby(pieces, key=lambda piece: int(piece["shard"])):
            yield from _shard(request, shard, group, choice)


def _shard(
    request: ShardRequest,
    number: int,
    pieces: Iterable[Mapping[str, Any]],
    choice: SharedChoice,
) -> Iterator[pa.RecordBatch]:
    layout = request.assignment

    def spread(matrix: Any) -> Spread | None:
        if isinstance(layout, SavedLayout):
            return layout.spread(number, matrix)
        if not isinstance(layout, ShardAssignment):
            return None
        return layout.spread(number - request.first, matrix)

    if isinstance(layout, SavedLayout):
        # Its structure is that of vectors of this type.
        request = replace(request, dtype=layout.series_of(number).dtype)
    if request.saved_at:
        restoring = RestoringChoice(f"{request.saved_at}: shard {number}", choice)
        pieces, choice = restoring.without_structures(pieces), restoring
    # Handed over, so that vectors can be freed when they were copied in the order of their keys.
    yield from written_shard(
        number, _sorted(request, pieces), request.spec, request.keys, spread, choice
    )


def written_shard(
    number: int,
    content: tuple[pa.Table, Any],
    spec: IndexSpec,
    keys: tuple[str, ...],
    spread: Callable[[Any], Spread | None],
    choice: SharedChoice | None = None,
) -> Iterator[pa.RecordBatch]:
    """Index the items of a shard, and yield its content part by part.

    Parameters
    ----------
    number : int
        The number of the shard.
    content : (pyarrow.Table, ndarray or SparseRows of shape (n_items, n_features))
        The items without their vectors, sorted, and their vectors in the same order.
    spec : IndexSpec
        The index to build.
    keys : tuple of str
        The item columns of keys.
    spread : callable
        Returns the spread of the shard, given its vectors; None if it is not a cell.
    choice : SharedChoice, optional
        What was tried out for the shards before.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `shard_rows.SHARD_SCHEMA`.
    """
    table, matrix = content
    items = Items.from_table(table)
    digest = _digest(table, matrix)
    around = spread(matrix)
    converts = spec.metric.converts(matrix)
    groups = Groups.of(items, keys) if keys else None
    if groups is not None:
        matrix = matrix[groups.positions]
    searchable, reason = index_items(items, matrix, groups, spec, choice)
    del content, table, matrix, groups
    file = io.BytesIO()
    head = write_content(items, ShardBody(searchable.index, searchable.keys), file)
    shard = Shard(
        shard=number,
        rows=items.count,
        duplicates=items.duplicates(),
        size=file.tell(),
        head=head,
        digest=digest,
        algorithm=searchable.index.algorithm,
        reason=reason,
        radius=None if around is None else around.radius,
        label=float(items.numbers("label").max()) if "label" in items.columns else None,
        converts=converts,
        levels=searchable.levels or None,
        ranks=None if around is None else around.ranks,
        sample=None if around is None else around.sample,
        ids=range_of(items.columns["id"]),
    )
    yield from shard_rows(shard, file.getbuffer())


def _sorted(request: ShardRequest, pieces: Iterable[Mapping[str, Any]]) -> tuple[pa.Table, Any]:
    """Return the items of a shard sorted by id, regardless of the order of the pieces."""
    table, matrix = _placed(request, pieces)
    # Arrow keeps the memory of the pieces for reuse: as much as the shard, which is copied next.
    pa.default_memory_pool().release_unused()
    # Equal ids are next to each other. To count distinct ones, Arrow takes 300 bytes for each.
    if not Items.from_table(table).duplicates():
        return table, matrix
    # Items with equal columns are sorted by their vectors: a shard that is lost and rebuilt must be
    # the same.
    ranks = np.empty(len(table), np.int64)
    ranks[np.argsort(row_bytes(matrix), kind="stable")] = np.arange(len(table))
    order = _order(request, table.append_column(" ", pa.array(ranks)), " ")
    return table.take(order).combine_chunks(), matrix[order.to_numpy()]


def _placed(request: ShardRequest, pieces: Iterable[Mapping[str, Any]]) -> tuple[pa.Table, Any]:
    """Return the items of a shard sorted by their columns.

    Each vector is copied straight to its place, so that there are never more than two copies of a
    shard in memory: the pieces are freed when this function returns.
    """
    tables: list[pa.Table] = []
    parts: deque[Any] = deque()
    for piece in pieces:
        tables.append(columns_of(piece))
        parts.extend(part for _, part in unpack(piece, request.dim, request.storage))
    table = pa.concat_tables(tables)
    order = _order(request, table)
    place = np.empty(len(table), np.int64)
    place[order.to_numpy()] = np.arange(len(table))
    table = table.take(order).combine_chunks()
    # Handed over, so that a part can be freed when it was copied.
    handed = (parts.popleft() for _ in range(len(parts)))
    return table, placed(handed, place, request.dim, request.dtype, request.storage)


def _order(request: ShardRequest, table: pa.Table, *more: str) -> pa.Array:
    return pc.sort_indices(table, [(name, "ascending") for name in (*request.order, *more)])


def _digest(table: pa.Table, matrix: Rows) -> str:
    digest = hashlib.blake2b(stream_of(table.to_batches()) or b"", digest_size=16)
    if isinstance(matrix, np.ndarray):
        digest.update(matrix.data)
    else:
        for part in (matrix.indptr, matrix.indices, matrix.data):
            digest.update(part.data)
    return digest.hexdigest()
