"""Several batches of queries as one, where a search of more queries at a time takes less for each.

Independent of Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark_knn.engine.search.searchable import Searchable

    Batch = tuple[pa.Array, ...]


_MOST_QUERIES = 40_000
"""With more queries in all, a query takes hardly less time, and the answers more memory."""

_MOST_BYTES = 64 << 20
"""The largest size of batches that are joined: ids to exclude may be larger than vectors."""


def queries_at_once(searchable: Searchable) -> int:
    """Return how many queries to search at a time, if batches of queries are smaller.

    Parameters
    ----------
    searchable : Searchable
        What is searched.

    Returns
    -------
    int
        The number of queries, at least 1.
    """
    return max(1, min(searchable.index.queries_at_once, _MOST_QUERIES))


def gathered(batches: Iterator[Batch], most: int, most_bytes: int = _MOST_BYTES) -> Iterator[Batch]:
    """Join batches that follow one another, so that each has up to `most` rows.

    Parameters
    ----------
    batches : iterator of tuples of pyarrow.Array
        Batches with the same columns, at least one.
    most, most_bytes : int
        The largest number of rows, and the largest size, of what is joined. A batch that has more
        stays as it is.

    Yields
    ------
    tuple of pyarrow.Array
        The same rows in the same order.
    """
    waiting: list[Batch] = []
    rows = size = 0
    for batch in batches:
        added = sum(column.nbytes for column in batch)
        if waiting and (rows + len(batch[0]) > most or size + added > most_bytes):
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
        waiting.append(batch)
        rows, size = rows + len(batch[0]), size + added
        if rows >= most or size >= most_bytes:
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return tuple(pa.concat_arrays(column) for column in zip(*batches, strict=True))
