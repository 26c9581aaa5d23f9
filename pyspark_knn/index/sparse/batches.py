"""What the searches of sparse vectors by scores have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.sparse.blocks import Group, Scores, SparseBatch, block_products
from pyspark_knn.index.sparse.kernels import SparseDistances
from pyspark_knn.index.sparse.keyed import KeyedRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.score_space import Queries, ScoreSpace
    from pyspark_knn.index.sparse.rows import SparseRows
    from pyspark_knn.index.sparse.search import SparseSearch

_BATCH_CANDIDATES = 1 << 20
"""The largest number of candidates of a batch within 2 k of each query."""


class SparseBatches:
    """The queries of one call, in batches, and the items that they are compared with, in blocks.

    Parameters
    ----------
    index : SparseSearch
        The index.
    queries : SparseRows
        The queries.
    exclude : Exclusion or None
        Pairs that must not be returned.
    k : int
        The number of neighbors of a query.
    """

    def __init__(
        self, index: SparseSearch, queries: SparseRows, exclude: Exclusion | None, k: int
    ) -> None:
        keyed = KeyedRows.of_queries(index.metric, queries)
        self._sizes = index._sizes
        self._items = index._items.rows
        self._numbering = index._numbering
        self._space: ScoreSpace = index._space
        self._distances = SparseDistances(index.metric, keyed, index._items)
        self._queries = index._space.queries(keyed)
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
