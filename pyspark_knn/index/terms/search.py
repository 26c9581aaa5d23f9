"""Brute force for metrics that are sums of terms, without the effect of their rounding errors.

The sums of the terms of many pairs, feature by feature in float32, take a fraction of the time of
their distances. As they are rounded, they are only used to *rule out* items, as in
`pyspark_knn.index.block_search`: the pairs that `pyspark_knn.index.terms.space` does not rule out
are ranked by their distances, block by block of the items. Where this leaves too many items, as in
tight clusters far apart, the sums are computed in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.brute_force import BruteForce
from pyspark_knn.index.distances import Metric
from pyspark_knn.index.equal_rows import search_each_once
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.kernels import KERNELS
from pyspark_knn.index.pairwise import PairwiseSearch, search_rest
from pyspark_knn.index.selection import (
    NearestSoFar,
    exclusion_of,
    exclusion_of_items,
    is_excluded,
    search_in_blocks,
)
from pyspark_knn.index.terms.blocks import TermBlocks
from pyspark_knn.index.terms.choice import has_terms, term_space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.hits import Hits
    from pyspark_knn.index.terms.space import TermSpace

    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

_BATCH_QUERIES = 1024
"""Queries in a batch. With many of them the cost of transforming the items is small."""

_BLOCK_ITEMS = 4096
"""Items in a block, whose coordinates stay in the cache up to some 100 features."""

_BATCH_FLOATS, _BLOCK_FLOATS = 1 << 22, 1 << 20
"""Numbers in the vectors of a batch of queries, and of a block of items. With some 250 features or
more, batches and blocks are smaller."""

_LEAST_ITEMS = 64
"""The smallest number of items in a block, however many features there are."""

_FIRST_ITEMS = 1024
"""Items among which the first neighbors are found, at least 4 k."""

_FIRST_SUMS = 1 << 22
"""Sums of the first items with a batch of queries: 16 MiB of float32."""

_RANKED_PAIRS = 1 << 18
"""Pairs that are ranked before the block is over, if there are more."""

_FEW_PAIRS = 32
"""If more than one in so many pairs of a block is left, beyond 4 k for each query, sums in float64
are tried."""


class TermSearch(BruteForce):
    """Brute-force search by sums of terms, wherever their rounding errors are bounded.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items, which the index keeps as they are.
    metric : Metric
        The metric.
    block_items : int, default=_BLOCK_ITEMS
        Items in a block.
    first_items : int, default=_FIRST_ITEMS
        Items among which the first neighbors are found.
    """

    metrics: ClassVar[frozenset[str]] = frozenset(
        {name for name in KERNELS if has_terms(Metric(name, p=3.0))}
    )

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether distances by a metric can be bounded by sums of terms."""
        return has_terms(metric)

    def __init__(
        self,
        matrix: NDArray[np.floating],
        metric: Metric,
        *,
        block_items: int = _BLOCK_ITEMS,
        first_items: int = _FIRST_ITEMS,
    ) -> None:
        super().__init__(matrix, metric)
        self._block_items = block_items
        self._first_items = first_items
        spaces = [term_space(metric, matrix, dtype) for dtype in (np.float32, np.float64)]
        self._spaces = [space for space in spaces if space is not None]
        if self._spaces and not self._spaces[0].wider:
            del self._spaces[1:]

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> TermSearch:
        """Choose the coordinates of the metric for the magnitudes of the items."""
        return cls(matrix, spec.metric)

    def kneighbors(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        first = min(len(self._matrix), max(self._first_items, 4 * k))
        step = max(1, min(self._batch_queries(), _FIRST_SUMS // first))

        def search(some: NDArray[np.floating]) -> Neighbors:
            return search_in_blocks(self._search, some, k, max_distance, exclude, step)

        if self._metric.name == "hamming" and exclude is None:
            return search_each_once(search, queries, queries)
        return search(queries)

    def _batch_queries(self) -> int:
        return max(1, min(_BATCH_QUERIES, _BATCH_FLOATS // self.n_features))

    def _served(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        served = np.full(len(queries), bool(self._spaces))
        for space in self._spaces:
            served &= space.serves(queries)
        return served

    def _search(
        self,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Neighbors:
        best = NearestSoFar(len(queries), k, max_distance)
        served = self._served(queries)
        rows = np.flatnonzero(served)
        if rows.size:
            part = queries if served.all() else queries[rows]
            ranking = _Ranking(self, part, k, max_distance, exclusion_of(exclude, rows))
            best.replace(rows, ranking.run())
        search_rest(self, queries, np.flatnonzero(~served), best, max_distance, exclude)
        return best.neighbors()

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        served = self._served(queries) & (hits.limit >= 0)
        step = self._batch_queries()
        for start in range(0, len(queries), step):
            rows = start + np.flatnonzero(served[start : start + step])
            if rows.size:
                _HitSearch(self, queries, rows, exclude, hits).run()
        search = PairwiseSearch(self._matrix, self._metric)
        search.compare_all(queries, np.flatnonzero(~served), exclude, hits)


class _Batch:
    """The search of a batch of queries: block by block, by the narrowest sums that are enough."""

    def __init__(
        self, index: TermSearch, queries: NDArray[np.floating], exclude: Exclusion | None
    ) -> None:
        self._matrix = index._matrix
        self._metric = index._metric
        self._queries = queries
        self._most_items = max(_LEAST_ITEMS, _BLOCK_FLOATS // index.n_features)
        self._block_items = min(index._block_items, self._most_items)
        self._spaces = list(index._spaces)
        self._exclude = exclude
        self._expected = 0
        self._use(self._spaces[0])

    def _use(self, space: TermSpace) -> None:
        self._space = space
        self._blocks = TermBlocks(space, space.operand(self._queries))

    def _widen(self) -> bool:
        """Use sums in float64 from now on, if they can rule out more; return whether they can."""
        if len(self._spaces) == 1:
            return False
        del self._spaces[0]
        self._use(self._spaces[0])
        return True

    def _pairs_of_block(
        self, rows: NDArray[np.int64], limits: NDArray[np.float64], start: int, stop: int
    ) -> Iterator[Pairs]:
        """Yield the pairs of a block that sums do not rule out, many at a time."""
        items = self._space.operand(self._matrix[start:stop])
        widest = len(self._spaces) == 1
        found: list[Pairs] = []
        count = 0
        for near, positions in self._blocks.within(rows, limits, items):
            found.append((near, positions + start))
            count += len(near)
            if widest and count > _RANKED_PAIRS:
                yield self._joined(found)
                found, count = [], 0
            elif not widest and count > len(rows) * (self._expected + (stop - start) / _FEW_PAIRS):
                self._widen()
                yield from self._pairs_of_block(rows, limits, start, stop)
                return
        yield self._joined(found)

    def _joined(self, found: list[Pairs]) -> Pairs:
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        rows, positions = map(np.concatenate, zip(*found, strict=True))
        kept = ~is_excluded(self._exclude, len(self._matrix), rows, positions)
        return rows[kept], positions[kept]

    def _distances(
        self, rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return self._metric.distances(self._queries, self._matrix, rows, positions)


class _Ranking(_Batch):
    """The nearest items of a batch of queries."""

    def __init__(
        self,
        index: TermSearch,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> None:
        super().__init__(index, queries, exclude)
        self._k = k
        self._expected = 4 * k
        self._first_items = max(min(index._first_items, self._most_items), 4 * k)
        self._best = NearestSoFar(len(queries), k, max_distance)

    def run(self) -> Neighbors:
        """Search all items."""
        limits = self._best.limits()
        first = min(self._first_items, len(self._matrix))
        if first > self._k and (limits >= 0).any():
            limits = self._search_first(first)
        else:
            first = 0
        for start in range(first, len(self._matrix), self._block_items):
            stop = min(start + self._block_items, len(self._matrix))
            rows = np.flatnonzero(limits >= 0)
            if not rows.size:
                break
            for near, positions in self._pairs_of_block(rows, limits[rows], start, stop):
                self._best.offer(near, positions, self._distances(near, positions))
            limits = self._later_limits(limits)
        return self._best.neighbors()

    def _search_first(self, stop: int) -> NDArray[np.float64]:
        """Search the first items, and return the limits of items of later positions."""
        block = self._blocks.first(self._space.operand(self._matrix[:stop]))
        near, positions = block.nearest(self._k, self._excluded_before(stop))
        self._best.offer(near, positions, self._distances(near, positions))
        limits = self._best.limits()
        # They are found again, with all others that are as near.
        self._best.forget(np.arange(len(self._queries)))
        near, positions = block.within(limits)
        if len(near) > len(limits) * (self._expected + stop / _FEW_PAIRS) and self._widen():
            block = self._blocks.first(self._space.operand(self._matrix[:stop]))
            near, positions = block.within(limits)
        for part in range(0, len(near), _RANKED_PAIRS):
            some = slice(part, part + _RANKED_PAIRS)
            rows, columns = self._joined([(near[some], positions[some])])
            self._best.offer(rows, columns, self._distances(rows, columns))
        return self._later_limits(limits)

    def _excluded_before(self, stop: int) -> Pairs:
        """Return the excluded pairs of the items before a position."""
        if self._exclude is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        first = exclusion_of_items(self._exclude, 0, stop)
        return first.rows, first.positions

    def _later_limits(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distances of items of later positions that can be neighbors."""
        last = self._best.distances[:, -1]
        # At the distance of the last neighbor, an item of a later position comes after it.
        return np.minimum(limits, np.where(np.isinf(last), limits, np.nextafter(last, -np.inf)))


class _HitSearch(_Batch):
    """The items within a distance of a batch of queries."""

    def __init__(
        self,
        index: TermSearch,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        hits: Hits,
    ) -> None:
        super().__init__(index, queries[rows], exclusion_of(exclude, rows))
        self._rows = rows
        self._hits = hits

    def run(self) -> None:
        """Offer all hits."""
        everybody = np.arange(len(self._rows))
        limits = np.full(len(self._rows), self._hits.limit)
        for start in range(self._hits.first(self._rows), len(self._matrix), self._block_items):
            stop = min(start + self._block_items, len(self._matrix))
            for near, positions in self._pairs_of_block(everybody, limits, start, stop):
                rows, positions = self._hits.later(self._rows[near], positions)
                near = np.searchsorted(self._rows, rows)
                self._hits.offer(rows, positions, self._distances(near, positions))
