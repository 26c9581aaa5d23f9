"""The answer of an outlier detector: the score of each query, and whether it is an outlier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyspark_knn.index import lof

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql.types import StructType

    from pyspark_knn.engine.rows.items import Items
    from pyspark_knn.index.found import Found

K_DISTANCE, DENSITY, SCORE, NEIGHBOR_COUNT = "kDistance", "density", "score", "numNeighbors"
"""What each item has from a fit: the distance of its k-th neighbor, its local reachability density,
its score, and the number of its neighbors."""


@dataclass(frozen=True)
class OutlierScore:
    """The outlier score of a query, and its prediction.

    Attributes
    ----------
    result_type : StructType
        The output columns.
    outputs : tuple of str
        The Params that name the output columns, in their order.
    score : {"lof", "kth", "mean"}
        What the score is.
    threshold : float or None
        The largest score that is normal; None if there is no prediction.
    keyed : bool
        Whether the items have keys, so that some may have fewer than k neighbors.
    """

    result_type: StructType
    outputs: tuple[str, ...]
    score: str
    threshold: float | None
    keyed: bool
    width = 2
    lists = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The item columns that the score depends on."""
        columns = (K_DISTANCE, DENSITY) if self.score == lof.LOF else ()
        return (*columns, NEIGHBOR_COUNT) if self.keyed else columns

    def rows(self, found: Found, items: Items) -> pa.StructArray:
        """Return one struct for each query."""
        if self.keyed:
            found = lof.shortened(found, items.numbers(NEIGHBOR_COUNT))
        scores = self._scores(found, items)
        cells = {"scoreCol": scores}
        if self.threshold is not None:
            cells["predictionCol"] = lof.outliers(scores, self.threshold)
        # A missing score is NaN, which Arrow must not turn into a null.
        arrays = [pa.array(np.asarray(cells[param])) for param in self.outputs]
        return pa.StructArray.from_arrays(arrays, names=self.result_type.names)

    def _scores(self, found: Found, items: Items) -> NDArray[np.float64]:
        if self.score != lof.LOF:
            return lof.distance_scores(found, self.score)
        own = lof.densities(found, items.numbers(K_DISTANCE))
        return lof.factors(found, items.numbers(DENSITY), own)
