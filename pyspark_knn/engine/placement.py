"""The interface of an index in its placement, which is all that a model uses of the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.ids import from_wire
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.pairs import NEIGHBOR

if TYPE_CHECKING:
    from pyspark_knn.engine.search.batches import Request, Searchable
    from pyspark_knn.index.base import Rows

REPLICATED = "replicated"
"""Every executor holds the whole index."""

SHARDED = "sharded"
"""The index is divided over the executors."""


@dataclass(frozen=True)
class PlacedCost:
    """The cost of a search in a placement; see `pyspark_knn.explain.SearchCost`."""

    index_bytes: int
    pair_seconds: float
    timed: int
    cores: int
    shards: int = 0
    replicas: int = 0
    tasks: int = 0

    @classmethod
    def of(cls, timing: Row, index_bytes: int, cores: int, **shards: int) -> PlacedCost:
        """Return the cost, given a row of `batches.TIMING_SCHEMA`."""
        seconds, queries, items = timing
        return cls(index_bytes, seconds / max(1, queries) / items, queries, cores, **shards)


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
    searchable : Searchable or None
        The index on the driver; None if the driver does not hold it.
    """

    name: ClassVar[str]
    rebuilds_from_source: ClassVar[bool]
    id_type: T.DataType | None
    item_columns: dict[str, T.DataType]
    num_items: int
    num_features: int
    num_duplicates: int
    num_shards: int | None
    storage: str
    algorithm: str
    algorithm_reason: str
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
        if self.id_type is None:
            return frame
        ids = {name: from_wire(F.col(name), self.id_type) for name in ("id", NEIGHBOR)}
        return frame.withColumns(ids)

    @abstractmethod
    def items_frame(self, session: SparkSession) -> DataFrame:
        """Return the items as a DataFrame of `session`.

        It has the columns "id" or "position" or both, "features", and the other item columns.
        """

    def _with_ids(self, frame: DataFrame) -> DataFrame:
        """Return items with the ids in their Spark type, given ids in the form of Python."""
        if self.id_type is None:
            return frame
        return frame.withColumn("id", from_wire(F.col("id"), self.id_type))

    @abstractmethod
    def fetch(self) -> tuple[Items, Rows]:
        """Return the items on the driver, in the order of their positions, and their vectors.

        Raises
        ------
        ValueError
            If the driver has not enough memory for them.
        """

    @abstractmethod
    def cost(self, session: SparkSession, queries: Rows, k: int) -> PlacedCost:
        """Measure the cost of a search with a sample of queries; runs a small job."""

    @abstractmethod
    def unpersist(self) -> None:
        """Free the memory and disk of the index on the executors. Later searches still work."""
