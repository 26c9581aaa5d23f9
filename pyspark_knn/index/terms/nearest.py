"""The nearest items of a batch of queries, by sums of terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.selection import NearestSoFar, exclusion_of_items, exclusion_of_rows
from pyspark_knn.index.terms.batch import FEW_PAIRS, RANKED_PAIRS, Batch
from pyspark_knn.index.terms.blocks import GROUP_SUMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.terms.batch import Pairs, TermItems

_AGAIN_ITEMS = 1024
"""Items in a block where the first items are searched again."""


class NearestItems(Batch):
    """The nearest items of a batch of queries."""

    def __init__(
        self,
        items: TermItems,
        queries: NDArray[np.floating],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> None:
        super().__init__(items, queries, exclude)
        self._k = k
        self._expected = 4 * k
        few = len(self._matrix) <= items.few_items
        first = len(self._matrix) if few else items.first_items
        self._first_items = min(max(min(first, self._most_items), 4 * k), GROUP_SUMS)
        self._best = NearestSoFar(len(queries), k, max_distance)

    def run(self) -> Neighbors:
        """Search all items."""
        limits = self._best.limits()
        everybody = np.arange(len(self._queries))
        first = min(self._first_items, len(self._matrix))
        if first > self._k and (limits >= 0).any():
            reach = self._search_first(first, limits)
            limits = self._best.limits()
            again = np.flatnonzero(limits > reach)
            self._best.forget(again)
            step = min(self._block_items, _AGAIN_ITEMS)
            limits[again] = self._search_blocks(again, limits[again], range(0, first, step))
            limits = self._later_limits(everybody, limits)
        else:
            first = 0
        rest = range(first, len(self._matrix), self._block_items)
        self._search_blocks(everybody, limits, rest)
        return self._best.neighbors()

    def _search_first(self, stop: int, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Find the nearest of the first items, and return how far all of them are found."""
        reach = np.empty(len(limits))
        excluded = None if self._exclude is None else exclusion_of_items(self._exclude, 0, stop)
        found: list[Pairs] = []
        count = 0
        for part, table in self._blocks.tables(self._space.operand(self._matrix[:stop])):
            table.exclude(exclusion_of_rows(excluded, part.start, part.stop))
            reach[part] = np.minimum(table.about_kth(self._k), limits[part])
            near, positions = table.within(reach[part])
            counts = np.bincount(near, minlength=part.stop - part.start)
            crowded = counts > self._expected + stop / FEW_PAIRS
            if crowded.any():
                # Any k items bound the distance of the k-th nearest.
                places = np.arange(len(near)) - np.repeat(np.cumsum(counts) - counts, counts)
                kept = ~crowded[near] | (places < self._k)
                near, positions = near[kept], positions[kept]
                reach[part][crowded] = -np.inf
            found.append((near + part.start, positions))
            count += len(near)
            if count > RANKED_PAIRS:
                self._rank(found)
                found, count = [], 0
        self._rank(found)
        return reach

    def _rank(self, found: list[Pairs]) -> None:
        """Keep the nearest of some pairs."""
        if found:
            rows, positions = map(np.concatenate, zip(*found, strict=True))
            self._best.offer(rows, positions, self._distances(rows, positions))

    def _search_blocks(
        self, rows: NDArray[np.int64], limits: NDArray[np.float64], starts: range
    ) -> NDArray[np.float64]:
        """Search blocks of items for some queries; return the limits of items that follow."""
        for start in starts:
            stop = min(start + starts.step, starts.stop)
            left = limits >= 0
            if not left.any():
                break
            for near, positions in self._pairs_of_block(rows[left], limits[left], start, stop):
                self._best.offer(near, positions, self._distances(near, positions))
            limits = self._later_limits(rows, limits)
        return limits

    def _later_limits(
        self, rows: NDArray[np.int64], limits: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the distances of items of later positions that can be neighbors."""
        last = self._best.distances[rows, -1]
        # At the distance of the last neighbor, an item of a later position comes after it.
        return np.minimum(limits, np.where(np.isinf(last), limits, np.nextafter(last, -np.inf)))
