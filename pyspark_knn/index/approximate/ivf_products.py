"""The search of inverted lists for many queries at once, by matrix products.

FAISS compares a query with the items of its lists one by one. Where many queries of a batch search
the same list, a product of the queries and the items takes a third of the time. Its rounding errors
depend on which queries are multiplied together. So only what is true despite the errors is taken
from it, see `ivf_bounds`. FAISS searches the lists of the other queries.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.approximate.ivf_bounds import MOST_COORDINATES, squared_norms
from pyspark_knn.index.approximate.libraries import load_library
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    _Content = tuple[NDArray[np.float32], NDArray[np.float32], Any]

_SCORES_PER_LIST = 2000
"""Pairs of a query and an item, in the mean list, from which on products are faster than FAISS: a
list takes 8 us, however few they are."""

_BUFFER_SCORES = 1 << 18
"""Scores that are computed at a time."""


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

    def nearest(
        self, queries: NDArray[np.float32], chosen: NDArray[np.int64], many: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the nearest items in the lists of each query, by products.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_coordinates), dtype float32
            Coordinates of queries.
        chosen : ndarray of shape (n_queries, nprobe), dtype int64
            The lists of each query, each at most once.
        many : int
            The number of items to return for a query.

        Returns
        -------
        positions : ndarray of shape (n_queries, many), dtype int64
            The positions of the items, about the nearest first; -1 where there are no more.
        squares : ndarray of shape (n_queries, many), dtype float64
            Their squared distances, in ascending order, within `bounds`; at least the largest
            float32 where there are no more.
        """
        faiss = load_library("faiss")
        scores = np.empty((len(queries), many), np.float32)
        positions = np.empty((len(queries), many), np.int64)
        # A heap for each query; FAISS adds the scores of a list to those of its queries.
        heaps = faiss.float_maxheap_array_t()
        heaps.nh, heaps.k = scores.shape
        heaps.val, heaps.ids = faiss.swig_ptr(scores), faiss.swig_ptr(positions)
        heaps.heapify()
        doubled = -2 * queries
        buffer = np.empty(0, np.float32)
        for number, rows in _by_list(chosen):
            items, squares, places = self._contents[number]
            step = max(1, _BUFFER_SCORES // max(1, len(items)))
            for start in range(0, len(rows) if len(items) else 0, step):
                part = rows[start : start + step]
                if buffer.size < len(part) * len(items):
                    buffer = np.empty(max(_BUFFER_SCORES, len(part) * len(items)), np.float32)
                table = buffer[: len(part) * len(items)].reshape(len(part), len(items))
                np.matmul(doubled.take(part, axis=0), items.T, out=table)
                table += squares
                pointers = faiss.swig_ptr(part), len(items), faiss.swig_ptr(buffer), places
                heaps.addn_query_subset_with_ids(len(part), *pointers, 0)
        heaps.reorder()
        return positions, scores + squared_norms(queries)[:, None]

    @functools.cached_property
    def _contents(self) -> list[_Content]:
        """The items of each list, their squared norms, and a pointer to their positions.

        The items are views of the file. The norms take few bytes beside them, and would take a
        third of the time of a small batch.
        """
        items = [self._items(number) for number in range(self._lists.nlist)]
        squares = [np.einsum("ij,ij->i", each, each) for each in items]
        places = [self._lists.invlists.get_ids(number) for number in range(len(items))]
        return list(zip(items, squares, places, strict=True))

    def _items(self, number: int) -> NDArray[np.float32]:
        inverted, dim = self._lists.invlists, self._lists.d
        size = inverted.list_size(number)
        if not size:
            return np.empty((0, dim), np.float32)
        codes = load_library("faiss").rev_swig_ptr(inverted.get_codes(number), 4 * size * dim)
        found: NDArray[np.float32] = codes.view(np.float32).reshape(size, dim)
        return found


def _by_list(chosen: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each list, and the queries that search it."""
    numbers = chosen.ravel()
    order = by_row(numbers)
    rows, numbers = order // chosen.shape[1], numbers[order]
    starts = np.append(0, np.flatnonzero(np.diff(numbers)) + 1)
    ends = [*starts.tolist(), len(rows)]
    for number, (start, end) in zip(numbers[starts], itertools.pairwise(ends), strict=True):
        yield int(number), rows[start:end]
