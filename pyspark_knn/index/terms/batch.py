"""A batch of queries, and the pairs of it and a block of items that sums do not rule out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.selection import is_excluded
from pyspark_knn.index.terms.blocks import TermBlocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.terms.space import TermSpace

    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

_BLOCK_FLOATS = 1 << 20
"""Numbers in the vectors of a block of items. With some 250 features or more, blocks are
smaller."""

_LEAST_ITEMS = 64
"""The smallest number of items in a block, however many features there are."""

RANKED_PAIRS = 1 << 18
"""Pairs that are ranked before the block is over, if there are more."""

FEW_PAIRS = 32
"""If more than one in so many pairs of a block is left, beyond 4 k for each query, sums in float64
are tried."""


@dataclass(frozen=True)
class TermItems:
    """The items of a search by sums of terms.

    Attributes
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    metric : Metric
        The metric.
    spaces : list of TermSpace
        The coordinates whose sums rule out items, by ascending width; at least one.
    block_items : int
        Items in a block.
    first_items : int
        Items among which the first neighbors are found.
    few_items : int
        With no more items than this, all are first items.
    """

    matrix: NDArray[np.floating]
    metric: Metric
    spaces: list[TermSpace]
    block_items: int
    first_items: int
    few_items: int


class Batch:
    """The search of a batch of queries: block by block, by the narrowest sums that are enough."""

    def __init__(
        self, items: TermItems, queries: NDArray[np.floating], exclude: Exclusion | None
    ) -> None:
        self._matrix = items.matrix
        self._metric = items.metric
        self._queries = queries
        self._most_items = max(_LEAST_ITEMS, _BLOCK_FLOATS // items.matrix.shape[1])
        self._block_items = min(items.block_items, self._most_items)
        self._spaces = list(items.spaces)
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
        # Of the whole batch: a few queries of many pairs do not make it worth while.
        most = len(self._queries) * (self._expected + (stop - start) / FEW_PAIRS)
        found: list[Pairs] = []
        count = 0
        for near, positions in self._blocks.within(rows, limits, items):
            found.append((near, positions + start))
            count += len(near)
            if widest and count > RANKED_PAIRS:
                yield self._joined(found)
                found, count = [], 0
            elif not widest and count > most:
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
