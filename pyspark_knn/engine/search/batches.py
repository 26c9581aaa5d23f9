"""The search of a batch of queries, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.invalid import describe_invalid, invalid_rows, read_vectors
from pyspark_knn.engine.rows.items import NUMBER, Items
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES, VectorBatch
from pyspark_knn.engine.search.answers import Answer, OwnSearch
from pyspark_knn.engine.search.gathering import gathered, queries_at_once
from pyspark_knn.engine.search.searchable import Searchable, task_threads
from pyspark_knn.engine.search.within import ROW_NEIGHBORS, answer_rows, found_within
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.spark.arrow import list_offsets
from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import DENSE, Exclusion, Found
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.sparse.rows import slices_of

EXCLUDED = "excluded"
"""The input that contains the ids to exclude for a query: an array without nulls."""

AFTER = "after"
"""The input that contains, for a search within a distance, the position after which items are
compared with a query; -1 for all items."""

ITSELF = "itself"
"""The input that contains the number of the item that a query is, which is not its own neighbor."""

WANTED = "wanted"
"""The input that says, for an `OwnSearch`, whether a query is to be searched; the others are not
sent to shards."""

KNOB = "knob"
"""The input that contains the knob of each query, if not all have the same."""

LIMIT = "limit"
"""The input that contains, for a search of the k nearest items, a distance beyond which a query
needs no items; inf where there is none."""

_BLOCK_BYTES = 32 << 20
"""The query vectors that are searched at once, in bytes."""

_SPARSE_VALUE_BYTES = 128
"""Approximate bytes that a stored value of a sparse query takes while it is searched."""

_SPARSE_QUERIES = 1 << 13
"""The largest number of sparse queries that are searched at once, however few values they have."""

BLOCK_NUMBERS = 1 << 20
"""Values in the answers to one block of queries, so that memory is bounded for any k."""


@dataclass(frozen=True)
class Request:
    """The parameters of a search, for the workers.

    Attributes
    ----------
    k : int or None
        Neighbors per query; may exceed the number of items. None: all within `max_distance`.
    max_distance : float or None
        The largest distance of a neighbor, inclusive, in the unit of the metric; not None if `k`
        is.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid query.
    features_col : str
        The name of the features column, for messages.
    features_param : str
        The Param that names it.
    inputs : tuple of str
        The names of a query's columns, in the order in which they are sent to the worker:
        `vectors.VALUES`, then `vectors.LAYOUT`, `EXCLUDED`, `AFTER`, `ITSELF`, `WANTED`, `KNOB` and
        `keys` if they are needed.
    answer : Answer
        Makes the output.
    probes : int or None
        The number of cells to search, if shards are cells; None: all that may contain a neighbor.
    replicas : int or None
        The number of tasks that share the queries of a shard; None: by the number of cores.
    keys : tuple of str
        The inputs that make up a query's key; empty if the items have no keys.
    firsts : mapping of int to int, optional
        The number of the first item of each shard, if the answer contains the numbers of items.
    knob : int or None
        How thoroughly an approximate index is searched, see `Searchable.tuned`.
    held_out : ndarray of shape (n,), dtype int64, optional
        The numbers of items that are queries of shards, to measure the recall.
    block_bytes : int
        The bytes of the query vectors that are made dense, and searched, at once.
    block_numbers : int
        The numbers in the answers to one block of queries.
    row_neighbors : int
        The largest number of neighbors in one row of an answer, if `k` is None.
    """

    k: int | None
    max_distance: float | None
    handle_invalid: str
    features_col: str
    inputs: tuple[str, ...]
    answer: Answer | OwnSearch
    features_param: str = "featuresCol"
    probes: int | None = None
    replicas: int | None = None
    keys: tuple[str, ...] = ()
    firsts: Mapping[int, int] | None = None
    knob: int | None = None
    held_out: NDArray[np.int64] | None = None
    block_bytes: int = _BLOCK_BYTES
    block_numbers: int = BLOCK_NUMBERS
    row_neighbors: int = ROW_NEIGHBORS

    @property
    def vector(self) -> tuple[str, ...]:
        """The inputs that make up a query's vector."""
        return tuple(name for name in self.inputs if name in (VALUES, LAYOUT))

    def named(self, arrays: tuple[pa.Array, ...]) -> dict[str, pa.Array]:
        """Return the columns of a batch of queries by their names."""
        return dict(zip(self.inputs, arrays, strict=True))

    def query_step(self, dim: int) -> int:
        """Return how many queries of dimension `dim` are made dense at once."""
        return max(1, self.block_bytes // (8 * dim))


def search_batches(
    ref: BundleRef, request: Request, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer batches of queries.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    request : Request
        What to search, and what to return.
    batches : iterator of tuples of pyarrow.Array
        The columns `request.inputs` of the queries.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct; an empty list drops the row (skip), a list with a null
        keeps it without an answer (keep).

    Raises
    ------
    ValueError
        For an invalid query, if `handle_invalid` is "error"; for one in a wrong unit always.
    """
    searchable = open_bundle(ref)
    most = min(request.query_step(searchable.index.n_features), queries_at_once(searchable))
    with threadpool_limits(limits=task_threads()):
        for arrays in gathered(batches, most):
            yield from answer_batch(searchable, request, request.named(arrays))


def answer_batch(
    searchable: Searchable, request: Request, arrays: Mapping[str, pa.Array]
) -> Iterator[pa.Array]:
    """Answer one batch, in blocks of bounded size; for the rest see `search_batches`."""
    if KNOB in arrays:
        for knob, run in _runs(arrays[KNOB].to_numpy()):
            part = {name: each[run] for name, each in arrays.items() if name != KNOB}
            yield from answer_batch(searchable, replace(request, knob=knob), part)
        return
    searchable = searchable.tuned(request.knob)
    items, index = searchable.items, searchable.index
    dim = index.n_features
    k = None if request.k is None else min(request.k, items.count)
    queries = read_vectors(arrays, request.features_col)
    step = max(1, request.block_numbers // ((k or 1) + request.answer.width))
    for rows in _query_blocks(request, queries, index, step):
        missing = index.metric.allows_missing
        matrix, valid = valid_queries(queries, rows, dim, index.storage, missing=missing)
        if request.handle_invalid == "error" and not valid.all():
            row = int(rows[~valid][0])
            raise ValueError(
                describe_invalid(request.features_param, request.features_col, queries, row, dim)
            )
        index.metric.check_values(matrix)
        answer = request.answer
        if isinstance(answer, OwnSearch):
            answers = answer.search(searchable, matrix)
            yield fan_out(answers, valid, keep=request.handle_invalid == "keep")
            continue
        asked = searchable.queries(
            matrix, [arrays[name].take(pa.array(rows[valid])) for name in request.keys]
        )
        exclude = _exclusion(arrays, rows[valid], items)
        if k is None:
            after = None if AFTER not in arrays else arrays[AFTER].to_numpy()[rows[valid]]
            yield from _answer_within(searchable, request, answer, asked, valid, exclude, after)
            continue
        limits = None if LIMIT not in arrays else arrays[LIMIT].to_numpy()[rows[valid]]
        found = _found(index, asked, k, request.max_distance, exclude, limits)
        answers = answer.rows(found, items)
        yield fan_out(answers, valid, keep=request.handle_invalid == "keep")


def _found(
    index: NeighborIndex | GroupedIndex,
    queries: Any,
    k: int,
    max_distance: float | None,
    exclude: Exclusion | None,
    limits: NDArray[np.float64] | None,
) -> Found:
    """Return the k nearest items, of which those beyond the limits may be missing."""
    if limits is None or isinstance(index, GroupedIndex):
        return index.search(queries, k, max_distance=max_distance, exclude=exclude)
    return index.search(queries, k, max_distance=max_distance, exclude=exclude, limits=limits)


def _runs(values: NDArray[np.integer]) -> Iterator[tuple[int, slice]]:
    """Yield the value and the place of each run of equal values."""
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        yield int(values[start]), slice(start, stop)


def _answer_within(
    searchable: Searchable,
    request: Request,
    answer: Answer,
    queries: Any,
    valid: NDArray[np.bool_],
    exclude: Exclusion | None,
    after: NDArray[np.int64] | None,
) -> Iterator[pa.Array]:
    """Answer a block of queries with all items within the distance, in parts of bounded size."""
    limit = np.inf if request.max_distance is None else request.max_distance
    most = request.block_numbers
    row_of = np.append(np.flatnonzero(valid), len(valid))
    start = done = 0
    for found in found_within(
        searchable.index, queries, limit, exclude=exclude, after=after, most=most
    ):
        done += len(found.offsets) - 1
        # Invalid queries go with the valid one before them.
        part = valid[start : row_of[done]]
        start = row_of[done]
        answers, counts = answer_rows(answer, request.row_neighbors, found, searchable.items)
        yield fan_out(answers, part, keep=request.handle_invalid == "keep", counts=counts)


def _query_blocks(
    request: Request, queries: VectorBatch, index: NeighborIndex | GroupedIndex, step: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of queries in blocks of bounded size, of at most `step` rows."""
    if index.storage == DENSE:
        step = min(request.query_step(index.n_features), step)
        parts = [slice(at, min(at + step, len(queries))) for at in range(0, len(queries), step)]
    else:
        most_values = request.block_bytes // _SPARSE_VALUE_BYTES
        parts = slices_of(queries.lengths, most_values, min(step, _SPARSE_QUERIES))
    for part in parts:
        yield np.arange(part.start, part.stop)


def valid_queries(
    queries: VectorBatch,
    rows: NDArray[np.int64],
    dim: int,
    storage: str,
    *,
    missing: bool = False,
) -> tuple[Any, NDArray[np.bool_]]:
    """Return the vectors of the valid rows among `rows`, and which of `rows` those are.

    Parameters
    ----------
    queries : VectorBatch
        A batch of queries.
    rows : ndarray of shape (n,), dtype int64
        Row numbers, in ascending order.
    dim : int
        The dimension of a valid vector.
    storage : {"dense", "sparse"}
        The form of the vectors.
    missing : bool, default=False
        Whether vectors may have missing values, which are NaN.

    Returns
    -------
    matrix : ndarray or SparseRows of shape (n_valid, dim), dtype float32 or float64
        The valid vectors.
    valid : ndarray of shape (n,), dtype bool
        Which of `rows` are valid.
    """
    valid = queries.dims[rows] == dim
    form = queries.dense if storage == DENSE else queries.sparse_rows
    matrix: Any = form(rows[valid], dim)
    bad = invalid_rows(matrix, missing=missing)
    if bad.any():
        valid[np.flatnonzero(valid)[bad]] = False
        matrix = matrix[~bad]
    return matrix, valid


def _exclusion(
    arrays: Mapping[str, pa.Array], rows: NDArray[np.int64], items: Items
) -> Exclusion | None:
    """Return the pairs of a query and an item to exclude, given ids or the query's own number."""
    if ITSELF in arrays:
        positions = arrays[ITSELF].to_numpy()[rows] - items.columns[NUMBER][0].as_py()
        query = np.flatnonzero((positions >= 0) & (positions < items.count))
        positions = positions[query]
    elif EXCLUDED in arrays:
        lists = arrays[EXCLUDED].take(pa.array(rows))
        which, positions = items.positions_of(lists.flatten())
        query = np.repeat(np.arange(len(rows)), lists.value_lengths().to_numpy())[which]
    else:
        return None
    if not len(query):
        return None
    order = np.argsort(positions, kind="stable")
    return Exclusion(query[order], positions[order])


def fan_out(
    answers: pa.StructArray,
    valid: NDArray[np.bool_],
    *,
    keep: bool,
    counts: NDArray[np.int64] | None = None,
) -> pa.ListArray:
    """Return a list for each query: its answer or, if it is invalid, no element or a null (`keep`).

    Parameters
    ----------
    answers : pyarrow.StructArray
        The answers to the valid queries.
    valid : ndarray of shape (n_queries,), dtype bool
        Which queries are valid.
    keep : bool
        Whether an invalid query keeps its row.
    counts : ndarray of shape (n_valid,), dtype int64, optional
        The number of answers to each valid query. Default: 1.
    """
    lengths = valid.astype(np.int64)
    if counts is not None:
        lengths[valid] = counts
    if keep and not valid.all():
        lengths[~valid] = 1
        answered = np.repeat(valid, lengths)
        answers = answers.take(pa.array(np.cumsum(answered) - 1, mask=~answered))
    return pa.ListArray.from_arrays(list_offsets(lengths), answers)
