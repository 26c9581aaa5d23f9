"""Exact search of sparse vectors, by products of sparse matrices.

The search is that of `pyspark_knn.index.block_search`: products in float32 rule out most items,
and the items whose scores are within the rounding errors of the k-th best one are ranked by their
distances. Two things differ. Products are made of stored values only, see
`pyspark_knn.index.sparse.blocks`. And where all pairs without a common feature have one distance
(cosine, inner_product), these pairs are never ranked: a query that has fewer than k other neighbors
gets those of them that come first.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.candidates import Candidates, filter_batches
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.selection import NearestSoFar, exclusion_of
from pyspark_knn.index.sparse.batches import SparseBatches, SparseItems, taken
from pyspark_knn.index.sparse.blocks import block_products, first_unrelated, patterns
from pyspark_knn.index.sparse.index import SparseIndex
from pyspark_knn.index.sparse.keyed import KeyedRows, Numbering
from pyspark_knn.index.sparse.products import SparseBatch
from pyspark_knn.index.sparse.sizes import Sizes
from pyspark_knn.index.sparse.space import SPACES
from pyspark_knn.index.sparse.within import SparseSearchWithin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.hits import Hits
    from pyspark_knn.index.sparse.rows import SparseRows

_SPARE_CANDIDATES = 64
"""Candidates that a query may always keep beyond 2 k, regardless of their cost."""

_PRODUCTS_PER_RANK = 512
"""Items whose float64 products take as long as ranking one candidate. A query may keep one more
candidate for each such number of items seen so far."""

_BATCH_ROOM = 1 << 21
"""The largest number of candidates of a batch beyond 2 k for each query. Each takes 18 bytes."""

_ADDED_PAIRS = 1 << 17
"""Candidates of a batch that are added, or ranked, at a time; those of a group are never divided
when they are added."""

_RANKED_PAIRS = 1 << 20
"""Pairs that are ranked at a time, where all items are compared with a query."""

_SIZES = Sizes()
"""What is fastest on text."""


class SparseSearch(SparseIndex):
    """Exact search of sparse vectors by metrics that have scores.

    Parameters
    ----------
    matrix : SparseRows
        The items.
    metric : Metric
        The metric.
    numbering : Numbering
        The columns of the index.
    sizes : Sizes, default=Sizes()
        How much a search does at a time.
    spare_candidates : int, default=_SPARE_CANDIDATES
        Candidates that a query may always keep beyond 2 k.
    """

    metrics: ClassVar[frozenset[str]] = frozenset(SPACES)

    def __init__(
        self,
        matrix: SparseRows,
        metric: Metric,
        numbering: Numbering,
        *,
        sizes: Sizes = _SIZES,
        spare_candidates: int = _SPARE_CANDIDATES,
    ) -> None:
        super().__init__(matrix, metric, numbering, sizes)
        self._spare_candidates = spare_candidates
        self._items = KeyedRows.of_items(metric, self._rows, numbering)
        self._space = SPACES[metric.name](metric, self._items)

    @property
    def keyed(self) -> KeyedRows:
        """See `SparseIndex.keyed`."""
        return self._items

    def part(self, where: slice) -> SparseSearch:
        """See `SparseIndex.part`."""
        other = copy.copy(self)
        other._rows = self._rows[where]
        other._items, other._space = self._items[where], self._space.part(where)
        return other

    @classmethod
    def supports(cls, metric: Metric) -> bool:
        """Whether the index can search by a metric: by minkowski with a p of 2 only."""
        return super().supports(metric) and (metric.name != "minkowski" or metric.p == 2)

    @classmethod
    def build(cls, matrix: SparseRows, spec: IndexSpec) -> SparseSearch:
        """Choose the score space of the metric, and compute the norms of the items.

        Parameters
        ----------
        matrix : SparseRows of shape (n_items, n_features), dtype float32 or float64
            See `NeighborIndex.build`.
        spec : IndexSpec
            The metric; it has no options that this index reads.

        Returns
        -------
        SparseSearch
            The index.
        """
        # A formula with a factor for each feature has a table of that size anyway.
        by_feature = bool(spec.metric.params)
        numbering = Numbering(matrix.n_features) if by_feature else Numbering.of(matrix)
        return cls(matrix, spec.metric, numbering)

    def kneighbors(
        self,
        queries: SparseRows,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        """See `NeighborIndex.kneighbors`."""
        best = NearestSoFar(len(queries), k, max_distance)
        _Search(self._searched(), queries, exclude, best, self._spare_candidates).run()
        return best.neighbors()

    def _find_within(self, queries: SparseRows, exclude: Exclusion | None, hits: Hits) -> None:
        SparseSearchWithin(self._searched(), queries, exclude, hits).run()

    def _searched(self) -> SparseItems:
        return SparseItems(self._metric, self._items, self._numbering, self._space, self._sizes)


class _Search(SparseBatches):
    """One call of `SparseSearch.kneighbors`, with the state that its steps share."""

    def __init__(
        self,
        items: SparseItems,
        queries: SparseRows,
        exclude: Exclusion | None,
        best: NearestSoFar,
        spare_candidates: int,
    ) -> None:
        super().__init__(items, queries, exclude, best.distances.shape[1])
        self._spare_candidates = spare_candidates
        self._best = best

    def run(self) -> None:
        """Search all queries."""
        served = self._space.serves(self._queries)
        self._rank_all(np.flatnonzero(~served))
        rows = np.flatnonzero(served)
        least = np.full(len(rows), -np.inf)
        for dtype in self._space.dtypes:
            rows, least = self._filter_all(rows, least, dtype)
        for batch in self._batches(rows):
            self._rank_blocks(rows[batch], least[batch])
        self._fill(np.flatnonzero(served))

    # --- candidates by products ---

    def _filter_all(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Search queries by products in a dtype; see `candidates.filter_batches`."""
        run = functools.partial(self._filter, dtype=dtype)
        return filter_batches(rows, least, self._batches(rows), run)

    def _filter(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch; return which queries are crowded, and their smallest scores."""
        part = taken(self._queries, rows)
        slack = self._space.slack(part, dtype)
        least = np.maximum(least, self._space.least_scores(self._best.limits()[rows], part))
        batch = SparseBatch(self._numbering.numbered(part.vectors), dtype, self._sizes)
        candidates = Candidates(self._k, least, slack)
        found: list[tuple[NDArray[Any], ...]] = []
        n_found = 0
        for where, group, scores in self._blocks(
            rows, batch, self._sizes.blocks(self._items, self._k)
        ):
            queries = group.queries
            if where.start == 0 and where.stop >= self._k:
                candidates.raise_least(scores.kth_floors(self._k), queries)
            near, columns = scores.reaching(candidates.thresholds(queries))
            ceilings, widths = scores.ceilings(near, columns), scores.widths[columns]
            found.append((near + queries.start, columns + where.start, ceilings, widths))
            n_found += len(near)
            # Of several groups at a time: a few pairs take as long as some hundreds.
            if group.number == len(batch.groups) - 1 or n_found > _ADDED_PAIRS:
                pairs = [np.concatenate(each) for each in zip(*found, strict=True)]
                room = self._spare_candidates + where.stop // _PRODUCTS_PER_RANK
                room = min(room, _BATCH_ROOM // len(rows))
                candidates.add(pairs[0], pairs[1], pairs[2], pairs[3], room)
                found, n_found = [], 0
                if candidates.mostly_crowded:
                    candidates.abandon()
                    break
        near, positions = candidates.pairs()
        for start in range(0, len(near), _ADDED_PAIRS):
            some = slice(start, start + _ADDED_PAIRS)
            self._rank(rows[near[some]], positions[some])
        return candidates.crowded, candidates.least

    def _rank_blocks(self, rows: NDArray[np.int64], least: NDArray[np.float64]) -> None:
        """Search a batch by float64 products, and rank the candidates block by block."""
        part = taken(self._queries, rows)
        slack = self._space.slack(part, np.float64)
        batch = SparseBatch(self._numbering.numbered(part.vectors), np.float64, self._sizes)
        for where, group, scores in self._blocks(
            rows, batch, self._sizes.blocks(self._items, self._k)
        ):
            queries = group.queries
            if where.start == 0 and where.stop >= self._k:
                floors = scores.kth_floors(self._k) - slack[queries]
                least[queries] = np.maximum(least[queries], floors)
            near, columns = scores.reaching(least[queries] - slack[queries])
            self._rank(rows[queries][near], columns + where.start)
            within = self._space.least_scores(
                self._best.limits()[rows[queries]], part.take(queries)
            )
            least[queries] = np.maximum(least[queries], within)

    def _rank(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Compute the distances of some pairs, and keep the nearest."""
        self._best.offer(rows, positions, self._distances(rows, positions))

    # --- all items, for queries that products cannot serve ---

    def _rank_all(self, rows: NDArray[np.int64]) -> None:
        """Compare queries with every item, without products, which would overflow."""
        for row in rows:
            part = exclusion_of(self._exclude, np.array([row]))
            for start in range(0, len(self._items), _RANKED_PAIRS):
                positions = np.arange(start, min(start + _RANKED_PAIRS, len(self._items)))
                if part is not None:
                    positions = positions[~np.isin(positions, part.positions)]
                self._rank(np.full(len(positions), row), positions)

    # --- items without a common feature ---

    def _fill(self, rows: NDArray[np.int64]) -> None:
        """Search those queries again that may have neighbors without a common feature.

        Of these all have the same distance, so the first ones are enough. The items that do have a
        common feature are found by counts of these features, and are all ranked.
        """
        widest = self._space.dtypes[0]
        figure, ceiling = self._space.null_figure, self._space.null_ceiling(widest)
        if figure is None or ceiling is None:
            return
        part = taken(self._queries, rows)
        certain = self._space.least_scores(self._best.limits()[rows], part)
        rows = rows[~(certain - self._space.slack(part, widest) > ceiling)]
        self._best.forget(rows)
        ones = patterns(self._queries.vectors)
        for batch_rows in (rows[part] for part in self._batches(rows)):
            queries = self._numbering.numbered(ones.take(batch_rows))
            self._fill_batch(batch_rows, SparseBatch(queries, np.float32, self._sizes), figure)

    def _fill_batch(self, rows: NDArray[np.int64], batch: SparseBatch, figure: float) -> None:
        missing = np.full(len(rows), self._k)
        found = block_products(
            batch,
            rows,
            self._items.n_features,
            self._sizes.blocks(self._items, self._k),
            lambda where: patterns(self._items[where]),
            self._exclude,
        )
        for where, group, counts in found:
            near, columns = np.nonzero(counts > 0)
            self._rank(rows[group.queries][near], columns + where.start)
            near, columns = first_unrelated(counts, missing[group.queries])
            missing[group.queries] -= np.bincount(near, minlength=len(counts))
            figures = np.full(len(near), figure)
            self._best.offer(rows[group.queries][near], columns + where.start, figures)
