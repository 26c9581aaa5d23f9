"""What runs in a Python worker: a batch of queries in, their answers out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.vectors import VectorBatch, describe_invalid, invalid_rows
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.index.base import Exclusion, NeighborIndex, Neighbors

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

_BLOCK_BYTES = 32 << 20
"""Query vectors that are searched at once."""

BLOCK_ANSWERS = 1 << 20
"""Figures that one block answers with: keeps memory bounded however large k is."""


@dataclass(frozen=True)
class Searchable:
    """The content of a bundle.

    Attributes
    ----------
    items : Items
        Ids, labels and weights of the items.
    index : NeighborIndex
        Over their vectors, in the same order.
    """

    items: Items
    index: NeighborIndex


class Answer(Protocol):
    """What a stage makes of neighbours."""

    @property
    def result_type(self) -> StructType:
        """The output columns, as they come out of Python."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads of the neighbours' items: "id", "label", "weight"."""

    @property
    def width(self) -> int:
        """Figures of one query's answer, beyond those of its k neighbours."""

    def rows(self, neighbors: Neighbors, items: Items) -> pa.StructArray:
        """One struct of `result_type` for each query."""


@dataclass(frozen=True)
class Request:
    """All that a worker must know about a search.

    Attributes
    ----------
    k : int
        Neighbours per query; may exceed the number of items.
    max_distance : float or None
        Leave out what is farther.
    handle_invalid : {"error", "skip", "keep"}
        What to do with an invalid query.
    features_col : str
        Name of the features column, for messages.
    feature_columns : int
        How many of the columns make up the feature vector; one more holds ids to exclude.
    answer : Answer
        Makes the output.
    probes : int or None
        How many cells to search, where the index is in cells; None: all that matter.
    replicas : int or None
        How many tasks share the queries of a shard, where the index is in shards; None: by cores.
    """

    k: int
    max_distance: float | None
    handle_invalid: str
    features_col: str
    feature_columns: int
    answer: Answer
    probes: int | None = None
    replicas: int | None = None


def search_batches(
    ref: BundleRef, request: Request, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer batches of queries.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    request : Request
        What is wanted.
    batches : iterator of tuples of pyarrow.Array
        The columns of `columns.features_of`, and the ids to exclude (a list array) if any.

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
            yield from answer_batch(searchable, request, arrays)


def task_threads() -> int:
    """BLAS and OpenMP threads of a task: the cores that Spark gives it (spark.task.cpus)."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return 1 if context is None else max(1, context.cpus())


def answer_batch(
    searchable: Searchable, request: Request, arrays: tuple[pa.Array, ...]
) -> Iterator[pa.Array]:
    """Answer one batch, in blocks of bounded size."""
    items, index = searchable.items, searchable.index
    dim = index.matrix.shape[1]
    k = min(request.k, items.count)
    queries = VectorBatch.from_arrow(arrays[: request.feature_columns], request.features_col)
    excluded = arrays[request.feature_columns] if len(arrays) > request.feature_columns else None
    step = min(query_step(dim), max(1, BLOCK_ANSWERS // (k + request.answer.width)))
    for start in range(0, len(queries), step):
        rows = np.arange(start, min(start + step, len(queries)))
        matrix, valid = valid_queries(queries, rows, dim)
        if request.handle_invalid == "error" and not valid.all():
            row = int(rows[~valid][0])
            raise ValueError(
                describe_invalid("featuresCol", request.features_col, queries, row, dim)
            )
        index.metric.check_values(matrix)
        found = index.kneighbors(
            matrix,
            k,
            max_distance=request.max_distance,
            exclude=None if excluded is None else _exclusion(excluded, rows[valid], items),
        )
        answers = request.answer.rows(found, items)
        yield fan_out(answers, valid, keep=request.handle_invalid == "keep")


def query_step(dim: int) -> int:
    """How many queries are made dense at once."""
    return max(1, _BLOCK_BYTES // (8 * dim))


def valid_queries(
    queries: VectorBatch, rows: NDArray[np.int64], dim: int
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """The vectors of the valid rows among `rows`, and which those are."""
    valid = queries.dims[rows] == dim
    matrix = queries.dense(rows[valid], dim)
    bad = invalid_rows(matrix)
    if bad.any():
        valid[np.flatnonzero(valid)[bad]] = False
        matrix = matrix[~bad]
    return matrix, valid


def _exclusion(excluded: pa.ListArray, rows: NDArray[np.int64], items: Items) -> Exclusion | None:
    """The pairs of query and item that the ids to exclude mean."""
    lists = excluded.take(pa.array(rows))
    which, positions = items.positions_of(lists.flatten())
    if not len(which):
        return None
    query = np.repeat(np.arange(len(rows)), lists.value_lengths().to_numpy())[which]
    order = np.argsort(positions, kind="stable")
    return Exclusion(query[order], positions[order])


def fan_out(answers: pa.StructArray, valid: NDArray[np.bool_], *, keep: bool) -> pa.ListArray:
    """A list for each query: its answer; for an invalid one nothing, or a null where kept."""
    if not keep:
        return pa.ListArray.from_arrays(list_offsets(valid), answers)
    if not valid.all():
        place = pa.array(np.cumsum(valid) - 1, mask=~valid)
        answers = answers.take(place)
    return pa.ListArray.from_arrays(list_offsets(np.ones(len(valid), dtype=bool)), answers)


def list_offsets(lengths: NDArray[np.bool_] | NDArray[np.int64]) -> pa.Array:
    """The offsets of lists of these lengths."""
    return pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32())


@dataclass(frozen=True)
class NeighborLists:
    """The answer of a search: the ids of the neighbours and their distances.

    Attributes
    ----------
    result_type : StructType
        The output columns.
    neighbors, distances : bool
        Which of the two are wanted.
    """

    result_type: StructType
    neighbors: bool = True
    distances: bool = True
    width = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids, where they are wanted."""
        return ("id",) if self.neighbors else ()

    def rows(self, neighbors: Neighbors, items: Items) -> pa.StructArray:
        """One struct of lists for each query, nearest first, only as long as there are any."""
        there = neighbors.positions >= 0
        offsets = list_offsets(there.sum(axis=1))
        lists = []
        if self.neighbors:
            ids = items.take_ids(neighbors.positions[there])
            lists.append(pa.ListArray.from_arrays(offsets, ids))
        if self.distances:
            distances = pa.array(neighbors.distances[there])
            lists.append(pa.ListArray.from_arrays(offsets, distances))
        return pa.StructArray.from_arrays(lists, names=self.result_type.names)


def read_items(ref: BundleRef, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The items at given positions, as rows.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    batches : iterator of pyarrow.RecordBatch
        One column of consecutive positions.

    Yields
    ------
    pyarrow.RecordBatch
        position, id, features, label and weight, as far as the items have them.
    """
    searchable = open_bundle(ref)
    step = item_step(searchable)
    for batch in batches:
        for start in range(0, batch.num_rows, step):
            positions = batch.column(0)[start : start + step]
            yield item_rows(searchable, positions[0].as_py(), positions)


TIMING_SCHEMA = "seconds double, items long"


def time_search(searchable: Searchable, queries: NDArray[np.floating], k: int) -> pa.RecordBatch:
    """How long some queries take; a row of `TIMING_SCHEMA`."""
    count = searchable.items.count
    with threadpool_limits(limits=task_threads()):
        start = time.perf_counter()
        searchable.index.kneighbors(queries, min(k, count))
        seconds = time.perf_counter() - start
    return pa.RecordBatch.from_pydict({"seconds": [seconds], "items": [count]})


def time_bundle(
    ref: BundleRef, queries: NDArray[np.floating], k: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """`time_search` in a bundle, once; what is in `batches` does not matter."""
    for _ in batches:
        pass
    yield time_search(open_bundle(ref), queries, k)


def item_step(searchable: Searchable) -> int:
    """How many items make a row batch of a good size."""
    return max(1, _BLOCK_BYTES // (8 * int(searchable.index.matrix.shape[1])))


def item_rows(searchable: Searchable, start: int, positions: pa.Array) -> pa.RecordBatch:
    """The items from `start` on as rows: `positions`, id, features, label and weight."""
    items, matrix = searchable.items, searchable.index.matrix
    at = slice(start, start + len(positions))
    part = matrix[at]
    offsets = list_offsets(np.full(len(part), matrix.shape[1]))
    cells = {
        "position": positions,
        "id": None if items.ids is None else items.ids[at],
        "features": pa.ListArray.from_arrays(offsets, pa.array(part.ravel())),
        "label": None if items.labels is None else pa.array(items.labels[at]),
        "weight": None if items.weights is None else pa.array(items.weights[at]),
    }
    kept = {name: cell for name, cell in cells.items() if cell is not None}
    return pa.RecordBatch.from_arrays(list(kept.values()), names=list(kept))
