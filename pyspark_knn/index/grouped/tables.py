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
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pyspark_knn.index.grouped.items import Distances
    from pyspark_knn.index.grouped.visits import Visits
    from pyspark_knn.index.score_space import ScoreSpace

    Fill = Callable[[NDArray[np.float32], NDArray[np.float64], Visits], NDArray[np.float64]]
    """See `TableSearch._fill`."""

_TABLE_SCORES = 1 << 19
"""Scores of a table: 2 MiB of float32."""

_EXCLUDED = -np.inf
"""The ceiling of an excluded pair, and of none. No score is as low."""

_SIZE_RATIO = 1.3
"""How much larger than the smallest group of a table its largest one may be."""

_TERMS = 1 << 16
"""The number of terms that are computed at a time, or as many as one group has."""

_QUERY_FLOATS = 1 << 20
"""Numbers in the queries of a table: 8 MiB of float64."""

_ITEM_FLOATS = 1 << 20
"""Numbers in the items that are transformed at a time: 8 MiB of float64."""

_PER_PAIR = 32
"""A pair of a query and an item takes as long as so many products, beside those of its features."""

_COPIED_FLOATS = 1 << 17
"""Numbers in the items that are copied for queries at a time: 512 KiB of float32."""

_CROWDED_CANDIDATES = 64
"""Candidates of each query, and"""

_CROWDED_PAIRS = 1 << 12
"""... candidates beyond them, that a group may have. Ranking these takes as long as making an index
of the group, which has a center of its own, and float64 products where float32 is too coarse."""

_RANKED_PAIRS = 1 << 14
"""Candidates that are ranked at a time, or as many as one table has."""

_PARTS_PER_NEIGHBOR = 8
"""The k-th largest of the maxima of this many parts of a row, for each of the k neighbors, is
nearly as large as that of all scores."""

_Pairs = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""The rows and the columns of pairs, in ascending order."""


class TableSearch:
    """The search of the middle groups of an index.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        The score space of all items.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Where the items of each group begin, and where the last ones end. No group is empty.
    copied_work : float
        See `pyspark_knn.index.grouped.search.Thresholds`.
    table_scores : int, default=_TABLE_SCORES
        The number of scores of a table.
    crowded_pairs : int, default=_CROWDED_PAIRS
        The number of candidates of a group beyond `_CROWDED_CANDIDATES` of each query, from which
        on the group is crowded.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: ScoreSpace,
        starts: NDArray[np.int64],
        copied_work: float,
        *,
        table_scores: int = _TABLE_SCORES,
        crowded_pairs: int = _CROWDED_PAIRS,
    ) -> None:
        self._matrix = matrix
        self._space = space
        # Every search needs those of whole groups, which took a tenth of its time.
        self._terms, self._widths = _terms(space, starts)
        self._copied_work = copied_work
        self._table_scores = table_scores
        self._crowded_pairs = crowded_pairs
        first = matrix[:1]
        self._unchanged = space.vectors(first, slice(0, 1)) is first

    def search(
        self,
        queries: NDArray[np.floating],
        visits: Visits,
        distances: Distances,
        k: int | None,
        limit: float | None = None,
    ) -> Iterator[tuple[Lists, NDArray[np.int64]]]:
        """Search the groups of some visits.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        visits : Visits
            The queries and their groups, at least one.
        distances : callable
            Returns the distances of pairs, given the row numbers of the queries and of the items.
        k : int or None
            The number of neighbors of a visit; None: all within the limit.
        limit : float, optional
            The largest distance of interest, inclusive.

        Yields
        ------
        found : Lists
            The k nearest items of some visits, or all. At least those within the limit are there.
        crowded : ndarray of shape (n_crowded,), dtype int64
            Visits that have too many candidates and are not in `found`, as positions in `visits`.
        """
        few = self._have_few_pairs(visits)
        for copies in (True, False):
            part = np.flatnonzero(few == copies)
            if part.size:
                fill = self._fill_by_copies if copies else self._fill
                parts = self._search(queries, visits.take(part), distances, k, limit, fill)
                yield from ((found, part[crowded]) for found, crowded in parts)

    def _have_few_pairs(self, visits: Visits) -> NDArray[np.bool_]:
        """Return which visits are those of groups with few queries and items."""
        runs = visits.runs()
        counts = np.diff(runs)
        work = counts * visits.sizes[runs[:-1]] * (self._matrix.shape[1] + _PER_PAIR)
        return np.repeat(work < self._copied_work, counts)

    def _search(
        self,
        queries: NDArray[np.floating],
        visits: Visits,
        distances: Distances,
        k: int | None,
        limit: float | None,
        fill: Fill,
    ) -> Iterator[tuple[Lists, NDArray[np.int64]]]:
        blocks = self._blocks(visits.sizes)
        shapes = [(block.stop - block.start, visits.sizes[block.stop - 1]) for block in blocks]
        buffer = np.empty(max(rows * columns for rows, columns in shapes), np.float32)
        first, waiting = 0, list[_Pairs]()
        for block, shape in zip(blocks, shapes, strict=True):
            part = visits.take(block)
            table = buffer[: shape[0] * shape[1]].reshape(shape)
            rows, columns = self._candidates(queries[part.rows], part, k, limit, table, fill)
            waiting.append((rows + (block.start - first), columns))
            # Ranking takes a time of its own, however few the candidates are.
            if block is blocks[-1] or sum(len(each) for each, _ in waiting) >= _RANKED_PAIRS:
                part = visits.take(slice(first, block.stop))
                found, crowded = self._ranked(part, waiting, distances)
                yield found if k is None else found.nearest(k), crowded + first
                first, waiting = block.stop, []

    def _ranked(
        self, visits: Visits, candidates: list[_Pairs], distances: Distances
    ) -> tuple[Lists, NDArray[np.int64]]:
        """Return the distances of candidates, and the visits that have too many of them."""
        rows, columns = (np.concatenate(each) for each in zip(*candidates, strict=True))
        counts = np.bincount(rows, minlength=len(visits))
        crowded = np.zeros(0, np.int64)
        if len(rows) > self._crowded_pairs:
            many = self._crowded(visits, counts)
            crowded = np.flatnonzero(many)
            rows, columns = rows[~many[rows]], columns[~many[rows]]
            counts, visits = counts[~many], visits.take(np.flatnonzero(~many))
            rows = np.repeat(np.arange(len(visits)), counts)
        places = visits.starts[rows] + columns
        figures = distances(visits.rows[rows], places)
        return Lists(visits.numbers, counts, places, figures), crowded

    def _blocks(self, sizes: NDArray[np.int64]) -> list[slice]:
        """Divide visits, which are sorted by the sizes of their groups, into tables."""
        most = max(1, _QUERY_FLOATS // self._matrix.shape[1])
        classes = (np.log(sizes) / np.log(_SIZE_RATIO)).astype(np.int64)
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(classes)) + 1, [len(sizes)]])
        return [
            slice(start + part.start, start + part.stop)
            for start, stop in itertools.pairwise(bounds)
            for part in slices_of(sizes[start:stop], self._table_scores, most)
        ]

    def _crowded(self, visits: Visits, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the visits of groups with so many candidates that another search is faster."""
        runs = visits.runs()
        lengths = np.diff(runs)
        totals = np.add.reduceat(counts, runs[:-1])
        return np.repeat(totals > self._crowded_pairs + _CROWDED_CANDIDATES * lengths, lengths)

    def _candidates(
        self,
        queries: NDArray[np.floating],
        visits: Visits,
        k: int | None,
        limit: float | None,
        table: NDArray[np.float32],
        fill: Fill,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the items that cannot be ruled out: the visit, and the place within the group."""
        transformed = self._space.queries(queries)
        served = self._space.serves(transformed)
        widths = fill(table, transformed.vectors, visits)
        # All items of queries for which the bounds do not hold are candidates.
        columns = np.arange(table.shape[1])
        table[~served] = np.where(columns < visits.sizes[~served, None], 0.0, _EXCLUDED)
        table[tuple(visits.excluded)] = _EXCLUDED
        slack = self._space.slack(transformed, np.float32)
        least = np.full(len(table), -np.inf)
        if k is not None:
            least = _kth_largest(table, k) - widths - 2 * slack
        if limit is not None:
            within = self._space.least_scores(np.full(len(table), limit), transformed) - slack
            least = np.maximum(least, within)
        least[~served] = -np.inf
        with np.errstate(over="ignore"):
            below = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        # No threshold may be as low as the score of what is excluded.
        np.maximum(below, np.finfo(np.float32).min, out=below)
        return np.divmod(np.flatnonzero(table >= below[:, None]), len(columns))

    def _fill(
        self, table: NDArray[np.float32], vectors: NDArray[np.float64], visits: Visits
    ) -> NDArray[np.float64]:
        """Write the ceilings of the items of each visit; return the largest width of its group."""
        runs = visits.runs()
        groups = visits.groups[runs[:-1]]
        starts, sizes = visits.starts[runs[:-1]], visits.sizes[runs[:-1]]
        table[:, sizes[0] :] = _EXCLUDED
        # A group of more items than are multiplied at a time is several pieces.
        most = max(1, _ITEM_FLOATS // vectors.shape[1])
        n_pieces = -(-sizes // most)
        group = np.repeat(np.arange(len(sizes)), n_pieces)
        column = ranges(np.zeros_like(sizes), n_pieces) * most
        lengths = np.minimum(most, sizes[group] - column)
        begins = starts[group] + column
        # Lists, because a slice by numbers of numpy takes longer.
        pieces = (runs[group], runs[group + 1], column, column + lengths, begins, begins + lengths)
        places = zip(*(each.tolist() for each in pieces), strict=True)
        with np.errstate(over="ignore", invalid="ignore"):
            left = vectors.astype(np.float32)
            items = self._vectors(begins, lengths, most)
            for right, (first, last, left_end, right_end, start, stop) in zip(
                items, places, strict=True
            ):
                ceilings = table[first:last, left_end:right_end]
                np.matmul(left[first:last], right.T, out=ceilings)
                ceilings += self._terms[start:stop]
        return np.repeat(self._widths[groups], np.diff(runs))

    def _fill_by_copies(
        self, table: NDArray[np.float32], vectors: NDArray[np.float64], visits: Visits
    ) -> NDArray[np.float64]:
        """Do the same by one product for many visits, each with a copy of the items."""
        least, width = int(visits.sizes[0]), table.shape[1]
        columns = np.arange(width)
        step = max(1, _COPIED_FLOATS // (width * vectors.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            left = vectors.astype(np.float32)[:, :, None]
            for start in range(0, len(table), step):
                part = slice(start, start + step)
                # In place of items beyond the end of a group, its last one is multiplied.
                last = visits.sizes[part, None] - 1
                places = visits.starts[part, None] + np.minimum(columns, last)
                items = self._transformed(places.ravel()).reshape(*places.shape, -1)
                np.matmul(items, left[part], out=table[part, :, None])
                table[part] += self._terms.take(places)
        table[:, least:][columns[least:] >= visits.sizes[:, None]] = _EXCLUDED
        return self._widths[visits.groups]

    def _transformed(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of some items in the score space, in float32."""
        vectors = self._matrix.take(items, axis=0)
        if not self._unchanged:
            vectors = self._space.vectors(vectors, items)
        return vectors.astype(np.float32, copy=False)

    def _vectors(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], most: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the transformed items of each piece, for up to `most` items at a time."""
        if self._unchanged:
            for start, stop in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
                yield self._matrix[start:stop].astype(np.float32, copy=False)
            return
        for part in slices_of(lengths, most):
            vectors = self._transformed(ranges(starts[part], lengths[part]))
            ends = offsets_of(lengths[part])
            for first, last in itertools.pairwise(ends):
                yield vectors[first:last]


def _terms(
    space: ScoreSpace, starts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the term of each item, and the largest width of each group."""
    terms, widths = np.empty(starts[-1], np.float32), np.empty(len(starts) - 1)
    for part in slices_of(np.diff(starts), _TERMS):
        where = slice(starts[part.start], starts[part.stop])
        with np.errstate(over="ignore"):
            terms[where], each = space.terms(where, np.float32)
        widths[part] = np.maximum.reduceat(each, starts[part] - where.start)
    return terms, widths


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
