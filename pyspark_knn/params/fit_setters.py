"""The setters of the Params that determine the index, which only estimators have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pyspark_knn.literals import AlgorithmName, DtypeName, MetricName, ShardByName, StorageName
from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.neighbors import _NeighborParams
from pyspark_knn.params.placement import PlacementSetters

Self_ = TypeVar("Self_", bound=CheckedParams)


class FitSetters(PlacementSetters, _NeighborParams):
    """Setters of the Params that determine the index, for estimators only."""

    def setIdCol(self: Self_, value: str | None) -> Self_:
        """Set idCol; None unsets it."""
        return self._set(idCol=value)

    def setKeyCols(self: Self_, value: str | Sequence[str] | None) -> Self_:
        """Set keyCols; None unsets it."""
        return self._set(keyCols=value)

    def setMetric(self: Self_, value: MetricName) -> Self_:
        """Set metric."""
        return self._set(metric=value)

    def setP(self: Self_, value: float) -> Self_:
        """Set p."""
        return self._set(p=value)

    def setMetricParams(self: Self_, value: Mapping[str, Any] | None) -> Self_:
        """Set metricParams; None unsets it."""
        return self._set(metricParams=value)

    def setAlgorithm(self: Self_, value: AlgorithmName) -> Self_:
        """Set algorithm."""
        return self._set(algorithm=value)

    def setLeafSize(self: Self_, value: int) -> Self_:
        """Set leafSize."""
        return self._set(leafSize=value)

    def setDtype(self: Self_, value: DtypeName) -> Self_:
        """Set dtype."""
        return self._set(dtype=value)

    def setStorage(self: Self_, value: StorageName) -> Self_:
        """Set storage."""
        return self._set(storage=value)

    def setShardBy(self: Self_, value: ShardByName) -> Self_:
        """Set shardBy."""
        return self._set(shardBy=value)
