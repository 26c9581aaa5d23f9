"""What the searches of sparse vectors by scores have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.sparse.blocks import Scores, block_products
from pyspark_knn.index.sparse.kernels import SparseDistances
from pyspark_knn.index.sparse.keyed import KeyedRows, Numbering
from pyspark_knn.index.sparse.sizes import Sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.score_space import Queries, ScoreSpace
    from pyspark_knn.index.sparse.products import Group, SparseBatch
    from pyspark_knn.index.sparse.rows import SparseRows

_BATCH_CANDIDATES = 1 << 20
"""The largest number of candidates of a batch within 2 k of each query."""


@dataclass(frozen=True)
class SparseItems:
    """The items of a search by scores.

    Attributes
    ----------
    metric : Metric
        The metric.
    keyed : KeyedRows
        The items.
    numbering : Numbering
        The columns of the index.
    space : ScoreSpace
        The score space of the metric.
    sizes : Sizes
        How much a search does at a time.
    """

    metric: Metric
    keyed: KeyedRows
    numbering: Numbering
    space: ScoreSpace
    sizes: Sizes


class SparseBatches:
    """The queries of one call, in batches, and the items that they are compared with, in blocks.

    Parameters
    ----------
    items : SparseItems
        The items.
    queries : SparseRows
        The queries.
    exclude : Exclusion or None
        Pairs that must not be returned.
    k : int
        The number of neighbors of a query.
    """

    def __init__(
        self, items: SparseItems, queries: SparseRows, exclude: Exclusion | None, k: int
    ) -> None:
        keyed = KeyedRows.of_queries(items.metric, queries)
        self._sizes = items.sizes
        self._items = items.keyed.rows
        self._numbering = items.numbering
        self._space = items.space
        self._distances = SparseDistances(items.metric, keyed, items.keyed)
        self._queries = items.space.queries(keyed)
        self._exclude = exclude
        self._k = k

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[slice]:
        """Divide queries into parts that are searched at a time."""
        most = max(1, _BATCH_CANDIDATES // (2 * self._k))
        return self._sizes.batches(self._queries.vectors.lengths[rows], most)

    def _blocks(
        self, rows: NDArray[np.int64], batch: SparseBatch, blocks: Iterable[slice] | None = None
    ) -> Iterator[tuple[slice, Group, Scores]]:
        """Yield the scores of blocks of items, by default of all items, with groups of queries."""
        least = self._space.null_ceiling(batch.dtype)
        found = block_products(
            batch,
            rows,
            self._items.n_features,
            self._sizes.blocks(self._items, self._k) if blocks is None else blocks,
            lambda where: self._space.vectors(self._items[where], where),
            self._exclude,
        )
        for where, group, products in found:
            if group.number == 0:
                terms, widths = self._space.terms(where, batch.dtype)
            yield where, group, Scores(products, terms, widths, least)


def taken(queries: Queries, rows: NDArray[np.int64]) -> Queries:
    """Return the queries `rows` of all queries, which are in ascending order."""
    return queries if len(rows) == len(queries.squares) else queries.take(rows)
