"""Exact block search: brute force by matrix products, without the effect of their rounding errors.

A matrix product in float32 compares queries with items many times faster than differences do, but
with rounding errors. So it is used only to *rule out* items: `pyspark_knn.index.rounding` bounds
the error of a score, and the items whose scores are within the bounds of the k-th best one are
ranked by their distances. Most queries need the first step only:

1. Compute products in float32, block by block of the items. Keep the items that cannot be ruled
   out, and rank them at the end (`_filter`). With few items there is one block (`_filter_few`).
   Where a query has some hundreds of them, as among near-duplicates, differences of vectors rule
   out most (`pyspark_knn.index.differences`).
2. Where too many items are left, as in tight clusters far apart, do the same in float64.
3. Where too many are left again, as among thousands of ties, rank them block by block
   (`_rank_blocks`). This bounds the memory however many items are tied.
4. Where products would overflow, compare pair by pair (`PairwiseSearch`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.axes.choice import Plan, choose_plan
from pyspark_knn.index.axes.prefixes import Prefixes
from pyspark_knn.index.axes.search import AxesSearch
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.block_batches import BlockBatches, BlockItems
from pyspark_knn.index.block_within import BlockSearchWithin
from pyspark_knn.index.brute_force import BruteForce
from pyspark_knn.index.candidates import Candidates, filter_batches, room_for
from pyspark_knn.index.differences import CloserPairs, Differences
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.few_items import FewItems
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.kernels import KERNELS
from pyspark_knn.index.pairwise import PairwiseSearch, search_rest
from pyspark_knn.index.score_space import Queries, ScoreSpace
from pyspark_knn.index.score_spaces import has_scores, score_space
from pyspark_knn.index.selection import NearestSoFar, exclusion_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.hits import Hits


_FEW_ITEMS, _FEW_FLOATS = 8192, 1 << 18
"""If there are no more items than this, with no more numbers, a query is compared with all of them
at once."""


class BlockSearch(BruteForce):
    """Brute-force search by matrix products, wherever their rounding errors are bounded.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items, which the index keeps as they are.
    metric : Metric
        The metric.
    space : ScoreSpace
        The score space of the metric.
    prefixes : Prefixes, optional
        The items on their principal axes. Default: the search does not use these.
    few_items : int, default=_FEW_ITEMS
        With no more items than this, a query is compared with all of them at once.
    """

    metrics: ClassVar[frozenset[str]] = frozenset(
        name for name in KERNELS if has_scores(Metric(name))
    )

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether a metric has scores: minkowski does with p of 2 only."""
        return has_scores(metric)

    def __init__(
        self,
        matrix: NDArray[np.floating],
        metric: Metric,
        space: ScoreSpace,
        prefixes: Prefixes | None = None,
        *,
        few_items: int = _FEW_ITEMS,
    ) -> None:
        super().__init__(matrix, metric)
        self._space = space
        self._prefixes = prefixes
        self._few_items = min(few_items, _FEW_FLOATS // matrix.shape[1])

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> BlockSearch:
        """Choose the score space of the metric, and compute the norms of the items.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            See `NeighborIndex.build`.
        spec : IndexSpec
            The metric; it has no options that this index reads.

        Returns
        -------
        BlockSearch
            The index.

        Raises
        ------
        ValueError
            If the metric has no scores, see `pyspark_knn.index.score_spaces.has_scores`.
        """
        space = score_space(spec.metric, matrix)
        plan = None
        if spec.tries_axes:
            plan = choose_plan(space, matrix, functools.partial(_search_of, spec.metric))
        return cls._planned(matrix, spec.metric, space, plan)

    @classmethod
    def _planned(
        cls,
        matrix: NDArray[np.floating],
        metric: Metric,
        space: ScoreSpace,
        plan: Plan | None,
    ) -> BlockSearch:
        if plan is None:
            return cls(matrix, metric, space)
        return cls(matrix, metric, space, Prefixes.of(space, matrix, *plan))

    @property
    def detail(self) -> str:
        """See `NeighborIndex.detail`."""
        if self._prefixes is None:
            return ""
        return f"by {self._prefixes.rotation.n_axes} of {self.n_features} principal axes"

    @property
    def added_bytes(self) -> int:
        """See `NeighborIndex.added_bytes`."""
        return 0 if self._prefixes is None else self._prefixes.nbytes

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        best = NearestSoFar(len(queries), k, max_distance)
        return self._search(best, queries, max_distance, exclude)

    def _kneighbors_up_to(
        self,
        limits: NDArray[np.float64],
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        if max_distance is not None:
            limits = np.minimum(limits, max_distance)
        best = NearestSoFar(len(queries), k, limits)
        return self._search(best, queries, max_distance, exclude)

    def _search(
        self,
        best: NearestSoFar,
        queries: NDArray[np.floating],
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        rest = np.arange(len(queries))
        if 4 * best.distances.shape[1] <= len(self._matrix):
            rest = _Search(self._items(), queries, exclude, best).run()
        search_rest(self, queries, rest, best, max_distance, exclude)
        return best.neighbors()

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        rest = BlockSearchWithin(self._items(), queries, exclude, hits).run()
        PairwiseSearch(self._matrix, self._metric).compare_all(queries, rest, exclude, hits)

    def _items(self) -> BlockItems:
        return BlockItems(
            self._matrix,
            self._metric,
            self._space,
            self._prefixes,
            self._few_items,
            lambda: self._ranks_by_distance,
        )

    @functools.cached_property
    def _ranks_by_distance(self) -> bool:
        return self._space.ranks_by_distance(self._matrix)


def _search_of(
    metric: Metric, matrix: NDArray[np.floating], space: ScoreSpace, plan: Plan | None
) -> Callable[[NDArray[np.floating], int], Neighbors]:
    """Return the search of an index that is built by a plan."""
    return BlockSearch._planned(matrix, metric, space, plan).kneighbors


class _Search(BlockBatches):
    """One call of `BlockSearch.kneighbors`, with the state that its steps share."""

    def __init__(
        self,
        items: BlockItems,
        queries: NDArray[np.floating],
        exclude: Exclusion | None,
        best: NearestSoFar,
    ) -> None:
        super().__init__(items, queries, exclude, best.distances.shape[1])
        self._best = best

    def run(self) -> NDArray[np.int64]:
        """Search all queries except those for which the bounds do not hold; return their rows."""
        served = self._served()
        rows = np.arange(len(served))
        left = rows[served]
        least = np.full(len(left), -np.inf)
        if self._prefixes is not None and AxesSearch.serves(self._prefixes, self._k):
            search = AxesSearch(self._prefixes, self._matrix, self._space, self._k)
            by_axes = functools.partial(self._filter_by_axes, search)
            left, least = filter_batches(left, least, self._axes_batches(len(left)), by_axes)
        for dtype in self._space.dtypes:
            left, least = self._filter_all(left, least, dtype)
        for batch in self._batches(np.arange(len(left)), np.float64):
            self._rank_blocks(left[batch], least[batch])
        return rows[~served]

    def _filter_by_axes(
        self, search: AxesSearch, rows: NDArray[np.int64], least: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch by principal axes; see `_filter`."""
        limits = self._best.limits()[rows]
        exclude = exclusion_of(self._exclude, rows)
        (near, positions), crowded = search.candidates(self._queries[rows], limits, exclude)
        self._rank(rows[near], positions)
        return crowded, least

    def _filter_all(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Search queries by products in a dtype; see `candidates.filter_batches`."""
        few = dtype is np.float32 and len(self._matrix) <= self._few_items
        search = self._filter_few if few else functools.partial(self._filter, dtype=dtype)
        batches = self._batches(np.arange(len(rows)), dtype)
        return filter_batches(rows, least, batches, search)

    def _filter_few(
        self, rows: NDArray[np.int64], least: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch by float32 products with all items at once; see `_filter`."""
        queries = self._transformed(rows)
        slack = self._space.slack(queries, np.float32)
        least = np.maximum(least, self._space.least_scores(self._best.limits()[rows], queries))
        items = FewItems(self._matrix, self._space)
        exclude = exclusion_of(self._exclude, rows)
        (near, positions), crowded = items.candidates(queries, self._k, least, slack, exclude)
        self._rank(rows[near], positions)
        return crowded, least

    def _filter(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch; return which queries are crowded, and their smallest scores."""
        queries = self._transformed(rows)
        slack = self._space.slack(queries, dtype)
        least = np.maximum(least, self._space.least_scores(self._best.limits()[rows], queries))
        closer = self._closer(rows, queries, dtype)
        candidates = Candidates(self._k, least, slack, closer)
        blocks = self._blocks(rows, queries, dtype)
        for block in blocks:
            if block.start == 0:
                candidates.raise_least(block.kth_floors(self._k))
                blocks.demand(candidates.thresholds())
            near, columns = blocks.reaching(block)
            ceilings, widths = block.ceilings[near, columns], block.widths[columns]
            stop = block.start + len(block.widths)
            room = room_for(stop, len(rows))
            closer.allow(stop)
            if candidates.add(near, columns + block.start, ceilings, widths, room):
                if candidates.mostly_crowded:
                    candidates.abandon()
                    break
                blocks.demand(candidates.thresholds())
        near, positions = candidates.pairs()
        self._rank(rows[near], positions)
        return candidates.crowded, candidates.least

    def _closer(
        self, rows: NDArray[np.int64], queries: Queries, dtype: type[np.floating]
    ) -> CloserPairs:
        """Return what tells the candidates of a batch apart where products do not."""

        def differences() -> Differences | None:
            if not self._ranks_by_distance():
                return None
            part = self._queries[rows] if len(rows) < len(self._queries) else self._queries
            return Differences(self._matrix, self._space, part, queries, wide=True)

        return CloserPairs(differences, len(rows), self._k, last=dtype is np.float64)

    def _rank_blocks(self, rows: NDArray[np.int64], least: NDArray[np.float64]) -> None:
        """Search a batch by float64 products, and rank the candidates block by block."""
        queries = self._transformed(rows)
        slack = self._space.slack(queries, np.float64)
        blocks = self._blocks(rows, queries, np.float64)
        for block in blocks:
            if block.start == 0:
                least = np.maximum(least, block.kth_floors(self._k) - slack)
                blocks.demand(least - slack)
            near, columns = blocks.reaching(block)
            if near.size:
                self._rank(rows[near], columns + block.start)
                least = np.maximum(least, self._scores_within_limits(rows, queries))
                blocks.demand(least - slack)

    def _scores_within_limits(
        self, rows: NDArray[np.int64], queries: Queries
    ) -> NDArray[np.float64]:
        """Return the scores that an item needs to be ranked, if all others have lower positions."""
        scores = self._space.least_scores(self._best.limits()[rows], queries)
        scores[self._best.distances[rows, -1] == self._space.least_figure] = np.inf
        return scores

    def _rank(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Compute the distances of some pairs, and keep the nearest."""
        distances = self._metric.distances(self._queries, self._matrix, rows, positions)
        self._best.offer(rows, positions, distances)
