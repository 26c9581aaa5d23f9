"""Merge the neighbors that several shards found for a query, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.answers import DISTANCE, MergedSearch
from pyspark_knn.engine.search.batches import Request, fan_out
from pyspark_knn.engine.search.within import answer_rows
from pyspark_knn.index.found import Found
from pyspark_knn.index.selection import by_row

if TYPE_CHECKING:
    from pyspark_knn.engine.search.answers import Answer

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
        check_same_queries(bool(whole.all()))
        size = len(lists[0].flatten()) // max(1, len(found)) + 1
        step = max(1, _MERGED_AT_ONCE // size)
        for start in range(0, len(found), step):
            block = slice(start, start + step)
            # A query that was sent to no shard is valid: it needs no search.
            valid = (found[block] > 0) | (expected[block] == 0)
            pick = pa.array(np.flatnonzero(valid))
            answers, counts = _answers(request, names, [each[block].take(pick) for each in lists])
            keep = request.handle_invalid == "keep"
            yield fan_out(answers, valid, keep=keep, counts=counts)


def check_same_queries(same: bool) -> None:
    """Raise a RuntimeError unless a retried task produced the same queries as at first."""
    if not same:
        raise RuntimeError(
            "a retried task produced different query rows: the queries DataFrame is not "
            "deterministic. Persist it or write it to storage first."
        )


def merge_parts(request: Request, names: Sequence[str], parts: list[pa.StructArray]) -> pa.Array:
    """Answer queries from the neighbors that their shards found, shard by shard.

    Parameters
    ----------
    request : Request
        What to return: the nearest `k`.
    names : sequence of str
        `DISTANCE` and the item columns, in the order that breaks ties.
    parts : list of pyarrow.StructArray
        What each shard found, at least one: a struct of the lists `names` for each query, null for
        one that is invalid.

    Returns
    -------
    pyarrow.ListArray
        See `batches.search_batches`.
    """
    valid = parts[0].is_valid().to_numpy(zero_copy_only=False)
    pick = pa.array(np.flatnonzero(valid))
    rows, counts, columns = [], np.zeros(len(pick), np.int64), []
    for part in parts:
        lists = part if len(pick) == len(valid) else part.take(pick)
        lengths = lists.field(names[0]).value_lengths().to_numpy(zero_copy_only=False)
        rows.append(np.repeat(np.arange(len(pick)), lengths))
        counts += lengths
        columns.append([lists.field(name).flatten() for name in names])
    joined = [pa.concat_arrays(each) for each in zip(*columns, strict=True)]
    query = np.concatenate(rows)
    found, items = _nearest(request.k, query, counts, dict(zip(names, joined, strict=True)))
    answers = cast("Answer", request.answer).rows(found, items)
    return fan_out(answers, valid, keep=request.handle_invalid == "keep")


def _answers(
    request: Request, names: Sequence[str], lists: list[pa.Array]
) -> tuple[pa.StructArray, NDArray[np.int64] | None]:
    """Return the answers to queries and, unless each has one, their numbers of answers."""
    if isinstance(request.answer, MergedSearch):
        return request.answer.merged(dict(zip(names, lists, strict=True))), None
    answer = cast("Answer", request.answer)
    merged = _merge(request.k, names, lists)
    if request.k is None:
        return answer_rows(answer, request.row_neighbors, *merged)
    return answer.rows(*merged), None


def _merge(k: int | None, names: Sequence[str], lists: list[pa.Array]) -> tuple[Found, Items]:
    """Return the k nearest neighbors of each query, and the items of all lists."""
    counts = lists[0].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    query = np.repeat(np.arange(len(counts)), counts)
    columns = {name: each.flatten() for name, each in zip(names, lists, strict=True)}
    return _nearest(k, query, counts, columns)


def _nearest(
    k: int | None,
    query: NDArray[np.int64],
    counts: NDArray[np.int64],
    columns: dict[str, pa.Array],
) -> tuple[Found, Items]:
    """Return the k nearest of candidates in any order, given their queries, and all candidates."""
    distance = columns.pop(DISTANCE).to_numpy()
    nearest, counts = nearest_of(query, counts, distance, columns, k)
    offsets = np.append(0, np.cumsum(counts))
    return Found(offsets, distance[nearest], nearest), Items(len(query), columns)


def nearest_of(
    group: NDArray[np.int64],
    counts: NDArray[np.int64],
    distance: NDArray[np.float64],
    columns: Mapping[str, pa.Array],
    k: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the k nearest candidates of each group.

    Parameters
    ----------
    group : ndarray of shape (n_candidates,), dtype int64
        The group of each candidate.
    counts : ndarray of shape (n_groups,), dtype int64
        The number of candidates of each group.
    distance : ndarray of shape (n_candidates,), dtype float64
        Their distances.
    columns : mapping of str to pyarrow.Array of length n_candidates
        What breaks ties, in this order.
    k : int or None
        The number of candidates to keep; None for all.

    Returns
    -------
    nearest : ndarray of shape (n_kept,), dtype int64
        The numbers of the candidates that are kept, by group, nearest first.
    counts : ndarray of shape (n_groups,), dtype int64
        The number of them in each group.
    """
    # Not by lexsort, which takes several times as long; the order of ties does not matter yet.
    order = np.argsort(distance)
    order = order[by_row(group[order])]
    if _ties(group[order], distance[order]):
        ranks = np.empty(len(group), np.int64)
        table = pa.table(dict(columns))
        by = [(name, "ascending") for name in table.column_names]
        ranks[pc.sort_indices(table, by).to_numpy()] = np.arange(len(group))
        order = np.lexsort((ranks, distance, group))
    if k is None:
        return order, counts
    rank = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank < k], np.minimum(counts, k)


def _ties(query: NDArray[np.int64], distance: NDArray[np.float64]) -> bool:
    """Whether two neighbors of a query are at the same distance; both arrays are in order."""
    return bool(((query[1:] == query[:-1]) & (distance[1:] == distance[:-1])).any())
