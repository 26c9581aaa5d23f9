"""Cells of items around centers, and which of them may contain a neighbor of a query.

Two bounds follow from the triangle inequality (P. Zezula et al., "Similarity Search: The Metric
Space Approach", Springer 2006, section 1.7). Let d be the distance of the query from the center of
a cell. No item of the cell is nearer to the query than d less the radius of the cell. And since the
nearest center of an item is the center of its cell, no item is nearer than half of the difference
between d and the distance of the query from any other center. The second bound rules out a cell of
clusters that are far apart, whose radius is too large for the first one.

A cell may be divided into several shards, each with a radius of its own. Both bounds hold for each
of them, and also for a shard of items that joined the cell later: the center of their cell is their
nearest one too. They hold as well if only some of the centers are known, those of shards with
items: the nearest center of an item is still that of its own shard.

A third bound needs no search. Take the k items nearest to a center, or to any other point, a pivot.
The query is no farther from them than from the pivot and the pivot from the k-th of them together,
and so is its k-th neighbor. In clusters that are far apart that rules out most cells before any is
searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.cell_metrics import cell_metric
from pyspark_knn.index.pairwise import block_distances
from pyspark_knn.index.spreads import Pivots, Spread, spread_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SLACK = 1e-6
"""Far more than the relative error of the distances of any metric of cells. The largest error is
that of haversine, 1e-8 near the antipodes."""

_TINY = 2.0**-1070
"""More than the absolute error of distances below 2**-1022, which have few digits."""

_TINY_ANGLE = 2.0**-40
"""More than the absolute error of haversine, in radians: that of points on either side of the date
line, whose longitudes differ by about a whole turn, is 1e-15; at the poles, where float32 rounds a
latitude beyond them, it is 1e-13."""

_LARGEST = float(np.finfo(np.float64).max)
"""Squares of distances above its root are infinite, so that all of them are as far."""

_BLOCK_PAIRS = 1 << 19
"""Pairs of a query and a center in a block. Their distances take 4 MiB."""


@dataclass(frozen=True)
class ShardAssignment:
    """The assignment of items to shards: to the cell with the nearest center, or a part of it.

    Attributes
    ----------
    centers : ndarray of shape (n_cells, n_features), dtype float64
        The centers of the cells. No two are equal.
    firsts : ndarray of shape (n_cells,), dtype int64
        The number of the first shard of each cell.
    ways : ndarray of shape (n_cells,), dtype int64
        The number of shards of each cell: a large cell is split into several.
    metric : Metric
        The metric of the search.
    """

    centers: NDArray[np.float64]
    firsts: NDArray[np.int64]
    ways: NDArray[np.int64]
    metric: Metric

    def cells(self, items: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the cell of each item.

        Parameters
        ----------
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.

        Returns
        -------
        ndarray of shape (n_items,), dtype int64
            Row numbers in `centers`.
        """
        index, _ = build_index(self.centers, IndexSpec(cell_metric(self.metric), "brute"))
        nearest: NDArray[np.int64] = index.kneighbors(items, 1).positions[:, 0]
        return nearest

    def shards(self, items: NDArray[np.floating], hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the shard of each item.

        Parameters
        ----------
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.
        hashes : ndarray of shape (n_items,), dtype uint64
            A hash of the id of each item. It selects one of the shards of a cell that has several.

        Returns
        -------
        ndarray of shape (n_items,), dtype uint64
            Numbers of shards.
        """
        cells = self.cells(items)
        ways = self.ways[cells].astype(np.uint64)
        return self.firsts[cells].astype(np.uint64) + hashes % ways

    def shard_centers(self) -> NDArray[np.float64]:
        """Return the center of each shard.

        Returns
        -------
        ndarray of shape (n_shards, n_features), dtype float64
            Row i is the center of shard i.
        """
        return np.repeat(self.centers, self.ways, axis=0)

    def spread(self, shard: int, items: NDArray[np.floating]) -> Spread:
        """Return the distances of the items of a shard from the center of the shard.

        Parameters
        ----------
        shard : int
            The number of the shard.
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items of the shard, at least one.

        Returns
        -------
        Spread
            The distances.
        """
        return spread_of(self.shard_centers()[shard : shard + 1], items, self.metric)

    def shard_cells(self) -> NDArray[np.int64]:
        """Return the cell of each shard.

        Returns
        -------
        ndarray of shape (n_shards,), dtype int64
            Row numbers in `centers`.
        """
        return np.repeat(np.arange(len(self.centers)), self.ways)


@dataclass(frozen=True)
class Cells:
    """The centers and radii of the shards, which decide on the shards that a query is searched in.

    Attributes
    ----------
    numbers : ndarray of shape (n_shards,), dtype int64
        The numbers of the shards that have items.
    centers : ndarray of shape (n_shards, n_features), dtype float64
        The center of each shard.
    radii : ndarray of shape (n_shards,), dtype float64
        The largest distance of an item of each shard from its center, by `cell_metric`.
    metric : Metric
        The metric of the search.
    cells : ndarray of shape (n_shards,), dtype int64, optional
        The cell that each shard is, or is a part of. Default: each shard is a cell.
    pivots : Pivots, optional
        Points near items; they bound the distances of neighbors from above. Default: none.
    """

    numbers: NDArray[np.int64]
    centers: NDArray[np.float64]
    radii: NDArray[np.float64]
    metric: Metric
    cells: NDArray[np.int64] | None = None
    pivots: Pivots | None = None

    @property
    def count(self) -> int:
        """The number of cells that have items."""
        return len(self._firsts[0])

    def spread(self, shard: int, items: NDArray[np.floating]) -> Spread:
        """Return the distances of other items from the center of a shard.

        Parameters
        ----------
        shard : int
            The number of the shard.
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items, at least one.

        Returns
        -------
        Spread
            The distances.
        """
        row = np.flatnonzero(self.numbers == shard)
        return spread_of(self.centers[row], items, self.metric)

    def nearest(self, queries: NDArray[np.floating], many: int) -> NDArray[np.int64]:
        """Return a shard of each of the cells with the nearest centers.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        many : int
            The number of cells for each query; at most all of them are returned.

        Returns
        -------
        ndarray of shape (n_queries, many), dtype int64
            Numbers of shards, nearest center first: the smallest one of each cell.
        """
        firsts, _ = self._firsts
        shards: NDArray[np.int64] = self.numbers[firsts[self._nearest(queries, many)]]
        return shards

    def probed(self, queries: NDArray[np.floating], many: int) -> NDArray[np.int64]:
        """Return all shards of the cells with the nearest centers.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        many : int
            The number of cells for each query.

        Returns
        -------
        ndarray of shape (n_queries, n_columns), dtype int64
            Numbers of shards, and -1 where a cell has fewer shards than others.
        """
        _, cells = self._firsts
        counts = np.bincount(cells)
        order = np.argsort(cells, kind="stable")
        within = np.arange(len(cells)) - np.repeat(np.cumsum(counts) - counts, counts)
        shards = np.full((len(counts), counts.max()), -1)
        shards[cells[order], within] = self.numbers[order]
        nearest = self._nearest(queries, many)
        return shards[nearest].reshape(len(queries), nearest.shape[1] * shards.shape[1])

    @property
    def _firsts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row of the first shard of each cell, and the cell of each row, numbered from 0."""
        if self.cells is None:
            rows = np.arange(len(self.numbers))
            return rows, rows
        _, firsts, cells = np.unique(self.cells, return_index=True, return_inverse=True)
        return firsts, cells.reshape(-1)

    def _nearest(self, queries: NDArray[np.floating], many: int) -> NDArray[np.int64]:
        """Return the cells with the nearest centers, numbered as by `_firsts`."""
        firsts, _ = self._firsts
        index, _ = build_index(self.centers[firsts], IndexSpec(cell_metric(self.metric), "brute"))
        nearest: NDArray[np.int64] = index.kneighbors(queries, min(many, len(firsts))).positions
        return nearest

    def within(
        self,
        queries: NDArray[np.floating],
        limits: NDArray[np.float64],
        wanted: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """Return which shards may have an item within the limit of a query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        limits : ndarray of shape (n_queries,), dtype float64
            The largest distance of interest for each query, inclusive, by `metric`.
        wanted : ndarray of shape (n_queries,), dtype int64, optional
            The number of nearest items of interest, at least 1. Default: all within the limits.

        Returns
        -------
        ndarray of shape (n_queries, n_shards), dtype bool
            True where the shard must be searched. The columns are in the order of `numbers`.
        """
        if self.metric.name == "sqeuclidean":
            # A sum of squares that underflows may be too small by half the smallest float64 for
            # each term. The rounding of the root is within the slack.
            limits = np.sqrt(limits + self._lost(queries))
        metric = cell_metric(self.metric)
        count = len(self.numbers)
        open_ = np.ones((len(queries), count), dtype=bool)
        points = count if self.pivots is None else len(self.pivots.points)
        step = max(1, _BLOCK_PAIRS // max(count, points))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            # These distances need no order: a search for all neighbors would sort them, which takes
            # six times as long.
            distances = block_distances(metric, queries[part], self.centers)
            most = limits[part]
            if wanted is not None:
                most = np.minimum(most, self._most(queries[part], wanted[part]))
            # Not "<=": a NaN, which overflow causes, must not rule out a shard.
            open_[part] = ~(self._least(distances) > most[:, None])
        return open_

    @staticmethod
    def _lost(queries: NDArray[np.floating]) -> float:
        """Return what underflow can take from the squared distance of a query."""
        return float(queries.shape[1] * 2.0**-1073)

    def _most(
        self, queries: NDArray[np.floating], wanted: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return upper bounds of the distances of the nearest items, from those of the pivots.

        A bound is inf where no shard has that many items, and NaN where the computation overflows.
        """
        if self.pivots is None or not len(queries):
            return np.full(len(queries), np.inf)
        points, ranks = self.pivots
        known = np.column_stack([ranks, np.full(len(ranks), np.inf)])
        distances = block_distances(cell_metric(self.metric), queries, points)
        # The exponent of the smallest power of two that is at least as large.
        power = np.frexp(np.maximum(wanted, 1) - 0.5)[1]
        reach = known[:, np.minimum(power, ranks.shape[1])].T
        with np.errstate(invalid="ignore", over="ignore"):
            most: NDArray[np.float64] = (distances + reach).min(axis=1) * (1 + _SLACK)
            if self.metric.name == "sqeuclidean":
                # Of squares that underflow, all are as near.
                most = np.hypot(most, np.sqrt(self._lost(queries)))
                # Of those that overflow, too.
                most[most >= _LARGEST**0.5] = np.inf
        return most + 4 * self._tiny

    def _least(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return lower bounds of the distances of items, from those of all centers.

        A bound is NaN where the computation overflows.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            # Distances that overflow are at least the largest number.
            center = np.minimum(distances, _LARGEST) * (1 - _SLACK)
            nearest = distances.min(axis=1, keepdims=True) * (1 + _SLACK)
            least: NDArray[np.float64] = (center - nearest) / 2
            np.maximum(least, center - self.radii * (1 + _SLACK), out=least)
        return least - self._tiny

    @property
    def _tiny(self) -> float:
        """The absolute error of distances, and more."""
        angle = _TINY_ANGLE * self.metric.radius if self.metric.name == "haversine" else 0.0
        return max(_TINY, angle)
