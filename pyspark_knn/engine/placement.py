"""The interface of an index in its placement, which is all that a model uses of the engine."""

from __future__ import annotations

import functools
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.measuring import (
    Calibration,
    at_levels,
    curve_of_levels,
    searching,
)
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.ids import from_wire, wire_type
from pyspark_knn.engine.rows.items import NUMBER, Items
from pyspark_knn.engine.search.answers import DISTANCE, distances_alone
from pyspark_knn.engine.search.batches import KNOB
from pyspark_knn.engine.search.pairs import NEIGHBOR
from pyspark_knn.engine.search.scoring import LIST_SCHEMA, pack_lists
from pyspark_knn.engine.search.self_search import DISTANCES, NEIGHBORS, NUMBERS, SelfSearch
from pyspark_knn.engine.ship.guard import guarded

if TYPE_CHECKING:
    import pyarrow as pa

    from pyspark_knn.engine.fit.source import ItemSource
    from pyspark_knn.engine.search.batches import Request
    from pyspark_knn.engine.search.searchable import Searchable
    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.recall import Curve

REPLICATED = "replicated"
"""Every executor holds the whole index."""

SHARDED = "sharded"
"""The index is divided over the executors."""

SRC, DST = "src", "dst"
"""The ids of an item and of its neighbor in a graph, named as in GraphFrames."""


_LARGEST_GROUPS = 3
"""How many of the largest groups are named."""


@dataclass(frozen=True)
class PlacedCost:
    """The cost of a search in a placement; see `pyspark_knn.models.explain.SearchCost`."""

    index_bytes: int
    pair_seconds: float
    timed: int
    cores: int
    shards: int = 0
    replicas: int = 0
    tasks: int = 0
    cells: int = 0
    refit_shards: int = 0
    appended_shards: int = 0
    appended_items: int = 0

    @classmethod
    def of(cls, timing: Row, index_bytes: int, cores: int, **shards: int) -> PlacedCost:
        """Return the cost, given a row of `batches.TIMING_SCHEMA`."""
        seconds, queries, items = timing
        return cls(index_bytes, seconds / max(1, queries) / items, queries, cores, **shards)


@dataclass(frozen=True)
class GroupSizes:
    """The sizes of the groups of items with equal keys.

    Attributes
    ----------
    count : int
        The number of groups.
    median : float
        The median of their numbers of items.
    mean : float
        The mean number of items in the group of an item.
    largest : tuple of (str, int)
        The keys of the largest groups, as text, and their numbers of items.
    """

    count: int
    median: float
    mean: float
    largest: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, keys: DataFrame) -> GroupSizes:
        """Count the groups, given the keys of the items; runs two jobs."""
        groups = keys.groupBy(*keys.columns).agg(F.count("*").alias("size"))
        shown = F.concat_ws(", ", *(F.col(name).cast("string") for name in keys.columns))
        largest = groups.orderBy(F.desc("size"), *keys.columns).limit(_LARGEST_GROUPS)
        size = F.col("size")
        mean = F.sum(size * size) / F.sum(size)
        count, median, mean_size = groups.agg(
            F.count("*"), F.percentile(size, F.lit(0.5)), mean
        ).collect()[0]
        rows = largest.select(shown, "size").collect()
        return cls(count, median, mean_size, tuple((key, many) for key, many in rows))


class Placement(ABC):
    """An index in its placement, replicated or sharded.

    Attributes
    ----------
    name : {"replicated", "sharded"}
        The value of the Param ``placement`` for this kind of placement.
    rebuilds_from_source : bool
        Whether Spark may have to read the items again if a part of the index is lost.
    id_type : DataType or None
        The Spark type of the ids; None if the positions are the ids.
    key_types : dict of str to DataType
        The Spark types of the keys, by the names of their columns; empty if there are no keys.
    item_columns : dict of str to DataType
        The types of the columns that every item has in addition to its vector, in the form that
        they have in Python. "id", which comes first, is the position if items have no ids.
    num_items, num_features, num_duplicates : int
        The number of items, the dimension of their vectors, and the number of items that have the
        same id as another item.
    num_shards : int or None
        The number of shards, the empty ones included; None if there are no shards.
    storage : {"dense", "sparse"}
        How the vectors are stored.
    algorithm, algorithm_reason : str
        The algorithm of the index, and why it was chosen; of shards, the one of most items.
    levels : list of int
        How thoroughly the index can be searched, see `ApproximateIndex.knob_levels`; empty if it is
        exact.
    searchable : Searchable or None
        The index on the driver; None if the driver does not hold it.
    """

    name: ClassVar[str]
    rebuilds_from_source: ClassVar[bool]
    id_type: T.DataType | None
    key_types: dict[str, T.DataType]
    item_columns: dict[str, T.DataType]
    num_items: int
    num_features: int
    num_duplicates: int
    num_shards: int | None
    storage: str
    algorithm: str
    algorithm_reason: str
    levels: list[int]
    searchable: Searchable | None

    @property
    @abstractmethod
    def converts(self) -> bool:
        """Whether the metric compares sets, and the items contain values other than 0 and 1."""

    @abstractmethod
    def search(self, queries: DataFrame, inputs: dict[str, Input], request: Request) -> DataFrame:
        """Add the columns of `request.answer` to the rows of `queries`; lazy.

        Parameters
        ----------
        queries : DataFrame
            May have any columns.
        inputs : dict of str to Input
            The columns of a query that the worker needs, by the names in `request.inputs`.
        request : Request
            What to search, and what to return.

        Returns
        -------
        DataFrame
            All columns of `queries` and, after them, those of the answer, as they come from Python.
        """

    @abstractmethod
    def self_search(self, session: SparkSession, wanted: SelfSearch) -> DataFrame:
        """Find the k nearest items of each item among the others; lazy.

        An item is left out of its own neighbors by its number, so the search is right for items
        with equal vectors or equal ids. If there are keys, only items of the same key are searched.

        Parameters
        ----------
        session : SparkSession
            The session of the result.
        wanted : SelfSearch
            What to search.

        Returns
        -------
        DataFrame
            A row for each item, in the form of Python (see `ids.wire_type`): "number", "id" and the
            lists "numbers", "neighbors" (ids) and "distances". Numbers are those from 0 to
            `num_items` - 1; each is the number of one item. Without ids, the ids are positions.
        """

    def edges(self, session: SparkSession, wanted: SelfSearch) -> DataFrame:
        """Return the pairs of each item and its neighbors among the others, see `self_search`.

        Returns
        -------
        DataFrame
            The columns `SRC` and `DST`, of the type of the ids, and "distance".
        """
        pair = F.explode(F.arrays_zip(NEIGHBORS, DISTANCES)).alias("pair")
        pairs = self.self_search(session, wanted).select(F.col("id").alias(SRC), pair)
        other, distance = F.col("pair")[NEIGHBORS], F.col("pair")[DISTANCES]
        edges = pairs.select(SRC, other.alias(DST), distance.alias(DISTANCE))
        return _in_types(edges, dict.fromkeys((SRC, DST), self.id_type))

    def neighbor_lists(self, session: SparkSession, k: int) -> DataFrame:
        """Find the k nearest items of each item, as rows of `scoring.LIST_SCHEMA`; lazy.

        Each result is a plan of its own, which can be persisted independently of equal ones.
        """
        found = self.self_search(session, SelfSearch(k)).select(NUMBER, NUMBERS, DISTANCES)
        pack = guarded(functools.partial(pack_lists, uuid.uuid4().hex))
        return found.mapInArrow(pack, from_arrow_schema(LIST_SCHEMA))

    @abstractmethod
    def pairs(self, session: SparkSession, max_distance: float) -> DataFrame:
        """Find all pairs of items within a distance; lazy.

        Parameters
        ----------
        session : SparkSession
            The session of the result.
        max_distance : float
            The largest distance, inclusive, in the unit of the metric.

        Returns
        -------
        DataFrame
            The columns "id", "neighbor" and "distance": each pair once, the smaller id first.
        """

    def _pairs_with_ids(self, frame: DataFrame) -> DataFrame:
        """Return pairs with the ids in their Spark type, given ids in the form of Python."""
        return _in_types(frame, dict.fromkeys(("id", NEIGHBOR), self.id_type))

    @abstractmethod
    def items_frame(self, session: SparkSession) -> DataFrame:
        """Return the items as a DataFrame of `session`.

        It has the columns "id" or "position" or both, "features", and the other item columns.
        """

    def saved_frame(self, session: SparkSession) -> DataFrame:
        """Return the items as a saved model contains them; by default `items_frame`.

        Parameters
        ----------
        session : SparkSession
            The session of the result.
        """
        return self.items_frame(session)

    @abstractmethod
    def columns_frame(self, session: SparkSession, types: dict[str, T.DataType]) -> DataFrame:
        """Return some columns of the items, with these types, as a DataFrame of `session`.

        Its columns are in the form of Python, see `ids.wire_type`.
        """

    def selected(self, session: SparkSession, names: Sequence[str]) -> DataFrame:
        """Return the ids (or positions, as "id"), the keys and some other columns of the items."""
        wanted = ("id", *self.key_types, *names)
        types = {name: self.item_columns[name] for name in wanted}
        return self._in_spark_types(self.columns_frame(session, types))

    def group_sizes(self, session: SparkSession) -> GroupSizes | None:
        """Count the groups of items with equal keys; None if there are no keys, else runs jobs."""
        if not self.key_types:
            return None
        wire = {name: wire_type(kind) for name, kind in self.key_types.items()}
        keys = self.columns_frame(session, wire)
        return GroupSizes.of(_in_types(keys, self.key_types))

    def _in_spark_types(self, frame: DataFrame) -> DataFrame:
        """Return items with ids and keys in their Spark types, given them in the form of Python."""
        return _in_types(frame, {"id": self.id_type, **self.key_types})

    def structure_frame(self, session: SparkSession) -> DataFrame | None:
        """Return what a saved model contains of the index beside the items; None if nothing.

        Parameters
        ----------
        session : SparkSession
            The session of the result.

        Returns
        -------
        DataFrame or None
            Rows of `structures.STRUCTURE_SCHEMA`.
        """
        return None

    @abstractmethod
    def fetch(self) -> tuple[Items, Rows]:
        """Return the items on the driver, in the order of their positions, and their vectors.

        Raises
        ------
        ValueError
            If the driver has not enough memory for them.
        """

    def pack_new(self, items: DataFrame, source: ItemSource, spec: IndexSpec) -> PackedItems:
        """Pack new items, maybe none, for `append`.

        Parameters
        ----------
        items : DataFrame
            The new items.
        source : ItemSource
            What to read.
        spec : IndexSpec
            How `append` will index them.
        """
        return PackedItems(items, source, may_be_empty=True)

    @abstractmethod
    def append(self, packed: PackedItems, spec: IndexSpec) -> Placement:
        """Return an index of these and of new items; this one does not change.

        Parameters
        ----------
        packed : PackedItems
            What `pack_new` returned: at least one item, with the columns and the dimension of
            these.
        spec : IndexSpec
            How to index them.
        """

    @abstractmethod
    def remove(self, wanted: pa.Array, spec: IndexSpec) -> Placement:
        """Return an index without some items; this one does not change.

        Parameters
        ----------
        wanted : pyarrow.Array
            The distinct ids of the items to remove, in the form of Python. Other ids are ignored.
        spec : IndexSpec
            How to index the other items.

        Returns
        -------
        Placement
            The index; this one, if it has none of the items.

        Raises
        ------
        ValueError
            If no items are left.
        """

    def in_one_order(self, spec: IndexSpec) -> Placement:
        """Return this index with the items of equal ids in the order of their vectors.

        Then ties between such items are broken regardless of the order in which a fit reads them.
        """
        return self

    @abstractmethod
    def with_numbers(self, values: DataFrame, names: Sequence[str], spec: IndexSpec) -> Placement:
        """Return an index whose items have further columns of numbers; this one does not change.

        Parameters
        ----------
        values : DataFrame
            Persisted rows of `scoring.VALUE_SCHEMA` for all items. The result unpersists them when
            it does not need them any longer.
        names : sequence of str
            The columns to add.
        spec : IndexSpec
            How to index items again that change places: those of equal ids are sorted by the new
            columns.
        """

    def _check_rest(self, removed: int) -> None:
        """Raise a ValueError if no items are left."""
        if removed >= self.num_items:
            raise ValueError(
                f"ids contains the ids of all {self.num_items} items. A model needs at least one "
                "item."
            )

    @property
    @abstractmethod
    def largest_label(self) -> float | None:
        """The largest label; None if the items have no labels."""

    @abstractmethod
    def held_out_recall(self, wanted: Calibration) -> Curve:
        """Measure the recall of an approximate index with some of its items as queries.

        Parameters
        ----------
        wanted : Calibration
            What to measure.

        Returns
        -------
        Curve
            The recall at several levels. Each item is left out of its own neighbors.
        """

    def recall_of(
        self,
        queries: DataFrame,
        inputs: dict[str, Input],
        request: Request,
        wanted: Calibration,
    ) -> Curve:
        """Measure the recall of an approximate index with other queries; runs one job or two.

        Parameters
        ----------
        queries : DataFrame
            The queries, with distinct numbers in a column `QUERY`.
        inputs, request
            See `search`; the answer of the request is ignored.
        wanted : Calibration
            What to measure.

        Returns
        -------
        Curve
            The recall at several levels.
        """
        read = {**inputs, KNOB: Input(F.col(KNOB), T.IntegerType())}
        request = replace(
            request, inputs=(*request.inputs, KNOB), answer=distances_alone(), max_distance=None
        )

        def search(levels: Sequence[int], probes: int | None) -> DataFrame:
            asked = replace(request, probes=probes)
            return self.search(at_levels(queries, levels), read, asked)

        return curve_of_levels(self.levels, wanted, searching(search, wanted))

    @abstractmethod
    def cost(
        self, session: SparkSession, queries: Rows, k: int, knob: int | None = None
    ) -> PlacedCost:
        """Measure the cost of a search with a sample of queries; runs a small job."""

    @abstractmethod
    def unpersist(self) -> None:
        """Free the memory and disk of the index on the executors. Later searches still work."""


def _in_types(frame: DataFrame, types: Mapping[str, T.DataType | None]) -> DataFrame:
    """Return columns in their Spark types, given them in the form of Python; None changes none."""
    found = {name: from_wire(F.col(name), kind) for name, kind in types.items() if kind is not None}
    return frame.withColumns(found) if found else frame
