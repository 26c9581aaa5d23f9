"""The groups of items with equal keys, and those of queries. Independent of Spark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_knn.index.sparse.rows import ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.rows.items import Items


@dataclass(frozen=True)
class Groups:
    """Items divided into groups of equal keys.

    Attributes
    ----------
    keys : Keys
        Finds the group of a key.
    positions : ndarray of shape (n_items,), dtype int64
        The positions of the items, those of each group in ascending order, one group after another.
    starts : ndarray of shape (n_groups + 1,), dtype int64
        Group g consists of the items ``positions[starts[g]:starts[g + 1]]``.
    """

    keys: Keys
    positions: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, items: Items, names: Sequence[str]) -> Groups:
        """Divide items into groups.

        Parameters
        ----------
        items : Items
            The items, at least one.
        names : sequence of str
            Their columns of keys.
        """
        keys, numbers = Keys.of([items.columns[name] for name in names])
        positions = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers)
        return cls(keys, positions, np.append(0, np.cumsum(counts)))

    @property
    def rows(self) -> NDArray[np.int64]:
        """The place of each item among `positions`: ndarray of shape (n_items,), dtype int64."""
        rows = np.empty_like(self.positions)
        rows[self.positions] = np.arange(len(rows))
        return rows


@dataclass(frozen=True)
class Keys:
    """The keys of groups.

    A key is made of columns. Each value is replaced by its number among the distinct values of its
    column, and these numbers are combined column by column.

    Attributes
    ----------
    values : list of pyarrow.Array
        The distinct values of each column, in ascending order.
    combined : list of ndarray, dtype int64
        For each column, the combinations of numbers up to this column that occur, in ascending
        order: the number of the combination before it, times the number of distinct values, plus
        the number of the value. The place of a combination of all columns is its group.
    """

    values: list[pa.Array]
    combined: list[NDArray[np.int64]]

    @classmethod
    def of(cls, columns: Sequence[pa.Array]) -> tuple[Keys, NDArray[np.int64]]:
        """Return the keys in some columns, and the group of each row.

        Parameters
        ----------
        columns : sequence of pyarrow.Array
            The columns, without nulls.

        Returns
        -------
        keys : Keys
            The keys.
        groups : ndarray of shape (n_rows,), dtype int64
            The groups, numbered from 0 in the order of their keys.
        """
        values: list[pa.Array] = []
        combined: list[NDArray[np.int64]] = []
        groups: NDArray[np.int64] = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            distinct = pc.unique(column)
            distinct = distinct.take(pc.sort_indices(distinct))
            values.append(distinct)
            found, groups = np.unique(
                groups * len(distinct) + _places(distinct, column), return_inverse=True
            )
            combined.append(found)
        return cls(values, combined), groups.reshape(-1)

    def groups_of(self, columns: Sequence[pa.Array]) -> NDArray[np.int64]:
        """Return the groups of keys.

        Parameters
        ----------
        columns : sequence of pyarrow.Array
            The columns of the keys, in the types of `values`.

        Returns
        -------
        ndarray of shape (n_rows,), dtype int64
            The group; -1 for a key of no group, and for one with a null.
        """
        groups: NDArray[np.int64] = np.zeros(len(columns[0]), np.int64)
        for column, distinct, found in zip(columns, self.values, self.combined, strict=True):
            groups = _combined(groups, _places(distinct, column), distinct, found)
        return groups

    def of_queries(
        self, columns: Sequence[pa.Array]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the groups of queries.

        Parameters
        ----------
        columns : sequence of pyarrow.Array
            The columns of the keys: values of the types of `values`, or lists of them, of which
            each combination is a key.

        Returns
        -------
        rows, groups : ndarray of shape (n_pairs,), dtype int64
            Query ``rows[i]`` belongs to group ``groups[i]``. Rows are in ascending order. A query
            may belong to none, and those with lists to several. No pair occurs twice.
        """
        if not pa.types.is_list(columns[0].type):
            groups = self.groups_of(columns)
            rows = np.flatnonzero(groups >= 0)
            return rows, groups[rows]
        rows, groups = np.arange(len(columns[0])), np.zeros(len(columns[0]), np.int64)
        for column, distinct, found in zip(columns, self.values, self.combined, strict=True):
            lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            starts = np.cumsum(lengths, dtype=np.int64) - lengths
            elements = ranges(starts[rows], lengths[rows])
            groups, rows = np.repeat(groups, lengths[rows]), np.repeat(rows, lengths[rows])
            groups = _combined(
                groups, _places(distinct, column.flatten())[elements], distinct, found
            )
            rows, groups = rows[groups >= 0], groups[groups >= 0]
        pairs = np.unique(np.stack([rows, groups]), axis=1)
        return pairs[0], pairs[1]

    def key(self, group: int) -> tuple[object, ...]:
        """Return the key of a group: one value for each column, as Arrow represents it."""
        parts: list[object] = []
        for distinct, found in zip(reversed(self.values), reversed(self.combined), strict=True):
            group, place = divmod(int(found[group]), len(distinct))
            parts.append(distinct[place].as_py())
        return tuple(reversed(parts))


def _combined(
    groups: NDArray[np.int64],
    places: NDArray[np.int64],
    distinct: pa.Array,
    found: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the numbers of combinations with one more column; -1 for those that do not occur."""
    codes = groups * len(distinct) + places
    if found[-1] == len(found) - 1:
        # All combinations occur, such as those of a single column: each is its own place.
        return np.where((groups >= 0) & (places >= 0) & (codes < len(found)), codes, -1)
    at = np.minimum(np.searchsorted(found, codes), len(found) - 1)
    return np.where((groups >= 0) & (places >= 0) & (found[at] == codes), at, -1)


def _places(distinct: pa.Array, values: pa.Array) -> NDArray[np.int64]:
    """Return the place of each value among distinct ones; -1 for others, and for nulls."""
    if pa.types.is_integer(distinct.type):
        # Several times as fast as the hash table, which Arrow builds in each call.
        known = distinct.to_numpy()
        given = values.fill_null(0).to_numpy(zero_copy_only=False)
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        if int(known[-1]) - int(known[0]) == len(known) - 1:
            # Numbers without gaps need no search; beyond them, the differences may overflow.
            inside = valid & (given >= known[0]) & (given <= known[-1])
            return np.where(inside, given.astype(np.int64) - int(known[0]), -1)
        at = np.minimum(np.searchsorted(known, given), len(known) - 1)
        return np.where((known[at] == given) & valid, at, -1)
    places = pc.index_in(values, value_set=distinct, skip_nulls=True).fill_null(-1)
    found: NDArray[np.int64] = places.to_numpy(zero_copy_only=False).astype(np.int64)
    return found
