"""The products of a batch of queries with the items, block by block: see `space`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.selection import exclusion_of_items

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.missing.factors import Queries
    from pyspark_knn.index.missing.space import MissingSpace

_BLOCK_SCORES = 1 << 18
"""Products in a block: 1 MiB of float32, which stays in the cache."""

_FACTOR_FLOATS = 1 << 20
"""Numbers in the factors of the items of one product: 4 MiB of float32."""


class SignBlocks:
    """The pairs of a batch of queries with items whose products are above 0.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : MissingSpace
        The space of these items.
    queries : Queries
        The queries, transformed by the space.
    dtype : type
        The dtype of the products, float32 or float64.
    exclude : Exclusion or None
        Pairs that must not be returned; its rows are row numbers in `queries`.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: MissingSpace,
        queries: Queries,
        dtype: type[np.floating],
        exclude: Exclusion | None,
    ) -> None:
        self._matrix = matrix
        self._space = space
        self._queries = queries
        self._dtype = dtype
        self._exclude = exclude
        self._left = space.left(queries, dtype)
        n_queries, n_columns = self._left.factors.shape
        n_words = np.dtype(dtype).itemsize // 4
        width = min(_BLOCK_SCORES // n_queries, _FACTOR_FLOATS // n_columns) // n_words
        self._width = max(1, min(width, len(matrix)))
        self._right = np.empty((self._width, n_columns), dtype)
        self._products = np.empty(n_queries * self._width, dtype)

    def demand(self, limits: NDArray[np.float64], rows: NDArray[np.int64] | None = None) -> None:
        """Set the largest distances of the pairs of some queries, by default of all.

        Parameters
        ----------
        limits : ndarray of shape (n_rows,), dtype float64
            The distances, inclusive; none of a query with a negative one is returned.
        rows : ndarray of shape (n_rows,), dtype int64, optional
            The row numbers of these queries.
        """
        queries = self._queries if rows is None else self._queries.take(rows)
        self._left.demand(self._space.reaches(limits, queries, self._dtype), rows)

    def pairs(self, first: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the pairs that may be within the distances, in ascending order of the items.

        Parameters
        ----------
        first : int
            The position of the first item to compare.

        Yields
        ------
        stop : int
            Items before this position were compared so far.
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query and the position of the item. Pairs that have a distance
            within the limit are among them, and none that has no feature in common.
        """
        for start in range(first, len(self._matrix), self._width):
            stop = min(start + self._width, len(self._matrix))
            (products,) = self._multiply(start, stop, self._left.factors)
            if self._exclude is not None:
                excluded = exclusion_of_items(self._exclude, start, stop)
                products[excluded.rows, excluded.positions] = 0.0
            rows, columns = np.divmod(np.flatnonzero(products > 0), stop - start)
            yield stop, rows, columns + start

    def kth_limits(self, k: int, count: int) -> NDArray[np.float64]:
        """Return distances within which each query has k of the first items; inf if it has fewer.

        Parameters
        ----------
        k : int
            The number of items.
        count : int
            The number of first items to compare.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The distances.
        """
        factors = self._left.sums()
        ratios = np.empty((len(factors[0]), count), self._dtype)
        for start in range(0, count, self._width):
            stop = min(start + self._width, count)
            sums, counts = self._multiply(start, stop, *factors)
            with np.errstate(divide="ignore", invalid="ignore"):
                np.divide(sums, counts, out=ratios[:, start:stop])
            ratios[:, start:stop][counts == 0] = -np.inf
        if self._exclude is not None:
            excluded = exclusion_of_items(self._exclude, 0, count)
            ratios[excluded.rows, excluded.positions] = -np.inf
        kth = np.partition(ratios, count - k, axis=1)[:, count - k]
        return self._space.limits(-kth.astype(np.float64), self._queries, self._dtype)

    def _multiply(
        self, start: int, stop: int, *factors: NDArray[np.floating]
    ) -> list[NDArray[np.floating]]:
        """Return products of some factors of the queries with those of the items of a block."""
        right = self._right[: stop - start]
        self._space.right(self._matrix[start:stop], self._queries.lacking, right)
        shape = len(self._left.factors), stop - start
        first, *others = factors
        out = self._products[: shape[0] * shape[1]].reshape(shape)
        return [np.matmul(first, right.T, out=out), *(each @ right.T for each in others)]
