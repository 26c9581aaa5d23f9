"""The answers of a search: lists of neighbors, and predictions from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.spark.arrow import list_rows
from pyspark_knn.index import votes
from pyspark_knn.index.found import Found

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql.types import DataType, StructType

    from pyspark_knn.engine.search.searchable import Searchable

DISTANCE = "distance"
"""In `FoundLists`: the distance, which is not a column of the items."""

RANKS_BEFORE = "ranks_before"
"""In `FoundLists`: how many nearer neighbors of the query are in rows before, a number."""


class Answer(Protocol):
    """The output of a stage for a query, computed from the query's neighbors."""

    @property
    def result_type(self) -> StructType:
        """The output columns as Python returns them."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the item columns that the answer reads."""

    @property
    def width(self) -> int:
        """The number of values in the answer to a query, in addition to one for each neighbor."""

    @property
    def lists(self) -> FoundLists | None:
        """The lists of neighbors in the answer, if there are any."""

    def rows(self, found: Found, items: Items) -> pa.StructArray:
        """Return one struct of `result_type` for each query."""


class OwnSearch(ABC):
    """An answer that is not computed from the nearest items, and so has a search of its own.

    Attributes
    ----------
    result_type : StructType
        The output columns as Python returns them.
    """

    result_type: StructType

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of values that a search of one query returns at most."""

    @abstractmethod
    def search(self, searchable: Searchable, queries: NDArray[np.floating]) -> pa.StructArray:
        """Return one struct of `result_type` for each query."""


class MergedSearch(OwnSearch):
    """A search of its own that can be divided into searches of shards."""

    @abstractmethod
    def shard_lists(self, item_columns: Mapping[str, DataType]) -> dict[str, DataType]:
        """Return the types of the lists that a shard returns for a query, `DISTANCE` among them."""

    @abstractmethod
    def in_shard(self, result_type: StructType) -> OwnSearch:
        """Return the search of one shard, whose output columns are these lists."""

    @abstractmethod
    def merged(self, lists: dict[str, pa.ListArray]) -> pa.StructArray:
        """Return one struct of `result_type` for each query, given the lists of all shards."""


@dataclass(frozen=True)
class FoundLists:
    """The neighbors of each query as lists, nearest first: distances, and columns of the items.

    Attributes
    ----------
    result_type : StructType
        The output columns, one for each of `names`.
    names : tuple of str
        What to list: `DISTANCE`, and item columns such as "id". With `RANKS_BEFORE`, a query may
        have several rows, each with a piece of its lists.
    """

    result_type: StructType
    names: tuple[str, ...]
    width = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The item columns among `names`."""
        return tuple(name for name in self.names if name not in (DISTANCE, RANKS_BEFORE))

    @property
    def lists(self) -> FoundLists:
        """All lists, which are the answer."""
        return self

    @property
    def in_pieces(self) -> bool:
        """Whether the lists of a query may be divided into several rows."""
        return RANKS_BEFORE in self.names

    def rows(
        self, found: Found, items: Items, ranks_before: NDArray[np.int64] | None = None
    ) -> pa.StructArray:
        """Return one struct for each query, of lists with one element for each neighbor."""
        offsets = pa.array(found.offsets, pa.int32())
        cells = []
        for name in self.names:
            if name == RANKS_BEFORE:
                count = len(found.offsets) - 1
                ranks = np.zeros(count, np.int64) if ranks_before is None else ranks_before
                cells.append(pa.array(ranks, pa.int32()))
            else:
                own = name == DISTANCE
                values = pa.array(found.distances) if own else items.take(name, found.positions)
                cells.append(pa.ListArray.from_arrays(offsets, values))
        return pa.StructArray.from_arrays(cells, names=self.result_type.names)


def distances_alone() -> FoundLists:
    """Return the answer that is the distances of the neighbors, in the column `DISTANCE`."""
    from pyspark.sql import types as T  # not at the top: used on the driver only

    lists = T.StructType([T.StructField(DISTANCE, T.ArrayType(T.DoubleType()))])
    return FoundLists(lists, (DISTANCE,))


class Predicted(Protocol):
    """The prediction of a classifier or a regressor from neighbors."""

    @property
    def width(self) -> int:
        """The number of values in the prediction for a query."""

    def columns(self, found: Found, items: Items) -> dict[str, pa.Array]:
        """Return the output columns, by the Params that name them."""


@dataclass(frozen=True)
class ClassVote:
    """The votes, the probabilities and the predicted class.

    Attributes
    ----------
    num_classes : int
        The number of classes.
    weights : {"uniform", "distance"}
        The weight of a vote, see `votes.vote_weights`.
    thresholds : tuple of float or None
        See `votes.winners`.
    outlier : int or None
        The class that gets the only vote of a query that no neighbor votes for, if any.
    """

    num_classes: int
    weights: str
    thresholds: tuple[float, ...] | None
    outlier: int | None = None

    @property
    def width(self) -> int:
        """The number of values for a query: a vote and a probability for each class."""
        return 2 * self.num_classes

    def columns(self, found: Found, items: Items) -> dict[str, pa.Array]:
        """Return two columns of lists of double, and a column of double."""
        weights = _vote_weights(found, items, self.weights)
        cast = votes.class_votes(found, weights, items.numbers("label"), self.num_classes)
        if self.outlier is not None:
            cast[~cast.any(axis=1), self.outlier] = 1.0
        limits = None if self.thresholds is None else np.array(self.thresholds)
        return {
            "rawPredictionCol": list_rows(cast),
            "probabilityCol": list_rows(votes.probabilities(cast)),
            "predictionCol": pa.array(votes.winners(cast, limits)),
        }


@dataclass(frozen=True)
class LabelMean:
    """The weighted mean of the labels.

    Attributes
    ----------
    weights : {"uniform", "distance"}
        The weight of a neighbor, see `votes.vote_weights`.
    """

    weights: str
    width = 1

    def columns(self, found: Found, items: Items) -> dict[str, pa.Array]:
        """Return a column of double."""
        weights = _vote_weights(found, items, self.weights)
        means = votes.weighted_means(found, weights, items.numbers("label"))
        return {"predictionCol": pa.array(means)}


@dataclass(frozen=True)
class Prediction:
    """The answer of a classifier or a regressor: a prediction, and the neighbors behind it.

    Attributes
    ----------
    result_type : StructType
        The output columns.
    outputs : tuple of str
        The Params that name the output columns, in their order.
    predicted : Predicted
        What is predicted.
    lists : FoundLists or None
        The neighbors, in columns that are named by the Params; None if no output shows them.
    weighted : bool
        Whether the items have weights.
    """

    result_type: StructType
    outputs: tuple[str, ...]
    predicted: Predicted
    lists: FoundLists | None
    weighted: bool

    @property
    def width(self) -> int:
        """See `Predicted.width`."""
        return self.predicted.width

    @property
    def needs(self) -> tuple[str, ...]:
        """The labels, the weights if there are any, and the ids if an output contains them."""
        ids = () if self.lists is None else self.lists.needs
        return (*ids, "label", *(("weight",) if self.weighted else ()))

    def rows(self, found: Found, items: Items) -> pa.StructArray:
        """Return one struct for each query."""
        cells = self.predicted.columns(found, items)
        if self.lists is not None:
            lists = self.lists.rows(found, items)
            cells |= zip(self.lists.result_type.names, lists.flatten(), strict=True)
        arrays = [cells[param] for param in self.outputs]
        return pa.StructArray.from_arrays(arrays, names=self.result_type.names)


def _vote_weights(found: Found, items: Items, weights: str) -> NDArray[np.float64]:
    """Return the weight of each neighbor, multiplied by the item's own weight if it has one."""
    item_weights = items.numbers("weight") if "weight" in items.columns else None
    return votes.vote_weights(found, weights, item_weights)
