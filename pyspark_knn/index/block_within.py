"""The block search for all items within a distance."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.axes.search import AxesSearch
from pyspark_knn.index.block_batches import BlockBatches, BlockItems
from pyspark_knn.index.candidates import filter_batches, room_for
from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.hits import HitCandidates
from pyspark_knn.index.selection import exclusion_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.hits import Hits

_WITHIN_K = 8
"""The pairs of a query that this search compares at a time, where k is not given, are 2 times 8."""

_RANKED_PAIRS = 1 << 18
"""Candidates of a batch that are ranked before the batch is over, if there are more."""


class BlockSearchWithin(BlockBatches):
    """One call of `BlockSearch.within`."""

    def __init__(
        self,
        items: BlockItems,
        queries: NDArray[np.floating],
        exclude: Exclusion | None,
        hits: Hits,
    ) -> None:
        super().__init__(items, queries, exclude, k=1)
        self._hits = hits

    def run(self) -> NDArray[np.int64]:
        """Search all queries except those for which the bounds do not hold; return their rows."""
        served = self._served()
        left = np.flatnonzero(served)
        if self._prefixes is not None:
            search = AxesSearch(self._prefixes, self._matrix, self._space, _WITHIN_K)
            by_axes = functools.partial(self._filter_by_axes, search)
            batches = self._axes_batches(len(left))
            left, _ = filter_batches(left, np.zeros(len(left)), batches, by_axes)
        for dtype in self._space.dtypes:
            by_products = functools.partial(self._filter, dtype=dtype)
            parts = self._batches(np.arange(len(left)), dtype)
            left, _ = filter_batches(left, np.zeros(len(left)), parts, by_products)
        return np.flatnonzero(~served)

    def _filter_by_axes(
        self, search: AxesSearch, rows: NDArray[np.int64], least: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch by principal axes; see `_filter`."""
        limits = np.full(len(rows), self._hits.limit)
        exclude = exclusion_of(self._exclude, rows)
        (near, positions), crowded = search.within(self._queries[rows], limits, exclude)
        self._offer(rows[near], positions)
        return crowded, least

    def _filter(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch; return which queries are crowded, and `least` as it is."""
        queries = self._transformed(rows)
        slack = self._space.slack(queries, dtype)
        scores = self._space.least_scores(np.full(len(rows), self._hits.limit), queries)
        blocks = self._blocks(rows, queries, dtype, self._hits.first(rows))
        blocks.demand(scores - slack)
        candidates = HitCandidates(self._hits, scores + slack)
        # Without other products left to try, all candidates are ranked.
        last = dtype is self._space.dtypes[-1]
        compared = 0
        for block in blocks:
            compared += len(block.widths)
            near, columns = blocks.reaching(block)
            if not near.size:
                continue
            floors = block.ceilings[near, columns] - block.widths[columns]
            room = room_for(compared, len(rows))
            if candidates.add(near, columns + block.start, floors, None if last else room):
                blocks.demand(np.where(candidates.crowded, np.inf, scores - slack))
            if last and candidates.count > _RANKED_PAIRS:
                self._rank(rows, candidates)
        self._rank(rows, candidates)
        return candidates.crowded, least

    def _rank(self, rows: NDArray[np.int64], candidates: HitCandidates) -> None:
        """Compute the distances of the candidates, and offer them."""
        near, positions = candidates.taken()
        self._offer(rows[near], positions)

    def _offer(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        rows, positions = self._hits.later(rows, positions)
        distances = self._metric.distances(self._queries, self._matrix, rows, positions)
        self._hits.offer(rows, positions, distances)
