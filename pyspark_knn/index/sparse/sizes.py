"""How much a search of sparse vectors does at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark_knn.index.sparse.rows import slices_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyspark_knn.index.sparse.rows import SparseRows

_LEAST_QUERIES = 16
"""Queries of a group, of however many items."""

_GROUP_PRODUCTS = 1 << 20
"""Products of a group of more queries with all items. They take 4 MiB of float32."""

_GROWTH = 4
"""How many times more items the next block has than all blocks before it, at most."""


@dataclass(frozen=True)
class Sizes:
    """How much a search does at a time.

    Attributes
    ----------
    group_queries : int
        The largest number of queries whose products are looked at together, see `for_items`.
    group_values : int
        The largest number of stored values of a group, counted as if all of its queries had as many
        as the longest one of the batch. A single query may have more.
    batch_queries, batch_values : int
        The largest number of queries in a batch, and of their stored values. A block of items is
        transposed once for each batch. A single query may have more values.
    first_items : int
        Items in the first block, which gives the first thresholds.
    block_items : int
        The largest number of items in any other block. Their products with one query take 128 KiB
        of float32.
    block_values : int
        The largest number of stored values in a block, unless one item has more.
    """

    group_queries: int = 64
    group_values: int = 1 << 16
    batch_queries: int = 4096
    batch_values: int = 1 << 18
    first_items: int = 2048
    block_items: int = 1 << 15
    block_values: int = 1 << 20

    def for_items(self, n_items: int) -> Sizes:
        """Return the sizes for an index of `n_items`: of many items, a group has fewer queries.

        A group of 64 takes two thirds of the time of one of 16 with 5,000 items, in which what is
        done once for each group takes most of the time, and a tenth more with 50,000, whose
        products are beyond the processor's cache.
        """
        most = max(_LEAST_QUERIES, _GROUP_PRODUCTS // max(1, n_items))
        return replace(self, group_queries=min(self.group_queries, most))

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
        yield from slices_of(lengths, self.batch_values, min(self.batch_queries, most_queries))

    def groups(self, lengths: NDArray[np.int64]) -> list[slice]:
        """Divide the queries of a batch, of the given numbers of stored values, into groups."""
        most = self.group_values // max(1, int(lengths.max(initial=0)))
        most = max(1, min(self.group_queries, most))
        starts = range(0, len(lengths), most)
        return [slice(start, min(start + most, len(lengths))) for start in starts]

    def blocks(self, items: SparseRows, k: int) -> Iterator[slice]:
        """Divide the items into blocks.

        The first block has at least k items, if there are so many that are within `block_values`.
        Blocks grow as thresholds do: a block has few items that reach those of all items before it,
        as long as there are not many times fewer of these.

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
        while first < len(items) and _GROWTH * first < self.block_items:
            stop = min(first + _GROWTH * first, len(items))
            for part in slices_of(items.lengths[first:stop], self.block_values):
                yield slice(part.start + first, part.stop + first)
            first = stop
        yield from self.blocks_from(items, first)

    def blocks_from(self, items: SparseRows, first: int) -> Iterator[slice]:
        """Divide the items from position `first` on into blocks of the same size."""
        for part in slices_of(items.lengths[first:], self.block_values, self.block_items):
            yield slice(part.start + first, part.stop + first)
