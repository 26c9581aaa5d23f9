"""Several batches of queries as one, where a search of more queries at a time takes less for each.

Independent of Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pyspark_knn.index.found import DENSE
from pyspark_knn.index.grouped.index import GroupedIndex

if TYPE_CHECKING:
    from pyspark_knn.engine.search.searchable import Searchable

    Batch = tuple[pa.Array, ...]


_QUERIES_PER_GROUP = 64
"""With more queries of each group at a time, a query takes no less time."""

_PRODUCTS_AT_ONCE = 1 << 32
"""Products of two numbers in a search of several batches of queries: a second or two."""


def queries_at_once(searchable: Searchable) -> int:
    """Return how many queries to search at a time, if batches of queries are smaller.

    The items of a group are read once for all its queries. Without keys, Spark's batches are large
    enough. Groups that take long for each query are searched sooner, so that the first answers do
    not wait for many queries.

    Parameters
    ----------
    searchable : Searchable
        What is searched.

    Returns
    -------
    int
        The number of queries, at least 1.
    """
    index = searchable.index
    if not isinstance(index, GroupedIndex) or index.storage != DENSE:
        return 1
    sizes = index.sizes.astype(np.float64)
    products = index.n_features * (sizes @ sizes) / sizes.sum()
    return max(1, min(_QUERIES_PER_GROUP * index.n_groups, int(_PRODUCTS_AT_ONCE / products)))


def gathered(batches: Iterator[Batch], most: int) -> Iterator[Batch]:
    """Join batches that follow one another, so that each has up to `most` rows.

    Parameters
    ----------
    batches : iterator of tuples of pyarrow.Array
        Batches with the same columns, at least one.
    most : int
        The largest number of rows of what is joined. A batch that has more stays as it is.

    Yields
    ------
    tuple of pyarrow.Array
        The same rows in the same order.
    """
    waiting: list[Batch] = []
    rows = 0
    for batch in batches:
        if waiting and rows + len(batch[0]) > most:
            yield _joined(waiting)
            waiting, rows = [], 0
        waiting.append(batch)
        rows += len(batch[0])
        if rows >= most:
            yield _joined(waiting)
            waiting, rows = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return tuple(pa.concat_arrays(column) for column in zip(*batches, strict=True))
