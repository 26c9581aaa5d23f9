"""Index items, with or without keys: on the driver, or in a worker that builds a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.index.choices import SharedChoice
from pyspark_knn.index.grouped.index import GroupedIndex

if TYPE_CHECKING:
    from pyspark_knn.engine.rows.items import Items
    from pyspark_knn.engine.rows.keys import Groups
    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.found import Rows


def index_items(
    items: Items,
    matrix: Rows,
    groups: Groups | None,
    spec: IndexSpec,
    choice: SharedChoice | None = None,
) -> tuple[Searchable, str]:
    """Index the vectors of items.

    Parameters
    ----------
    items : Items
        The items without their vectors.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        Their vectors: in the order of `groups` if there are keys, else in the order of `items`.
    groups : Groups or None
        The groups of items with equal keys; None if there are no keys.
    spec : IndexSpec
        How to index them.
    choice : SharedChoice, optional
        What was tried out for the vectors of similar items.

    Returns
    -------
    searchable : Searchable
        The items and their index.
    reason : str
        Why the index has its algorithm, one sentence.

    Raises
    ------
    ValueError
        See `build_index`.
    """
    if groups is None:
        index, reason = (choice or SharedChoice()).build(matrix, spec)
        return Searchable(items, index), reason
    grouped, reason = GroupedIndex.build(matrix, groups.positions, groups.starts, spec)
    return Searchable(items, grouped, groups.keys), reason
