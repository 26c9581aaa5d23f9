"""Pack items into chunks in Python workers: batches of rows -> few rows of large binary cells."""

from __future__ import annotations

import functools
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyspark_knn.engine.fit.chunks import CHUNK_SCHEMA, CONTENT_WRAP, content_of
from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.rows.invalid import (
    describe_invalid,
    describe_malformed,
    invalid_rows,
    wrong_values,
)
from pyspark_knn.engine.rows.vectors import InexactValueError, VectorBatch
from pyspark_knn.engine.spark.arrow import one_row, stream_of


@dataclass(frozen=True)
class PackRequest:
    """The parameters of a task that packs items.

    Attributes
    ----------
    features_col : str
        The name of the features column, for messages.
    columns : tuple of str
        The names of the item columns.
    id_col : str or None
        The name of the id column, for messages; None if the items have no ids.
    dim : int or None
        The dimension that the vectors must have; None if it is not known yet.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid vector: "skip" and "keep" drop the item.
    dtype : {"auto", "float32"}
        "float32" rounds the values; "auto" stores them as float32 if that changes none.
    chunk_bytes : int
        The approximate size of a chunk, in bytes.
    numbers : tuple of ItemColumn
        The item columns of numbers, which are checked in every row.
    sparse : bool
        Whether all vectors are packed sparse. If not, chunks that are smaller so are.
    keys : tuple of str
        The item columns of keys. Rows in which one of them is null are skipped.
    missing : bool
        Whether vectors may have missing values, which are NaN.
    features_param : str
        The Param that names the features column.
    unique : str
        A value that makes this plan unique. Spark treats equal plans as one, so unpersisting
        the chunks of one fit would unpersist those of another fit of equal items.
    """

    features_col: str
    columns: tuple[str, ...]
    id_col: str | None
    dim: int | None
    handle_invalid: str
    dtype: str
    chunk_bytes: int
    numbers: tuple[ItemColumn, ...] = ()
    sparse: bool = False
    keys: tuple[str, ...] = ()
    missing: bool = False
    features_param: str = "featuresCol"
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass
class _Pile:
    """Rows of one dimension and layout that do not fill a chunk yet."""

    dim: int
    sparse: bool
    rows: int = 0
    size: int = 0
    content: int = 0
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    indices: list[NDArray[np.int32]] = field(default_factory=list)
    values: list[NDArray[np.floating]] = field(default_factory=list)
    columns: list[pa.RecordBatch] = field(default_factory=list)


def pack(request: PackRequest, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pack the rows of one partition into chunks of `CHUNK_SCHEMA`.

    A problem raises no error here. It is put into the last row, so that the driver can raise it in
    one line instead of Python and Java stack traces.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    packer = _Packer(request, context.partitionId() if context is not None else 0)
    for batch in batches:
        yield from packer.add(batch)
    yield from packer.close()


class _Packer:
    """A packer of the rows of a partition: it sorts them into piles, and packs full piles."""

    def __init__(self, request: PackRequest, partition: int) -> None:
        self._request = request
        self._partition = partition
        self._chunks = 0
        self._skipped = 0
        self._problem: str | None = None
        self._piles: dict[tuple[int, bool], _Pile] = {}

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Add the rows of a batch, and yield the chunks that are full."""
        if self._problem is not None:
            return  # Spark requires that its input is read to the end
        request = self._request
        batch = self._with_keys(batch)
        if not batch.num_rows:
            return
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        try:
            vectors = VectorBatch.from_arrow(arrays, request.features_col)
        except InexactValueError as error:
            self._problem = str(error)
            return
        if len(vectors.malformed()):
            self._problem = describe_malformed("featuresCol", request.features_col)
            return
        columns = batch.select(list(request.columns))
        if request.id_col is not None and (missing := _missing(arrays["id"])):
            self._problem = (
                f"idCol {request.id_col!r} contains a {missing}. Every item needs an id."
            )
            return
        problems = (each.problem(arrays[each.name]) for each in request.numbers)
        self._problem = next(filter(None, problems), None)
        if self._problem is not None:
            return
        wanted = vectors.dims > 0 if request.dim is None else vectors.dims == request.dim
        self._reject(vectors, np.flatnonzero(~wanted))
        for dim in np.unique(vectors.dims[wanted]).tolist():
            rows = np.flatnonzero(vectors.dims == dim)
            stored = int(vectors.lengths[rows].sum())
            # A stored value of a sparse vector takes 12 bytes, and each value of a dense one 8.
            sparse = request.sparse or stored * 12 < len(rows) * dim * 8
            width = 12 * stored // len(rows) + 8 if sparse else 8 * dim
            step = max(1, request.chunk_bytes // (width + columns.nbytes // batch.num_rows))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                yield from self._pile(vectors, columns, part, dim, sparse=sparse)

    def close(self) -> Iterator[pa.RecordBatch]:
        """Yield the remaining chunks, and the row that closes the partition."""
        for pile in self._piles.values():
            yield self._chunk(pile)
        yield self._row(
            chunk=-1, rows=0, dim=0, dtype="float32", skipped=self._skipped, problem=self._problem
        )

    def _with_keys(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of a batch whose keys are not null."""
        for name in self._request.keys:
            if batch.column(name).null_count:
                rows = batch.num_rows
                batch = batch.filter(batch.column(name).is_valid())
                self._skipped += rows - batch.num_rows
        return batch

    def _reject(self, vectors: VectorBatch, rows: NDArray[np.int64]) -> None:
        if len(rows) and self._request.handle_invalid == "error" and self._problem is None:
            request = self._request
            self._problem = describe_invalid(
                request.features_param, request.features_col, vectors, int(rows[0]), request.dim
            )
        self._skipped += len(rows)

    def _pile(
        self,
        vectors: VectorBatch,
        columns: pa.RecordBatch,
        rows: NDArray[np.int64],
        dim: int,
        *,
        sparse: bool,
    ) -> Iterator[pa.RecordBatch]:
        """Add `rows` to their pile, and yield a chunk if the pile is full."""
        if sparse:
            row, index, value = vectors.entries(rows)
            bad = np.zeros(len(rows), dtype=bool)
            bad[row[wrong_values(value, missing=self._request.missing)]] = True
        else:
            value = vectors.dense(rows, dim)
            bad = invalid_rows(value, missing=self._request.missing)
        if bad.any():
            self._reject(vectors, rows[bad])
            rows = rows[~bad]
            if len(rows):
                yield from self._pile(vectors, columns, rows, dim, sparse=sparse)
            return
        pile = self._piles.setdefault((dim, sparse), _Pile(dim, sparse))
        pile.rows += len(rows)
        pile.columns.append(columns.take(pa.array(rows)))
        pile.content += content_of(value, index if sparse else None, pile.columns[-1])
        pile.size += value.nbytes + pile.columns[-1].nbytes
        # Copies, since a view would keep the whole Arrow batch in memory.
        value = self._stored(value.ravel())
        if sparse and not value.all():
            # Of a SparseVector, or rounded to 0 by dtype "float32".
            stored = value != 0
            row, index, value = row[stored], index[stored], value[stored]
        pile.values.append(value)
        if sparse:
            pile.lengths.append(np.bincount(row, minlength=len(rows)).astype(np.int64))
            pile.indices.append(index.astype(np.int32))
            pile.size += pile.lengths[-1].nbytes + pile.indices[-1].nbytes
        if pile.size >= self._request.chunk_bytes:
            del self._piles[dim, sparse]
            yield self._chunk(pile)

    def _stored(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return a copy, as float32 if that represents every value exactly or is required."""
        with np.errstate(over="ignore", under="ignore"):
            rounded = values.astype(np.float32)
        if self._request.dtype == "auto":
            # A NaN, which equals no number, is a missing value, which float32 has too.
            same = np.array_equal(rounded, values, equal_nan=self._request.missing)
            return rounded if same else values.copy()
        if np.isinf(rounded).any() and self._problem is None:
            self._problem = (
                f"featuresCol {self._request.features_col!r} contains values beyond the range of "
                "float32. Use dtype='auto'."
            )
        return rounded

    def _chunk(self, pile: _Pile) -> pa.RecordBatch:
        values = np.concatenate(pile.values)
        self._chunks += 1
        return self._row(
            chunk=self._chunks - 1,
            rows=pile.rows,
            dim=pile.dim,
            dtype=values.dtype.name,
            label=_largest_label(pile.columns),
            stored=len(values) if pile.sparse else None,
            content=pile.content % CONTENT_WRAP,
            columns=stream_of(pile.columns),
            lengths=pa.py_buffer(np.concatenate(pile.lengths)) if pile.sparse else None,
            indices=pa.py_buffer(np.concatenate(pile.indices)) if pile.sparse else None,
            values=pa.py_buffer(values),
        )

    def _row(self, **cells: object) -> pa.RecordBatch:
        buffers = [cell for cell in cells.values() if isinstance(cell, pa.Buffer)]
        cells["partition"] = self._partition
        cells["size"] = sum(buffer.size for buffer in buffers)
        # CRC-32 detects accidental changes in a fifth of the time of BLAKE2.
        cells["digest"] = functools.reduce(lambda crc, part: zlib.crc32(part, crc), buffers, 0)
        return one_row(CHUNK_SCHEMA, cells)


def _missing(ids: pa.Array) -> str | None:
    """Return "null" or "NaN" if an id is missing; pandas turns a missing number into NaN."""
    if ids.null_count:
        return "null"
    if pa.types.is_floating(ids.type) and pc.any(pc.is_nan(ids)).as_py():
        return "NaN"
    return None


def _largest_label(batches: list[pa.RecordBatch]) -> float | None:
    """Return the largest label of record batches; None if they have no labels."""
    if "label" not in batches[0].schema.names:
        return None
    return float(max(pc.max(batch.column("label")).as_py() for batch in batches))
