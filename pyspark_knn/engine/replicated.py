"""Placement "replicated": every executor holds the whole index."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from pyspark_knn.engine.placement import REPLICATED, PlacedCost, Placement
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.scans import as_rows
from pyspark_knn.engine.search.batches import (
    TIMING_SCHEMA,
    Request,
    Searchable,
    search_batches,
    time_bundle,
)
from pyspark_knn.engine.search.export import read_items
from pyspark_knn.engine.ship import shipping
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex

if TYPE_CHECKING:
    import numpy as np

_SAVED_PART_BYTES = 64 << 20
"""The vectors in one partition of the items as a DataFrame, in bytes."""

_FOR_A_STREAM = "Use queries.writeStream.foreachBatch, and transform each batch."
_WITHOUT_FILES = (
    "Fit or load the model in this session, which makes it sharded, because the server accepts no "
    "files."
)


class Replicated(Placement):
    """An index that every executor holds as one mapped file, which its workers share.

    Parameters
    ----------
    items : Items
        The items without their vectors.
    index : NeighborIndex
        The index of their vectors, in the same order.
    reason : str
        Why the index has its algorithm.
    id_type : DataType or None
        The Spark type of the ids; None where the positions are the ids.
    """

    name = REPLICATED
    rebuilds_from_source = False
    num_shards = None

    def __init__(
        self, items: Items, index: NeighborIndex, reason: str, id_type: T.DataType | None
    ) -> None:
        self._content = Searchable(items, index)
        self._reason = reason
        self.id_type = id_type
        self._shipments: dict[str, shipping.Shipment] = {}
        self._lock = threading.Lock()

    @classmethod
    def build(
        cls,
        items: Items,
        matrix: NDArray[np.floating],
        spec: IndexSpec,
        id_type: T.DataType | None,
    ) -> Replicated:
        """Build the index here on the driver.

        Parameters
        ----------
        items : Items
            The items without their vectors.
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            Their vectors, in the same order.
        spec : IndexSpec
            The index to build.
        id_type : DataType or None
            The Spark type of the ids; None where the positions are the ids.
        """
        return cls(items, *build_index(matrix, spec), id_type)

    @property
    def num_items(self) -> int:
        """See `Placement.num_items`."""
        return self._content.items.count

    @property
    def num_features(self) -> int:
        """See `Placement.num_features`."""
        return int(self._matrix.shape[1])

    @functools.cached_property
    def num_duplicates(self) -> int:
        """See `Placement.num_duplicates`."""
        return self._content.items.duplicates()

    @property
    def algorithm(self) -> str:
        """See `Placement.algorithm`."""
        return self._content.index.algorithm

    @property
    def algorithm_reason(self) -> str:
        """See `Placement.algorithm_reason`."""
        return self._reason

    @functools.cached_property
    def converts(self) -> bool:
        """See `Placement.converts`; one pass over the items where the metric compares sets."""
        return self._content.index.metric.converts(self._matrix)

    @property
    def item_columns(self) -> dict[str, T.DataType]:
        """See `Placement.item_columns`."""
        given = self._content.items.columns
        return {"id": T.LongType()} | {name: from_arrow_type(given[name].type) for name in given}

    @property
    def searchable(self) -> Searchable:
        """See `Placement.searchable`."""
        return self._content

    @property
    def _matrix(self) -> NDArray[np.floating]:
        return self._content.index.matrix

    def search(self, queries: DataFrame, inputs: dict[str, Input], request: Request) -> DataFrame:
        """See `Placement.search`."""
        if compat.is_stream_without_files(queries):
            shipment = shipping.ship_inline(self._content, _FOR_A_STREAM)
        else:
            shipment = self._shipment(queries.sparkSession)
        run = functools.partial(search_batches, shipment.ref, request)
        result = request.answer.result_type
        search = compat.batch_udf(run, [each.type for each in inputs.values()], T.ArrayType(result))
        rows, read, added = as_rows(queries, [each.value for each in inputs.values()])
        # inline() and not the fields of a struct, for which Spark may evaluate the UDF twice.
        found = F.inline(search(*read)).alias(*result.names)
        return rows.select("*", found).drop(*added)

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; all items have a position."""
        values = T.FloatType() if self._matrix.dtype.itemsize == 4 else T.DoubleType()
        types = {"position": T.LongType(), **self.item_columns}
        if self.id_type is None:
            del types["id"]
        # The order of the columns is that of saved models.
        head = [name for name in types if name in ("position", "id")]
        names = [*head, "features", *(name for name in types if name not in head)]
        types["features"] = T.ArrayType(values)
        run = guarded(functools.partial(read_items, self._shipment(session).ref, names))
        parts = -(-self._matrix.nbytes // _SAVED_PART_BYTES)
        schema = T.StructType([T.StructField(name, types[name]) for name in names])
        frame = session.range(0, self.num_items, 1, parts).mapInArrow(run, schema)
        if self.id_type is None:
            return frame
        return frame.withColumn("id", columns.from_wire(F.col("id"), self.id_type))

    def fetch(self) -> tuple[Items, NDArray[np.floating]]:
        """See `Placement.fetch`; nothing is moved."""
        return self._content.items, self._matrix

    def cost(self, session: SparkSession, queries: NDArray[np.floating], k: int) -> PlacedCost:
        """See `Placement.cost`."""
        run = guarded(functools.partial(time_bundle, self._shipment(session).ref, queries, k))
        seconds, items = session.range(0, 1, 1, 1).mapInArrow(run, TIMING_SCHEMA).collect()[0]
        pair = seconds / max(1, len(queries)) / items
        return PlacedCost(self._matrix.nbytes, pair, compat.parallelism(session))

    def unpersist(self) -> None:
        """See `Placement.unpersist`; the next search ships the index again."""
        with self._lock:
            self._shipments = {}

    def _shipment(self, session: SparkSession) -> shipping.Shipment:
        """Return the bundle in `session`, which is shipped when it is first needed there."""
        key = compat.session_key(session)
        with self._lock:
            known = self._shipments.get(key)
            if known is None or not shipping.is_there(known):
                if shipping.takes_files(session):
                    shipped = shipping.ship(session, self._content)
                else:
                    shipped = shipping.ship_inline(self._content, _WITHOUT_FILES)
                self._shipments = {key: shipped}
            return self._shipments[key]
