"""scikit-learn's kd_tree and ball_tree, with the distances and the order of this package.

A tree computes distances of its own, with other rounding errors, and breaks ties arbitrarily. So
the search asks the tree for a few candidates more than k, and ranks them by `Metric.distances`. The
result is certain if the last candidate is beyond the reach of the k-th distance
(`TreeSpace.reach`). If it is not, the search asks for all items within that reach. Where these are
too many, as among thousands of equal items, the query is searched by brute force.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch, search_rest
from pyspark_knn.index.selection import NearestSoFar, is_excluded, search_in_blocks
from pyspark_knn.index.tree_batches import (
    candidate_batches,
    reordered_candidates,
    spare_candidates,
)
from pyspark_knn.index.tree_figures import FinalFigures
from pyspark_knn.index.tree_order import spatial_order
from pyspark_knn.index.tree_reach import Reached
from pyspark_knn.index.tree_space import TreeSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.hits import Hits

_BATCH_CANDIDATES = 1 << 18
"""Candidates of a batch of queries. Each takes about 64 bytes, with its distances and the copies
that the tree makes."""

_BATCH_QUERIES = 4096
"""The largest number of queries in a batch."""


class TreeSearch(NeighborIndex):
    """Search in a tree of scikit-learn; subclasses choose the class of the tree.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    metric : Metric
        The metric.
    space : TreeSpace
        The coordinates in which the tree is built.
    leaf_size : int
        The number of items in a leaf of the tree.
    batch_candidates : int, default=_BATCH_CANDIDATES
        Candidates of a batch of queries.
    batch_queries : int, default=_BATCH_QUERIES
        The largest number of queries in a batch.
    """

    options: ClassVar[frozenset[str]] = frozenset({"leaf_size"})

    def __init__(
        self,
        matrix: NDArray[np.floating],
        metric: Metric,
        space: TreeSpace,
        leaf_size: int,
        *,
        batch_candidates: int = _BATCH_CANDIDATES,
        batch_queries: int = _BATCH_QUERIES,
    ) -> None:
        self._metric = metric
        self._space = space
        self._batch_candidates = batch_candidates
        self._batch_queries = batch_queries
        coordinates = space.coordinates(matrix)
        self._tree = self._tree_class()(
            coordinates,
            # scikit-learn's leaves have up to twice as many items as it is asked for.
            leaf_size=max(1, leaf_size // 2),
            metric=space.metric,
            **space.arguments,
        )
        # A tree that needs no other coordinates keeps the matrix itself: do not keep it twice.
        self._matrix = None if coordinates is matrix else matrix
        self._figures = FinalFigures.of(self._tree_class(), space, matrix.shape[1])
        self._spare = spare_candidates(matrix)

    @staticmethod
    @abstractmethod
    def _tree_class() -> Any:
        """Import scikit-learn's class, not before it is needed, since that takes 100 MiB."""

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the tree prunes correctly with a metric: minkowski needs p of at least 1."""
        return super().supports(metric) and (metric.name != "minkowski" or metric.p >= 1)

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> TreeSearch:
        """Build the tree in the coordinates that the metric requires.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            See `NeighborIndex.build`.
        spec : IndexSpec
            The metric and the leaf size.

        Returns
        -------
        TreeSearch
            The index.
        """
        return cls(matrix, spec.metric, TreeSpace.of(spec.metric, matrix), spec.leaf_size)

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as passed to `build`."""
        return np.asarray(self._tree.data) if self._matrix is None else self._matrix

    def over(self, matrix: NDArray[np.floating]) -> TreeSearch:
        """See `NeighborIndex.over`; a tree that keeps the matrix itself goes on to do so."""
        if self._matrix is None:
            return self
        other = copy.copy(self)
        other._matrix = matrix
        return other

    @property
    def metric(self) -> Metric:
        """See `NeighborIndex.metric`."""
        return self._metric

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        most = self._batch_candidates // self._asked(k)
        step = max(1, min(self._batch_queries, most))
        return search_in_blocks(self._search, queries, k, max_distance, exclude, step)

    def _asked(self, k: int) -> int:
        """Return how many items the tree is asked for."""
        more = reordered_candidates(k) if self._metric.name == "braycurtis" else 0
        return k + self._spare + more

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        asked, n_items, most = self._asked(k), len(self.matrix), self._batch_candidates
        ranked = np.zeros(len(queries), bool)
        open_rows = [np.zeros(0, np.int64)]
        served = self._space.serves(queries)
        for many, rows in candidate_batches(served, asked, n_items, most, exclude):
            ranked[rows] = True
            open_rows.append(self._ask_nearest(best, queries, rows, many, exclude))
        uncertain = np.concatenate(open_rows)
        ranked[self._ask_radius(best, queries, uncertain, exclude)] = False
        search_rest(self, queries, np.flatnonzero(~ranked), best, max_distance, exclude)
        return best.neighbors()

    def _ask_nearest(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        many: int,
        exclude: Exclusion | None,
    ) -> NDArray[np.int64]:
        """Rank the `many` nearest items by the tree; return the rows whose result is uncertain."""
        coordinates = self._space.coordinates(queries[rows])
        order = spatial_order(coordinates)
        rows, coordinates = rows[order], coordinates[order]
        distances, found = self._tree.query(coordinates, many)
        self._offer_table(best, queries, rows, distances, found, exclude)
        if many == len(self.matrix):
            return rows[:0]
        reach = self._space.radii(best.limits()[rows], queries[rows], coordinates)
        uncertain: NDArray[np.bool_] = ~(reach < distances[:, -1])
        return np.sort(rows[uncertain])

    def _ask_radius(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> NDArray[np.int64]:
        """Rank all items within reach of the k-th distance; return the rows with too many items."""
        if not rows.size:
            return rows
        reached = self._reached(queries, rows, best.limits()[rows])
        best.forget(reached.rows)
        for near, positions in reached.pairs():
            self._offer(best, queries, near, positions, exclude)
        return reached.rest

    def _reached(
        self,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        limits: NDArray[np.float64],
    ) -> Reached:
        """Ask the tree which items may be within a limit of each query."""
        coordinates = self._space.coordinates(queries[rows])
        radii = self._space.radii(limits, queries[rows], coordinates)
        return Reached(self._tree, rows, coordinates, radii, self._batch_candidates)

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        by_tree = self._space.serves(queries)
        rows, rest = np.flatnonzero(by_tree), [np.flatnonzero(~by_tree)]
        for start in range(0, len(rows), self._batch_queries):
            part = rows[start : start + self._batch_queries]
            reached = self._reached(queries, part, np.full(len(part), hits.limit))
            for near, positions in reached.pairs():
                near, positions = hits.later(near, positions)
                near, positions = self._without_excluded(near, positions, exclude)
                distances = self._metric.distances(queries, self.matrix, near, positions)
                hits.offer(near, positions, distances)
            rest.append(reached.rest)
        search = PairwiseSearch(self.matrix, self._metric)
        search.compare_all(queries, np.sort(np.concatenate(rest)), exclude, hits)

    def _without_excluded(
        self,
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        kept = ~is_excluded(exclude, len(self.matrix), rows, positions)
        return rows[kept], positions[kept]

    def _offer_table(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
        found: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> None:
        """Rank the items that the tree found: as many for each query, which has none so far."""
        if exclude is None and self._figures is not None:
            at, places = self._figures.other(distances)
            near, positions = rows[at], found[at, places]
            final = distances.copy()
            final[at, places] = self._metric.distances(queries, self.matrix, near, positions)
            best.start(rows, final, found)
            return
        near, positions = np.repeat(rows, found.shape[1]), found.ravel()
        if exclude is not None:
            self._offer(best, queries, near, positions, exclude)
            return
        final = self._metric.distances(queries, self.matrix, near, positions)
        best.start(rows, final.reshape(found.shape), found)

    def _offer(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> None:
        rows, positions = self._without_excluded(rows, positions, exclude)
        distances = self._metric.distances(queries, self.matrix, rows, positions)
        best.offer(rows, positions, distances)


class KDTreeSearch(TreeSearch):
    """Search in a kd_tree.

    Its boxes bound a difference coordinate by coordinate, so it supports only metrics that are sums
    or maxima of such differences in the coordinates of `TreeSpace`: there, haversine is the
    straight distance of two points of a sphere, seuclidean and mahalanobis are euclidean, and
    braycurtis bounds cityblock.
    """

    algorithm: ClassVar[str] = "kd_tree"
    metrics: ClassVar[frozenset[str]] = frozenset(
        {
            "braycurtis",
            "chebyshev",
            "cityblock",
            "euclidean",
            "haversine",
            "mahalanobis",
            "minkowski",
            "seuclidean",
            "sqeuclidean",
        }
    )

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the class can search by a metric: with weights, scikit-learn's tree cannot."""
        return super().supports(metric) and "w" not in metric.params

    @staticmethod
    def _tree_class() -> Any:
        from sklearn.neighbors import KDTree

        return KDTree


class BallTreeSearch(TreeSearch):
    """Search in a ball_tree.

    Its balls need the triangle inequality. Three metrics of scikit-learn's ball tree are not
    supported: braycurtis and dice violate the inequality, so that the tree prunes true neighbors
    (the tests have a counterexample of each), and sokalsneath is NaN for a pair of empty sets.
    """

    algorithm: ClassVar[str] = "ball_tree"
    metrics: ClassVar[frozenset[str]] = (KDTreeSearch.metrics - {"braycurtis"}) | {
        "canberra",
        "hamming",
        "jaccard",
        "rogerstanimoto",
        "russellrao",
    }

    @staticmethod
    def _tree_class() -> Any:
        from sklearn.neighbors import BallTree

        return BallTree
