"""The ceilings of all items for a batch of queries, in blocks of items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.buffers import buffers_for
from pyspark_knn.index.extremes import about_kth_largest
from pyspark_knn.index.flags import places_of_few
from pyspark_knn.index.selection import exclusion_of_items

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.score_space import Queries, ScoreSpace

EXCLUDED = -np.inf
"""The ceiling of an excluded pair. No score is as low."""


class ScoreBlock(NamedTuple):
    """The ceilings of a block of items.

    Attributes
    ----------
    start : int
        The position of the first item of the block.
    ceilings : ndarray of shape (n_queries, n_items), dtype float32 or float64
        See `pyspark_knn.index.score_space`; -inf for excluded pairs. Valid until the next block.
    widths : ndarray of shape (n_items,), dtype float64
        The width of each item.
    """

    start: int
    ceilings: NDArray[np.floating]
    widths: NDArray[np.float64]

    def kth_floors(self, k: int) -> NDArray[np.float64]:
        """Return a number that ``ceiling - width`` of k items of each query reaches.

        It is about the k-th largest, see `about_kth_largest`.

        Parameters
        ----------
        k : int
            The number of neighbors; at most the number of items in the block.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The floors.
        """
        return about_kth_largest(self.ceilings - self.widths.astype(self.ceilings.dtype), k)


class ScoreBlocks:
    """The products of a batch of queries with all items, in blocks of items.

    Iterating over it yields a `ScoreBlock` for each block, in ascending order of position.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        The score space of these items.
    queries : Queries
        The queries, transformed by the space.
    dtype : type
        The dtype of the products, float32 or float64.
    width : int
        The number of items in a block.
    step : int
        The largest number of items in a product. A wider block is computed by several products.
    exclude : Exclusion or None
        Pairs that must not be returned; its rows are row numbers in `queries`.
    first : int, default=0
        The position of the first item to compare.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: ScoreSpace,
        queries: Queries,
        dtype: type[np.floating],
        width: int,
        step: int,
        exclude: Exclusion | None,
        first: int = 0,
    ) -> None:
        self._matrix = matrix
        self._first = first
        self._space = space
        self._dtype = dtype
        self._exclude = exclude
        # The term of an item is one more component of its vector, multiplied by 1.
        shape = len(queries.vectors), matrix.shape[1] + 1
        self._left = np.ones(shape, dtype)
        self._left[:, :-1] = queries.vectors
        self._width = max(1, min(width, len(matrix) - first))
        self._step = _even_step(self._width, step)
        self._right = np.empty((self._step, shape[1]), dtype)
        self._ceilings = np.empty(shape[0] * self._width, dtype)
        self._thresholds = np.empty((shape[0], 1), dtype)
        self._reached = np.empty(shape[0] * self._width, bool)

    def __iter__(self) -> Iterator[ScoreBlock]:
        for start in range(self._first, len(self._matrix), self._width):
            stop = min(start + self._width, len(self._matrix))
            shape = len(self._left), stop - start
            ceilings = self._ceilings[: shape[0] * shape[1]].reshape(shape)
            terms, widths = self._space.terms(slice(start, stop), self._dtype)
            for first in range(0, stop - start, self._step):
                part = slice(first, min(first + self._step, stop - start))
                self._multiply(start, part, terms[part], ceilings[:, part])
            if self._exclude is not None:
                excluded = exclusion_of_items(self._exclude, start, stop)
                ceilings[excluded.rows, excluded.positions] = EXCLUDED
            yield ScoreBlock(start, ceilings, widths)

    def _multiply(
        self,
        start: int,
        part: slice,
        terms: NDArray[np.float64],
        out: NDArray[np.floating],
    ) -> None:
        """Write the ceilings of a part of the block that begins at `start`."""
        where = slice(start + part.start, start + part.stop)
        right = self._right[: len(terms)]
        right[:, :-1] = self._space.vectors(self._matrix[where], where)
        right[:, -1] = terms
        np.matmul(self._left, right.T, out=out)

    def demand(self, scores: NDArray[np.float64]) -> None:
        """Set the thresholds that `reaching` compares the ceilings with.

        Parameters
        ----------
        scores : ndarray of shape (n_queries,), dtype float64
            The threshold of each query.
        """
        self._thresholds[:, 0] = rounded_down(scores, self._dtype)

    def reaching(self, block: ScoreBlock) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs of a block whose ceilings are at least the thresholds.

        Parameters
        ----------
        block : ScoreBlock
            A block of this object.

        Returns
        -------
        rows : ndarray of shape (n_pairs,), dtype int64
            The row number of the query of each pair.
        columns : ndarray of shape (n_pairs,), dtype int64
            The number of the item within the block.
        """
        n_items = block.ceilings.shape[1]
        reached = self._reached[: block.ceilings.size]
        table = reached.reshape(block.ceilings.shape)
        with buffers_for(n_items):
            np.greater_equal(block.ceilings, self._thresholds, out=table)
        rows, columns = np.divmod(places_of_few(reached), n_items)
        return rows, columns


def rounded_down(scores: NDArray[np.float64], dtype: type[np.floating]) -> NDArray[np.floating]:
    """Return thresholds in a dtype: none is larger than the score, or as low as `EXCLUDED`."""
    with np.errstate(over="ignore"):
        below = np.nextafter(scores.astype(dtype), dtype(-np.inf))
    lowest = np.finfo(dtype).min
    return np.maximum(below, lowest, out=below)


def _even_step(width: int, most: int) -> int:
    """Return the number of items in a product, so that the products of a block are about equal."""
    n_products = -(-width // most)
    return -(-width // n_products)
