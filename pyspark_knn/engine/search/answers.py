"""What classifiers and regressors make of neighbours, in a worker. No driver-side name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.batches import NeighborLists, list_offsets
from pyspark_knn.index import votes
from pyspark_knn.index.base import Neighbors

if TYPE_CHECKING:
    from pyspark.sql.types import StructType


class Verdict(Protocol):
    """What is predicted from neighbours."""

    @property
    def width(self) -> int:
        """Figures for each query."""

    def columns(self, neighbors: Neighbors, items: Items) -> dict[str, pa.Array]:
        """The output columns, by the Params that name them."""


@dataclass(frozen=True)
class ClassVerdict:
    """Votes, probabilities and the class that wins.

    Attributes
    ----------
    num_classes : int
        How many there are.
    weights : {"uniform", "distance"}
        How votes are weighed.
    thresholds : tuple of float or None
        See `votes.winners`.
    """

    num_classes: int
    weights: str
    thresholds: tuple[float, ...] | None

    @property
    def width(self) -> int:
        """A vote and a probability for each class."""
        return 2 * self.num_classes

    def columns(self, neighbors: Neighbors, items: Items) -> dict[str, pa.Array]:
        """Two lists of double, and a double."""
        weights = votes.vote_weights(neighbors, self.weights, items.weights)
        cast = votes.class_votes(neighbors, weights, items.known_labels(), self.num_classes)
        limits = None if self.thresholds is None else np.array(self.thresholds)
        return {
            "rawPredictionCol": _lists(cast),
            "probabilityCol": _lists(votes.probabilities(cast)),
            "predictionCol": pa.array(votes.winners(cast, limits)),
        }


@dataclass(frozen=True)
class MeanVerdict:
    """The weighted mean of the labels.

    Attributes
    ----------
    weights : {"uniform", "distance"}
        How neighbours are weighed.
    """

    weights: str
    width = 1

    def columns(self, neighbors: Neighbors, items: Items) -> dict[str, pa.Array]:
        """One double."""
        weights = votes.vote_weights(neighbors, self.weights, items.weights)
        means = votes.weighted_means(neighbors, weights, items.known_labels())
        return {"predictionCol": pa.array(means)}


@dataclass(frozen=True)
class Prediction:
    """The answer of a classifier or regressor: its verdict, and the neighbours that decided.

    Attributes
    ----------
    result_type : StructType
        The output columns.
    outputs : tuple of str
        The Params that name them, in their order.
    verdict : Verdict
        What is predicted.
    lists : NeighborLists or None
        The neighbours, its columns named by the Params, where they are wanted.
    weighted : bool
        Whether the items have weights.
    """

    result_type: StructType
    outputs: tuple[str, ...]
    verdict: Verdict
    lists: NeighborLists | None
    weighted: bool

    @property
    def width(self) -> int:
        """As the verdict's."""
        return self.verdict.width

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels, weights where there are any, ids where they are wanted."""
        ids = () if self.lists is None else self.lists.needs
        return (*ids, "label", *(("weight",) if self.weighted else ()))

    def rows(self, neighbors: Neighbors, items: Items) -> pa.StructArray:
        """One struct for each query."""
        cells = self.verdict.columns(neighbors, items)
        if self.lists is not None:
            lists = self.lists.rows(neighbors, items)
            cells |= zip(self.lists.result_type.names, lists.flatten(), strict=True)
        arrays = [cells[param] for param in self.outputs]
        return pa.StructArray.from_arrays(arrays, names=self.result_type.names)


def _lists(matrix: NDArray[np.float64]) -> pa.ListArray:
    """A list for each row."""
    offsets = list_offsets(np.full(len(matrix), matrix.shape[1]))
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))
