"""The batches of queries and the blocks of items of the block search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion
from pyspark_knn.index.score_blocks import ScoreBlocks
from pyspark_knn.index.score_space import Queries
from pyspark_knn.index.selection import exclusion_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.axes.prefixes import Prefixes
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.score_space import ScoreSpace

_BATCH_QUERIES = 2048
"""Queries in a batch. With many of them the cost of preparing the items of a block is small."""

_BATCH_FLOATS = 1 << 22
"""Numbers in the vectors of a batch of queries. A worker does not send more at a time."""

_BLOCK_SCORES = 640 * 2048
"""Scores in a block: 5 MiB of float32. Long rows are compared faster, and BLAS is faster where they
have a multiple of 320 numbers than where they have a power of two."""

_WIDE_FEATURES, _WIDE_BLOCK_SCORES = 200, 960 * 2048
"""From so many features on, the product takes nearly all of the time. It is faster with wide
blocks, since BLAS rearranges the queries for each."""

_BLOCK_ITEMS, _FEW_SCORES = 4096, 1 << 17
"""Items in a block, at most: those of few queries, whose vectors stay in the cache. A block may
have more items if it has so few scores."""

_BLOCK_FLOATS = 1 << 21
"""Numbers in the vectors of the items of a block: 8 MiB of float32."""

_PRODUCT_FLOATS = 1 << 22
"""Numbers in the vectors of the items of one product. A block has at least 2 k items, so if these
have more numbers, the scores of the block are computed by several products."""

_AXES_QUERIES = 2048
"""Queries in a batch of the search by principal axes."""


@dataclass(frozen=True)
class BlockItems:
    """The items of a block search.

    Attributes
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    metric : Metric
        The metric.
    space : ScoreSpace
        The score space of the metric.
    prefixes : Prefixes or None
        The items on their principal axes, where the search uses these.
    few_items : int
        With no more items than this, a query is compared with all of them at once.
    ranks_by_distance : callable
        Returns what `ScoreSpace.ranks_by_distance` does, which may read all items.
    """

    matrix: NDArray[np.floating]
    metric: Metric
    space: ScoreSpace
    prefixes: Prefixes | None
    few_items: int
    ranks_by_distance: Callable[[], bool]


class BlockBatches:
    """The queries of one call, in batches, and the items that they are compared with, in blocks."""

    def __init__(
        self,
        items: BlockItems,
        queries: NDArray[np.floating],
        exclude: Exclusion | None,
        k: int,
    ) -> None:
        self._matrix = items.matrix
        self._metric = items.metric
        self._space = items.space
        self._prefixes = items.prefixes
        self._few_items = items.few_items
        self._ranks_by_distance = items.ranks_by_distance
        self._queries = queries
        self._exclude = exclude
        self._k = k
        self._n_features = queries.shape[1]
        self._all: Queries | None = None

    def _served(self) -> NDArray[np.bool_]:
        """Return for which queries the bounds hold."""
        rows = np.arange(len(self._queries))
        served = np.ones(len(rows), bool)
        for batch in self._batches(rows, np.float32):
            queries = self._space.queries(self._queries[batch])
            served[batch] = self._space.serves(queries)
            if len(batch) == len(rows):
                self._all = queries
        return served

    def _transformed(self, rows: NDArray[np.int64]) -> Queries:
        """Return some queries in the score space, given their row numbers in ascending order."""
        if self._all is not None:
            return self._all if len(rows) == len(self._queries) else self._all.take(rows)
        return self._space.queries(self._queries[rows])

    def _batches(
        self, rows: NDArray[np.int64], dtype: type[np.floating]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield `rows` in parts, as many queries as are searched at a time."""
        n_words = np.dtype(dtype).itemsize // 4
        most = min(
            _BATCH_QUERIES,
            _BATCH_FLOATS // self._n_features,
            _BLOCK_SCORES // (2 * self._k),
        )
        step = max(1, most // n_words)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _axes_batches(self, n_queries: int) -> Iterator[slice]:
        """Yield the same for the search by principal axes."""
        step = min(_AXES_QUERIES, max(1, _BATCH_FLOATS // self._n_features))
        for start in range(0, n_queries, step):
            yield slice(start, start + step)

    def _blocks(
        self,
        rows: NDArray[np.int64],
        queries: Queries,
        dtype: type[np.floating],
        first: int = 0,
    ) -> ScoreBlocks:
        """Return the scores of some queries with the items from `first` on, block by block."""
        n_words = np.dtype(dtype).itemsize // 4
        scores = _WIDE_BLOCK_SCORES if self._n_features >= _WIDE_FEATURES else _BLOCK_SCORES
        width = min(scores // len(rows), _BLOCK_FLOATS // (self._n_features + 1)) // n_words
        width = min(width, max(_BLOCK_ITEMS, _FEW_SCORES // len(rows)))
        exclude = exclusion_of(self._exclude, rows)
        width = max(width, 2 * self._k)
        step = max(1, _PRODUCT_FLOATS // (self._n_features + 1))
        return ScoreBlocks(self._matrix, self._space, queries, dtype, width, step, exclude, first)
