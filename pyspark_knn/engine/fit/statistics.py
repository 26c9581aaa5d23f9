"""Statistics of the features of packed items: how many items have them, means and variances."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from pyspark_knn.engine.fit.chunks import unpack
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.arrow import rows_of
from pyspark_knn.index.column_sums import add_up, partial_squares, partial_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.fit.packed import PackedItems

_SCHEMA = "feature long, exponent long, count long, upper long, lower long"
"""See `column_sums.partial_sums`."""


class FeatureStatistics(NamedTuple):
    """Statistics of the values that are not missing, which do not depend on the order of items.

    Attributes
    ----------
    counts : ndarray of shape (n_features,), dtype int64
        The number of items that have the feature.
    means : ndarray of shape (n_features,), dtype float64
        The means; NaN for a feature that no item has.
    variances : ndarray of shape (n_features,), dtype float64
        The mean squared deviations from the means; NaN for a feature that no item has.
    """

    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    variances: NDArray[np.float64]


def feature_statistics(packed: PackedItems) -> FeatureStatistics:
    """Compute the statistics of packed items, by two small jobs over their chunks.

    Parameters
    ----------
    packed : PackedItems
        The items.
    """
    counts, means = _sums(packed, None)
    return FeatureStatistics(counts, means, _sums(packed, means)[1])


def _sums(
    packed: PackedItems, means: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the numbers and the means of values or, given the means, of squared deviations."""
    dim = packed.num_features
    chunks = packed.frame.where((F.col("chunk") >= 0) & (F.col("dim") == dim))
    cells = chunks.select("dtype", "lengths", "indices", "values")
    parts = cells.mapInArrow(guarded(functools.partial(_chunk_sums, dim, means)), _SCHEMA)
    sums = [F.sum(name).alias(name) for name in ("count", "upper", "lower")]
    with compat.described(packed.frame.sparkSession, "pyspark_knn: statistics of the features"):
        rows = parts.groupBy("feature", "exponent").agg(*sums).collect()
    return add_up(np.array([tuple(row) for row in rows], np.int64).reshape(-1, 5), dim)


def _chunk_sums(
    dim: int, means: NDArray[np.float64] | None, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    names = [each.split()[0] for each in _SCHEMA.split(", ")]
    for batch in batches:
        for row in rows_of(batch):
            for _, matrix in unpack(row, dim):
                sums = partial_sums(matrix) if means is None else partial_squares(matrix, means)
                yield pa.RecordBatch.from_arrays([pa.array(each) for each in sums.T], names)
