"""The search of a batch of queries, in a Python worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.invalid import describe_invalid, invalid_rows, read_vectors
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Keys
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES, VectorBatch
from pyspark_knn.engine.search.answers import Answer
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.spark.arrow import list_offsets
from pyspark_knn.index.base import DENSE, Exclusion, NeighborIndex
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.sparse.rows import slices_of

if TYPE_CHECKING:
    from pyspark_knn.index.base import Found, Rows

EXCLUDED = "excluded"
"""The input that contains the ids to exclude for a query: an array without nulls."""

_BLOCK_BYTES = 32 << 20
"""The query vectors that are searched at once, in bytes."""

_SPARSE_VALUE_BYTES = 128
"""Approximate bytes that a stored value of a sparse query takes while it is searched."""

_SPARSE_QUERIES = 1 << 13
"""The largest number of sparse queries that are searched at once, however few values they have."""

BLOCK_NUMBERS = 1 << 20
"""Values in the answers to one block of queries, so that memory is bounded for any k."""


@dataclass(frozen=True)
class Searchable:
    """The content of a bundle: items and their index.

    Attributes
    ----------
    items : Items
        The items without their vectors.
    index : NeighborIndex or GroupedIndex
        The index of their vectors, in the same order; grouped if there are keys.
    keys : Keys or None, default=None
        The keys of the groups; None if there are no keys.
    """

    items: Items
    index: NeighborIndex | GroupedIndex
    keys: Keys | None = None

    def vectors(self, where: slice | NDArray[np.int64]) -> Rows:
        """Return the vectors of items.

        Parameters
        ----------
        where : slice or ndarray, dtype int64
            The positions of the items.

        Returns
        -------
        ndarray or SparseRows of shape (n_rows, n_features), dtype float32 or float64
            Their vectors; a copy if the index is grouped.
        """
        index = self.index
        vectors: Rows
        vectors = index.vectors(where) if isinstance(index, GroupedIndex) else index.matrix[where]
        return vectors

    def timed_search(self, queries: Any, k: int) -> float:
        """Search queries of unknown keys; return the mean number of items in their groups.

        If there are keys, a query belongs to a group as likely as an item does.

        Parameters
        ----------
        queries, k
            See `search`.

        Returns
        -------
        float
            The number of items that a query was compared with.
        """
        if not isinstance(self.index, GroupedIndex):
            self.index.search(queries, min(k, self.items.count))
            return float(self.items.count)
        rows = np.arange(len(queries))
        sizes = self.index.sizes
        spread = rows * (self.items.count // max(1, len(rows)))
        groups = np.searchsorted(np.cumsum(sizes), spread, side="right")
        self.index.search(queries, rows, groups, k)
        return float(sizes[groups].mean()) if len(rows) else 1.0

    def search(
        self,
        queries: Any,
        keys: Sequence[pa.Array],
        k: int,
        max_distance: float | None,
        exclude: Exclusion | None,
    ) -> Found:
        """Return the neighbors of queries, among the items with the same key if there are keys.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            Valid queries, in the form that the index stores.
        keys : sequence of pyarrow.Array
            The keys of these queries, see `Keys.of_queries`; empty if there are no keys.
        k, max_distance, exclude
            See `NeighborIndex.kneighbors`.

        Returns
        -------
        Found
            The neighbors.
        """
        if not isinstance(self.index, GroupedIndex):
            return self.index.search(queries, k, max_distance=max_distance, exclude=exclude)
        rows, groups = cast("Keys", self.keys).of_queries(keys)
        return self.index.search(
            queries, rows, groups, k, max_distance=max_distance, exclude=exclude
        )


@dataclass(frozen=True)
class ShardBody:
    """The content of a shard without its items: see `Searchable`.

    Attributes
    ----------
    index : NeighborIndex or GroupedIndex
        The index of the vectors.
    keys : Keys or None
        The keys of the groups.
    """

    index: NeighborIndex | GroupedIndex
    keys: Keys | None

    def joined(self, head: Items) -> Searchable:
        """Return the whole content of the shard."""
        return Searchable(head, self.index, self.keys)


@dataclass(frozen=True)
class Request:
    """The parameters of a search, for the workers.

    Attributes
    ----------
    k : int
        Neighbors per query; may exceed the number of items.
    max_distance : float or None
        The largest distance of a neighbor, inclusive, in the unit of the metric.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid query.
    features_col : str
        The name of the features column, for messages.
    inputs : tuple of str
        The names of a query's columns, in the order in which they are sent to the worker:
        `vectors.VALUES`, then `vectors.LAYOUT`, `EXCLUDED` and `keys` if they are needed.
    answer : Answer
        Makes the output.
    probes : int or None
        The number of cells to search, if shards are cells; None: all that may contain a neighbor.
    replicas : int or None
        The number of tasks that share the queries of a shard; None: by the number of cores.
    keys : tuple of str
        The inputs that make up a query's key; empty if the items have no keys.
    block_bytes : int
        The bytes of the query vectors that are made dense, and searched, at once.
    block_numbers : int
        The numbers in the answers to one block of queries.
    """

    k: int
    max_distance: float | None
    handle_invalid: str
    features_col: str
    inputs: tuple[str, ...]
    answer: Answer
    probes: int | None = None
    replicas: int | None = None
    keys: tuple[str, ...] = ()
    block_bytes: int = _BLOCK_BYTES
    block_numbers: int = BLOCK_NUMBERS

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
    with threadpool_limits(limits=task_threads()):
        for arrays in batches:
            yield from answer_batch(searchable, request, request.named(arrays))


def task_threads() -> int:
    """Return the BLAS and OpenMP threads of a task: its cores (spark.task.cpus)."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return 1 if context is None else max(1, context.cpus())


def answer_batch(
    searchable: Searchable, request: Request, arrays: Mapping[str, pa.Array]
) -> Iterator[pa.Array]:
    """Answer one batch, in blocks of bounded size; for the rest see `search_batches`."""
    items, index = searchable.items, searchable.index
    dim = index.n_features
    k = min(request.k, items.count)
    queries = read_vectors(arrays, request.features_col)
    excluded = arrays.get(EXCLUDED)
    step = max(1, request.block_numbers // (k + request.answer.width))
    for rows in _query_blocks(request, queries, index, step):
        matrix, valid = valid_queries(queries, rows, dim, index.storage)
        if request.handle_invalid == "error" and not valid.all():
            row = int(rows[~valid][0])
            raise ValueError(
                describe_invalid("featuresCol", request.features_col, queries, row, dim)
            )
        index.metric.check_values(matrix)
        found = searchable.search(
            matrix,
            [arrays[name].take(pa.array(rows[valid])) for name in request.keys],
            k,
            request.max_distance,
            None if excluded is None else _exclusion(excluded, rows[valid], items),
        )
        answers = request.answer.rows(found, items)
        yield fan_out(answers, valid, keep=request.handle_invalid == "keep")


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
    queries: VectorBatch, rows: NDArray[np.int64], dim: int, storage: str
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
    bad = invalid_rows(matrix)
    if bad.any():
        valid[np.flatnonzero(valid)[bad]] = False
        matrix = matrix[~bad]
    return matrix, valid


def _exclusion(excluded: pa.ListArray, rows: NDArray[np.int64], items: Items) -> Exclusion | None:
    """Return the pairs of a query and an item to exclude, given ids."""
    lists = excluded.take(pa.array(rows))
    which, positions = items.positions_of(lists.flatten())
    if not len(which):
        return None
    query = np.repeat(np.arange(len(rows)), lists.value_lengths().to_numpy())[which]
    order = np.argsort(positions, kind="stable")
    return Exclusion(query[order], positions[order])


def fan_out(answers: pa.StructArray, valid: NDArray[np.bool_], *, keep: bool) -> pa.ListArray:
    """Return a list for each query: its answer or, if it is invalid, no element or a null (`keep`).

    Parameters
    ----------
    answers : pyarrow.StructArray
        The answers to the valid queries.
    valid : ndarray of shape (n_queries,), dtype bool
        Which queries are valid.
    keep : bool
        Whether an invalid query keeps its row.
    """
    if not keep:
        return pa.ListArray.from_arrays(list_offsets(valid), answers)
    if not valid.all():
        row = pa.array(np.cumsum(valid) - 1, mask=~valid)
        answers = answers.take(row)
    return pa.ListArray.from_arrays(list_offsets(np.ones(len(valid), dtype=bool)), answers)


TIMING_SCHEMA = "seconds double, queries long, items double"
"""The seconds of a search, the number of queries, and the number of items that a query was compared
with, on average."""

_TIMED_SECONDS = 0.3
"""No further search is timed when this time is spent. The last one may take as long again, and a
single query as long as it does."""


def time_search(
    searchable: Searchable, queries: Rows, k: int, clock: Callable[[], float] = time.perf_counter
) -> pa.RecordBatch:
    """Time a search of some queries: of one, of two, of four, until enough time is spent.

    Parameters
    ----------
    searchable : Searchable
        The index and its items.
    queries : ndarray or SparseRows of shape (n_queries, n_features)
        Valid queries, of which as many as time permits are searched.
    k : int
        Neighbors per query; may exceed the number of items.
    clock : callable, optional
        Returns the time in seconds.

    Returns
    -------
    pyarrow.RecordBatch
        A row of `TIMING_SCHEMA` about the last search, which has the most queries.
    """
    timed = min(1, len(queries))
    with threadpool_limits(limits=task_threads()):
        begin = clock()
        while True:
            start = clock()
            items = searchable.timed_search(queries[:timed], k)
            now = clock()
            if timed == len(queries) or now - begin >= _TIMED_SECONDS:
                break
            timed = min(2 * timed, len(queries))
    row = {"seconds": [now - start], "queries": [timed], "items": [items]}
    return pa.RecordBatch.from_pydict(row)


def time_bundle(
    ref: BundleRef, queries: Rows, k: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield `time_search` in a bundle, once; the content of `batches` is ignored."""
    for _ in batches:
        pass
    yield time_search(open_bundle(ref), queries, k)
