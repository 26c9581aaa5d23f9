"""The search of inverted lists for many queries at once, by matrix products.

FAISS compares a query with the items of its lists one by one. Where many queries of a batch search
the same list, a product of the queries and the items takes a third of the time. Its rounding errors
depend on which queries are multiplied together. So only what is true despite the errors is taken
from it, see `ivf_bounds`. FAISS searches the lists of the other queries.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyspark_knn.index.approximate.ivf_bounds import (
    MOST_COORDINATES,
    factors,
    sizes_within,
    squared_norms,
)
from pyspark_knn.index.approximate.ivf_selection import Candidates
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    _Content = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

_SCORES_PER_LIST = 2000
"""Pairs of a query and an item, in the mean list, from which on products are faster than FAISS: a
list takes 8 us, however few they are."""

_QUERIES_OF_A_LIST = 64
"""From so many on, copying a list in the order in which it is multiplied fastest pays, and so do
the calls of numpy that replace a heap."""

_BUFFER_SCORES = 1 << 18
"""Scores that are computed at a time."""

_SMALL_PRODUCT = 1_000_000
"""Multiplications of a product that OpenBLAS computes without copying the factors first, which
takes a fifth less time."""


class Products(NamedTuple):
    """The nearest items of queries by products.

    Attributes
    ----------
    positions : ndarray of shape (n_queries, many), dtype int64
        The positions of the items, about the nearest first; -1 where there are no more.
    squares : ndarray of shape (n_queries, many), dtype float64
        Their squared distances, in ascending order. Where there are no more, other items in the
        lists are not nearer than this.
    sizes : ndarray of shape (n_queries,), dtype float64
        What the rounding errors of the squared distances depend on, see `bounds`.
    """

    positions: NDArray[np.int64]
    squares: NDArray[np.float64]
    sizes: NDArray[np.float64]


class ListProducts:
    """Products of queries and the items of lists.

    Parameters
    ----------
    lists : faiss.IndexIVF
        The lists. Products are computed of vectors in float32 only.
    """

    def __init__(self, lists: Any) -> None:
        self._lists = lists
        self._least_pairs = _SCORES_PER_LIST * lists.nlist**2 / max(1, lists.ntotal)
        if lists.code_size != 4 * lists.d or lists.d > MOST_COORDINATES:
            self._least_pairs = np.inf

    def pay(self, n_pairs: int) -> bool:
        """Return whether products are faster than FAISS.

        Parameters
        ----------
        n_pairs : int
            How many lists the queries search, all together.

        Returns
        -------
        bool
            False for lists of encoded vectors.
        """
        return bool(n_pairs >= self._least_pairs)

    def allows_limits(self, n_pairs: int) -> bool:
        """Return whether a search within limits takes less time than heaps.

        Parameters
        ----------
        n_pairs : int
            How many lists the queries search, all together.

        Returns
        -------
        bool
            False if few queries search the same list.
        """
        return bool(n_pairs >= _QUERIES_OF_A_LIST * self._lists.nlist)

    def nearest(
        self,
        queries: NDArray[np.float32],
        chosen: NDArray[np.int64],
        many: int,
        most: NDArray[np.float32] | None,
    ) -> Products:
        """Return the nearest items in the lists of each query, by products.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        chosen : ndarray of shape (n_queries, nprobe), dtype int64
            The lists of each query, each at most once.
        many : int
            The number of items to return for a query.
        most : ndarray of shape (n_queries,), dtype float32, or None
            The largest squared distances of these items. The search takes less time if there are
            not many more items within them.

        Returns
        -------
        Products
            The items.
        """
        # Queries with the same nearest list have other lists in common, too, and are in the cache.
        order = by_row(chosen[:, 0])
        queries, chosen = queries.take(order, axis=0), chosen.take(order, axis=0)
        norms = squared_norms(queries)
        if most is None:
            positions, scores = self._by_heap(factors(queries), chosen, many)
            squares, sizes = scores + norms[:, None], norms
        else:
            most = most.take(order)
            limits = (most - norms).astype(np.float32)
            positions, scores = self._within(factors(queries, limits), chosen, many)
            squares, sizes = scores + (limits + norms)[:, None], sizes_within(most, norms)
        found = np.empty_like(positions), np.empty_like(squares), np.empty_like(sizes)
        found[0][order], found[1][order], found[2][order] = positions, squares, sizes
        return Products(*found)

    def _by_heap(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64], many: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest items and their scores; FAISS keeps them in a heap for each query."""
        faiss = load_library("faiss")
        scores = np.empty((len(queries), many), np.float32)
        positions = np.empty((len(queries), many), np.int64)
        heaps = faiss.float_maxheap_array_t()
        heaps.nh, heaps.k = scores.shape
        heaps.val, heaps.ids = faiss.swig_ptr(scores), faiss.swig_ptr(positions)
        heaps.heapify()
        for part, table, places in self._tables(queries, chosen):
            rows, values, ids = map(faiss.swig_ptr, (part, table, places))
            heaps.addn_query_subset_with_ids(len(part), rows, len(places), values, ids, 0)
        heaps.reorder()
        return positions, scores

    def _within(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64], many: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the nearest items within limits, and their scores less the limits."""
        found = Candidates(len(queries), many)
        for part, table, places in self._tables(queries, chosen):
            found.add(part, table, places)
        return found.nearest()

    def _tables(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
        """Yield row numbers of queries, their scores of the items of a list, and the positions."""
        buffer = np.empty(0, np.float32)
        for number, rows in _by_list(chosen):
            items, squares, places = self._contents[number]
            if not len(items):
                continue
            by_columns = None
            if len(rows) >= _QUERIES_OF_A_LIST:
                by_columns = np.ones((queries.shape[1], len(items)), np.float32)
                by_columns[: items.shape[1]], by_columns[items.shape[1]] = items.T, squares
            step = max(1, _BUFFER_SCORES // len(items))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                if buffer.size < len(part) * len(items):
                    buffer = np.empty(max(_BUFFER_SCORES, len(part) * len(items)), np.float32)
                table = buffer[: len(part) * len(items)].reshape(len(part), len(items))
                if by_columns is None:
                    _multiply_few(queries.take(part, axis=0), items, squares, table)
                else:
                    _multiply(queries.take(part, axis=0), by_columns, table)
                yield part, table, places

    @property
    def items(self) -> list[NDArray[np.float32]]:
        """The items of each list: arrays of shape (n_items, n_coordinates), views of the file."""
        return [items for items, _, _ in self._contents]

    @functools.cached_property
    def _contents(self) -> list[_Content]:
        """The items of each list, their squared norms, and their positions.

        Items and positions are views of the file. The norms take few bytes beside them, and would
        take a third of the time of a small batch.
        """
        found = []
        for number in range(self._lists.nlist):
            items, positions = self._items(number)
            found.append((items, squared_norms(items).astype(np.float32), positions))
        return found

    def _items(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        inverted, dim = self._lists.invlists, self._lists.d
        size = inverted.list_size(number)
        if not size:
            return np.empty((0, dim), np.float32), np.empty(0, np.int64)
        faiss = load_library("faiss")
        codes = faiss.rev_swig_ptr(inverted.get_codes(number), 4 * size * dim)
        positions: NDArray[np.int64] = faiss.rev_swig_ptr(inverted.get_ids(number), size)
        return codes.view(np.float32).reshape(size, dim), positions


def _multiply(
    left: NDArray[np.float32], right: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Write a product of matrices, in parts that are small enough for the BLAS not to copy them."""
    n_parts = -(-left.size * right.shape[1] // _SMALL_PRODUCT)
    step = -(-len(left) // n_parts)
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        np.matmul(left[part], right, out=out[part])


def _multiply_few(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    squares: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write what `_multiply` does for items as rows: their squared norms and limits are added."""
    dim = items.shape[1]
    np.matmul(queries[:, :dim], items.T, out=out)
    out += squares
    if queries.shape[1] > dim + 1:
        out += queries[:, dim + 1 :]


def _by_list(chosen: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each list, and the queries that search it."""
    numbers = chosen.ravel()
    order = by_row(numbers)
    rows, numbers = order // chosen.shape[1], numbers[order]
    starts = np.append(0, np.flatnonzero(np.diff(numbers)) + 1)
    ends = [*starts.tolist(), len(rows)]
    for number, (start, end) in zip(numbers[starts], itertools.pairwise(ends), strict=True):
        yield int(number), rows[start:end]
