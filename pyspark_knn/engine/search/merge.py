"""Merge the neighbors that several shards found for a query, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import Request, fan_out
from pyspark_knn.engine.search.within import answer_rows
from pyspark_knn.index.base import Found

_MERGED_AT_ONCE = 1 << 20
"""Neighbors that are merged at a time."""


def merge_batches(
    request: Request, names: Sequence[str], batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer queries from the neighbors that their shards found.

    Parameters
    ----------
    request : Request
        What to return.
    names : sequence of str
        `DISTANCE` and the item columns, in the order that breaks ties.
    batches : iterator of tuples of pyarrow.Array
        How many shards a query was sent to, how many of them answered, how many rows the query has
        (one, if all is well), and the lists `names`, those of all shards one after the other.

    Yields
    ------
    pyarrow.ListArray
        See `batches.search_batches`.

    Raises
    ------
    RuntimeError
        If a retried task produced different queries than at first.
    """
    for sent, answered, rows, *lists in batches:
        expected = sent.fill_null(-1).to_numpy(zero_copy_only=False)
        found = answered.to_numpy(zero_copy_only=False)
        whole = (rows.to_numpy(zero_copy_only=False) == 1) & ((found == expected) | (found == 0))
        if not whole.all():
            raise RuntimeError(
                "a retried task produced different query rows: the queries DataFrame is not "
                "deterministic. Persist it or write it to storage first."
            )
        size = len(lists[0].flatten()) // max(1, len(found)) + 1
        step = max(1, _MERGED_AT_ONCE // size)
        for start in range(0, len(found), step):
            block = slice(start, start + step)
            valid = found[block] > 0
            pick = pa.array(np.flatnonzero(valid))
            merged = _merge(request.k, names, [each[block].take(pick) for each in lists])
            if request.k is None:
                answers, counts = answer_rows(request.answer, request.row_neighbors, *merged)
            else:
                answers, counts = request.answer.rows(*merged), None
            keep = request.handle_invalid == "keep"
            yield fan_out(answers, valid, keep=keep, counts=counts)


def _merge(k: int | None, names: Sequence[str], lists: list[pa.Array]) -> tuple[Found, Items]:
    """Return the k nearest neighbors of each query, and the items of all lists."""
    counts = lists[0].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    query = np.repeat(np.arange(len(counts)), counts)
    columns = {name: each.flatten() for name, each in zip(names, lists, strict=True)}
    distance = columns.pop(DISTANCE).to_numpy()
    order = np.lexsort((distance, query))
    if _ties(query[order], distance[order]):
        ranks = np.empty(len(query), np.int64)
        table = pa.table(columns)
        by = [(name, "ascending") for name in table.column_names]
        ranks[pc.sort_indices(table, by).to_numpy()] = np.arange(len(query))
        order = np.lexsort((ranks, distance, query))
    if k is None:
        nearest = order
    else:
        rank = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        nearest = order[rank < k]
        counts = np.minimum(counts, k)
    offsets = np.append(0, np.cumsum(counts))
    return Found(offsets, distance[nearest], nearest), Items(len(query), columns)


def _ties(query: NDArray[np.int64], distance: NDArray[np.float64]) -> bool:
    """Whether two neighbors of a query are at the same distance; both arrays are in order."""
    return bool(((query[1:] == query[:-1]) & (distance[1:] == distance[:-1])).any())
