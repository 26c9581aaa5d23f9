"""The Params of the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasFeaturesCol

from pyspark_knn.converters import (
    choice,
    is_number,
    is_positive,
    json_dict,
    optional,
    real,
    text,
    whole,
)
from pyspark_knn.engine import hints

ALGORITHMS = ("auto", "brute", "kd_tree", "ball_tree")
DTYPES = ("auto", "float32")
PLACEMENTS = ("auto", "replicated", "sharded")
SHARD_BY = ("hash", "kmeans")
INVALID = ("error", "skip", "keep")

Self_ = TypeVar("Self_", bound="CheckedParams")


def _one_column(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        raise TypeError(
            f"idCol must be a string, the name of one column, got {value!r}: make one column of "
            "several by pyspark.sql.functions.concat_ws"
        )
    name: str = text("idCol")(value)
    return name


class CheckedParams(Params):
    """Params whose None means "unset" where that is allowed, and is refused elsewhere."""

    def _set(self: Self_, **kwargs: Any) -> Self_:
        # pyspark stores an explicit None unconverted: it surfaces when a saved stage is loaded.
        for name, value in kwargs.items():
            if value is None:
                kwargs[name] = getattr(self, name).typeConverter(None)
        super()._set(**kwargs)
        return self


def _features_name(value: Any) -> str:
    """A converter to the name of the features column, which many take for several columns."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        raise TypeError(
            f"featuresCol must be a string, got {value!r}: make one vector of several columns with "
            f"{hints.assembler(value)}"
        )
    return str(text("featuresCol")(value))


class _KNNParams(CheckedParams, HasFeaturesCol):
    """What every k-nearest-neighbour stage and model has: all that a search needs to know."""

    # pyspark's own converter does not name the Param.
    featuresCol: Param[str] = Param(
        Params._dummy(),
        "featuresCol",
        "column of vectors (dense or sparse), or of arrays of numbers",
        _features_name,
    )
    k: Param[int] = Param(
        Params._dummy(), "k", "neighbours per query, >= 1; counts items", whole("k", 1)
    )
    maxDistance: Param[float | None] = Param(
        Params._dummy(),
        "maxDistance",
        "neighbours farther than this are left out; inclusive; may be negative for inner_product",
        optional(real("maxDistance", "a number (not NaN)", is_number)),
    )
    excludeIdCol: Param[str | None] = Param(
        Params._dummy(),
        "excludeIdCol",
        "query column with an item id, or an array of item ids, never returned to that query",
        optional(text("excludeIdCol")),
    )
    handleInvalid: Param[str] = Param(
        Params._dummy(),
        "handleInvalid",
        "what to do with null vectors, wrong dimensions, NaN and infinity: error, skip (drop the "
        "row), or keep (keep a query with null outputs; an item is left out)",
        choice("handleInvalid", INVALID),
    )
    idCol: Param[str | None] = Param(
        Params._dummy(),
        "idCol",
        "item column that names a neighbour, any atomic type; unset: the item's position, a long",
        optional(_one_column),
    )
    metric: Param[str] = Param(
        Params._dummy(),
        "metric",
        "a distance: the names that sklearn takes for brute, kd_tree and ball_tree, and "
        "inner_product",
        text("metric"),
    )
    p: Param[float] = Param(
        Params._dummy(),
        "p",
        "power of the minkowski metric, > 0",
        real("p", "a number > 0", is_positive),
    )
    metricParams: Param[dict[str, Any] | None] = Param(
        Params._dummy(),
        "metricParams",
        "further parameters of the metric: V of seuclidean, V or VI of mahalanobis, w of "
        "minkowski, radius of haversine",
        optional(json_dict("metricParams")),
    )
    algorithm: Param[str] = Param(
        Params._dummy(),
        "algorithm",
        "how to search: auto, brute, kd_tree, ball_tree; on a model, what was chosen",
        choice("algorithm", ALGORITHMS),
    )
    leafSize: Param[int] = Param(
        Params._dummy(), "leafSize", "items in a leaf of a tree, >= 1", whole("leafSize", 1)
    )
    dtype: Param[str] = Param(
        Params._dummy(),
        "dtype",
        "auto: whatever keeps the input's values exactly; float32: items are rounded once at fit",
        choice("dtype", DTYPES),
    )
    placement: Param[str] = Param(
        Params._dummy(),
        "placement",
        "where the index is: auto, replicated (one copy on every executor), sharded (cut up over "
        "the executors); on a model, what was chosen",
        choice("placement", PLACEMENTS),
    )
    numShards: Param[int | None] = Param(
        Params._dummy(),
        "numShards",
        "shards of a sharded index, >= 1; unset: by size and cores; on a model, what was chosen",
        optional(whole("numShards", 1)),
    )

    shardBy: Param[str] = Param(
        Params._dummy(),
        "shardBy",
        "what makes a shard: hash (items dealt out by a hash of their ids) or kmeans (cells of "
        "near items, most of which a search passes over)",
        choice("shardBy", SHARD_BY),
    )
    numProbes: Param[int | None] = Param(
        Params._dummy(),
        "numProbes",
        "cells that are searched for a query, >= 1, which makes the answer approximate; unset: all "
        "that may hold a neighbour; of kmeans shards only",
        optional(whole("numProbes", 1)),
    )

    numReplicas: Param[int | None] = Param(
        Params._dummy(),
        "numReplicas",
        "tasks that share the queries of one shard, >= 1; unset: as many as keep all cores busy",
        optional(whole("numReplicas", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            k=5,
            maxDistance=None,
            excludeIdCol=None,
            handleInvalid="error",
            idCol=None,
            metric="euclidean",
            p=2.0,
            metricParams=None,
            algorithm="auto",
            leafSize=30,
            dtype="auto",
            placement="auto",
            numShards=None,
            shardBy="hash",
            numProbes=None,
            numReplicas=None,
        )

    def getK(self) -> int:
        """Value of k."""
        return self.getOrDefault(self.k)

    def getMaxDistance(self) -> float | None:
        """Value of maxDistance; None where unset."""
        return self.getOrDefault(self.maxDistance)

    def getExcludeIdCol(self) -> str | None:
        """Value of excludeIdCol; None where unset."""
        return self.getOrDefault(self.excludeIdCol)

    def getHandleInvalid(self) -> str:
        """Value of handleInvalid."""
        return self.getOrDefault(self.handleInvalid)

    def getIdCol(self) -> str | None:
        """Value of idCol; None where unset."""
        return self.getOrDefault(self.idCol)

    def getMetric(self) -> str:
        """Value of metric."""
        return self.getOrDefault(self.metric)

    def getP(self) -> float:
        """Value of p."""
        return self.getOrDefault(self.p)

    def getMetricParams(self) -> dict[str, Any] | None:
        """Value of metricParams; None where unset."""
        return self.getOrDefault(self.metricParams)

    def getAlgorithm(self) -> str:
        """Value of algorithm; on a model, what was chosen."""
        return self.getOrDefault(self.algorithm)

    def getLeafSize(self) -> int:
        """Value of leafSize."""
        return self.getOrDefault(self.leafSize)

    def getDtype(self) -> str:
        """Value of dtype."""
        return self.getOrDefault(self.dtype)

    def getPlacement(self) -> str:
        """Value of placement; on a model, what was chosen."""
        return self.getOrDefault(self.placement)

    def getNumShards(self) -> int | None:
        """Value of numShards; None where unset; on a sharded model, what was chosen."""
        return self.getOrDefault(self.numShards)

    def getShardBy(self) -> str:
        """Value of shardBy."""
        return self.getOrDefault(self.shardBy)

    def getNumProbes(self) -> int | None:
        """Value of numProbes; None where unset."""
        return self.getOrDefault(self.numProbes)

    def getNumReplicas(self) -> int | None:
        """Value of numReplicas; None where unset."""
        return self.getOrDefault(self.numReplicas)

    # What is set below works on a model without a refit.

    def setK(self: Self_, value: int) -> Self_:
        """Set k."""
        return self._set(k=value)

    def setFeaturesCol(self: Self_, value: str) -> Self_:
        """Set featuresCol."""
        return self._set(featuresCol=value)

    def setMaxDistance(self: Self_, value: float | None) -> Self_:
        """Set maxDistance; None unsets it."""
        return self._set(maxDistance=value)

    def setExcludeIdCol(self: Self_, value: str | None) -> Self_:
        """Set excludeIdCol; None unsets it."""
        return self._set(excludeIdCol=value)

    def setHandleInvalid(self: Self_, value: str) -> Self_:
        """Set handleInvalid."""
        return self._set(handleInvalid=value)

    def setNumProbes(self: Self_, value: int | None) -> Self_:
        """Set numProbes; None unsets it."""
        return self._set(numProbes=value)

    def setNumReplicas(self: Self_, value: int | None) -> Self_:
        """Set numReplicas; None unsets it."""
        return self._set(numReplicas=value)


class FitSetters(_KNNParams):
    """Setters of what shapes the index: on estimators only."""

    def setIdCol(self: Self_, value: str | None) -> Self_:
        """Set idCol; None unsets it."""
        return self._set(idCol=value)

    def setMetric(self: Self_, value: str) -> Self_:
        """Set metric."""
        return self._set(metric=value)

    def setP(self: Self_, value: float) -> Self_:
        """Set p."""
        return self._set(p=value)

    def setMetricParams(self: Self_, value: Mapping[str, Any] | None) -> Self_:
        """Set metricParams; None unsets it."""
        return self._set(metricParams=value)

    def setAlgorithm(self: Self_, value: str) -> Self_:
        """Set algorithm."""
        return self._set(algorithm=value)

    def setLeafSize(self: Self_, value: int) -> Self_:
        """Set leafSize."""
        return self._set(leafSize=value)

    def setDtype(self: Self_, value: str) -> Self_:
        """Set dtype."""
        return self._set(dtype=value)

    def setPlacement(self: Self_, value: str) -> Self_:
        """Set placement."""
        return self._set(placement=value)

    def setNumShards(self: Self_, value: int | None) -> Self_:
        """Set numShards; None unsets it."""
        return self._set(numShards=value)

    def setShardBy(self: Self_, value: str) -> Self_:
        """Set shardBy."""
        return self._set(shardBy=value)


class HasNeighborColumns(CheckedParams):
    """The output columns of a search."""

    neighborsCol: Param[str] = Param(
        Params._dummy(),
        "neighborsCol",
        "output: array of ids, nearest first; an empty name leaves the column out",
        text("neighborsCol"),
    )
    distancesCol: Param[str] = Param(
        Params._dummy(),
        "distancesCol",
        "output: array<double>, same order, never descending; an empty name leaves the column out",
        text("distancesCol"),
    )

    def getNeighborsCol(self) -> str:
        """Value of neighborsCol."""
        return self.getOrDefault(self.neighborsCol)

    def getDistancesCol(self) -> str:
        """Value of distancesCol."""
        return self.getOrDefault(self.distancesCol)

    def setNeighborsCol(self: Self_, value: str) -> Self_:
        """Set neighborsCol; an empty name leaves the column out."""
        return self._set(neighborsCol=value)

    def setDistancesCol(self: Self_, value: str) -> Self_:
        """Set distancesCol; an empty name leaves the column out."""
        return self._set(distancesCol=value)
