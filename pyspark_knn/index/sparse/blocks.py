"""Products of a batch of sparse queries with sparse items, block by block.

A product of two sparse matrices spends most of its time on finding places in its result. So the
queries are made dense, but only at the features that they use: a *table* has a row for each of
these, and a column for each query of a group. A block of items is transposed, so that its values
are in the order of the features, and each of them is multiplied with a whole row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.selection import exclusion_of, exclusion_of_items, exclusion_of_rows
from pyspark_knn.index.sparse.rows import offsets_of, ranges, slices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.sparse.rows import SparseRows

_PARTS_PER_NEIGHBOR = 8
"""Parts of a block of which the maxima are compared, for each of the k neighbors."""


@dataclass(frozen=True)
class Sizes:
    """How much a search does at a time.

    Attributes
    ----------
    group_queries : int
        The largest number of queries in a group: a row of their table takes a few cache lines.
    group_values : int
        Stored values of the queries of a group, which bound its table. A query may have more.
    batch_groups : int
        Groups in a batch. A block of items is transposed once for each batch.
    first_items : int
        Items in the first block, which gives the first thresholds.
    block_items : int
        Items in any other block. Their products with a group take 2 MiB of float32.
    block_values : int
        The largest number of stored values in a block, unless one item has more.
    """

    group_queries: int = 128
    group_values: int = 1 << 14
    batch_groups: int = 8
    first_items: int = 2048
    block_items: int = 1 << 12
    block_values: int = 1 << 20

    def batches(self, lengths: NDArray[np.int64], most_queries: int) -> Iterator[slice]:
        """Divide queries into batches.

        Parameters
        ----------
        lengths : ndarray of shape (n_queries,), dtype int64
            The number of stored values of each query.
        most_queries : int
            The largest number of queries in a batch.

        Yields
        ------
        slice
            The queries of a batch.
        """
        groups = slices_of(lengths, self.group_values, min(self.group_queries, most_queries))
        step = max(1, min(self.batch_groups, most_queries // self.group_queries))
        for first in range(0, len(groups), step):
            part = groups[first : first + step]
            yield slice(part[0].start, part[-1].stop)

    def blocks(self, items: SparseRows, k: int) -> Iterator[slice]:
        """Divide the items into blocks.

        The first block has at least k items, if there are so many that are within `block_values`.

        Parameters
        ----------
        items : SparseRows
            The items, at least one.
        k : int
            The number of neighbors of a query.

        Yields
        ------
        slice
            The items of a block.
        """
        first = min(max(self.first_items, k), len(items))
        yield from slices_of(items.lengths[:first], self.block_values, first)
        yield from self.blocks_from(items, first)

    def blocks_from(self, items: SparseRows, first: int) -> Iterator[slice]:
        """Divide the items from position `first` on into blocks of the same size."""
        for part in slices_of(items.lengths[first:], self.block_values, self.block_items):
            yield slice(part.start + first, part.stop + first)


@dataclass(frozen=True)
class Group:
    """Some queries of a batch, as a table.

    Attributes
    ----------
    number : int
        The number of the group in its batch.
    queries : slice
        Which queries of the batch they are.
    features : ndarray of shape (n_features,), dtype int64
        The features that they use, as numbers of the batch, in ascending order.
    table : ndarray of shape (n_features, n_queries), dtype float32 or float64
        Their values.
    """

    number: int
    queries: slice
    features: NDArray[np.int64]
    table: NDArray[np.floating]

    @property
    def bounds(self) -> tuple[int, int]:
        """The first query of the group, and the one after its last."""
        return self.queries.start, self.queries.stop


class SparseBatch:
    """A batch of queries, ready to be multiplied with blocks of items.

    Parameters
    ----------
    queries : SparseRows
        The transformed queries of the batch.
    dtype : type
        The type of the products, float32 or float64.
    sizes : Sizes
        The sizes of a group.
    """

    def __init__(self, queries: SparseRows, dtype: type[np.floating], sizes: Sizes) -> None:
        queries = queries.compact()
        self.dtype = dtype
        self.features = np.unique(queries.indices)
        number = np.searchsorted(self.features, queries.indices)
        value = queries.data.astype(dtype)
        self.groups: list[Group] = []
        for part in slices_of(queries.lengths, sizes.group_values, sizes.group_queries):
            first, last = queries.indptr[part.start], queries.indptr[part.stop]
            used, row = np.unique(number[first:last], return_inverse=True)
            lengths = queries.lengths[part]
            column = np.repeat(np.arange(len(lengths)), lengths)
            table = np.zeros((len(used), len(lengths)), dtype)
            table[row, column] = value[first:last]
            self.groups.append(Group(len(self.groups), part, used, table))

    def numbers(self, n_columns: int) -> NDArray[np.int32]:
        """Return the number of each column among those of the batch, -1 if it is not used."""
        numbers = np.full(n_columns, -1, np.int32)
        numbers[self.features] = np.arange(len(self.features), dtype=np.int32)
        return numbers


def patterns(rows: SparseRows) -> SparseRows:
    """Return rows that have 1 in place of each stored value, of dtype float32."""
    rows = rows.compact()
    return rows.replaced(np.ones(rows.size, np.float32))


class TransposedBlock:
    """The values of some items at the features of a batch, in the order of the features.

    Parameters
    ----------
    items : SparseRows
        The transformed items.
    numbers : ndarray of shape (n_columns,), dtype int32
        See `SparseBatch.numbers`.
    batch : SparseBatch
        The batch.
    """

    def __init__(self, items: SparseRows, numbers: NDArray[np.int32], batch: SparseBatch) -> None:
        from scipy.sparse import csr_array

        items = items.compact()
        number = numbers[items.indices]
        used = number >= 0
        kept = np.flatnonzero(used)
        before = offsets_of(used)
        values = items.data[kept].astype(batch.dtype, copy=False)
        shape = len(items), len(batch.features)
        rows = csr_array((values, number[kept], before[items.indptr]), shape)
        self._values = rows.tocsc()

    def products(self, group: Group) -> NDArray[np.floating]:
        """Return the products with the queries of a group: shape (n_items, n_queries)."""
        from scipy.sparse import csc_array

        whole = self._values
        starts = whole.indptr[group.features]
        lengths = whole.indptr[group.features + 1] - starts
        at = ranges(starts, lengths)
        shape = whole.shape[0], len(group.features)
        part = csc_array((whole.data[at], whole.indices[at], offsets_of(lengths)), shape)
        result: NDArray[np.floating] = part @ group.table
        return result


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
    products : ndarray of shape (n_items, n_queries), dtype float32 or float64
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
                products[here.positions, here.rows] = -np.inf
            yield where, group, products


def first_unrelated(
    counts: NDArray[np.floating],
    missing: NDArray[np.int64],
    among: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first items that have no feature in common with each query.

    Parameters
    ----------
    counts : ndarray of shape (n_items, n_queries), dtype float32 or float64
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
        unrelated = counts[:, query] == 0
        if among is not None:
            unrelated &= among
        found[query] = np.flatnonzero(unrelated)[: missing[query]]
    queries = np.repeat(np.arange(len(missing)), [len(each) for each in found])
    return queries, np.concatenate(found)


class Scores:
    """The scores of a block of items with a group of queries, see `score_space`.

    Parameters
    ----------
    products : ndarray of shape (n_items, n_queries), dtype float32 or float64
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
            self._scores += terms.astype(products.dtype)[:, None]

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
        floors = self._scores - (self.widths - self._shift).astype(self._scores.dtype)[:, None]
        parts = _PARTS_PER_NEIGHBOR * k
        if (width := len(floors) // parts) > 1:
            floors = floors[: parts * width].reshape(parts, width, -1).max(axis=1)
        kth = len(floors) - k
        result: NDArray[np.float64] = np.partition(floors.T, kth, axis=1)[:, kth].astype(np.float64)
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
        flat = np.flatnonzero(self._scores >= below)
        columns, rows = np.divmod(flat, self._scores.shape[1])
        return rows, columns

    def ceilings(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the ceilings of some pairs."""
        return self._scores[columns, rows] + self._scores.dtype.type(self._shift)
