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
from pyspark_knn.index.selection import NearestSoFar, exclusion_of, search_in_blocks
from pyspark_knn.index.terms.batch import Batch, TermItems
from pyspark_knn.index.terms.choice import DTYPES, has_terms, term_space
from pyspark_knn.index.terms.nearest import NearestItems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.hits import Hits

_BATCH_QUERIES = 1024
"""Queries in a batch. With many of them the cost of transforming the items is small."""

_BLOCK_ITEMS = 4096
"""Items in a block, whose coordinates stay in the cache up to some 100 features."""

_BATCH_FLOATS = 1 << 22
"""Numbers in the vectors of a batch of queries. With some 4096 features or more, batches are
smaller."""

_FIRST_ITEMS = 1024
"""Items among which the first neighbors are found, at least 4 k."""

_FEW_ITEMS = 4096
"""If there are no more items than this, they are all first ones, and no others follow."""


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
    few_items : int, default=_FEW_ITEMS
        With no more items than this, all are first items.
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
        few_items: int = _FEW_ITEMS,
    ) -> None:
        super().__init__(matrix, metric)
        self._block_items = block_items
        self._first_items = first_items
        self._few_items = few_items
        spaces = [term_space(metric, matrix, dtype) for dtype in DTYPES]
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
        step = self._batch_queries()

        def search(some: NDArray[np.floating]) -> Neighbors:
            return search_in_blocks(self._search, some, k, max_distance, exclude, step)

        if self._metric.name == "hamming" and exclude is None:
            return search_each_once(search, queries, queries)
        return search(queries)

    def _items(self) -> TermItems:
        return TermItems(
            self._matrix,
            self._metric,
            self._spaces,
            self._block_items,
            self._first_items,
            self._few_items,
        )

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
            ranking = NearestItems(
                self._items(), part, k, max_distance, exclusion_of(exclude, rows)
            )
            best.replace(rows, ranking.run())
        search_rest(self, queries, np.flatnonzero(~served), best, max_distance, exclude)
        return best.neighbors()

    def _find_within(
        self, queries: NDArray[np.floating], exclude: Exclusion | None, hits: Hits
    ) -> None:
        served = self._served(queries) & (hits.limit >= 0)
        step, items = self._batch_queries(), self._items()
        for start in range(0, len(queries), step):
            rows = start + np.flatnonzero(served[start : start + step])
            if rows.size:
                _HitSearch(items, queries, rows, exclude, hits).run()
        search = PairwiseSearch(self._matrix, self._metric)
        search.compare_all(queries, np.flatnonzero(~served), exclude, hits)


class _HitSearch(Batch):
    """The items within a distance of a batch of queries."""

    def __init__(
        self,
        items: TermItems,
        queries: NDArray[np.floating],
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        hits: Hits,
    ) -> None:
        super().__init__(items, queries[rows], exclusion_of(exclude, rows))
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
