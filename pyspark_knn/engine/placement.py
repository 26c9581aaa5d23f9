"""What a placement offers, and the choice of one. A model holds a placement and knows no more."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.packed import ItemSource, PackedItems
from pyspark_knn.engine.fit.packing import NumberRule
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.ship import shipping

if TYPE_CHECKING:
    import numpy as np

    from pyspark_knn.engine.search.batches import Answer, Request

logger = logging.getLogger(__name__)

REPLICATED = "replicated"
SHARDED = "sharded"

AUTO_BYTES = 2 << 30
"""Vectors up to this size are replicated without being asked."""

GROWN_BYTES = 2 << 30
MOST_GROWTH = 100
"""Sparse vectors that would grow beyond both as dense ones are refused. What VectorAssembler makes
of numbers and one-hot vectors grows by far less."""


@dataclass(frozen=True)
class PlacedCost:
    """What is known of the cost of a search; see `pyspark_knn.explain.SearchCost`."""

    index_bytes: int
    pair_seconds: float
    cores: int
    shards: int = 0
    replicas: int = 0
    tasks: int = 0


class Placement(ABC):
    """An index in its place, wherever that is.

    Attributes
    ----------
    name : {"replicated", "sharded"}
        The value of the Param ``placement`` that means this one.
    id_type : DataType or None
        The Spark type of the ids; None where positions stand for ids.
    """

    name: ClassVar[str]
    id_type: T.DataType | None

    @property
    @abstractmethod
    def num_items(self) -> int:
        """How many items there are."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """The dimension of their vectors."""

    @property
    @abstractmethod
    def converts(self) -> bool:
        """Whether the metric compares sets, and the items hold other numbers than 0 and 1."""

    @abstractmethod
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

    @abstractmethod
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

        Raises
        ------
        ValueError
            If the index is not on the driver.
        """

    @abstractmethod
    def items_frame(self, session: SparkSession) -> DataFrame:
        """The items as a DataFrame: position, id, features, label, weight, as far as there are."""

    @abstractmethod
    def fetch(self) -> tuple[Items, NDArray[np.floating]]:
        """The items on the driver, in the order of their positions, and their vectors.

        Raises
        ------
        ValueError
            If they do not fit there.
        """

    @abstractmethod
    def cost(self, session: SparkSession, queries: NDArray[np.floating], k: int) -> PlacedCost:
        """What searching costs here, by a sample of queries; a small job."""

    @abstractmethod
    def unpersist(self) -> None:
        """Free what executors hold of the index. Later searches still work."""


def choose_placement(placement: str, packed: PackedItems) -> tuple[str, str]:
    """Choose where the items go, and check that they fit there, before any of them is fetched.

    Parameters
    ----------
    placement : {"auto", "replicated", "sharded"}
        What was asked for.
    packed : PackedItems
        The items.

    Returns
    -------
    name : {"replicated", "sharded"}
    reason : str
        The estimate and the reason, one sentence.

    Raises
    ------
    ValueError
        If sparse vectors would grow too much as dense ones, wherever they go, or if "replicated"
        was asked for, and the item matrix is too large; names its size in GiB.
    """
    _check_growth(packed)
    needed, free = packed.nbytes, _available_memory()
    size = (
        f"{packed.num_items:,} items of {packed.num_features:,} dimensions in "
        f"{packed.dtype.name} take {needed / 2**30:.2f} GiB"
    )
    room = "" if free is None else f"the driver has {free / 2**30:.2f} GiB free"
    too_large = free is not None and needed > free
    if placement == SHARDED:
        return SHARDED, f"sharded was asked for; {size}"
    if not shipping.takes_files(packed.frame.sparkSession):
        return SHARDED, f"{size}, and the server takes no files, so that only rows can travel"
    if placement == "auto" and needed > AUTO_BYTES:
        return SHARDED, f"{size}, more than the {AUTO_BYTES / 2**30:.0f} GiB that are replicated"
    if placement == "auto" and too_large:
        return SHARDED, f"{size}, and {room}"
    if too_large:
        dense = ", since sparse vectors would be stored dense" * bool(packed.sparse_size()[1])
        raise ValueError(
            f"featuresCol: {size}{dense}, and {room}: use placement='sharded', a driver with more "
            "memory, fewer items, or vectors of fewer dimensions (pyspark.ml.feature.PCA)"
        )
    return REPLICATED, f"{size}, which every executor can hold"


def _check_growth(packed: PackedItems) -> None:
    """Refuse sparse vectors that would be too large as dense ones, before any of them is."""
    sparse, dense = packed.sparse_size()
    if dense <= GROWN_BYTES or dense < MOST_GROWTH * sparse:
        return
    raise ValueError(
        f"featuresCol {packed.source.features_col!r}: {packed.num_items:,} items of "
        f"{packed.num_features:,} dimensions take {sparse / 2**20:.1f} MiB as sparse vectors, but "
        f"would be stored dense, in {packed.nbytes / 2**30:.2f} GiB. Use vectors of fewer "
        "dimensions: a smaller numFeatures of HashingTF or vocabSize of CountVectorizer, or "
        "pyspark.ml.feature.PCA. To store them dense on purpose, convert the column by "
        "pyspark.ml.functions.vector_to_array before fit"
    )


def check_fetch(packed: PackedItems) -> None:
    """Refuse to bring items to a driver that cannot hold them."""
    needed, free = packed.nbytes, _available_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"the items take {needed / 2**30:.2f} GiB, and the driver has {free / 2**30:.2f} GiB "
            "free: use model.items, a DataFrame"
        )


def saved_source(frame: DataFrame) -> ItemSource:
    """How to read what `Placement.items_frame` gave: by ids as at fit, by positions without ids."""
    keys: dict[str, Column] = {
        name: F.col(name) for name in ("id", "label", "weight") if name in frame.columns
    }
    if "id" in keys:
        keys["id"] = columns.to_wire(keys["id"], frame.schema["id"].dataType)
    if "position" in frame.columns:
        keys["position"] = F.col("position")
    return ItemSource(
        features=columns.features_of(frame, "items", "features"),
        features_col="features",
        keys=keys,
        sort_by=tuple(keys),
        rules=tuple(
            NumberRule(name, "items", name, negative=name == "label")
            for name in ("label", "weight")
            if name in keys
        ),
    )


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
