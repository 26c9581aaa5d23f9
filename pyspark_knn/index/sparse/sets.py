"""Exact search of sparse vectors by metrics of sets, by counts of common features.

A count is a product of vectors of 0 and 1, which is exact, so distances are computed from counts
without ranking. Pairs without a common feature have distance 1, or 0 if both are empty; a query
that has fewer than k other neighbors gets those of them that come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.kernels import set_distance
from pyspark_knn.index.selection import NearestSoFar
from pyspark_knn.index.sparse.blocks import block_products, first_unrelated, patterns
from pyspark_knn.index.sparse.index import SparseIndex
from pyspark_knn.index.sparse.keyed import Numbering
from pyspark_knn.index.sparse.products import SparseBatch
from pyspark_knn.index.sparse.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.hits import Hits
    from pyspark_knn.index.sparse.products import Group
    from pyspark_knn.index.sparse.rows import SparseRows

_BATCH_QUERIES = 1 << 10
"""The largest number of queries in a batch."""

_MOST_COUNTED = 1 << 24
"""Counts up to this are exact in float32. No count exceeds the size of the query."""

_SLACK = 1e-9
"""Relative. Covers the rounding of the least count of a neighbor, which is a whole number."""

_ROUNDING = 2.0**-52
"""Absolute. Covers the rounding of a distance, and of one minus the distance."""

_SIZES = Sizes(first_items=1024)


class SparseSetSearch(SparseIndex):
    """Exact search of sparse vectors by jaccard and dice.

    Parameters
    ----------
    matrix : SparseRows
        The items.
    metric : Metric
        The metric.
    numbering : Numbering
        The columns of the index.
    sizes : Sizes, optional
        How much a search does at a time. In the first block all pairs are compared, so it is small.
    """

    metrics: ClassVar[frozenset[str]] = frozenset({"dice", "jaccard"})

    def __init__(
        self,
        matrix: SparseRows,
        metric: Metric,
        numbering: Numbering,
        *,
        sizes: Sizes = _SIZES,
    ) -> None:
        super().__init__(matrix, metric, numbering, sizes)

    @classmethod
    def build(cls, matrix: SparseRows, spec: IndexSpec) -> SparseSetSearch:
        """Return an index that keeps the items as they are.

        Parameters
        ----------
        matrix : SparseRows of shape (n_items, n_features), dtype float32 or float64
            See `NeighborIndex.build`.
        spec : IndexSpec
            The metric; it has no options that this index reads.

        Returns
        -------
        SparseSetSearch
            The index.
        """
        return cls(matrix, spec.metric, Numbering.of(matrix))

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
        for part in self._sizes.batches(queries.lengths, _BATCH_QUERIES):
            self._search(queries[part].compact(), np.arange(part.start, part.stop), exclude, best)
        return best.neighbors()

    def _search(
        self,
        queries: SparseRows,
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        best: NearestSoFar,
    ) -> None:
        """Search a batch of queries, the rows `rows` of all."""
        sizes = queries.lengths.astype(np.float64)
        missing = np.full((2, len(rows)), best.distances.shape[1])
        found = self._counts(queries, rows, exclude, self._sizes.blocks(self._rows, 1))
        for where, group, counts in found:
            of_group, lengths = rows[group.queries], self._rows[where].lengths
            limits = best.limits()[of_group]
            least = self._least_counts(limits, sizes[group.queries])
            near, columns = np.nonzero(counts >= least.astype(counts.dtype)[:, None])
            pairs = [(near, columns)]
            # Distance 1 is beyond the limit of most queries, except of empty ones.
            short = (limits >= 1) | (sizes[group.queries] == 0)
            for kind, among in enumerate((lengths > 0, lengths == 0)):
                more = first_unrelated(counts, missing[kind, group.queries] * short, among)
                missing[kind, group.queries] -= np.bincount(more[0], minlength=len(counts))
                pairs.append(more)
            near, columns = (np.concatenate(each) for each in zip(*pairs, strict=True))
            both, one = counts[near, columns], sizes[group.queries][near]
            figures = self._figures(both, one, lengths[columns], queries.n_features)
            best.offer(of_group[near], columns + where.start, figures)

    def _find_within(self, queries: SparseRows, exclude: Exclusion | None, hits: Hits) -> None:
        for part in self._sizes.batches(queries.lengths, _BATCH_QUERIES):
            rows = np.arange(part.start, part.stop)
            self._search_within(queries[part].compact(), rows, exclude, hits)

    def _search_within(
        self,
        queries: SparseRows,
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        hits: Hits,
    ) -> None:
        """Find the hits of a batch of queries, the rows `rows` of all."""
        sizes = queries.lengths.astype(np.float64)
        least = self._least_counts(np.full(len(rows), hits.limit), sizes)
        if hits.limit >= 1:
            # No distance is larger, so every item is a hit.
            least[:] = 0.0
        for where, group, counts in self._counts(
            queries, rows, exclude, self._sizes.blocks_from(self._rows, hits.first(rows))
        ):
            lengths = self._rows[where].lengths
            near = counts >= least[group.queries].astype(counts.dtype)[:, None]
            # Two empty sets are equal.
            near[np.ix_(sizes[group.queries] == 0, lengths == 0)] = True
            at, columns = np.nonzero(near & (counts >= 0))
            of_group = rows[group.queries]
            figures = self._figures(
                counts[at, columns], sizes[group.queries][at], lengths[columns], queries.n_features
            )
            hits.offer(of_group[at], columns + where.start, figures)

    def _counts(
        self,
        queries: SparseRows,
        rows: NDArray[np.int64],
        exclude: Exclusion | None,
        blocks: Iterable[slice],
    ) -> Iterator[tuple[slice, Group, NDArray[np.floating]]]:
        """Yield the numbers of common features of a batch with blocks of items."""
        dtype = np.float32 if queries.lengths.max() <= _MOST_COUNTED else np.float64
        batch = SparseBatch(patterns(self._numbering.numbered(queries)), dtype, self._sizes)
        return block_products(
            batch,
            rows,
            self._rows.n_features,
            blocks,
            lambda where: patterns(self._rows[where]),
            exclude,
        )

    def _figures(
        self,
        both: NDArray[np.floating],
        one: NDArray[np.float64],
        other: NDArray[np.int64],
        n_features: int,
    ) -> NDArray[np.float64]:
        """Return the distances, given the sizes of the intersections and of the sets."""
        counts = both.astype(np.float64), one, other.astype(np.float64)
        return set_distance(self._metric.name, *counts, n_features)

    def _least_counts(
        self, limits: NDArray[np.float64], sizes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return how many features a neighbor has in common with each query, at least 1.

        Let a and b be the sizes of the query and of an item, and c the count. Since b is at least
        c, the similarity of jaccard, ``c / (a + b - c)``, is at most ``c / a``, and that of dice,
        ``2 c / (a + b)``, at most ``2 c / (a + c)``.
        """
        similarity = np.clip(1.0 - limits - _ROUNDING, 0.0, 1.0)
        least = similarity * sizes
        if self._metric.name == "dice":
            least /= 2.0 - similarity
        return np.maximum(np.ceil(least * (1 - _SLACK)), 1.0)
