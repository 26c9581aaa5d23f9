"""The ceilings of all items for a batch of queries, block by block of the items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.selection import exclusion_of_items

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import Exclusion
    from pyspark_knn.index.score_space import Queries, ScoreSpace

# The ceiling of a pair that must not be answered. No score is as low.
_EXCLUDED = -np.inf


class ScoreBlock(NamedTuple):
    """The ceilings of a block of items.

    Attributes
    ----------
    start : int
        Where the block begins in the matrix.
    ceilings : ndarray of shape (n_queries, n_items), dtype float32 or float64
        See `pyspark_knn.index.score_space`; -inf for excluded pairs. Good until the next block.
    widths : ndarray of shape (n_items,), dtype float64
    """

    start: int
    ceilings: NDArray[np.floating]
    widths: NDArray[np.float64]

    def kth_floors(self, k: int) -> NDArray[np.float64]:
        """The k-th largest ``ceiling - width`` of each query; the block must have k items."""
        floors = self.ceilings - self.widths.astype(self.ceilings.dtype)
        place = floors.shape[1] - k
        floors.partition(place, axis=1)
        return floors[:, place].astype(np.float64)


class ScoreBlocks:
    """Multiplies a batch of queries with all items.

    Iterate over it for a `ScoreBlock` of each block, in ascending order of position.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features)
    space : ScoreSpace
        Of these items.
    queries : Queries
        Of that space.
    dtype : type
        float32 or float64: of the products.
    width : int
        Items in a block.
    exclude : Exclusion, optional
        With rows that count the queries.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: ScoreSpace,
        queries: Queries,
        dtype: type[np.floating],
        width: int,
        exclude: Exclusion | None,
    ) -> None:
        self._matrix = matrix
        self._space = space
        self._dtype = dtype
        self._exclude = exclude
        # The item's term is one more component, times one.
        shape = len(queries.vectors), matrix.shape[1] + 1
        self._left = np.ones(shape, dtype)
        self._left[:, :-1] = queries.vectors
        self._width = min(width, len(matrix))
        self._right = np.empty((self._width, shape[1]), dtype)
        self._ceilings = np.empty(shape[0] * self._width, dtype)
        # Comparing two arrays of one shape is twice as fast as comparing rows with a number each.
        self._thresholds = np.empty((shape[0], self._width), dtype)

    def __iter__(self) -> Iterator[ScoreBlock]:
        for start in range(0, len(self._matrix), self._width):
            where = slice(start, min(start + self._width, len(self._matrix)))
            right = self._right[: where.stop - start]
            right[:, :-1] = self._space.vectors(self._matrix[where], where)
            right[:, -1], widths = self._space.terms(where, self._dtype)
            shape = len(self._left), len(right)
            ceilings = self._ceilings[: shape[0] * shape[1]].reshape(shape)
            np.matmul(self._left, right.T, out=ceilings)
            if self._exclude is not None:
                part = exclusion_of_items(self._exclude, start, where.stop)
                ceilings[part.rows, part.positions] = _EXCLUDED
            yield ScoreBlock(start, ceilings, widths)

    def demand(self, scores: NDArray[np.float64]) -> None:
        """Set what `reaching` compares with: one score a query, of shape (n_queries,)."""
        with np.errstate(over="ignore"):
            below = scores.astype(self._dtype)
        # Rounding must not let a threshold rise; and no threshold lets an excluded pair pass.
        below = np.nextafter(below, np.array(-np.inf, self._dtype))
        np.maximum(below, np.finfo(self._dtype).min, out=below)
        self._thresholds[:] = below[:, None]

    def reaching(self, block: ScoreBlock) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pairs, as rows and columns, whose ceilings are as high as demanded."""
        n_items = block.ceilings.shape[1]
        flat = np.flatnonzero(block.ceilings >= self._thresholds[:, :n_items])
        rows, columns = np.divmod(flat, n_items)
        return rows, columns
