"""Merge items that are sorted already with new ones. Independent of Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_knn.engine.fit.chunks import placed
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.index.base import storage_of
from pyspark_knn.index.sparse.rows import SparseRows, slices_of

if TYPE_CHECKING:
    from pyspark_knn.index.base import Rows

_PART_VALUES = 1 << 22
"""Stored values of sparse vectors that are copied at a time."""


def merge_items(
    old: tuple[Items, Rows], new: tuple[Items, Rows], sort_by: Sequence[str]
) -> tuple[Items, Rows]:
    """Return the items and vectors of a fit of the old and the new items.

    Parameters
    ----------
    old, new : (Items, ndarray or SparseRows of shape (n_items, n_features))
        Items and their vectors, with the same columns and the same storage. The old ones are in the
        order of `sort_by`.
    sort_by : sequence of str
        The columns that the items are sorted by, see `ItemSource.sort_by`; empty to put the new
        items after the old ones.

    Returns
    -------
    items : Items
        All items.
    matrix : ndarray or SparseRows of shape (n_items, n_features)
        Their vectors in the same order, in the wider type of both. The old vectors are copied once.
    """
    count = old[0].count + new[0].count
    place = np.arange(count)
    columns: Mapping[str, pa.Array] = {}
    if old[0].columns:
        first = pa.table(dict(old[0].columns))
        table = pa.concat_tables([first, pa.table(dict(new[0].columns)).cast(first.schema)])
        if sort_by:
            # A stable sort, as of a fit: of equal items the old one comes first.
            order = pc.sort_indices(table, [(name, "ascending") for name in sort_by])
            table = table.take(order)
            place[order.to_numpy()] = np.arange(count)
        columns = Items.from_table(table).columns
    parts = (part for _, matrix in (old, new) for part in _parts(matrix))
    dtype = np.result_type(old[1].dtype, new[1].dtype)
    matrix = placed(parts, place, old[1].shape[1], dtype, storage_of(old[1]))
    return Items(count, columns), matrix


def _parts(matrix: Rows) -> Iterator[Rows]:
    """Yield the rows in parts: of sparse rows, the places of all values are computed at once."""
    if not isinstance(matrix, SparseRows):
        yield matrix
        return
    for rows in slices_of(matrix.lengths, _PART_VALUES):
        yield matrix[rows]
