"""The items DataFrame, read once: rows -> packed chunks -> `Items` and a matrix."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit import packing
from pyspark_knn.engine.fit.chunks import (
    CHANGED,
    CHUNK_SCHEMA,
    COUNTED,
)
from pyspark_knn.engine.fit.counted import Chunk, CountedItems
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persisted, unpersist
from pyspark_knn.engine.spark.heap import bytes_of

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 8 << 20
"""The approximate size of a chunk, in bytes."""

_SLICE_BYTES = 64 << 20
"""The bytes of one fetch, of which the JVM of the driver briefly holds a few copies."""


class PackedItems(CountedItems):
    """Items packed into chunks, which are persisted on the executors.

    At its end, this context manager unpersists the chunks. `CountedItems` has more attributes.

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
    frame : DataFrame
        Rows of `chunks.CHUNK_SCHEMA`, which include these chunks.
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
        super().__init__(source)
        request = self._request(max(1, min(chunk_bytes, self._slice_bytes // 4)))
        with (
            compat.described(session, "pyspark_knn: pack the items"),
            persisted(self._packed(dataset, request)) as self.frame,
        ):
            self._persisted = self.frame
            self._count(self._counts(), may_be_empty=may_be_empty)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unpersist(self._persisted)

    def _packed(self, dataset: DataFrame, request: packing.PackRequest) -> DataFrame:
        """Return the rows to persist."""
        run = guarded(functools.partial(packing.pack, request))
        return self.source.read(dataset).mapInArrow(run, from_arrow_schema(CHUNK_SCHEMA))

    def _counts(self) -> list[Row]:
        """Return the columns `COUNTED` of the chunks, which are packed now."""
        return self.frame.select(*COUNTED).collect()

    def _fetched(self) -> tuple[Iterable[dict[str, Any]], Iterable[dict[str, Any]]]:
        # A single slice is fetched with all columns in one job, which is faster than planning two.
        if len(list(self._slices())) == 1:
            rows = list(self._fetch())
            return rows, rows
        return self._fetch("columns"), self._fetch("dtype", "lengths", "indices", "values")

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


def _within(first: Chunk, last: Chunk) -> Column:
    """Return the condition that a row is one of these chunks, or a chunk between them."""
    at = F.struct("partition", "chunk")
    # The plain comparison of partitions lets Spark skip cached blocks.
    partitions = F.col("partition").between(first.partition, last.partition)
    return partitions & (at >= _key(first)) & (at <= _key(last))


def _key(chunk: Chunk) -> Column:
    return F.struct(F.lit(chunk.partition).alias("partition"), F.lit(chunk.chunk).alias("chunk"))
