"""The Params for the output columns of a search."""

from __future__ import annotations

from typing import TypeVar

from pyspark.ml.param import Param, Params

from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import text

Self_ = TypeVar("Self_", bound=CheckedParams)


class HasNeighborColumns(CheckedParams):
    """Params for the output columns of a search."""

    neighborsCol: Param[str] = Param(
        Params._dummy(),
        "neighborsCol",
        "output column of arrays with the ids of the neighbors, nearest first; omitted if the name "
        "is empty",
        text("neighborsCol"),
    )
    distancesCol: Param[str] = Param(
        Params._dummy(),
        "distancesCol",
        "output column of arrays of double with the distances of the neighbors, in the same order "
        "as neighborsCol (non-decreasing); omitted if the name is empty",
        text("distancesCol"),
    )

    def getNeighborsCol(self) -> str:
        """Value of neighborsCol."""
        return self.getOrDefault(self.neighborsCol)

    def getDistancesCol(self) -> str:
        """Value of distancesCol."""
        return self.getOrDefault(self.distancesCol)

    def setNeighborsCol(self: Self_, value: str) -> Self_:
        """Set neighborsCol; an empty name omits the column."""
        return self._set(neighborsCol=value)

    def setDistancesCol(self: Self_, value: str) -> Self_:
        """Set distancesCol; an empty name omits the column."""
        return self._set(distancesCol=value)
