"""The items that products do not rule out, where there are so few items that one product has all.

The search in blocks of `pyspark_knn.index.score_blocks` compares many queries with a block of items
at a time, and its thresholds rise from block to block. With few items, the thresholds of a few
queries are found from all items at once, while their scores are in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.candidates import room_for
from pyspark_knn.index.extremes import about_kth_largest
from pyspark_knn.index.score_blocks import EXCLUDED, rounded_down
from pyspark_knn.index.selection import exclusion_of_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.score_space import Queries, ScoreSpace

    Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

_GROUP_SCORES = 1 << 18
"""Scores that are computed at a time: 1 MiB of float32, which stay in the cache."""

_EVEN_WIDTHS = 8.0
"""If the largest width of an item is at most so many times the mean, it stands for all."""


class FewItems:
    """The ceilings of all items, by products in float32.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        The score space of these items.
    """

    def __init__(self, matrix: NDArray[np.floating], space: ScoreSpace) -> None:
        everything = slice(0, len(matrix))
        terms, widths = space.terms(everything, np.float32)
        # The term of an item is one more component of its vector, multiplied by 1.
        self._right = np.empty((matrix.shape[1] + 1, len(matrix)), np.float32)
        self._right[:-1] = space.vectors(matrix, everything).T
        self._right[-1] = terms
        self._widths = widths.astype(np.float32)
        self._width: float | None = float(widths.max())
        if self._width > _EVEN_WIDTHS * float(widths.mean()):
            self._width = None

    def candidates(
        self,
        queries: Queries,
        k: int,
        least: NDArray[np.float64],
        slack: NDArray[np.float64],
        exclude: Exclusion | None,
    ) -> tuple[Pairs, NDArray[np.bool_]]:
        """Return the pairs that cannot be ruled out, by the rule of `candidates.Candidates`.

        Parameters
        ----------
        queries : Queries
            The queries, transformed by the space.
        k : int
            The number of neighbors of a query.
        least : ndarray of shape (n_queries,), dtype float64
            The smallest score that a neighbor of each query can have. Raised in place.
        slack : ndarray of shape (n_queries,), dtype float64
            The slack of each query.
        exclude : Exclusion or None
            Pairs that must not be returned.

        Returns
        -------
        pairs : tuple of ndarray
            The row number of the query of each pair, and the position of the item.
        crowded : ndarray of shape (n_queries,), dtype bool
            Which queries have too many candidates, and none here.
        """
        n_queries, n_items = len(least), self._right.shape[1]
        left = np.ones((n_queries, len(self._right)), np.float32)
        left[:, :-1] = queries.vectors
        step = max(1, _GROUP_SCORES // n_items)
        buffer = np.empty((min(step, n_queries), n_items), np.float32)
        crowded = np.zeros(n_queries, bool)
        most = 2 * k + room_for(n_items, n_queries)
        found: list[Pairs] = []
        for start in range(0, n_queries, step):
            part = slice(start, min(start + step, n_queries))
            ceilings = np.matmul(left[part], self._right, out=buffer[: part.stop - start])
            excluded = exclusion_of_rows(exclude, part.start, part.stop)
            if excluded is not None:
                ceilings[excluded] = EXCLUDED
            np.maximum(least[part], self._kth_floors(ceilings, k) - slack[part], out=least[part])
            thresholds = rounded_down(least[part] - slack[part], np.float32)
            reached = np.flatnonzero(ceilings >= thresholds[:, None])
            near, positions = np.divmod(reached, n_items)
            counts = np.bincount(near, minlength=len(thresholds))
            crowded[part] = counts > most
            if crowded[part].any():
                kept = ~crowded[part][near]
                near, positions = near[kept], positions[kept]
            found.append((near + start, positions))
        rows, columns = map(np.concatenate, zip(*found, strict=True))
        return (rows, columns), crowded

    def _kth_floors(self, ceilings: NDArray[np.float32], k: int) -> NDArray[np.float64]:
        """Return a number that ``ceiling - width`` of k items of each query reaches."""
        if self._width is None:
            return about_kth_largest(ceilings - self._widths, k)
        return about_kth_largest(ceilings, k) - self._width
