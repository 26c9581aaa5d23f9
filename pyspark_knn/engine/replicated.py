"""Placement "replicated": every executor holds the whole index."""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema, from_arrow_type

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.counted import Gathered
from pyspark_knn.engine.fit.merging import merge_items, reordered, with_numbers, without_items
from pyspark_knn.engine.item_scores import fetch_values
from pyspark_knn.engine.measuring import Calibration
from pyspark_knn.engine.placement import REPLICATED, PlacedCost, Placement
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import vector_type
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.engine.rows.scans import as_rows
from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import Request, search_batches
from pyspark_knn.engine.search.export import read_items
from pyspark_knn.engine.search.indexing import index_items
from pyspark_knn.engine.search.pairs import NEIGHBOR, n_units, pairs_in_bundle
from pyspark_knn.engine.search.scoring import LIST_SCHEMA, lists_in_bundle
from pyspark_knn.engine.search.searchable import TIMING_SCHEMA, Searchable, time_bundle
from pyspark_knn.engine.search.self_search import SelfSearch, found_schema, self_search_in_bundle
from pyspark_knn.engine.search.structures import STRUCTURE_SCHEMA, write_structure
from pyspark_knn.engine.ship import shipping
from pyspark_knn.engine.ship.batch_udf import batch_udf
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import unpersist
from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.recall import held_out_positions, measure

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.recall import Curve

_SAVED_PART_BYTES = 64 << 20
"""The vectors in one partition of the items as a DataFrame, in bytes."""

_TASK_PRODUCTS = 1 << 35
"""Products of two numbers in the comparisons of one task of a search for pairs: about a second."""

_PAIR_TASKS = 16
"""The least number of tasks of a search for pairs, since not all metrics compare by products."""

_FOR_A_STREAM = "Use queries.writeStream.foreachBatch and transform each batch."
_WITHOUT_FILES = (
    "Fit or load the model in this session, where it becomes sharded because the Spark Connect "
    "server accepts no files."
)


class Replicated(Placement):
    """An index that every executor holds as one mapped file, which its workers share.

    Parameters
    ----------
    searchable : Searchable
        The items and their index.
    reason : str
        Why the index has its algorithm.
    id_type : DataType or None
        The Spark type of the ids; None if the positions are the ids.
    key_types : dict of str to DataType
        The Spark types of the keys, by the names of their columns.
    """

    name = REPLICATED
    rebuilds_from_source = False
    num_shards = None
    searchable: Searchable

    def __init__(
        self,
        searchable: Searchable,
        reason: str,
        id_type: T.DataType | None,
        key_types: dict[str, T.DataType],
    ) -> None:
        items, index = searchable.items, searchable.index
        given = {name: from_arrow_type(each.type) for name, each in items.columns.items()}
        self.searchable = searchable
        self.id_type = id_type
        self.key_types = key_types
        self.item_columns = {"id": T.LongType(), **given}
        self.num_items = items.count
        self.num_features = index.n_features
        self.storage = index.storage
        self.num_duplicates = items.duplicates()
        self.algorithm = index.algorithm
        self.algorithm_reason = reason
        self.levels = searchable.levels
        self._shipments: dict[str, shipping.Shipment] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def converts(self) -> bool:
        """See `Placement.converts`; one pass over the items if the metric compares sets."""
        return self.searchable.index.metric.converts(self._matrix)

    @property
    def _matrix(self) -> Any:
        return self.searchable.index.matrix

    def search(self, queries: DataFrame, inputs: dict[str, Input], request: Request) -> DataFrame:
        """See `Placement.search`."""
        if compat.is_stream_without_files(queries):
            shipment = shipping.ship_inline(self.searchable, _FOR_A_STREAM)
        else:
            shipment = self._shipment(queries.sparkSession)
        run = functools.partial(search_batches, shipment.ref, request)
        result = request.answer.result_type
        search = batch_udf(run, [each.type for each in inputs.values()], T.ArrayType(result))
        rows, read, added = as_rows(queries, [each.value for each in inputs.values()])
        # inline() and not the fields of a struct, for which Spark may evaluate the UDF twice.
        found = F.inline(search(*read)).alias(*result.names)
        return rows.select("*", found).drop(*added)

    def self_search(self, session: SparkSession, wanted: SelfSearch) -> DataFrame:
        """See `Placement.self_search`; the number of an item is its position."""
        ref = self._shipment(session).ref
        run = guarded(functools.partial(self_search_in_bundle, ref, wanted))
        return self._numbers(session).mapInArrow(run, found_schema(self.item_columns["id"]))

    def neighbor_lists(self, session: SparkSession, k: int) -> DataFrame:
        """See `Placement.neighbor_lists`; packed where they are found."""
        ref = self._shipment(session).ref
        run = functools.partial(lists_in_bundle, ref, SelfSearch(k), uuid.uuid4().hex)
        return self._numbers(session).mapInArrow(guarded(run), from_arrow_schema(LIST_SCHEMA))

    def _numbers(self, session: SparkSession) -> DataFrame:
        """Return the positions of all items, in the tasks of a search of each of them."""
        tasks = min(n_units(self.num_items), 2 * self._pair_tasks)
        return session.range(0, self.num_items, 1, tasks)

    @property
    def _pair_tasks(self) -> int:
        """The number of tasks of a search for pairs."""
        products = self.num_items * self.num_items * self.num_features
        return max(_PAIR_TASKS, -(-products // _TASK_PRODUCTS))

    def pairs(self, session: SparkSession, max_distance: float) -> DataFrame:
        """See `Placement.pairs`."""
        run = guarded(functools.partial(pairs_in_bundle, self._shipment(session).ref, max_distance))
        units = n_units(self.num_items)
        types = {name: self.item_columns["id"] for name in ("id", NEIGHBOR)}
        schema = columns.struct_type({**types, DISTANCE: T.DoubleType()})
        numbers = session.range(0, units, 1, min(units, self._pair_tasks))
        return self._pairs_with_ids(numbers.mapInArrow(run, schema))

    def items_frame(self, session: SparkSession) -> DataFrame:
        """See `Placement.items_frame`; all items have a position."""
        # The columns have this order in all saved models.
        types = {POSITION: T.LongType(), "id": self.item_columns["id"]}
        vectors = vector_type(self._matrix.dtype, self.storage)
        types |= {"features": vectors, **self.item_columns}
        if self.id_type is None:
            del types["id"]
        return self._in_spark_types(self.columns_frame(session, types))

    def columns_frame(self, session: SparkSession, types: dict[str, T.DataType]) -> DataFrame:
        """See `Placement.columns_frame`."""
        run = guarded(functools.partial(read_items, self._shipment(session).ref, list(types)))
        parts = -(-self._matrix.nbytes // _SAVED_PART_BYTES)
        positions = session.range(0, self.num_items, 1, parts)
        return positions.mapInArrow(run, columns.struct_type(types))

    def structure_frame(self, session: SparkSession) -> DataFrame | None:
        """See `Placement.structure_frame`; of an approximate index that is dear to build."""
        index = self.searchable.index
        if not isinstance(index, ApproximateIndex) or not index.worth_saving:
            return None
        run = guarded(functools.partial(write_structure, self._shipment(session).ref))
        schema = from_arrow_schema(STRUCTURE_SCHEMA)
        return session.range(0, 1, 1, 1).mapInArrow(run, schema)

    def fetch(self) -> tuple[Items, Rows]:
        """See `Placement.fetch`; the items are on the driver already."""
        return self.searchable.items, self.searchable.vectors(slice(None))

    def append(self, packed: PackedItems, spec: IndexSpec) -> Placement:
        """See `Placement.append`; only the new items are fetched."""
        new = packed.gather(self.storage)
        gathered, places = merge_items(self._gathered(), new, packed.source)
        index = self.searchable.index
        if not isinstance(index, ApproximateIndex):
            return self._rebuilt(gathered, spec)
        extended = index.extended(cast("NDArray[np.floating]", gathered.matrix), places)
        searchable = Searchable(gathered.items, extended)
        return Replicated(searchable, self.algorithm_reason, self.id_type, self.key_types)

    def remove(self, wanted: pa.Array, spec: IndexSpec) -> Placement:
        """See `Placement.remove`."""
        old = self._gathered()
        removed = old.items.positions_of(wanted)[1]
        if not len(removed):
            return self
        self._check_rest(len(removed))
        return self._rebuilt(without_items(old, removed, list(self.key_types)), spec)

    def in_one_order(self, spec: IndexSpec) -> Placement:
        """See `Placement.in_one_order`; the vectors are copied if ids are equal."""
        if not self.num_duplicates:
            return self
        return self._rebuilt(reordered(self._gathered(), list(self.key_types)), spec)

    def with_numbers(self, values: DataFrame, names: Sequence[str], spec: IndexSpec) -> Placement:
        """See `Placement.with_numbers`; the values are fetched, and the vectors are not copied."""
        numbers = fetch_values(values, names, self.num_items)
        unpersist(values)
        keys = list(self.key_types)
        old = self._gathered()
        gathered = old._replace(items=with_numbers(old.items, numbers, keys))
        if self.num_duplicates:
            return self._rebuilt(reordered(gathered, keys), spec)
        searchable = replace(self.searchable, items=gathered.items)
        return Replicated(searchable, self.algorithm_reason, self.id_type, self.key_types)

    def _gathered(self) -> Gathered:
        """Return the items in the form of a fit."""
        index, keys = self.searchable.index, self.searchable.keys
        groups = None
        if isinstance(index, GroupedIndex) and keys is not None:
            groups = Groups(keys, index.positions, index.starts)
        return Gathered(self.searchable.items, index.matrix, groups)

    def _rebuilt(self, gathered: Gathered, spec: IndexSpec) -> Replicated:
        """Return an index of other items, which has its algorithm for the same reason."""
        searchable, _ = index_items(*gathered, spec)
        return Replicated(searchable, self.algorithm_reason, self.id_type, self.key_types)

    @property
    def largest_label(self) -> float | None:
        """See `Placement.largest_label`."""
        items = self.searchable.items
        return float(items.numbers("label").max()) if "label" in items.columns else None

    def held_out_recall(self, wanted: Calibration) -> Curve:
        """See `Placement.held_out_recall`; measured on the driver."""
        index = cast("ApproximateIndex", self.searchable.index)
        numbers = held_out_positions(self.num_items, wanted.seed)
        levels = None if wanted.knob is None else [wanted.knob]
        return measure(index, numbers, wanted.k, levels, wanted.target)

    def cost(
        self, session: SparkSession, queries: Rows, k: int, knob: int | None = None
    ) -> PlacedCost:
        """See `Placement.cost`."""
        run = guarded(functools.partial(time_bundle, self._shipment(session).ref, queries, k, knob))
        timing = session.range(0, 1, 1, 1).mapInArrow(run, TIMING_SCHEMA).collect()[0]
        nbytes = self._matrix.nbytes + self.searchable.index.added_bytes
        return PlacedCost.of(timing, nbytes, compat.parallelism(session))

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
                    shipped = shipping.ship(session, self.searchable)
                else:
                    shipped = shipping.ship_inline(self.searchable, _WITHOUT_FILES)
                self._shipments = {key: shipped}
            return self._shipments[key]
