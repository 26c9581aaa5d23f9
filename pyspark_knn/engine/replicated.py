"""Placement 1: every executor holds the whole index."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.placement import REPLICATED, PlacedCost, Placement
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.scans import as_rows
from pyspark_knn.engine.search.batches import (
    TIMING_SCHEMA,
    Answer,
    Request,
    Searchable,
    read_items,
    search_batches,
    time_bundle,
)
from pyspark_knn.engine.ship import shipping
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.index.base import NeighborIndex

if TYPE_CHECKING:
    import numpy as np

_SAVED_PART_BYTES = 64 << 20

_FOR_A_STREAM = "use queries.writeStream.foreachBatch, and transform each batch"
_WITHOUT_FILES = (
    "fit or load in this session, and the model is cut into shards, since the server takes no files"
)


class Replicated(Placement):
    """An index that is whole on every executor: one mapped file each, shared by its workers.

    Parameters
    ----------
    items : Items
        Ids, labels and weights.
    index : NeighborIndex
        Over the items' vectors, in the same order.
    id_type : DataType or None
        The Spark type of the ids; None where positions stand for ids.
    """

    name: ClassVar[str] = REPLICATED

    def __init__(self, items: Items, index: NeighborIndex, id_type: T.DataType | None) -> None:
        self.items = items
        self.index = index
        self.id_type = id_type
        self._shipments: dict[str, shipping.Shipment] = {}
        self._lock = threading.Lock()

    @property
    def num_items(self) -> int:
        """How many items there are."""
        return self.items.count

    @property
    def num_features(self) -> int:
        """The dimension of their vectors."""
        return int(self.matrix.shape[1])

    @functools.cached_property
    def converts(self) -> bool:
        """See `Placement.converts`; one pass over the items where the metric compares sets."""
        return self.index.metric.converts(self.matrix)

    @property
    def matrix(self) -> NDArray[Any]:
        """The items' vectors, of shape (num_items, num_features)."""
        return self.index.matrix

    def search(
        self,
        queries: DataFrame,
        inputs: list[tuple[Column, T.DataType]],
        request: Request,
        finish: Callable[[DataFrame], DataFrame],
    ) -> DataFrame:
        """See `Placement.search`."""
        if compat.is_stream_without_files(queries):
            shipment = shipping.ship_inline(Searchable(self.items, self.index), _FOR_A_STREAM)
        else:
            shipment = self._shipment(queries.sparkSession)
        run = functools.partial(search_batches, shipment.ref, request)
        result = request.answer.result_type
        given = [kind for _, kind in inputs]
        search = compat.batch_udf(run, given, T.ArrayType(result))
        rows, read, added = as_rows(queries, [each for each, _ in inputs])
        # inline() and not a struct taken apart: Spark may evaluate a struct's fields twice.
        found = F.inline(search(*read)).alias(*result.names)
        return finish(rows.select("*", found).drop(*added))

    def answer(
        self, queries: NDArray[Any], k: int, max_distance: float | None, answer: Answer
    ) -> pa.StructArray:
        """See `Placement.answer`."""
        k = min(k, self.items.count)
        found = self.index.kneighbors(queries, k, max_distance=max_distance)
        return answer.rows(found, self.items)

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`."""
        single = self.matrix.dtype.itemsize == 4
        fields = [
            T.StructField("position", T.LongType()),
            T.StructField("features", T.ArrayType(T.FloatType() if single else T.DoubleType())),
        ]
        if self.id_type is not None:
            fields.insert(1, T.StructField("id", columns.wire_type(self.id_type)))
        if self.items.labels is not None:
            fields.append(T.StructField("label", T.DoubleType()))
        if self.items.weights is not None:
            fields.append(T.StructField("weight", T.DoubleType()))
        run = guarded(functools.partial(read_items, self._shipment(session).ref))
        parts = -(-self.matrix.nbytes // _SAVED_PART_BYTES)
        frame = session.range(0, self.items.count, 1, parts).mapInArrow(run, T.StructType(fields))
        if self.id_type is None:
            return frame
        return frame.withColumn("id", columns.from_wire(F.col("id"), self.id_type))

    def fetch(self) -> tuple[Items, NDArray[np.floating]]:
        """See `Placement.fetch`: they are here already."""
        return self.items, self.matrix

    def cost(self, session: SparkSession, queries: NDArray[np.floating], k: int) -> PlacedCost:
        """See `Placement.cost`."""
        run = guarded(functools.partial(time_bundle, self._shipment(session).ref, queries, k))
        seconds, items = session.range(0, 1, 1, 1).mapInArrow(run, TIMING_SCHEMA).collect()[0]
        pair = seconds / max(1, len(queries)) / items
        return PlacedCost(self.matrix.nbytes, pair, compat.parallelism(session))

    def unpersist(self) -> None:
        """See `Placement.unpersist`: the next search ships the index again."""
        with self._lock:
            self._shipments = {}

    def _shipment(self, session: SparkSession) -> shipping.Shipment:
        """The bundle in `session`, shipped when it is first needed there."""
        key = compat.session_key(session)
        with self._lock:
            known = self._shipments.get(key)
            if known is None or not shipping.is_there(known):
                content = Searchable(self.items, self.index)
                if shipping.takes_files(session):
                    shipped = shipping.ship(session, content)
                else:
                    shipped = shipping.ship_inline(content, _WITHOUT_FILES)
                self._shipments = {key: shipped}
            return self._shipments[key]
