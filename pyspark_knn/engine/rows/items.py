"""The items without their vectors, by their positions in an index. Independent of Spark."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NUMBER = "number"
"""The column that tells items apart even if they have the same id, see `Items.numbered`."""


@dataclass(frozen=True)
class Items:
    """The items without their vectors, in the order of the index's matrix.

    Everything that an item has in addition to its vector is a column, with one name from the fit
    to the answer: see `pyspark_knn.engine.fit.item_columns.ItemColumn`.

    Attributes
    ----------
    count : int
        The number of items.
    columns : dict of str to pyarrow.Array of length count
        Without nulls. "id", in the type that ids have in Python (see `ids.to_wire`) and in
        ascending order; it is missing if the positions are the ids.
    """

    count: int
    columns: Mapping[str, pa.Array]

    @classmethod
    def from_table(cls, table: pa.Table) -> Items:
        """Return items that have the columns of a table."""
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        return cls(table.num_rows, columns)

    @property
    def ids(self) -> pa.Array | None:
        """The ids; None if the positions are the ids."""
        return self.columns.get("id")

    def numbered(self, first: int) -> Items:
        """Return the items with their numbers, which start at `first`, as the column `NUMBER`."""
        numbers = pa.array(np.arange(first, first + self.count))
        return Items(self.count, {**self.columns, NUMBER: numbers})

    def take(self, name: str, positions: NDArray[np.int64]) -> pa.Array:
        """Return the column `name` at `positions`.

        Parameters
        ----------
        name : str
            "id" works for items without ids too: their positions are their ids.
        positions : ndarray of shape (n_rows,), dtype int64
            Row numbers in the item matrix.
        """
        wanted = pa.array(positions)
        if name == "id" and self.ids is None:
            return wanted
        return self._known(name).take(wanted)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return the column `name`, whose type is double, as an array of shape (count,)."""
        numbers: NDArray[np.float64] = self._known(name).to_numpy()
        return numbers

    def _known(self, name: str) -> pa.Array:
        if name not in self.columns:
            raise ValueError(f"items column {name!r} does not exist. Columns: {list(self.columns)}")
        return self.columns[name]

    def positions_of(self, wanted: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions of the items that have the `wanted` ids.

        Parameters
        ----------
        wanted : pyarrow.Array of shape (n_wanted,)
            Ids in the type of `ids`, without nulls.

        Returns
        -------
        which, positions : ndarray of shape (n_found,), dtype int64
            The item at ``positions[i]`` has the id ``wanted[which[i]]``. An id that several items
            have is returned once for each of them, an unknown one not at all.
        """
        if self.ids is None:
            positions = wanted.to_numpy()
            which = np.flatnonzero((positions >= 0) & (positions < self.count))
            return which, positions[which]
        if pa.types.is_integer(self.ids.type) or pa.types.is_floating(self.ids.type):
            # numpy and Spark treat 0.0 and -0.0 as equal, and NaN and NaN; Arrow does not.
            known = self.ids.to_numpy()
            value = wanted.to_numpy()
            first = np.searchsorted(known, value, side="left")
            behind = np.searchsorted(known, value, side="right")
        elif len(wanted) < self.count:
            first, behind = self._extents_of_few(wanted)
        else:
            found = pc.index_in(wanted, value_set=self.ids).fill_null(-1).to_numpy()
            first = found.astype(np.int64)
            behind = np.where(first >= 0, self._run_ends[first], first)
        copies = behind - first
        which = np.repeat(np.arange(len(wanted)), copies)
        within = np.arange(len(which)) - np.repeat(np.cumsum(copies) - copies, copies)
        return which, first[which] + within

    def _extents_of_few(self, wanted: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the items that have each wanted id begin, and where they end."""
        # All items are looked up in a hash table of the wanted ids. A table of all items, in which
        # the wanted ids are looked up, takes up to ten times as long to make.
        encoded = wanted.dictionary_encode()
        ids = self._known("id")
        known = pc.is_in(ids, value_set=encoded.dictionary)
        places = np.flatnonzero(known.to_numpy(zero_copy_only=False))
        codes = pc.index_in(ids.take(pa.array(places)), value_set=encoded.dictionary)
        code = codes.to_numpy()
        counts = np.bincount(code, minlength=len(encoded.dictionary))
        # Items with equal ids follow one another.
        begins = np.flatnonzero(np.diff(code, prepend=-1))
        firsts = np.zeros(len(counts), np.int64)
        firsts[code[begins]] = places[begins]
        which = encoded.indices.to_numpy()
        return firsts[which], (firsts + counts)[which]

    @functools.cached_property
    def _run_ends(self) -> NDArray[np.int64]:
        """The end of each item's run of equal ids: ndarray of shape (count,), dtype int64."""
        ends = np.append(np.flatnonzero(~_repeats(self.ids)) + 1, self.count)
        starts = np.append(0, ends[:-1])
        return np.repeat(ends, ends - starts)

    def duplicates(self) -> int:
        """Return how many items have the same id as an item before them."""
        return 0 if self.ids is None else int(_repeats(self.ids).sum())


def _repeats(ids: pa.Array) -> NDArray[np.bool_]:
    """Whether each id but the first equals the one before it; NaN equals NaN, as in Spark."""
    if pa.types.is_floating(ids.type):
        values: NDArray[np.floating] = ids.to_numpy()
        both_nan = np.isnan(values[1:]) & np.isnan(values[:-1])
        repeated: NDArray[np.bool_] = (values[1:] == values[:-1]) | both_nan
        return repeated
    same: NDArray[np.bool_] = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return same.astype(bool)
