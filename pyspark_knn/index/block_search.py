"""Certified block search: brute force by matrix products, without their rounding errors.

A matrix product in float32 compares queries with items many times faster than differences do, but
only nearly right. So it only *rules out*: `pyspark_knn.index.rounding` bounds how far a score can
be off, and what is within the bounds of the k-th best is ranked by its final figure. Most queries
need the first step only:

1. In float32, block by block of the items, keep what cannot be ruled out, and rank it at the end
   (`_filter`).
2. Where too much is left, as in tight clusters far apart, do the same with float64 products.
3. Where that leaves too much as well, as among mass ties, rank block by block (`_rank_blocks`):
   that bounds the memory whatever is tied with what.
4. Where products would leave the range of numbers, compare pair by pair (`PairwiseSearch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.candidates import Candidates
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.kernels import KERNELS
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.score_blocks import ScoreBlocks
from pyspark_knn.index.score_space import Queries, ScoreSpace, has_scores, score_space
from pyspark_knn.index.selection import NearestSoFar, exclusion_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Queries at a time: the more, the less it matters what the items of a block cost to prepare.
_QUERIES = 1024
# Scores in a block, and numbers in the vectors of its items: 1 MiB, which is to stay in the cache,
# and 8 MiB of float32.
_SCORES = 1 << 18
_NUMBERS = 1 << 21
# A block holds twice the k items; beyond this many numbers pairs are compared instead.
_MOST_NUMBERS = 1 << 22

# Candidates that a query may keep beyond 2 k: _SPARE, and as many as take less time to rank than
# float64 products with the items seen so far would.
_SPARE = 64
_PRODUCTS_PER_RANK = 128
_CANDIDATES = 1 << 20


class BlockSearch(NeighborIndex):
    """Compares each query with each item, by matrix products wherever that is certain."""

    algorithm: ClassVar[str] = "brute"
    metrics: ClassVar[frozenset[str]] = frozenset(
        name for name in KERNELS if has_scores(Metric(name))
    )

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether a metric has scores: minkowski does with p of 2 only."""
        return has_scores(metric)

    def __init__(self, matrix: NDArray[np.floating], metric: Metric, space: ScoreSpace) -> None:
        self._matrix = matrix
        self._metric = metric
        self._space = space

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> BlockSearch:
        """Choose the space of the scores, and measure the items.

        Raises
        ------
        ValueError
            If the metric has no scores, see `pyspark_knn.index.score_space.has_scores`.
        """
        return cls(matrix, spec.metric, score_space(spec.metric, matrix))

    @property
    def matrix(self) -> NDArray[np.floating]:
        """The items, as given to `build`."""
        return self._matrix

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
        best = NearestSoFar(len(queries), k, max_distance)
        rest = np.arange(len(queries))
        if 4 * k <= len(self._matrix) and 2 * k * (queries.shape[1] + 1) <= _MOST_NUMBERS:
            rest = _Search(self, queries, exclude, best).run()
        if rest.size:
            pairwise = PairwiseSearch(self._matrix, self._metric)
            part = exclusion_of(exclude, rest)
            found = pairwise.kneighbors(queries[rest], k, max_distance=max_distance, exclude=part)
            best.replace(rest, found)
        return best.neighbors()


class _Search:
    """One call of `BlockSearch.kneighbors`: its parts, and what they share."""

    def __init__(
        self,
        index: BlockSearch,
        queries: NDArray[np.floating],
        exclude: Exclusion | None,
        best: NearestSoFar,
    ) -> None:
        self._matrix = index._matrix
        self._metric = index._metric
        self._space = index._space
        self._queries = queries
        self._exclude = exclude
        self._best = best
        self._k = best.distances.shape[1]
        self._n_features = queries.shape[1]

    def run(self) -> NDArray[np.int64]:
        """Search all queries but those that products cannot serve; return these."""
        rows = np.arange(len(self._queries))
        served = np.ones(len(rows), bool)
        for batch in self._batches(rows, np.float32):
            served[batch] = self._space.serves(self._space.queries(self._queries[batch]))
        left = rows[served]
        least = np.full(len(left), -np.inf)
        for dtype in (np.float32, np.float64):
            left, least = self._filter_all(left, least, dtype)
        for batch in self._batches(np.arange(len(left)), np.float64):
            self._rank_blocks(left[batch], least[batch])
        return rows[~served]

    def _filter_all(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Answer queries by products in `dtype`.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
        least : ndarray of shape (n_rows,), dtype float64
            Scores that their neighbours do not fall short of, as far as is known.

        Returns
        -------
        rows, least
            Of those that have too many candidates to be answered so.
        """
        worthwhile = True
        crowded = np.zeros(len(rows), bool)
        for batch in self._batches(np.arange(len(rows)), dtype):
            if worthwhile:
                crowded[batch], least[batch] = self._filter(rows[batch], least[batch], dtype)
                worthwhile = 2 * int(crowded[batch].sum()) <= len(batch)
            else:
                crowded[batch] = True
        return rows[crowded], least[crowded]

    def _batches(
        self, rows: NDArray[np.int64], dtype: type[np.floating]
    ) -> Iterator[NDArray[np.int64]]:
        """Parts of `rows`, of as many queries as are searched at a time."""
        share = np.dtype(dtype).itemsize // 4
        most = min(_QUERIES, _NUMBERS // (self._n_features + 1), _SCORES // (2 * self._k))
        step = max(1, most // share)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _blocks(
        self, rows: NDArray[np.int64], queries: Queries, dtype: type[np.floating]
    ) -> ScoreBlocks:
        """The scores of some queries with all items."""
        share = np.dtype(dtype).itemsize // 4
        width = min(_SCORES // len(rows), _NUMBERS // (self._n_features + 1)) // share
        exclude = exclusion_of(self._exclude, rows)
        width = max(width, 2 * self._k)
        return ScoreBlocks(self._matrix, self._space, queries, dtype, width, exclude)

    def _filter(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Answer a batch; tell which rows are crowded, and raise `least`."""
        queries = self._space.queries(self._queries[rows])
        slack = self._space.slack(queries, dtype)
        least = np.maximum(least, self._space.least_scores(self._best.limits()[rows], queries))
        candidates = Candidates(self._k, least, slack)
        blocks = self._blocks(rows, queries, dtype)
        for block in blocks:
            if block.start == 0:
                candidates.raise_least(block.kth_floors(self._k))
                blocks.demand(candidates.thresholds())
            near, columns = blocks.reaching(block)
            ceilings, widths = block.ceilings[near, columns], block.widths[columns]
            stop = block.start + len(block.widths)
            room = min(_SPARE + stop // _PRODUCTS_PER_RANK, _CANDIDATES // len(rows))
            if candidates.add(near, columns + block.start, ceilings, widths, room):
                if candidates.crowded.all():
                    break
                blocks.demand(candidates.thresholds())
        near, positions = candidates.pairs()
        self._rank(rows[near], positions)
        return candidates.crowded, candidates.least

    def _rank_blocks(self, rows: NDArray[np.int64], least: NDArray[np.float64]) -> None:
        """Answer a batch, ranking block by block what float64 products cannot rule out."""
        queries = self._space.queries(self._queries[rows])
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
        """The scores that an item needs to be ranked, if its position is behind all so far."""
        scores = self._space.least_scores(self._best.limits()[rows], queries)
        scores[self._best.distances[rows, -1] == self._space.least_figure] = np.inf
        return scores

    def _rank(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Let the final figures of some pairs decide."""
        figures = self._metric.distances(self._queries, self._matrix, rows, positions)
        self._best.offer(rows, positions, figures)
