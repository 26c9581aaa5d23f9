"""How good approximate neighbours are."""

from __future__ import annotations

from typing import Any

from pyspark import keyword_only
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param, Params
from pyspark.ml.util import MLReadable, MLWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.converters import optional, text, whole
from pyspark_knn.engine import columns, compat
from pyspark_knn.params import CheckedParams
from pyspark_knn.persistence import StageReader, StageWriter


class NeighborsEvaluator(CheckedParams, Evaluator, MLReadable[Any], MLWritable):
    """Recall at k: which share of the true neighbours was found.

    Two columns of one DataFrame are compared row by row, and the mean of the shares is the figure.
    A row that has no true neighbours (or a null) does not count.

    To find a good ``numProbes`` by MLlib's tuning, let two estimators be the stages of a Pipeline:
    an exact one with ``neighborsCol="exact"``, and one with ``shardBy="kmeans"`` whose numProbes is
    in the grid. Both are fitted on the same fold then.

    Parameters
    ----------
    neighborsCol : str, default="neighbors"
        Array of ids that were found.
    exactCol : str, default="exact"
        Array of the ids of the true neighbours, nearest first.
    k : int, optional
        How many neighbours count, >= 1. Unset: all that are there.

    Raises
    ------
    ValueError, TypeError
        From `evaluate`, for a missing column, one that holds no array, arrays of two types, or no
        row with a true neighbour.

    Examples
    --------
    >>> from pyspark_knn import NeighborsEvaluator
    >>> found = spark.createDataFrame([([1, 2], [1, 2]), ([3, 4], [4, 5])], ["neighbors", "exact"])
    >>> NeighborsEvaluator().evaluate(found)
    0.75
    >>> NeighborsEvaluator(k=1).evaluate(found)
    0.5
    """

    neighborsCol: Param[str] = Param(
        Params._dummy(), "neighborsCol", "array of ids that were found", text("neighborsCol")
    )
    exactCol: Param[str] = Param(
        Params._dummy(), "exactCol", "array of the ids of the true neighbours", text("exactCol")
    )
    k: Param[int | None] = Param(
        Params._dummy(),
        "k",
        "how many neighbours count, >= 1; unset: all that are there",
        optional(whole("k", 1)),
    )

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self, *, neighborsCol: str = "neighbors", exactCol: str = "exact", k: int | None = None
    ) -> None:
        super().__init__()
        self._setDefault(neighborsCol="neighbors", exactCol="exact", k=None)
        self._set(**self._input_kwargs)

    @keyword_only
    def setParams(
        self, *, neighborsCol: str = "neighbors", exactCol: str = "exact", k: int | None = None
    ) -> NeighborsEvaluator:
        """Set any of the Params; see the class for what they mean."""
        return self._set(**self._input_kwargs)

    def _evaluate(self, dataset: DataFrame) -> float:
        compat.session_of(dataset)
        names = [self.getOrDefault(self.neighborsCol), self.getOrDefault(self.exactCol)]
        fields = [
            columns.field_of(dataset, param, name)
            for param, name in zip(("neighborsCol", "exactCol"), names, strict=True)
        ]
        kinds = [field.dataType for field in fields]
        if not isinstance(kinds[0], T.ArrayType) or kinds[0] != kinds[1]:
            told = " and ".join(kind.simpleString() for kind in kinds)
            raise TypeError(f"neighborsCol and exactCol must be arrays of one type, got {told}")
        k = self.getOrDefault(self.k)
        lists = [columns.column(field.name) for field in fields]
        if k is not None:
            lists = [F.slice(each, 1, k) for each in lists]
        found, exact = (F.array_distinct(each) for each in lists)
        share = F.size(F.array_intersect(found, exact)) / F.size(exact)
        mean = dataset.where(F.size(exact) > 0).agg(F.avg(F.coalesce(share, F.lit(0.0)))).first()
        if mean is None or mean[0] is None:
            raise ValueError(f"exactCol {names[1]!r}: no row has a true neighbour")
        return float(mean[0])

    def isLargerBetter(self) -> bool:
        """True: a recall of 1 is exact."""
        return True

    def write(self) -> StageWriter:
        """A writer of the Params."""
        return StageWriter(self)

    @classmethod
    def read(cls) -> StageReader[NeighborsEvaluator]:
        """A reader of a saved evaluator."""
        return StageReader(cls)
