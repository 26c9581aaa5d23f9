"""Products of a batch of sparse queries with sparse items, block by block, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.selection import exclusion_of, exclusion_of_items, exclusion_of_rows
from pyspark_knn.index.sparse.products import SparseBatch, TransposedBlock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.sparse.products import Group
    from pyspark_knn.index.sparse.rows import SparseRows

_PARTS_PER_NEIGHBOR = 8
"""Parts of a block of which the maxima are compared, for each of the k neighbors."""


def patterns(rows: SparseRows) -> SparseRows:
    """Return rows that have 1 in place of each stored value, of dtype float32."""
    rows = rows.compact()
    return rows.replaced(np.ones(rows.size, np.float32))


def block_products(
    batch: SparseBatch,
    rows: NDArray[np.int64],
    n_columns: int,
    blocks: Iterable[slice],
    vectors: Callable[[slice], SparseRows],
    exclude: Exclusion | None,
) -> Iterator[tuple[slice, Group, NDArray[np.floating]]]:
    """Yield the products of a batch with blocks of items, group by group.

    Parameters
    ----------
    batch : SparseBatch
        The batch.
    rows : ndarray of shape (n_queries,), dtype int64
        The row numbers of its queries, in ascending order.
    n_columns : int
        The number of columns of the index.
    blocks : iterable of slice
        The items of each block.
    vectors : callable
        Returns the transformed items of a block.
    exclude : Exclusion or None
        Pairs of all queries and items that must not be returned.

    Yields
    ------
    where : slice
        The items of the block.
    group : Group
        A group of the batch.
    products : ndarray of shape (n_queries, n_items), dtype float32 or float64
        The products; -inf for excluded pairs.
    """
    numbers = batch.numbers(n_columns)
    part = exclusion_of(exclude, rows)
    excluded = [exclusion_of_rows(part, *group.bounds) for group in batch.groups]
    for where in blocks:
        block = TransposedBlock(vectors(where), numbers, batch)
        for group, pairs in zip(batch.groups, excluded, strict=True):
            products = block.products(group)
            if pairs is not None:
                here = exclusion_of_items(pairs, where.start, where.stop)
                products[here.rows, here.positions] = -np.inf
            yield where, group, products


def first_unrelated(
    counts: NDArray[np.floating],
    missing: NDArray[np.int64],
    among: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first items that have no feature in common with each query.

    Parameters
    ----------
    counts : ndarray of shape (n_queries, n_items), dtype float32 or float64
        The number of features that each pair has in common.
    missing : ndarray of shape (n_queries,), dtype int64
        The largest number of items to return of each query.
    among : ndarray of shape (n_items,), dtype bool, optional
        Which items may be returned. Default: all.

    Returns
    -------
    queries, columns : ndarray of shape (n_pairs,), dtype int64
        The number of the query, and of the item.
    """
    found = [np.zeros(0, np.int64)] * len(missing)
    for query in np.flatnonzero(missing):
        unrelated = counts[query] == 0
        if among is not None:
            unrelated &= among
        found[query] = np.flatnonzero(unrelated)[: missing[query]]
    queries = np.repeat(np.arange(len(missing)), [len(each) for each in found])
    return queries, np.concatenate(found)


class Scores:
    """The scores of a block of items with a group of queries, see `score_space`.

    Parameters
    ----------
    products : ndarray of shape (n_queries, n_items), dtype float32 or float64
        The products; -inf for excluded pairs. Overwritten.
    terms, widths : ndarray of shape (n_items,), dtype float64
        The item's term in each ceiling, and its width.
    least : float or None
        See `ScoreSpace.null_ceiling`: pairs of a lower ceiling are not candidates.

    Attributes
    ----------
    widths : ndarray of shape (n_items,), dtype float64
        The width of each item.
    """

    def __init__(
        self,
        products: NDArray[np.floating],
        terms: NDArray[np.float64],
        widths: NDArray[np.float64],
        least: float | None,
    ) -> None:
        self.widths = widths
        self._scores = products
        self._shift = float(terms[0])
        self._least = -np.inf if least is None else least
        if (terms != terms[0]).any():
            self._shift = 0.0
            self._scores += terms.astype(products.dtype)

    def kth_floors(self, k: int) -> NDArray[np.float64]:
        """Return a score that k items of the block have at least, by their ``ceiling - width``.

        It is the k-th largest of the maxima of many parts of the block, which is much faster to
        find than the k-th largest of all items, and rarely much smaller.

        Parameters
        ----------
        k : int
            The number of items, at most that of the block.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The score of each query.
        """
        floors = self._scores - (self.widths - self._shift).astype(self._scores.dtype)
        parts = _PARTS_PER_NEIGHBOR * k
        if (width := floors.shape[1] // parts) > 1:
            floors = floors[:, : parts * width].reshape(-1, width, parts).max(axis=1)
        kth = floors.shape[1] - k
        result: NDArray[np.float64] = np.partition(floors, kth, axis=1)[:, kth].astype(np.float64)
        return result

    def reaching(
        self, thresholds: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs whose ceilings are at least the thresholds.

        Parameters
        ----------
        thresholds : ndarray of shape (n_queries,), dtype float64
            The threshold of each query.

        Returns
        -------
        rows, columns : ndarray of shape (n_pairs,), dtype int64
            The number of the query within the group, and of the item within the block.
        """
        dtype = self._scores.dtype
        limits = np.maximum(thresholds, self._least) - self._shift
        with np.errstate(over="ignore"):
            below = np.nextafter(limits.astype(dtype), np.array(-np.inf, dtype))
        # No threshold may be as low as that of excluded pairs.
        np.maximum(below, np.finfo(dtype).min, out=below)
        flat = np.flatnonzero(self._scores >= below[:, None])
        rows, columns = np.divmod(flat, self._scores.shape[1])
        return rows, columns

    def ceilings(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the ceilings of some pairs."""
        return self._scores[rows, columns] + self._scores.dtype.type(self._shift)
