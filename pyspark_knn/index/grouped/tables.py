"""The nearest items of groups by products of their items with all queries of a group.

As in `pyspark_knn.index.block_search`, products in float32 rule out most items, and those that are
within the rounding errors of the k-th best one are ranked by their distances. The bounds of a
`ScoreSpace` hold for any part of its items, so the groups share one.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.sparse.rows import offsets_of, ranges, slices_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.grouped.items import Distances
    from pyspark_knn.index.grouped.visits import Visits
    from pyspark_knn.index.score_space import ScoreSpace

_TABLE_SCORES = 1 << 19
"""Scores of a table: 2 MiB of float32."""

_EXCLUDED = -np.inf
"""The ceiling of an excluded pair, and of none. No score is as low."""

_SIZE_RATIO = 1.3
"""How much larger than the smallest group of a table its largest one may be."""

_PARTS_PER_NEIGHBOR = 8
"""The k-th largest of the maxima of this many parts of a row, for each of the k neighbors, is
nearly as large as that of all scores."""


class TableSearch:
    """The search of the middle groups of an index.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        The score space of all items.
    table_scores : int, default=_TABLE_SCORES
        The number of scores of a table.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: ScoreSpace,
        *,
        table_scores: int = _TABLE_SCORES,
    ) -> None:
        self._matrix = matrix
        self._space = space
        self._table_scores = table_scores

    def search(
        self, queries: NDArray[np.floating], visits: Visits, distances: Distances, k: int
    ) -> list[Lists]:
        """Search the groups of some visits.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        visits : Visits
            The queries and their groups.
        distances : callable
            Returns the distances of pairs, given the row numbers of the queries and of the items.
        k : int
            The number of neighbors of a visit.

        Returns
        -------
        list of Lists
            The k nearest items of all visits, in parts.
        """
        found: list[Lists] = []
        if not len(visits):
            return found
        blocks = [visits.take(block) for block in self._blocks(visits.sizes)]
        buffer = np.empty(max(len(part) * part.sizes[-1] for part in blocks), np.float32)
        for part in blocks:
            rows, columns = self._candidates(queries[part.rows], part, k, buffer)
            places = part.starts[rows] + columns
            counts = np.bincount(rows, minlength=len(part))
            figures = distances(part.rows[rows], places)
            found.append(Lists(part.numbers, counts, places, figures).nearest(k))
        return found

    def _blocks(self, sizes: NDArray[np.int64]) -> Iterator[slice]:
        """Divide visits, which are sorted by the sizes of their groups, into tables."""
        classes = (np.log(sizes) / np.log(_SIZE_RATIO)).astype(np.int64)
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(classes)) + 1, [len(sizes)]])
        for start, stop in itertools.pairwise(bounds):
            for part in slices_of(sizes[start:stop], self._table_scores):
                yield slice(start + part.start, start + part.stop)

    def _candidates(
        self, queries: NDArray[np.floating], visits: Visits, k: int, buffer: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the items that cannot be ruled out: the visit, and the place within the group."""
        transformed = self._space.queries(queries)
        served = self._space.serves(transformed)
        table, widths = self._ceilings(transformed.vectors, visits, buffer)
        # All items of queries for which the bounds do not hold are candidates.
        columns = np.arange(table.shape[1])
        table[~served] = np.where(columns < visits.sizes[~served, None], 0.0, _EXCLUDED)
        table[tuple(visits.excluded)] = _EXCLUDED
        least = _kth_largest(table, k) - widths - 2 * self._space.slack(transformed, np.float32)
        least[~served] = -np.inf
        with np.errstate(over="ignore"):
            below = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        # No threshold may be as low as the score of what is excluded.
        np.maximum(below, np.finfo(np.float32).min, out=below)
        reaching = np.flatnonzero(table >= below[:, None])
        return np.divmod(reaching, len(columns))

    def _ceilings(
        self, vectors: NDArray[np.float64], visits: Visits, buffer: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the ceilings of the items of each visit, and the largest width of its group."""
        runs = visits.runs()
        starts, sizes = visits.starts[runs[:-1]], visits.sizes[runs[:-1]]
        ends = offsets_of(sizes)
        terms, widths = self._space.terms(ranges(starts, sizes), np.float32)
        widths = np.maximum.reduceat(widths, ends[:-1])
        shape = len(visits), sizes[-1]
        table = buffer[: shape[0] * shape[1]].reshape(shape)
        table.fill(_EXCLUDED)
        with np.errstate(over="ignore", invalid="ignore"):
            left, terms = vectors.astype(np.float32), terms.astype(np.float32)
            bounds = zip(runs[:-1], runs[1:], starts, sizes, ends[:-1], strict=True)
            for first, last, start, size, at in bounds:
                where = slice(start, start + size)
                right = self._space.vectors(self._matrix[where], where)
                ceilings = table[first:last, :size]
                np.matmul(left[first:last], right.astype(np.float32, copy=False).T, out=ceilings)
                ceilings += terms[at : at + size]
        return table, np.repeat(widths, np.diff(runs))


def _kth_largest(table: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """Return a number that at least k numbers of each row reach, near the k-th largest one.

    It is the k-th largest of the maxima of many parts of the row, which is much faster to find than
    that of all numbers.
    """
    width = table.shape[1]
    if width < k:
        return np.full(len(table), -np.inf)
    while width >= 2 * _PARTS_PER_NEIGHBOR * k:
        half = width // 2
        maxima = np.maximum(table[:, :half], table[:, half : 2 * half])
        if width % 2:
            np.maximum(maxima[:, 0], table[:, -1], out=maxima[:, 0])
        table, width = maxima, half
    kth: NDArray[np.float32] = np.partition(table, width - k, axis=1)[:, width - k]
    return kth.astype(np.float64)
