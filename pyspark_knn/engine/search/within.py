"""The search for all items within a distance, whose number is not known beforehand, in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.index.found import Found
from pyspark_knn.index.selection import exclusion_of_rows

if TYPE_CHECKING:
    from pyspark_knn.engine.rows.items import Items
    from pyspark_knn.engine.search.answers import Answer
    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.found import Exclusion
    from pyspark_knn.index.grouped.index import GroupedIndex

ROW_NEIGHBORS = 1 << 24
"""The largest number of neighbors in one row, of which a list of distances takes 128 MiB."""

_GROWTH = 4
"""More queries are searched at a time if they may have this many times as many neighbors."""


def found_within(
    index: NeighborIndex | GroupedIndex,
    queries: Any,
    max_distance: float,
    *,
    exclude: Exclusion | None = None,
    after: NDArray[np.int64] | None = None,
    most: int,
) -> Iterator[Found]:
    """Search queries for all items within a distance, part by part.

    Parameters
    ----------
    index : NeighborIndex or GroupedIndex
        The index.
    queries : ndarray, SparseRows or GroupQueries of length n_queries
        The queries, as the index takes them.
    max_distance : float
        The largest distance, inclusive.
    exclude : Exclusion, optional
        Pairs that must not be returned.
    after : ndarray of shape (n_queries,), dtype int64, optional
        See `NeighborIndex.within`.
    most : int
        The largest number of neighbors of a part, unless one query has more.

    Yields
    ------
    Found
        The neighbors of the next queries; at least one part, which may be empty.
    """
    start, size = 0, max(1, len(queries))
    while start < max(1, len(queries)):
        stop = min(start + size, len(queries))
        found = index.within(
            queries[start:stop],
            max_distance,
            exclude=exclusion_of_rows(exclude, start, stop),
            after=None if after is None else after[start:stop],
            most=most,
        )
        if found is None:
            size = max(1, (stop - start) // 2)
            continue
        yield found
        start = max(1, stop)
        if _GROWTH * len(found.positions) <= most:
            size *= 2


def answer_rows(
    answer: Answer, most: int, found: Found, items: Items
) -> tuple[pa.StructArray, NDArray[np.int64] | None]:
    """Return the answers to queries that may have more neighbors than fit in one row.

    Parameters
    ----------
    answer : Answer
        Makes the output.
    most : int
        The largest number of neighbors in a row.
    found : Found
        The neighbors.
    items : Items
        The items.

    Returns
    -------
    answers : pyarrow.StructArray
        The rows.
    counts : ndarray of shape (n_queries,), dtype int64, or None
        The number of rows of each query; None if there is one for each.

    Raises
    ------
    ValueError
        If a query has too many neighbors for an answer that lists them in one row.
    """
    lengths = np.diff(found.offsets)
    longest = int(lengths.max(initial=0))
    if longest <= most or answer.lists is None:
        return answer.rows(found, items), None
    if not answer.lists.in_pieces:
        raise ValueError(
            f"a query has {longest} neighbors within maxDistance (or minSimilarity), more than the "
            f"{most} that fit in one row. Use KNNModel.kneighborsJoin, which returns one row for "
            "each neighbor, lower maxDistance (raise minSimilarity), or set k."
        )
    counts = np.maximum(1, -(-lengths // most))
    first = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = (np.arange(len(first)) - first) * most
    offsets = np.append(np.repeat(found.offsets[:-1], counts) + ranks, found.offsets[-1])
    pieces = Found(offsets, found.distances, found.positions)
    return answer.lists.rows(pieces, items, ranks), counts
