"""Placement 1: every executor holds the whole index."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine import columns, compat, shipping
from pyspark_knn.engine.guard import guarded
from pyspark_knn.engine.items import Items, PackedItems
from pyspark_knn.engine.worker import Answer, Request, Searchable, read_items, search_batches
from pyspark_knn.index.base import NeighborIndex

logger = logging.getLogger(__name__)

_AUTO_BYTES = 2 << 30
"""Vectors up to this size are replicated without being asked."""

_SAVED_PART_BYTES = 64 << 20


class Replicated:
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

    name = "replicated"

    def __init__(self, items: Items, index: NeighborIndex, id_type: T.DataType | None) -> None:
        self.items = items
        self.index = index
        self.id_type = id_type
        self._shipments: dict[str, shipping.Shipment] = {}
        self._lock = threading.Lock()

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
        """Add the columns of `request.answer` to the rows of `queries`; lazy.

        Parameters
        ----------
        queries : DataFrame
            Any columns.
        inputs : list of (Column, DataType)
            What the worker needs of a query: see `worker.search_batches`.
        request : Request
            What is wanted.
        finish : callable
            Turns the columns as they come out of Python into what the user sees.

        Returns
        -------
        DataFrame
            All of `queries`, and the new columns.
        """
        if compat.is_stream_without_files(queries):
            shipment = shipping.ship_inline(Searchable(self.items, self.index))
        else:
            shipment = self._shipment(queries.sparkSession)
        run = functools.partial(search_batches, shipment.ref, request)
        result = request.answer.result_type
        given = [kind for _, kind in inputs]
        search = compat.batch_udf(run, given, T.ArrayType(result))
        found = F.inline(search(*(each for each, _ in inputs))).alias(*result.names)
        # inline() and not a struct taken apart: Spark may evaluate a struct's fields twice.
        return finish(queries.select("*", found))

    def answer(
        self, queries: NDArray[Any], k: int, max_distance: float | None, answer: Answer
    ) -> pa.StructArray:
        """Answer a few valid queries here, on the driver.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, num_features), dtype float64
            Finite.
        k : int
            Neighbours per query; may exceed the number of items.
        max_distance : float or None
            Leave out what is farther.
        answer : Answer
            Makes the output.
        """
        k = min(k, self.items.count)
        found = self.index.kneighbors(queries, k, max_distance=max_distance)
        return answer.rows(found, self.items)

    def items_frame(self, session: SparkSession) -> DataFrame:
        """The items as a DataFrame of position, id, features, label and weight, in wire types."""
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

    def _shipment(self, session: SparkSession) -> shipping.Shipment:
        """The bundle in `session`, shipped when it is first needed there."""
        key = compat.session_key(session)
        with self._lock:
            if key not in self._shipments:
                content = Searchable(self.items, self.index)
                self._shipments = {key: shipping.ship(session, content)}
            return self._shipments[key]


def choose_placement(placement: str, packed: PackedItems) -> str:
    """Check that the items fit where they are to go, before any of them is fetched.

    Parameters
    ----------
    placement : {"auto", "replicated"}
        What was asked for.
    packed : PackedItems
        The items.

    Returns
    -------
    str
        The reason, one sentence.

    Raises
    ------
    ValueError
        If the item matrix is too large; names its size in GiB.
    """
    needed = packed.nbytes
    size = (
        f"{packed.num_items:,} items of {packed.num_features:,} dimensions in "
        f"{packed.dtype.name} take {needed / 2**30:.2f} GiB"
    )
    free = _available_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"featuresCol: {size}, and the driver has {free / 2**30:.2f} GiB free: use a driver "
            "with more memory, fewer items, or vectors of fewer dimensions (pyspark.ml.feature.PCA)"
        )
    if placement == "auto" and needed > _AUTO_BYTES:
        raise ValueError(
            f"featuresCol: {size}, more than the {_AUTO_BYTES / 2**30:.0f} GiB that "
            "placement='auto' replicates; placement='replicated' does it where the driver and "
            "every executor have the memory; or use vectors of fewer dimensions"
        )
    return f"{size}, which every executor can hold"


def _available_memory() -> int | None:
    """Bytes that this process could still take, where the system tells (Linux); else None."""
    bounds = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                bounds.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            bounds.append(int(limit) - int((group / "memory.current").read_text()))
    except OSError:
        logger.debug("the system does not tell its free memory", exc_info=True)
    return min(bounds, default=None)
