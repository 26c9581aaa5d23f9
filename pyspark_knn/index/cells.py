"""Cells of items around centres, and which of them may hold a neighbour.

Two bounds follow from the triangle inequality (P. Zezula et al., "Similarity Search: The Metric
Space Approach", Springer 2006, section 1.7). No item of a cell is nearer to a query than the
distance of the cell's centre less the cell's radius. And since its own centre is the nearest to
each item, none is nearer than half of what that distance exceeds the distance of another centre by.
The second one rules out a cell of far-flung clusters, whose radius says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.pairwise import block_distances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SLACK = 1e-6
"""Far more than the figures of any of `METRICS` are off by, relative to what they are made of; the
worst is haversine, by 1e-8 near the antipodes."""

METRICS = frozenset(
    {
        "canberra",
        "chebyshev",
        "cityblock",
        "euclidean",
        "hamming",
        "haversine",
        "minkowski",
        "seuclidean",
        "sqeuclidean",
    }
)
"""Metrics that keep the triangle inequality, and around whose centres cells make sense; and
sqeuclidean, whose cells are those of its root (see `ruler`)."""

_TINY = 2.0**-1070
"""More than figures below 2**-1022 are off by, which have few digits."""

_ALL_AT_ONCE = 1 << 19
"""Distances between queries and centres that are held at a time."""


def check_cells(metric: Metric) -> None:
    """Raise ValueError unless cells may be cut by `metric`."""
    if metric.name in METRICS and metric.p >= 1:
        return
    detail = f" with p={metric.p:g}" if metric.name == "minkowski" else ""
    way_out = ""
    if metric.name == "cosine":
        way_out = (
            ". Vectors normalized with pyspark.ml.feature.Normalizer (none of them zero) have the "
            "same neighbors by metric 'euclidean'"
        )
    raise ValueError(
        f"shardBy 'kmeans' needs the triangle inequality, which metric {metric.name!r}{detail} "
        f"has not (or not for centres); these have: {', '.join(sorted(METRICS))}{way_out}"
    )


def ruler(metric: Metric) -> Metric:
    """The metric that cells are measured by: one that keeps the triangle inequality."""
    return resolve_metric("euclidean") if metric.name == "sqeuclidean" else metric


@dataclass(frozen=True)
class Cut:
    """Where items go: to the cell of the nearest centre, or to one of the parts of a large cell.

    Attributes
    ----------
    centers : ndarray of shape (n_cells, n_features), dtype float64
        No two are equal.
    firsts : ndarray of shape (n_cells,), dtype int64
        The number of the first shard of each cell.
    ways : ndarray of shape (n_cells,), dtype int64
        How many shards a cell is cut into.
    metric : Metric
    """

    centers: NDArray[np.float64]
    firsts: NDArray[np.int64]
    ways: NDArray[np.int64]
    metric: Metric

    def cells(self, items: NDArray[np.floating]) -> NDArray[np.int64]:
        """The cell of each item."""
        index, _ = build_index(self.centers, IndexSpec(ruler(self.metric), "brute"))
        nearest: NDArray[np.int64] = index.kneighbors(items, 1).positions[:, 0]
        return nearest

    def shards(self, items: NDArray[np.floating], hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The shard of each item; `hashes` picks one where a cell has several."""
        cells = self.cells(items)
        ways = self.ways[cells].astype(np.uint64)
        return self.firsts[cells].astype(np.uint64) + hashes % ways

    def shard_centers(self) -> NDArray[np.float64]:
        """The centre of each shard."""
        return np.repeat(self.centers, self.ways, axis=0)

    def radius(self, shard: int, items: NDArray[np.floating]) -> float:
        """The largest distance of any of a shard's items from its centre, as `ruler` measures."""
        center = self.shard_centers()[shard : shard + 1]
        every = np.arange(len(items))
        return float(ruler(self.metric).distances(center, items, every * 0, every).max())


@dataclass(frozen=True)
class Cells:
    """What is known of the cells when a query comes.

    Attributes
    ----------
    numbers : ndarray of shape (n_shards,), dtype int64
        The shards that hold items.
    centers : ndarray of shape (n_shards, n_features), dtype float64
        The centre of each.
    radii : ndarray of shape (n_shards,), dtype float64
        The largest distance of an item of it from its centre, as `ruler` measures.
    metric : Metric
        Of the answers.
    """

    numbers: NDArray[np.int64]
    centers: NDArray[np.float64]
    radii: NDArray[np.float64]
    metric: Metric

    def nearest(self, queries: NDArray[np.floating], many: int) -> NDArray[np.int64]:
        """The shards of the `many` nearest centres, of shape (n_queries, many), nearest first."""
        index, _ = build_index(self.centers, IndexSpec(ruler(self.metric), "brute"))
        many = min(many, len(self.numbers))
        shards: NDArray[np.int64] = self.numbers[index.kneighbors(queries, many).positions]
        return shards

    def within(
        self, queries: NDArray[np.floating], limits: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which shards may hold an item within a query's limit, inclusive.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features)
        limits : ndarray of shape (n_queries,), dtype float64

        Returns
        -------
        ndarray of shape (n_queries, n_shards), dtype bool
            Columns in the order of `numbers`.
        """
        if self.metric.name == "sqeuclidean":
            # The square of a figure that underflows may be short by half the smallest float64 a
            # term; the rounding of the root is within the slack.
            limits = np.sqrt(limits + queries.shape[1] * 2.0**-1073)
        metric = ruler(self.metric)
        count = len(self.numbers)
        open_ = np.ones((len(queries), count), dtype=bool)
        step = max(1, _ALL_AT_ONCE // count)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            # All of them, and in no order: a search for all neighbours sorts for six times as long.
            distances = block_distances(metric, queries[part], self.centers)
            # Not "<=": what overflow makes of a figure rules nothing out.
            open_[part] = ~(self._least(distances) > limits[part, None])
        return open_

    def _least(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """What no item is nearer than, given the distances of all centres; NaN by overflow."""
        with np.errstate(invalid="ignore", over="ignore"):
            centre = distances * (1 - _SLACK)
            nearest = distances.min(axis=1, keepdims=True) * (1 + _SLACK)
            least: NDArray[np.float64] = (centre - nearest) / 2
            np.maximum(least, centre - self.radii * (1 + _SLACK), out=least)
        return least - _TINY
