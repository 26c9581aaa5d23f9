"""scikit-learn's kd_tree and ball_tree, with answers in our figures and our order.

A tree finds candidates by figures of its own, which are rounded otherwise than ours and break ties
as they please. So a query asks for a few candidates more than it needs, ranks them by
`Metric.distances`, and is certain of its answer if the last candidate is beyond the reach of the
k-th distance (`TreeSpace.reach`). If not, it takes everything within that reach; where that is too
much to hold, as among thousands of equal items, brute force answers it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.base import Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.selection import NearestSoFar, search_in_blocks
from pyspark_knn.index.tree_space import TreeSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

# Candidates that are asked for beyond the k: enough to see the next distance behind a small tie.
_SPARE = 2

# Candidates of one batch: some 64 bytes each, with their distances and the tree's own copies.
_CANDIDATES = 1 << 18
_QUERIES = 4096


class TreeSearch(NeighborIndex):
    """What the two trees share: everything but the class of the tree."""

    options: ClassVar[frozenset[str]] = frozenset({"leaf_size"})

    def __init__(
        self, matrix: NDArray[np.floating], metric: Metric, space: TreeSpace, leaf_size: int
    ) -> None:
        self._metric = metric
        self._space = space
        coordinates = space.coordinates(matrix)
        self._tree = self._tree_class()(
            coordinates, leaf_size=leaf_size, metric=space.metric, **space.arguments
        )
        # The tree keeps the matrix itself where it can use it as it is: hold it once.
        self._matrix = None if coordinates is matrix else matrix

    @staticmethod
    @abstractmethod
    def _tree_class() -> Any:
        """Import scikit-learn's class; not with this module, since that takes 100 MiB."""

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the tree prunes correctly by a metric: minkowski needs p of at least 1."""
        return super().supports(metric) and (metric.name != "minkowski" or metric.p >= 1)

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> TreeSearch:
        """Grow the tree, in the coordinates that its metric needs."""
        return cls(matrix, spec.metric, TreeSpace.of(spec.metric, matrix), spec.leaf_size)

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as given to `build`."""
        return np.asarray(self._tree.data) if self._matrix is None else self._matrix

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
        step = max(1, min(_QUERIES, _CANDIDATES // (k + _SPARE)))
        return search_in_blocks(self._search, queries, k, max_distance, exclude, step)

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        left_out = np.zeros(len(queries), np.int64)
        if exclude is not None:
            left_out += np.bincount(exclude.rows, minlength=len(queries))
        # Excluded items take places among the candidates; queries that need about equally many
        # candidates are asked together.
        wanted = k + _SPARE + np.where(left_out, 2 ** np.ceil(np.log2(left_out + 1)), 0)
        wanted = np.minimum(wanted, len(self.matrix)).astype(np.int64)
        by_tree = self._space.serves(queries) & ((left_out == 0) | (wanted <= _CANDIDATES))
        open_rows = []
        for many in np.unique(wanted[by_tree]):
            rows = np.flatnonzero(by_tree & (wanted == many))
            step = max(1, _CANDIDATES // int(many))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                open_rows.append(self._ask_nearest(best, queries, part, int(many), exclude))
        uncertain = np.concatenate([np.zeros(0, np.int64), *open_rows])
        rest = self._ask_radius(best, queries, uncertain, exclude)
        rest = np.concatenate([np.flatnonzero(~by_tree), rest])
        self._compare_all(best, queries, rest, max_distance, exclude)
        return best.neighbors()

    def _ask_nearest(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        many: int,
        exclude: Exclusion | None,
    ) -> NDArray[np.int64]:
        """Rank the tree's nearest `many` items of some queries; return the rows left uncertain."""
        distances, found = self._tree.query(self._space.coordinates(queries[rows]), many)
        self._offer(best, queries, np.repeat(rows, many), found.ravel(), exclude)
        if many == len(self.matrix):
            return rows[:0]
        reach = self._space.reach(best.limits()[rows], queries[rows]) + self._lost(queries[rows])
        uncertain: NDArray[np.bool_] = ~(reach < distances[:, -1])
        return rows[uncertain]

    def _lost(self, queries: NDArray[np.floating]) -> NDArray[np.float64]:
        """How much farther than its own figure the tree may have pruned: the reach of nothing."""
        return self._space.reach(np.zeros(len(queries)), queries)

    def _ask_radius(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> NDArray[np.int64]:
        """Rank all items within reach of the k-th distance; return the rows that have too many."""
        limits = best.limits()[rows]
        coordinates = self._space.coordinates(queries[rows])
        radii = self._space.reach(limits, queries[rows]) + self._lost(queries[rows])
        counts = np.full(len(rows), len(self.matrix))
        known = np.isfinite(radii)
        if known.any():
            counts[known] = self._tree.query_radius(
                coordinates[known], radii[known], count_only=True
            )
        few = counts <= len(self.matrix) // 4
        best.forget(rows[few])
        queue = np.flatnonzero(few)
        while queue.size:
            # As many queries at a time as have a bounded number of candidates, at least one.
            take = max(1, int(np.searchsorted(np.cumsum(counts[queue]), _CANDIDATES)))
            part, queue = queue[:take], queue[take:]
            found = self._tree.query_radius(coordinates[part], radii[part])
            repeated = np.repeat(rows[part], [len(one) for one in found])
            self._offer(best, queries, repeated, np.concatenate(found), exclude)
        return rows[~few]

    def _offer(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        positions: NDArray[np.int64],
        exclude: Exclusion | None,
    ) -> None:
        if exclude is not None and exclude.rows.size:
            n_items = len(self.matrix)
            pairs = rows * n_items + positions
            kept = ~np.isin(pairs, exclude.rows * n_items + exclude.positions)
            rows, positions = rows[kept], positions[kept]
        figures = self._metric.distances(queries, self.matrix, rows, positions)
        best.offer(rows, positions, figures)

    def _compare_all(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> None:
        """Answer some queries by brute force."""
        if rows.size == 0:
            return
        rows = np.sort(rows)
        if exclude is not None:
            inside = np.isin(exclude.rows, rows)
            local = np.searchsorted(rows, exclude.rows[inside])
            exclude = Exclusion(local, exclude.positions[inside])
        search = PairwiseSearch(self.matrix, self._metric)
        k = best.distances.shape[1]
        found = search.kneighbors(queries[rows], k, max_distance=max_distance, exclude=exclude)
        best.replace(rows, found)


class KDTreeSearch(TreeSearch):
    """Search in a kd_tree.

    Its boxes bound a difference feature by feature, so it supports only metrics that are sums or
    maxima of such differences.
    """

    algorithm: ClassVar[str] = "kd_tree"
    metrics: ClassVar[frozenset[str]] = frozenset(
        {"chebyshev", "cityblock", "euclidean", "minkowski", "sqeuclidean"}
    )

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the tree prunes correctly by a metric: its boxes do not know weights."""
        return super().supports(metric) and not metric.params

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
    metrics: ClassVar[frozenset[str]] = KDTreeSearch.metrics | {
        "canberra",
        "hamming",
        "haversine",
        "jaccard",
        "mahalanobis",
        "rogerstanimoto",
        "russellrao",
        "seuclidean",
    }

    @staticmethod
    def _tree_class() -> Any:
        from sklearn.neighbors import BallTree

        return BallTree
