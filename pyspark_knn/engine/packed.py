"""The reference DataFrame, read once: rows -> packed chunks -> the items in one table."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine import columns, compat, packing
from pyspark_knn.engine.caching import persisted, unpersist
from pyspark_knn.engine.chunks import CHANGED, CHUNK_SCHEMA, unpack
from pyspark_knn.engine.guard import guarded
from pyspark_knn.engine.items import Items

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 8 << 20
_SLICE_BYTES = 64 << 20
"""What one fetch brings to the driver, whose JVM holds a few copies of it for a moment."""

_SUMMARY = (
    *("partition", "chunk", "rows", "dim", "skipped", "problem", "narrow", "label", "size"),
    *("stored", "content", "digest"),
)


@dataclass(frozen=True)
class ItemSource:
    """What to read of a reference DataFrame, and how.

    Attributes
    ----------
    features : columns.Features
        The vectors.
    features_col : str
        Name of their column, for messages.
    keys : dict of str to Column
        What else belongs to an item: "id", "label", "weight", "position".
    sort_by : tuple of str
        The keys that give the order of the items; empty keeps the order of the DataFrame.
    id_col : str or None
        Name of the id column, for messages.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid vector; "keep" leaves it out as "skip" does.
    dtype : {"auto", "float32"}
        How vectors are stored.
    rules : tuple of packing.NumberRule
        What labels and weights must be.
    """

    features: columns.Features
    features_col: str
    keys: dict[str, Column]
    sort_by: tuple[str, ...]
    id_col: str | None = None
    handle_invalid: str = "error"
    dtype: str = "auto"
    rules: tuple[packing.NumberRule, ...] = ()


class Chunk(NamedTuple):
    """Where a chunk is, how large, and what tells it from others; see `chunks.CHUNK_SCHEMA`."""

    partition: int
    chunk: int
    rows: int
    size: int
    stored: int | None
    content: int
    digest: int


class PackedItems:
    """Items packed into chunks on the executors, persisted there, and what is known of them.

    A context manager: leaving it frees what was persisted.

    Attributes
    ----------
    num_items, num_features, num_skipped : int
        Items, the dimension of their vectors, and rows left out as invalid.
    dtype : numpy dtype
        float32 where that holds every value exactly (or was asked for), else float64.
    largest_label : float or None
        Where the items have labels.
    chunks : list of Chunk
        The chunks that hold them, in order.
    frame : DataFrame
        Rows of `chunks.CHUNK_SCHEMA`, those chunks among them.
    source : ItemSource
        What was read, and how.
    """

    def __init__(self, dataset: DataFrame, source: ItemSource) -> None:
        session = dataset.sparkSession
        limit = _bytes_of(compat.setting(session, "spark.driver.maxResultSize", "1g"))
        # Half the limit: what is sent is compressed, but may grow a little by that.
        self._slice_bytes = min(_SLICE_BYTES, limit // 2) if limit else _SLICE_BYTES
        request = packing.PackRequest(
            feature_columns=len(source.features.columns),
            features=source.features_col,
            id_column=source.id_col,
            dim=source.features.attributes,
            fail=source.handle_invalid == "error",
            round32=source.dtype == "float32",
            chunk_bytes=max(1, min(_CHUNK_BYTES, self._slice_bytes // 4)),
            rules=source.rules,
        )
        self.source = source
        with (
            compat.described(session, "pyspark_knn: pack the items"),
            persisted(_pack(dataset, source, request)) as self.frame,
        ):
            self._summarize(self.frame.select(*_SUMMARY).collect())

    def __enter__(self) -> PackedItems:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unpersist(self.frame)

    @property
    def nbytes(self) -> int:
        """Bytes of the item matrix."""
        return self.num_items * self.num_features * self.dtype.itemsize

    def sparse_size(self) -> tuple[int, int]:
        """Bytes of the items that are packed as sparse vectors: as they are, and dense."""
        sparse = [(chunk.rows, chunk.stored) for chunk in self.chunks if chunk.stored is not None]
        rows, stored = (sum(each) for each in zip(*sparse, strict=True)) if sparse else (0, 0)
        width = self.dtype.itemsize
        return stored * (width + 4) + rows * 8, rows * self.num_features * width

    def _summarize(self, rows: list[Row]) -> None:
        rows = sorted(rows, key=lambda row: (row.partition, row.chunk))
        problems = [row.problem for row in rows if row.problem is not None]
        if problems:
            raise ValueError(problems[0])
        chunks = [row for row in rows if row.chunk >= 0]
        dims: Counter[int] = Counter()
        for row in chunks:
            dims[row.dim] += row.rows
        name = self.source.features_col
        self.num_skipped = sum(row.skipped for row in rows if row.chunk < 0)
        if not dims:
            skipped = f" ({self.num_skipped} invalid rows were left out)" * bool(self.num_skipped)
            raise ValueError(f"there are no items to fit: featuresCol {name!r} is empty{skipped}")
        if len(dims) > 1 and self.source.handle_invalid == "error":
            found = ", ".join(f"{dim} ({dims[dim]} rows)" for dim in sorted(dims))
            raise ValueError(f"featuresCol {name!r} holds vectors of several dimensions: {found}")
        self._several_dims = len(dims) > 1
        # Among several dimensions the most frequent one stays, whatever the partitioning.
        self.num_features = min(dims, key=lambda dim: (-dims[dim], dim))
        self.num_items = dims.pop(self.num_features)
        self.num_skipped += dims.total()
        kept = [row for row in chunks if row.dim == self.num_features]
        self.dtype = np.dtype(np.float32 if all(row.narrow for row in kept) else np.float64)
        labels = [row.label for row in kept if row.label is not None]
        self.largest_label = max(labels, default=None)
        self.chunks = [Chunk(*(row[name] for name in Chunk._fields)) for row in kept]

    def gather(self) -> tuple[Items, NDArray[np.floating]]:
        """Fetch the items to the driver, in slices, each vector straight to its final place.

        Returns
        -------
        items : Items
            Sorted by the keys of the source.
        matrix : ndarray of shape (num_items, num_features), dtype `dtype`
            Their vectors, in the same order.
        """
        names = ("narrow", "lengths", "places", "values")
        # What fits into one slice comes in one job, of all columns: to plan a choice takes longer.
        small = len(list(self._slices())) == 1
        rows = list(self._fetch()) if small else self._fetch("keys")
        keys = self._gather_keys(rows)
        place = np.arange(self.num_items)
        if keys is not None and self.source.sort_by:
            order = pc.sort_indices(keys, [(name, "ascending") for name in self.source.sort_by])
            keys = keys.take(order)
            place[order.to_numpy()] = np.arange(self.num_items)
        matrix = np.empty((self.num_items, self.num_features), dtype=self.dtype)
        start = 0
        for row in rows if small else self._fetch(*names):
            for first, part in unpack(row, self.num_features):
                at = start + first
                matrix[place[at : at + len(part)]] = part
            start += row["rows"]
        return self._items(keys), matrix

    def _gather_keys(self, rows: Iterable[dict[str, Any]]) -> pa.Table | None:
        if not self.source.keys:
            return None
        tables = [pa.ipc.open_stream(row["keys"]).read_all() for row in rows]
        return pa.concat_tables(tables).rename_columns(list(self.source.keys))

    def _items(self, keys: pa.Table | None) -> Items:
        parts = {} if keys is None else {name: keys[name] for name in keys.column_names}
        ids = parts["id"].combine_chunks() if "id" in parts else None
        labels = parts["label"].to_numpy() if "label" in parts else None
        weights = parts["weight"].to_numpy() if "weight" in parts else None
        return Items(self.num_items, ids, labels, weights)

    def _fetch(self, *names: str) -> Iterator[dict[str, Any]]:
        """The chunks in order, a bounded slice of them at a time; all columns without `names`."""
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
                    CHANGED.format(what="other rows were fetched than had been counted before")
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


def _pack(dataset: DataFrame, source: ItemSource, request: packing.PackRequest) -> DataFrame:
    inputs = [
        *(part.alias(f"_{i}") for i, part in enumerate(source.features.columns)),
        *(key.alias(name) for name, key in source.keys.items()),
    ]
    run = guarded(functools.partial(packing.pack, request))
    return dataset.select(*inputs).mapInArrow(run, from_arrow_schema(CHUNK_SCHEMA))


def _within(first: Chunk, last: Chunk) -> Column:
    """Whether a row is one of these chunks, or stands between them."""
    at = F.struct("partition", "chunk")
    # The plain comparison of partitions lets Spark pass over cached blocks.
    partitions = F.col("partition").between(first.partition, last.partition)
    return partitions & (at >= _key(first)) & (at <= _key(last))


def _key(chunk: Chunk) -> Column:
    return F.struct(F.lit(chunk.partition).alias("partition"), F.lit(chunk.chunk).alias("chunk"))


def _bytes_of(size: str) -> int:
    """The bytes that a Spark size setting ("64m", "1g", "1048576") means."""
    text = size.strip().lower().rstrip("b")
    unit = "kmgtp".find(text[-1:]) + 1 if text[-1:].isalpha() else 0
    return int(float(text[:-1] if unit else text) * 1024**unit)
