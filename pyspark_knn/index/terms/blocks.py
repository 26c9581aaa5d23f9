"""Sums of terms of queries and a block of items, feature by feature, and the pairs they leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.buffers import short_buffers
from pyspark_knn.index.extremes import about_kth_smallest
from pyspark_knn.index.terms.space import Operand, Pairs, TermSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion

GROUP_SUMS = 1 << 16
"""Sums of float32 that are computed at a time: 512 KiB with their terms, which stay in the cache.
More queries at a time make short calls longer, and a call for fewer takes longer by the pair."""

_SPARE = 2.0**-10
"""The share by which a distance that is estimated from a sum is enlarged. This is more than the
rounding of most sums, and few items are as near to the distance."""

_CHECK_FEATURES = 4
"""Features after which a partial sum is compared with the limit again."""

_PAIR_COST, _PAIR_FEATURE_COST = 200, 6
"""What a pair and one of its features cost, once it is compared by itself, in units of what a
feature of float32 costs in a block."""

_PAIR_FLOATS = 1 << 18
"""Coordinates of the pairs that are compared by themselves at a time."""

_UNSIGNED: dict[type[Any], type[Any]] = {np.bool_: np.uint8, np.int16: np.uint16}
"""Dtype of terms, none of which is negative -> the dtype without a sign."""

_Found = tuple["NDArray[np.int64]", "NDArray[np.int64]"]


class TermBlocks:
    """The pairs of a batch of queries and a block of items that sums of terms do not rule out.

    Sums grow feature by feature. Once few pairs of a group of queries are within their limits,
    these pairs are compared one by one.

    Parameters
    ----------
    space : TermSpace
        The terms, and the limits of their sums.
    queries : Operand
        The queries of the batch.
    """

    def __init__(self, space: TermSpace, queries: Operand) -> None:
        self._space = space
        self._queries = queries
        self._n_features = queries.values.shape[1]
        self._check = _CHECK_FEATURES
        # A block takes time by the byte, a pair by the number.
        per_word = max(1, 4 // np.dtype(space.dtype).itemsize)
        self._group_sums = per_word * GROUP_SUMS
        self._pair_cost = per_word * (_PAIR_COST + _PAIR_FEATURE_COST * self._n_features)
        self._buffers = (
            np.empty(self._group_sums, space.acc_dtype),
            np.empty(self._group_sums, space.dtype),
            np.empty(self._group_sums, space.dtype),
        )

    def tables(self, items: Operand) -> Iterator[tuple[slice, SumTable]]:
        """Yield the sums of all items of a block with a few queries at a time.

        Parameters
        ----------
        items : Operand
            The block of items.

        Yields
        ------
        where : slice
            Which queries of the batch.
        table : SumTable
            Their sums. Valid until the next ones.
        """
        columns = items.columns()
        for rows in self._groups(np.arange(len(self._queries.values)), len(items.values)):
            where = slice(int(rows[0]), int(rows[-1]) + 1)
            queries = self._queries.take(where)
            group, below = queries.columns(), None
            with short_buffers():
                sums = self._sums(columns, group, 0, self._n_features, None)
                if self._space.has_second:
                    below = self._all_second_sums(queries, items, columns, group)
            yield where, SumTable(self._space, queries, items, sums, below)

    def within(
        self, rows: NDArray[np.int64], distances: NDArray[np.float64], items: Operand
    ) -> Iterator[_Found]:
        """Yield pairs, among them all whose final figures are within the distances.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype int64
            Row numbers of queries.
        distances : ndarray of shape (n_rows,), dtype float64
            Final figures, at least 0.
        items : Operand
            The block of items.

        Yields
        ------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query of each pair, and that of the item in the block.
        """
        columns = items.columns()
        done = 0
        for part in self._groups(rows, len(items.values)):
            reach = distances[done : done + len(part)]
            done += len(part)
            with short_buffers():
                near, positions = self._group_within(part, reach, items, columns)
            yield part[near], positions

    def _groups(self, rows: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
        step = max(1, self._group_sums // width)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]

    def _group_within(
        self,
        rows: NDArray[np.int64],
        distances: NDArray[np.float64],
        items: Operand,
        columns: Operand,
    ) -> _Found:
        queries = self._queries.take(rows)
        group = queries.columns()
        limits = self._space.limits(distances, queries, items)
        sums, first = None, 0
        stop = min(self._check, self._n_features)
        while True:
            sums = self._sums(columns, group, first, stop, sums)
            near = sums <= limits
            left = self._n_features - stop
            cost = np.count_nonzero(near) * self._pair_cost
            if cost <= left * near.size or not left:
                break
            first, stop = stop, min(stop + _CHECK_FEATURES, self._n_features)
        # The next group is likely to need about as many features.
        self._check = max(_CHECK_FEATURES, stop - _CHECK_FEATURES)
        if not left and self._space.has_second and cost > self._n_features * near.size:
            below = self._all_second_sums(queries, items, columns, group)
            norms = queries.norms[:, None] + float(items.norms.max())
            near &= sums <= self._space.second_limits(distances[:, None], below, norms)
            return np.divmod(np.flatnonzero(near), near.shape[1])
        at = np.flatnonzero(near)
        found = np.divmod(at, near.shape[1])
        if left or self._space.has_second:
            limits = np.broadcast_to(limits, near.shape)[found]
            kept = self._kept(found, distances, limits, queries, items)
            return found[0][kept], found[1][kept]
        return found

    def _kept(
        self,
        found: _Found,
        distances: NDArray[np.float64],
        limits: NDArray[Any],
        queries: Operand,
        items: Operand,
    ) -> NDArray[np.bool_]:
        """Return which pairs have sums, of all features, that are within the limits."""
        kept = np.empty(len(limits), bool)
        step = max(1, _PAIR_FLOATS // self._n_features)
        for start in range(0, len(limits), step):
            part = slice(start, start + step)
            rows = found[0][part]
            one, other = items.take(found[1][part]), queries.take(rows)
            pairs = Pairs(one.values, one.sizes, other.values, other.sizes)
            terms = np.empty(pairs.left.shape, self._space.dtype)
            self._space.terms(pairs, terms, np.empty_like(terms))
            sums, most = self._combined(terms), limits[part]
            if self._space.has_second:
                self._space.second_terms(pairs, terms)
                norms = one.norms + other.norms
                most = self._space.second_limits(distances[rows], self._combined(terms), norms)
            kept[part] = sums <= most
        return kept

    def _combined(self, terms: NDArray[Any]) -> NDArray[Any]:
        if terms.dtype == np.bool_:
            counts: NDArray[Any] = np.count_nonzero(terms, axis=1)
            return counts
        combined: NDArray[Any] = self._space.combine.reduce(terms, axis=1)
        return combined

    def _sums(
        self,
        columns: Operand,
        group: Operand,
        first: int,
        stop: int,
        sums: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """Add the terms of some features to the sums of a group of queries."""
        shape = group.values.shape[1], columns.values.shape[1]
        total, terms, spare = (each[: shape[0] * shape[1]].reshape(shape) for each in self._buffers)
        # Terms of bytes are added as numbers, and those of whole numbers without their sign.
        added = terms.view(_UNSIGNED.get(self._space.dtype, self._space.dtype))
        combine, compute = self._space.combine, self._space.terms
        if sums is None and total.dtype == added.dtype:
            compute(_feature(columns, group, first), total.view(terms.dtype), spare)
            first += 1
        elif sums is None:
            total.fill(0)
        for feature in range(first, stop):
            compute(_feature(columns, group, feature), terms, spare)
            combine(total, added, out=total)
        return total

    def _all_second_sums(
        self, queries: Operand, items: Operand, columns: Operand, group: Operand
    ) -> NDArray[Any]:
        """Return the second sums of a group of queries, by the norms if these are enough."""
        known = self._space.second_of_norms(queries, items)
        if known is not None:
            return known
        shape = group.values.shape[1], columns.values.shape[1]
        _, terms, spare = (each[: shape[0] * shape[1]].reshape(shape) for each in self._buffers)
        spare.fill(0)
        for feature in range(self._n_features):
            self._space.second_terms(_feature(columns, group, feature), terms)
            np.add(spare, terms, out=spare)
        return spare


class SumTable:
    """The sums of all pairs of a few queries and a block of items.

    Parameters
    ----------
    space : TermSpace
        The terms, and the limits of their sums.
    queries, items : Operand
        The queries and the items.
    sums : ndarray of shape (n_queries, n_items)
        The sums.
    below : ndarray of shape (n_queries, n_items) or None
        The second sums, for a metric that has them.
    """

    def __init__(
        self,
        space: TermSpace,
        queries: Operand,
        items: Operand,
        sums: NDArray[Any],
        below: NDArray[Any] | None,
    ) -> None:
        self._space = space
        self._queries = queries
        self._items = items
        self._sums = sums
        self._below = below
        self._excluded: Exclusion | None = None

    def exclude(self, pairs: Exclusion | None) -> None:
        """Remove some pairs of a query and an item."""
        if pairs is not None:
            kind = self._sums.dtype
            self._sums[pairs] = np.inf if kind.kind == "f" else np.iinfo(kind).max
            self._excluded = pairs

    def about_kth(self, k: int) -> NDArray[np.float64]:
        """Return final figures that about k items of each query do not exceed, or some more.

        Parameters
        ----------
        k : int
            The number of items; at most all.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The figures, a little enlarged for the rounding of the sums.
        """
        ratios = self._sums
        if self._below is not None:
            # Not 0, so that 0/0 counts as 0. A sum above 0 may overflow: infinity is right then.
            with np.errstate(over="ignore"):
                ratios = ratios / (self._below + np.finfo(ratios.dtype).tiny)
        figures = self._space.figures(about_kth_smallest(ratios, k))
        return figures * (1.0 + _SPARE)

    def within(self, distances: NDArray[np.float64]) -> _Found:
        """Return pairs, among them all whose final figures are within the distances.

        Parameters
        ----------
        distances : ndarray of shape (n_queries,), dtype float64
            Final figures; negative ones have no pairs.

        Returns
        -------
        rows, positions : ndarray of shape (n_pairs,), dtype int64
            The row number of the query of each pair, and that of the item.
        """
        reach = np.maximum(distances, 0.0)
        if self._below is None:
            limits = self._space.limits(reach, self._queries, self._items)
        else:
            norms = self._queries.norms[:, None] + float(self._items.norms.max())
            limits = self._space.second_limits(reach[:, None], self._below, norms)
        near = self._sums <= limits
        near[distances < 0] = False
        if self._excluded is not None:
            near[self._excluded] = False
        return np.divmod(np.flatnonzero(near), near.shape[1])


def _feature(columns: Operand, group: Operand, feature: int) -> Pairs:
    return Pairs(
        columns.values[feature],
        columns.sizes[feature],
        group.values[feature][:, None],
        group.sizes[feature][:, None],
    )
