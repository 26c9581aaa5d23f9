"""The items DataFrame, read once: rows -> packed chunks -> `Items` and a matrix."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit import packing
from pyspark_knn.engine.fit.chunks import (
    CHANGED,
    CHUNK_SCHEMA,
    KEY_HASH,
    POSITION,
    columns_of,
    placed,
    unpack,
)
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persisted, unpersist
from pyspark_knn.engine.spark.heap import bytes_of
from pyspark_knn.index.base import SPARSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import Rows

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 8 << 20
"""The approximate size of a chunk, in bytes."""

_SLICE_BYTES = 64 << 20
"""The bytes of one fetch, of which the JVM of the driver briefly holds a few copies."""

_COUNTED = (
    *("partition", "chunk", "rows", "dim", "skipped", "problem", "dtype", "label", "size"),
    *("stored", "content", "digest"),
)
"""The columns of `CHUNK_SCHEMA` that the driver reads to count the items."""


class Chunk(NamedTuple):
    """The summary of a chunk on the driver; for the fields see `chunks.CHUNK_SCHEMA`."""

    partition: int
    chunk: int
    rows: int
    size: int
    stored: int | None
    content: int
    digest: int


class Gathered(NamedTuple):
    """Items on the driver.

    Attributes
    ----------
    items : Items
        The items without their vectors.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        Their vectors: in the order of `groups` if there are keys, else in the order of `items`.
    groups : Groups or None
        The groups of items with equal keys; None if there are no keys.
    """

    items: Items
    matrix: Rows
    groups: Groups | None = None


class PackedItems:
    """Items packed into chunks, which are persisted on the executors.

    This is a context manager, which unpersists the chunks at its end.

    Parameters
    ----------
    dataset : DataFrame
        The items.
    source : ItemSource
        What to read.
    chunk_bytes : int, default=_CHUNK_BYTES
        The bytes of a chunk, at most a quarter of a slice.
    slice_bytes : int, default=_SLICE_BYTES
        The bytes of one fetch, at most half of spark.driver.maxResultSize.
    may_be_empty : bool, default=False
        Whether `num_items` may be 0. If not, that is an error.

    Attributes
    ----------
    num_items, num_features, num_skipped : int
        The number of items, the dimension of their vectors, and the number of invalid rows that
        were skipped.
    dtype : numpy dtype
        The type of the vectors: float32 if that represents every value exactly or the source
        requires it, otherwise float64.
    largest_label : float or None
        The largest label, if the items have labels.
    chunks : list of Chunk
        The chunks that contain the items, in order.
    frame : DataFrame
        Rows of `chunks.CHUNK_SCHEMA`, which include these chunks.
    source : ItemSource
        What was read.
    """

    def __init__(
        self,
        dataset: DataFrame,
        source: ItemSource,
        *,
        chunk_bytes: int = _CHUNK_BYTES,
        slice_bytes: int = _SLICE_BYTES,
        may_be_empty: bool = False,
    ) -> None:
        session = dataset.sparkSession
        limit = bytes_of(compat.setting(session, "spark.driver.maxResultSize", "1g"))
        # Half the limit, since compression may also make the results a little larger.
        self._slice_bytes = min(slice_bytes, limit // 2) if limit else slice_bytes
        request = packing.PackRequest(
            features_col=source.features_col,
            columns=tuple(source.columns),
            id_col=source.id_col,
            dim=source.features.attributes,
            handle_invalid=source.handle_invalid,
            dtype=source.dtype,
            chunk_bytes=max(1, min(chunk_bytes, self._slice_bytes // 4)),
            numbers=source.numbers,
            sparse=source.storage == SPARSE,
            keys=tuple(source.key_types),
            missing=source.missing,
            features_param=source.features_param,
        )
        self.source = source
        self._may_be_empty = may_be_empty
        with (
            compat.described(session, "pyspark_knn: pack the items"),
            persisted(_pack(dataset, source, request)) as self.frame,
        ):
            self._count(self.frame.select(*_COUNTED).collect())

    def __enter__(self) -> PackedItems:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unpersist(self.frame)

    def nbytes(self, storage: str) -> int:
        """Return the size of the vectors in bytes, if they are stored dense or sparse."""
        width = self.dtype.itemsize
        if storage == SPARSE:
            return self.stored * (width + 4) + self.num_items * 8
        return self.num_items * self.num_features * width

    @property
    def stored(self) -> int:
        """The number of values that the items store; of a dense vector, all of them."""
        return sum(
            chunk.rows * self.num_features if chunk.stored is None else chunk.stored
            for chunk in self.chunks
        )

    def sparse_size(self) -> tuple[int, int]:
        """Return the size of all items that are packed sparse, in bytes: as packed, and dense."""
        sparse = [(chunk.rows, chunk.stored) for chunk in self.chunks if chunk.stored is not None]
        rows, stored = (sum(each) for each in zip(*sparse, strict=True)) if sparse else (0, 0)
        width = self.dtype.itemsize
        return stored * (width + 4) + rows * 8, rows * self.num_features * width

    def _count(self, rows: list[Row]) -> None:
        rows = sorted(rows, key=lambda row: (row.partition, row.chunk))
        problems = [row.problem for row in rows if row.problem is not None]
        if problems:
            raise ValueError(problems[0])
        chunks = [row for row in rows if row.chunk >= 0]
        dims: Counter[int] = Counter()
        for row in chunks:
            dims[row.dim] += row.rows
        param, name = self.source.features_param, self.source.features_col
        self.num_skipped = sum(row.skipped for row in rows if row.chunk < 0)
        if not dims and not self._may_be_empty:
            keys = bool(self.source.key_types)
            kind = "rows with invalid vectors or null keys" if keys else "invalid rows"
            skipped = f" ({self.num_skipped} {kind} were skipped)" * bool(self.num_skipped)
            raise ValueError(f"{param} {name!r} contains no vectors to fit{skipped}")
        if len(dims) > 1 and self.source.handle_invalid == "error":
            found = ", ".join(f"{dim} ({dims[dim]} rows)" for dim in sorted(dims))
            raise ValueError(
                f"{param} {name!r} contains vectors of different dimensions: {found}. Set "
                "handleInvalid to 'skip' to fit only the items of the most frequent dimension."
            )
        self._several_dims = len(dims) > 1
        # The most frequent dimension is kept, which does not depend on the partitioning.
        self.num_features = min(dims, key=lambda dim: (-dims[dim], dim), default=0)
        self.num_items = dims.pop(self.num_features, 0)
        self.num_skipped += dims.total()
        kept = [row for row in chunks if row.dim == self.num_features]
        self.dtype = np.result_type(np.float32, *{row.dtype for row in kept})
        labels = [row.label for row in kept if row.label is not None]
        self.largest_label = max(labels, default=None)
        self.chunks = [Chunk(*(row[name] for name in Chunk._fields)) for row in kept]

    def gather(self, storage: str) -> Gathered:
        """Fetch the items to the driver in slices, and copy each vector to its row of the matrix.

        Parameters
        ----------
        storage : {"dense", "sparse"}
            The form of the vectors.

        Returns
        -------
        Gathered
            The items, sorted by `source.sort_by`, and their vectors.
        """
        # A single slice is fetched with all columns in one job, which is faster than planning two.
        small = len(list(self._slices())) == 1
        rows = list(self._fetch()) if small else self._fetch("columns")
        items, groups, place = arranged(self._gather_columns(rows), self.num_items, self.source)
        chunks = rows if small else self._fetch("dtype", "lengths", "indices", "values")
        parts = (part for row in chunks for _, part in unpack(row, self.num_features, storage))
        matrix = placed(parts, place, self.num_features, self.dtype, storage)
        return Gathered(items, matrix, groups)

    def _gather_columns(self, rows: Iterable[dict[str, Any]]) -> pa.Table | None:
        if not self.source.columns:
            return None
        return pa.concat_tables(columns_of(row) for row in rows)

    def _fetch(self, *names: str) -> Iterator[dict[str, Any]]:
        """Yield the chunks in order, fetched in bounded slices; by default with all columns."""
        for part in self._slices():
            wanted = self.frame
            if self._several_dims:
                wanted = wanted.where(F.col("dim") == self.num_features)
            if len(part) < len(self.chunks):
                wanted = wanted.where(_within(part[0], part[-1]))
            if names:
                wanted = wanted.select("partition", "chunk", "rows", "digest", *names)
            rows = [row for row in compat.collect(wanted) if row["chunk"] >= 0]
            rows.sort(key=lambda row: (row["partition"], row["chunk"]))
            marks = ("partition", "chunk", "rows", "digest")
            counted = [tuple(getattr(chunk, mark) for mark in marks) for chunk in part]
            if [tuple(row[mark] for mark in marks) for row in rows] != counted:
                raise RuntimeError(
                    CHANGED.format(what="the rows fetched differ from the rows counted before")
                )
            yield from rows

    def _slices(self) -> Iterator[list[Chunk]]:
        part: list[Chunk] = []
        size = 0
        for chunk in self.chunks:
            if part and size + chunk.size > self._slice_bytes:
                yield part
                part, size = [], 0
            part.append(chunk)
            size += chunk.size
        yield part


def arranged(
    table: pa.Table | None, count: int, source: ItemSource
) -> tuple[Items, Groups | None, NDArray[np.int64]]:
    """Sort items, and divide them into groups if they have keys.

    Parameters
    ----------
    table : pyarrow.Table or None
        The columns of the items; None if they have none.
    count : int
        The number of items.
    source : ItemSource
        What was read of the items.

    Returns
    -------
    items : Items
        The items without their vectors, sorted by `source.sort_by`; of equal items the first one
        stays first.
    groups : Groups or None
        Their groups; None if there are no keys.
    place : ndarray of shape (count,), dtype int64
        The row of the matrix for the vector of each row of `table`, see `Gathered`.
    """
    place = np.arange(count)
    if table is None:
        return Items(count, {}), None, place
    if source.sort_by:
        order = pc.sort_indices(table, [(name, "ascending") for name in source.sort_by])
        table = table.take(order)
        place[order.to_numpy()] = np.arange(count)
    hidden = [name for name in (POSITION, KEY_HASH) if name in table.column_names]
    items = Items.from_table(table.drop(hidden))
    if not source.key_types:
        return items, None, place
    groups = Groups.of(items, list(source.key_types))
    return items, groups, groups.rows[place]


def _pack(dataset: DataFrame, source: ItemSource, request: packing.PackRequest) -> DataFrame:
    inputs = source.features.inputs | source.columns
    run = guarded(functools.partial(packing.pack, request))
    read = dataset.select(*(each.value.alias(name) for name, each in inputs.items()))
    return read.mapInArrow(run, from_arrow_schema(CHUNK_SCHEMA))


def _within(first: Chunk, last: Chunk) -> Column:
    """Return the condition that a row is one of these chunks, or a chunk between them."""
    at = F.struct("partition", "chunk")
    # The plain comparison of partitions lets Spark skip cached blocks.
    partitions = F.col("partition").between(first.partition, last.partition)
    return partitions & (at >= _key(first)) & (at <= _key(last))


def _key(chunk: Chunk) -> Column:
    return F.struct(F.lit(chunk.partition).alias("partition"), F.lit(chunk.chunk).alias("chunk"))
