"""Merge items that are sorted already with new ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_knn.engine.fit.chunks import placed
from pyspark_knn.engine.fit.counted import Gathered, arranged
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.index.found import storage_of
from pyspark_knn.index.sparse.rows import SparseRows, slices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.fit.source import ItemSource
    from pyspark_knn.index.found import Rows

_PART_VALUES = 1 << 22
"""Stored values of sparse vectors that are copied at a time."""


def merge_items(
    old: Gathered, new: Gathered, source: ItemSource
) -> tuple[Gathered, NDArray[np.int64]]:
    """Return the items of a fit of the old and the new items.

    Parameters
    ----------
    old, new : Gathered
        Items with the same columns and in the same storage, sorted by `source.sort_by`.
    source : ItemSource
        What was read of the new items.

    Returns
    -------
    gathered : Gathered
        All items, with vectors of the wider type of both. The old vectors are copied once. Without
        ids, the new items come after the old ones.
    places : ndarray of shape (n_old_items,), dtype int64
        The row of its matrix for each row of the old one.
    """
    count = old.items.count + new.items.count
    table = None
    if old.items.columns:
        first = pa.table(dict(old.items.columns))
        table = pa.concat_tables([first, pa.table(dict(new.items.columns)).cast(first.schema)])
    # As of a fit: of equal items the old one comes first.
    items, groups, place = arranged(table, count, source)
    rows = np.concatenate([_positions(old), old.items.count + _positions(new)])
    parts = (part for matrix in (old.matrix, new.matrix) for part in _parts(matrix))
    dtype = np.result_type(old.matrix.dtype, new.matrix.dtype)
    storage, dim = storage_of(old.matrix), old.matrix.shape[1]
    matrix = placed(parts, place[rows], dim, dtype, storage)
    return Gathered(items, matrix, groups), place[rows[: old.items.count]]


def without_items(gathered: Gathered, removed: NDArray[np.int64], keys: Sequence[str]) -> Gathered:
    """Return items without some of them.

    Parameters
    ----------
    gathered : Gathered
        The items.
    removed : ndarray, dtype int64
        The positions of the items to remove.
    keys : sequence of str
        The item columns of keys.

    Returns
    -------
    Gathered
        The others, at least one, in the same order.
    """
    kept = np.ones(gathered.items.count, dtype=bool)
    kept[removed] = False
    rows = pa.array(np.flatnonzero(kept))
    columns = {name: each.take(rows) for name, each in gathered.items.columns.items()}
    items = Items(len(rows), columns)
    groups = Groups.of(items, keys) if keys else None
    # Groups are numbered in the order of their keys, with or without the removed items.
    return Gathered(items, gathered.matrix[kept[_positions(gathered)]], groups)


def with_numbers(
    items: Items, numbers: Mapping[str, NDArray[np.float64]], keys: Sequence[str]
) -> Items:
    """Return items with further columns of numbers, or other values of such columns.

    Parameters
    ----------
    items : Items
        The items.
    numbers : mapping of str to ndarray of shape (n_items,), dtype float64
        The columns.
    keys : sequence of str
        The item columns of keys, which stay the last ones.

    Returns
    -------
    Items
        The items, in the same order.
    """
    columns = {name: each for name, each in items.columns.items() if name not in keys}
    columns |= {name: pa.array(each) for name, each in numbers.items()}
    return Items(items.count, columns | {name: items.columns[name] for name in keys})


def order_of(items: Items) -> NDArray[np.int64]:
    """Return the positions of items in the order of their columns, as a fit sorts them."""
    table = pa.table(dict(items.columns))
    order = pc.sort_indices(table, [(name, "ascending") for name in table.column_names])
    return np.asarray(order.to_numpy(), np.int64)


def row_bytes(matrix: Rows) -> NDArray[Any]:
    """Return the bytes of each row, which have some order."""
    if isinstance(matrix, np.ndarray):
        return matrix.view(np.dtype((np.void, matrix.strides[0]))).ravel()
    result = np.empty(len(matrix), object)
    for number in range(len(matrix)):
        row = matrix[number : number + 1].compact()
        result[number] = row.indices.tobytes() + row.data.tobytes()
    return result


def reordered(gathered: Gathered, keys: Sequence[str]) -> Gathered:
    """Return items in the order of their columns and, if these are equal, of their vectors.

    The items of a shard are in this order, too.

    Parameters
    ----------
    gathered : Gathered
        The items.
    keys : sequence of str
        The item columns of keys.

    Returns
    -------
    Gathered
        A copy of the items.
    """
    ranks = np.empty(gathered.items.count, np.int64)
    by_vector = np.argsort(row_bytes(gathered.matrix), kind="stable")
    ranks[_positions(gathered)[by_vector]] = np.arange(len(ranks))
    columns = {**gathered.items.columns, " ": pa.array(ranks)}
    order = order_of(Items(gathered.items.count, columns))
    rows = pa.array(order)
    columns = {name: each.take(rows) for name, each in gathered.items.columns.items()}
    items = Items(len(rows), columns)
    groups = Groups.of(items, keys) if keys else None
    place = np.empty(len(order), np.int64)
    place[_positions(gathered)] = np.arange(len(order))
    positions = order if groups is None else order[groups.positions]
    return Gathered(items, gathered.matrix[place[positions]], groups)


def _positions(gathered: Gathered) -> NDArray[np.int64]:
    """Return the position of the item of each row of the matrix."""
    if gathered.groups is not None:
        return gathered.groups.positions
    return np.arange(gathered.items.count)


def _parts(matrix: Rows) -> Iterator[Rows]:
    """Yield the rows in parts: of sparse rows, the places of all values are computed at once."""
    if not isinstance(matrix, SparseRows):
        yield matrix
        return
    for rows in slices_of(matrix.lengths, _PART_VALUES):
        yield matrix[rows]
