"""Finds cells for shards: MLlib's KMeans over a sample, and the cut that comes of it."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.clustering import KMeans
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F

from pyspark_knn.engine import compat
from pyspark_knn.engine.caching import persist, unpersist
from pyspark_knn.engine.guard import guarded
from pyspark_knn.engine.packed import PackedItems
from pyspark_knn.engine.routing import count_cells, sample_items
from pyspark_knn.index.cells import Cut
from pyspark_knn.index.distances import Metric

_SAMPLED = 256
"""Items a cell that KMeans sees: more of them hardly move the centres."""

_ROUNDS = 10

_LARGE = 2
"""A cell beyond this many times the mean is cut into several shards."""

_SEED = 17


def find_cut(packed: PackedItems, num_cells: int, most_rows: int, metric: Metric) -> Cut:
    """Cut items into cells; the driver sees centres and counts.

    Parameters
    ----------
    packed : PackedItems
    num_cells : int
        Cells wanted; fewer come out where items are equal.
    most_rows : int
        Items that a shard may hold.
    metric : Metric
        Says which centre is the nearest of an item. KMeans itself knows euclidean distances only,
        which is good enough for cells.
    """
    session = packed.frame.sparkSession
    share = min(1.0, _SAMPLED * num_cells / packed.num_items)
    sample = guarded(functools.partial(sample_items, packed.num_features, share))
    rows = packed.frame.mapInArrow(sample, "features array<double>")
    vectors = persist(rows.select(array_to_vector(F.col("features")).alias("features")))
    try:
        with compat.described(session, f"pyspark_knn: find {num_cells} cells"):
            fitted = KMeans(k=num_cells, seed=_SEED, maxIter=_ROUNDS).fit(vectors)
            centers = np.unique(np.array(fitted.clusterCenters(), np.float64), axis=0)
    finally:
        unpersist(vectors)
    whole = np.ones(len(centers), np.int64)
    counts = _counts(packed, Cut(centers, np.cumsum(whole) - whole, whole, metric))
    most = min(most_rows, max(1, _LARGE * packed.num_items // len(centers)))
    ways = np.maximum(1, -(-counts // most))
    return Cut(centers, np.cumsum(ways) - ways, ways, metric)


def _counts(packed: PackedItems, cut: Cut) -> NDArray[np.int64]:
    """How many items are in each cell."""
    count = guarded(functools.partial(count_cells, packed.num_features, cut))
    rows = packed.frame.mapInArrow(count, "cell long, rows long").groupBy("cell").sum("rows")
    counts = np.zeros(len(cut.centers), np.int64)
    with compat.described(packed.frame.sparkSession, "pyspark_knn: count the items of cells"):
        for cell, items in rows.collect():
            counts[cell] = items
    return counts
