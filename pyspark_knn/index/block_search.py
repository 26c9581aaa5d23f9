"""Certified block search: brute force by matrix products, without their rounding errors.

A matrix product in float32 compares queries with items many times faster than differences do, but
only nearly right. So it only *rules out*: `pyspark_knn.index.rounding` bounds how far a score can
be off, and what is within the bounds of the k-th best is ranked by its final figure. It takes
three steps, and most queries need the first one only:

1. In float32, block by block of the items, keep what cannot be ruled out (`_filter`), and rank it
   at the end (`_rank`).
2. Where too much is left, as in tight clusters far apart, do it again with float64 products, and
   rank block by block (`_search_crowded`): that bounds the memory whatever is tied with what.
3. Where products would leave the range of numbers, compare pair by pair (`PairwiseSearch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.candidates import Candidates
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.score_blocks import ScoreBlocks
from pyspark_knn.index.score_space import Queries, ScoreSpace, score_space
from pyspark_knn.index.selection import NearestSoFar, exclusion_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

# Queries at a time: the more, the less it matters what the items of a block cost to prepare.
_QUERIES = 1024
# Scores in a block, and numbers in the vectors of its items: 1 MiB, which is to stay in the cache,
# and 8 MiB of float32.
_SCORES = 1 << 18
_NUMBERS = 1 << 21
# A block holds twice the k items; beyond this many numbers pairs are compared instead.
_MOST_NUMBERS = 1 << 22

# Candidates that a query may keep: beyond 2 k + _SPARE, as many as take less time to rank than the
# float64 products do.
_SPARE = 64
_PRODUCTS_PER_RANK = 128
_CANDIDATES = 1 << 20


class BlockSearch(NeighborIndex):
    """Compares each query with each item, by matrix products wherever that is certain."""

    algorithm: ClassVar[str] = "brute"

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
        unserved = [np.zeros(0, np.int64)]
        crowded = [np.zeros(0, np.int64)]
        least = [np.zeros(0)]
        worthwhile = True
        for rows in self._batches(np.arange(len(self._queries)), np.float32):
            queries = self._space.queries(self._queries[rows])
            served = self._space.serves(queries)
            if not served.all():
                unserved.append(rows[~served])
                rows, queries = rows[served], queries.take(served)
            if worthwhile and rows.size:
                remain, known = self._filter(rows, queries)
                worthwhile = 2 * len(remain) <= len(rows)
            else:
                remain, known = rows, np.full(len(rows), -np.inf)
            crowded.append(remain)
            least.append(known)
        self._search_crowded(np.concatenate(crowded), np.concatenate(least))
        return np.concatenate(unserved)

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
        self, rows: NDArray[np.int64], queries: Queries
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Answer queries by float32 products.

        Returns
        -------
        crowded : ndarray of shape (n_crowded,), dtype int64
            The rows that have too many candidates to be answered so.
        least : ndarray of shape (n_crowded,), dtype float64
            Scores that their neighbours do not fall short of.
        """
        least = self._space.least_scores(self._best.limits()[rows], queries)
        room = 2 * self._k + _SPARE + len(self._matrix) // _PRODUCTS_PER_RANK
        room = min(room, _CANDIDATES // len(rows))
        slack = self._space.slack(queries, np.float32)
        candidates = Candidates(self._k, least, slack, room)
        blocks = self._blocks(rows, queries, np.float32)
        for block in blocks:
            if block.start == 0:
                candidates.raise_least(block.kth_floors(self._k))
                blocks.demand(candidates.thresholds())
            near, columns = blocks.reaching(block)
            ceilings, widths = block.ceilings[near, columns], block.widths[columns]
            if candidates.add(near, columns + block.start, ceilings, widths):
                if candidates.crowded.all():
                    break
                blocks.demand(candidates.thresholds())
        near, positions = candidates.pairs()
        self._rank(rows[near], positions)
        return rows[candidates.crowded], candidates.least[candidates.crowded]

    def _search_crowded(self, rows: NDArray[np.int64], least: NDArray[np.float64]) -> None:
        """Answer queries by float64 products, ranking block by block.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
        least : ndarray of shape (n_rows,), dtype float64
            Scores that their neighbours do not fall short of; may be -inf.
        """
        for part in self._batches(np.arange(len(rows)), np.float64):
            batch = rows[part]
            queries = self._space.queries(self._queries[batch])
            slack = self._space.slack(queries, np.float64)
            scores = least[part]
            blocks = self._blocks(batch, queries, np.float64)
            for block in blocks:
                if block.start == 0:
                    scores = np.maximum(scores, block.kth_floors(self._k) - slack)
                    scores = np.maximum(scores, self._scores_within_limits(batch, queries))
                    blocks.demand(scores - slack)
                near, columns = blocks.reaching(block)
                if near.size:
                    self._rank(batch[near], columns + block.start)
                    scores = np.maximum(scores, self._scores_within_limits(batch, queries))
                    blocks.demand(scores - slack)

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
