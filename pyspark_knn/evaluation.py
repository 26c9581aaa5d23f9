"""Evaluation of approximate neighbors."""

from __future__ import annotations

from typing import Any

from pyspark.ml.evaluation import Evaluator
from pyspark.ml.param import Param, Params
from pyspark.ml.util import MLWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.spark import compat
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import optional, text, whole
from pyspark_knn.persistence.stages import Loadable, StageReader, StageWriter


class NeighborsEvaluator(CheckedParams, Evaluator, Loadable, MLWritable):
    """Evaluator of recall at k: the share of the exact neighbors that a search found.

    Two columns of one DataFrame are compared row by row. The metric is the mean of the rows'
    recalls, from 0 to 1. Rows without exact neighbors (an empty array or null) are ignored.

    To tune ``numProbes`` with MLlib, use a Pipeline of two estimators: an exact one with
    ``neighborsCol="exact"``, and one with ``shardBy="kmeans"`` whose numProbes is in the grid. Both
    are then fitted on the same fold.

    Parameters
    ----------
    neighborsCol : str, default="neighbors"
        Column of arrays with the ids of the neighbors that were found, nearest first.
    exactCol : str, default="exact"
        Column of arrays with the ids of the exact neighbors, nearest first.
    k : int, optional
        Number of nearest neighbors to compare, >= 1. By default all are compared.

    Raises
    ------
    ValueError, TypeError
        From `evaluate`, if a column does not exist or is not an array, if the arrays have different
        types, or if no row has an exact neighbor.

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
        Params._dummy(),
        "neighborsCol",
        "column of arrays with the ids of the neighbors that were found, nearest first",
        text("neighborsCol"),
    )
    exactCol: Param[str] = Param(
        Params._dummy(),
        "exactCol",
        "column of arrays with the ids of the exact neighbors, nearest first",
        text("exactCol"),
    )
    k: Param[int | None] = Param(
        Params._dummy(),
        "k",
        "number of nearest neighbors to compare, >= 1; by default all are compared",
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
        """Set any of the Params, which the docstring of the class describes."""
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
            given = " and ".join(kind.simpleString() for kind in kinds)
            raise TypeError(
                f"neighborsCol and exactCol must be arrays of the same type, got {given}"
            )
        k = self.getOrDefault(self.k)
        lists = [columns.column(field.name) for field in fields]
        if k is not None:
            lists = [F.slice(each, 1, k) for each in lists]
        found, exact = (F.array_distinct(each) for each in lists)
        share = F.size(F.array_intersect(found, exact)) / F.size(exact)
        mean = dataset.where(F.size(exact) > 0).agg(F.avg(F.coalesce(share, F.lit(0.0)))).first()
        if mean is None or mean[0] is None:
            raise ValueError(
                f"exactCol {names[1]!r} contains no neighbors: all arrays are empty or null"
            )
        return float(mean[0])

    def isLargerBetter(self) -> bool:
        """Return True: the largest recall, 1, is the best."""
        return True

    def write(self) -> StageWriter:
        """Return a writer that saves the Params of this evaluator."""
        return StageWriter(self)

    @classmethod
    def read(cls) -> StageReader[NeighborsEvaluator]:
        """Return a reader that loads a saved evaluator."""
        return StageReader(cls)
