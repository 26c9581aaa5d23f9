"""The items beside their vectors: what the index's positions stand for. No Spark in here."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Items:
    """All about the items except their vectors, in the order of the index's matrix.

    Attributes
    ----------
    count : int
        How many there are.
    ids : pyarrow.Array or None
        Ascending, as they travel (see `columns.to_wire`); None where positions stand for ids.
    labels, weights : ndarray of shape (count,), dtype float64, or None
        What classification and regression need.
    """

    count: int
    ids: pa.Array | None
    labels: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None

    def known_labels(self) -> NDArray[np.float64]:
        """The labels of items that must have them."""
        if self.labels is None:
            raise ValueError("these items have no labels")
        return self.labels

    def take_ids(self, positions: NDArray[np.int64]) -> pa.Array:
        """The ids at `positions`."""
        wanted = pa.array(positions)
        return wanted if self.ids is None else self.ids.take(wanted)

    def positions_of(self, wanted: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where `wanted` ids stand.

        Parameters
        ----------
        wanted : pyarrow.Array
            Ids, of the type of `ids`, no nulls.

        Returns
        -------
        which, positions : ndarray of shape (n_found,), dtype int64
            ``wanted[which[i]]`` is the id of the item at ``positions[i]``. Duplicate ids are all
            found, unknown ones are left out.
        """
        if self.ids is None:
            positions = wanted.to_numpy()
            which = np.flatnonzero((positions >= 0) & (positions < self.count))
            return which, positions[which]
        if pa.types.is_integer(self.ids.type) or pa.types.is_floating(self.ids.type):
            # To numpy as to Spark, but not to Arrow, 0.0 is -0.0 and NaN is NaN.
            known = self.ids.to_numpy()
            value = wanted.to_numpy()
            first = np.searchsorted(known, value, side="left")
            behind = np.searchsorted(known, value, side="right")
        else:
            found = pc.index_in(wanted, value_set=self.ids).fill_null(-1).to_numpy()
            first = found.astype(np.int64)
            behind = np.where(first >= 0, self._run_ends[first], first)
        copies = behind - first
        which = np.repeat(np.arange(len(wanted)), copies)
        within = np.arange(len(which)) - np.repeat(np.cumsum(copies) - copies, copies)
        return which, first[which] + within

    @functools.cached_property
    def _run_ends(self) -> NDArray[np.int64]:
        """For each position, the position behind the last item of the same id."""
        ends = np.append(np.flatnonzero(~_repeats(self.ids)) + 1, self.count)
        starts = np.append(0, ends[:-1])
        return np.repeat(ends, ends - starts)

    def duplicates(self) -> int:
        """How many items have the id of an item before them."""
        return 0 if self.ids is None else int(_repeats(self.ids).sum())


def _repeats(ids: pa.Array) -> NDArray[np.bool_]:
    """Whether each id but the first equals the one before it; a NaN does, as in Spark."""
    if pa.types.is_floating(ids.type):
        values: NDArray[np.floating] = ids.to_numpy()
        both_nan = np.isnan(values[1:]) & np.isnan(values[:-1])
        repeated: NDArray[np.bool_] = (values[1:] == values[:-1]) | both_nan
        return repeated
    same: NDArray[np.bool_] = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return same.astype(bool)
