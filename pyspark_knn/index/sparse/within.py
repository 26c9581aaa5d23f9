"""All sparse vectors within a distance, by products of sparse matrices.

The threshold of the scores is known beforehand and the same for all blocks of items; for the rest
see `pyspark_knn.index.sparse.search`. Where it does not rule out the pairs without a common
feature, these pairs are either all hits, or none of them is.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.candidates import filter_batches
from pyspark_knn.index.hits import HitCandidates
from pyspark_knn.index.selection import exclusion_of
from pyspark_knn.index.sparse.batches import SparseBatches, SparseItems, taken
from pyspark_knn.index.sparse.blocks import block_products, patterns
from pyspark_knn.index.sparse.products import SparseBatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.hits import Hits
    from pyspark_knn.index.sparse.rows import SparseRows

_ROOM = 64
"""Pairs of a query that may always be in doubt."""

_PRODUCTS_PER_RANK = 512
"""Items whose float64 products take as long as ranking one candidate. One more pair of a query may
be in doubt for each such number of items seen so far."""

_RANKED_PAIRS = 1 << 18
"""Candidates of a group that are ranked before the batch is over, if there are more."""


class SparseSearchWithin(SparseBatches):
    """One call of `SparseSearch.within`.

    Parameters
    ----------
    items : SparseItems
        The items.
    queries : SparseRows
        The queries.
    exclude : Exclusion or None
        Pairs that must not be returned.
    hits : Hits
        The hits of the queries.
    """

    def __init__(
        self, items: SparseItems, queries: SparseRows, exclude: Exclusion | None, hits: Hits
    ) -> None:
        super().__init__(items, queries, exclude, k=1)
        self._hits = hits

    def run(self) -> None:
        """Search all queries."""
        served = self._space.serves(self._queries)
        self._compare_all(np.flatnonzero(~served))
        rows = np.flatnonzero(served)
        by_scores = self._rules_out_unrelated(rows)
        for batch in self._batches(rows[~by_scores]):
            self._compare_related(rows[~by_scores][batch])
        rows = rows[by_scores]
        for dtype in self._space.dtypes:
            search = functools.partial(self._filter, dtype=dtype)
            rows, _ = filter_batches(rows, np.zeros(len(rows)), self._batches(rows), search)

    def _rules_out_unrelated(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for which queries no item without a common feature can be a hit by its score."""
        widest = self._space.dtypes[0]
        ceiling = self._space.null_ceiling(widest)
        if ceiling is None:
            return np.ones(len(rows), bool)
        part = taken(self._queries, rows)
        least = self._space.least_scores(np.full(len(rows), self._hits.limit), part)
        ruled_out: NDArray[np.bool_] = least - self._space.slack(part, widest) > ceiling
        return ruled_out

    def _filter(
        self, rows: NDArray[np.int64], least: NDArray[np.float64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Search a batch; return which queries are crowded, and `least` as it is."""
        part = taken(self._queries, rows)
        slack = self._space.slack(part, dtype)
        scores = self._space.least_scores(np.full(len(rows), self._hits.limit), part)
        batch = SparseBatch(self._numbering.numbered(part.vectors), dtype, self._sizes)
        found = [
            HitCandidates(self._hits, (scores + slack)[group.queries]) for group in batch.groups
        ]
        # Without other products left to try, all candidates are ranked.
        last = dtype is self._space.dtypes[-1]
        first = self._hits.first(rows)
        for where, group, block in self._blocks(
            rows, batch, self._sizes.blocks_from(self._items, first)
        ):
            candidates = found[group.number]
            thresholds = (scores - slack)[group.queries]
            near, columns = block.reaching(np.where(candidates.crowded, np.inf, thresholds))
            floors = block.ceilings(near, columns) - block.widths[columns]
            room = None if last else _ROOM + (where.stop - first) // _PRODUCTS_PER_RANK
            candidates.add(near, columns + where.start, floors, room)
            if last and candidates.count > _RANKED_PAIRS:
                self._rank(rows[group.queries], candidates)
        for group, candidates in zip(batch.groups, found, strict=True):
            self._rank(rows[group.queries], candidates)
        return np.concatenate([candidates.crowded for candidates in found]), least

    def _rank(self, rows: NDArray[np.int64], candidates: HitCandidates) -> None:
        """Compute the distances of the candidates of some queries, and offer them."""
        near, positions = candidates.taken()
        self._offer(rows[near], positions)

    def _offer(self, rows: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        rows, positions = self._hits.later(rows, positions)
        self._hits.offer(rows, positions, self._distances(rows, positions))

    def _compare_related(self, rows: NDArray[np.int64]) -> None:
        """Compare a batch with all items that have a feature in common, found by their counts."""
        ones = patterns(self._queries.vectors.take(rows))
        batch = SparseBatch(self._numbering.numbered(ones), np.float32, self._sizes)
        found = block_products(
            batch,
            rows,
            self._items.n_features,
            self._sizes.blocks_from(self._items, self._hits.first(rows)),
            lambda where: patterns(self._items[where]),
            self._exclude,
        )
        figure = self._space.null_figure
        for where, group, counts in found:
            of_group = rows[group.queries]
            near, columns = np.nonzero(counts > 0)
            self._offer(of_group[near], columns + where.start)
            if figure is not None and figure <= self._hits.limit:
                near, columns = np.nonzero(counts == 0)
                self._hits.offer(of_group[near], columns + where.start, np.full(len(near), figure))

    def _compare_all(self, rows: NDArray[np.int64]) -> None:
        """Compare queries with every item, without products, which would overflow."""
        for row in rows:
            part = exclusion_of(self._exclude, np.array([row]))
            first = self._hits.first(np.array([row]))
            for start in range(first, len(self._items), _RANKED_PAIRS):
                positions = np.arange(start, min(start + _RANKED_PAIRS, len(self._items)))
                if part is not None:
                    positions = positions[~np.isin(positions, part.positions)]
                self._offer(np.full(len(positions), row), positions)
