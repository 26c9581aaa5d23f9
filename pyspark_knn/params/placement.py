"""The Params for the placement of an index."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pyspark.ml.param import Param, Params

from pyspark_knn.literals import PlacementName
from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import choice, optional, whole

PLACEMENTS: tuple[str, ...] = get_args(PlacementName)
"""The values of the Param placement."""

Self_ = TypeVar("Self_", bound=CheckedParams)


class HasPlacement(CheckedParams):
    """Params for the placement of an index."""

    placement: Param[PlacementName] = Param(
        Params._dummy(),
        "placement",
        "placement of the index: auto, replicated (one copy on every executor) or sharded "
        "(partitioned over the executors); on a model, the chosen placement",
        choice("placement", PLACEMENTS),
    )
    numShards: Param[int | None] = Param(
        Params._dummy(),
        "numShards",
        "number of shards of a sharded index, >= 1; by default chosen from the size of the index "
        "and the number of cores; on a model, the chosen number",
        optional(whole("numShards", 1)),
    )
    numReplicas: Param[int | None] = Param(
        Params._dummy(),
        "numReplicas",
        "number of tasks that share the queries of one shard, >= 1; by default as many as keep all "
        "cores busy",
        optional(whole("numReplicas", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(placement="auto", numShards=None, numReplicas=None)

    def getPlacement(self) -> PlacementName:
        """Value of placement; on a model, the chosen placement."""
        return self.getOrDefault(self.placement)

    def getNumShards(self) -> int | None:
        """Value of numShards, None if it is unset; on a sharded model, the number chosen."""
        return self.getOrDefault(self.numShards)

    def getNumReplicas(self) -> int | None:
        """Value of numReplicas, None if it is unset."""
        return self.getOrDefault(self.numReplicas)

    def setNumReplicas(self: Self_, value: int | None) -> Self_:
        """Set numReplicas; None unsets it."""
        return self._set(numReplicas=value)


class PlacementSetters(HasPlacement):
    """Setters of the Params for the placement that `fit` reads, for estimators only."""

    def setPlacement(self: Self_, value: PlacementName) -> Self_:
        """Set placement."""
        return self._set(placement=value)

    def setNumShards(self: Self_, value: int | None) -> Self_:
        """Set numShards; None unsets it."""
        return self._set(numShards=value)
