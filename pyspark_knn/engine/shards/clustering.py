"""Find the cells of a sharded index with MLlib's KMeans on a sample of the items."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.clustering import KMeans
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.shards.sampling import count_cells, sample_items
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persist, unpersist
from pyspark_knn.index.cells import ShardAssignment
from pyspark_knn.index.distances import Metric

_SAMPLED = 256
"""Items per cell in the sample for KMeans: more of them hardly move the centers."""

_ITERATIONS = 10
"""The maxIter of KMeans."""

_LARGE = 2
"""A cell with more items than this many times the mean is divided into several shards."""

_SEED = 17
"""The seed of KMeans."""


def find_assignment(
    packed: PackedItems, num_cells: int, most_rows: int, metric: Metric
) -> ShardAssignment:
    """Find cells, and divide the large ones; the driver gets centers and counts.

    Parameters
    ----------
    packed : PackedItems
        The items.
    num_cells : int
        The number of cells; there are fewer if many items are equal.
    most_rows : int
        The largest number of items in a shard.
    metric : Metric
        The distance that decides which center is nearest to an item. KMeans itself uses euclidean
        distances, which is good enough to find centers.
    """
    session = packed.frame.sparkSession
    share = min(1.0, _SAMPLED * num_cells / packed.num_items)
    sample = guarded(functools.partial(sample_items, packed.num_features, share))
    rows = packed.frame.mapInArrow(sample, "features array<double>")
    vectors = persist(rows.select(array_to_vector(F.col("features")).alias("features")))
    try:
        with compat.described(session, f"pyspark_knn: find {num_cells} cells"):
            fitted = KMeans(k=num_cells, seed=_SEED, maxIter=_ITERATIONS).fit(vectors)
            centers = np.unique(np.array(fitted.clusterCenters(), np.float64), axis=0)
    finally:
        unpersist(vectors)
    whole = np.ones(len(centers), np.int64)
    cells = ShardAssignment(centers, np.cumsum(whole) - whole, whole, metric)
    most = min(most_rows, max(1, _LARGE * packed.num_items // len(centers)))
    ways = ways_of(packed, cells, most)
    return ShardAssignment(centers, np.cumsum(ways) - ways, ways, metric)


def ways_of(packed: PackedItems, assignment: ShardAssignment, most: int) -> NDArray[np.int64]:
    """Return the number of shards of each cell, for at most `most` items per shard; runs a job."""
    ways: NDArray[np.int64] = np.maximum(1, -(-_counts(packed, assignment) // most))
    return ways


def _counts(packed: PackedItems, assignment: ShardAssignment) -> NDArray[np.int64]:
    """Return the number of items in each cell."""
    count = guarded(functools.partial(count_cells, packed.num_features, assignment))
    rows = packed.frame.mapInArrow(count, "cell long, rows long").groupBy("cell").sum("rows")
    counts = np.zeros(len(assignment.centers), np.int64)
    with compat.described(packed.frame.sparkSession, "pyspark_knn: count the items of cells"):
        for cell, items in rows.collect():
            counts[cell] = items
    return counts
