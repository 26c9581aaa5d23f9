"""What a worker searches: items and their index, with or without keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.items import NUMBER, Items
from pyspark_knn.engine.rows.keys import Keys
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.grouped.queries import GroupQueries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Rows


EXACT = 0
"""As a knob: the exact answer."""


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

    def numbered(self, first: int) -> Searchable:
        """Return the same with numbered items, see `Items.numbered`."""
        return replace(self, items=self.items.numbered(first))

    def tuned(self, knob: int | None) -> Searchable:
        """Return the same, whose approximate index searches less or more thoroughly.

        Parameters
        ----------
        knob : int or None
            See `ApproximateIndex.with_knob`; `EXACT` for the exact answer. None, or an index that
            is exact, changes nothing.

        Returns
        -------
        Searchable
            The items and the index.
        """
        if knob is None or not isinstance(self.index, ApproximateIndex):
            return self
        index = self.index.exact_index if knob == EXACT else self.index.with_knob(knob)
        return replace(self, index=index)

    @property
    def levels(self) -> list[int]:
        """How thoroughly the index can be searched; empty if it is exact."""
        index = self.index
        return index.knob_levels() if isinstance(index, ApproximateIndex) else []

    def held_out(self, numbers: NDArray[np.int64]) -> Searchable:
        """Return the same, to measure the recall of items as queries.

        Parameters
        ----------
        numbers : ndarray of shape (n,), dtype int64
            The numbers of these items, or of items of other shards; see `Items.numbered`.

        Returns
        -------
        Searchable
            The items and the index, see `ApproximateIndex.held_out`.
        """
        if not isinstance(self.index, ApproximateIndex):
            return self
        own = numbers - self.items.columns[NUMBER][0].as_py()
        own = own[(own >= 0) & (own < self.items.count)]
        return replace(self, index=self.index.held_out(own))

    def queries(self, vectors: Any, keys: Sequence[pa.Array]) -> Any:
        """Return queries in the form that the search of the index takes.

        Parameters
        ----------
        vectors : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            Valid queries, in the form that the index stores.
        keys : sequence of pyarrow.Array
            The keys of these queries, see `Keys.of_queries`; empty if there are no keys.

        Returns
        -------
        ndarray, SparseRows or GroupQueries
            The vectors, or if there are keys the vectors with their groups.
        """
        if self.keys is None:
            return vectors
        return GroupQueries(vectors, *self.keys.of_queries(keys))

    def own_queries(self, positions: NDArray[np.int64]) -> Any:
        """Return items as queries, which have the keys that the items have.

        Parameters
        ----------
        positions : ndarray of shape (n_queries,), dtype int64
            The positions of the items.

        Returns
        -------
        ndarray, SparseRows or GroupQueries
            See `queries`.
        """
        if not isinstance(self.index, GroupedIndex):
            return self.vectors(positions)
        groups = self.index.groups_of(positions)
        return GroupQueries(self.vectors(positions), np.arange(len(positions)), groups)

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
        """Search queries of unknown keys, and return the mean number of items in their groups.

        If there are keys, a query belongs to a group as likely as an item does.

        Parameters
        ----------
        queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
            Valid queries.
        k : int
            Neighbors per query; may exceed the number of items.

        Returns
        -------
        float
            The number of items that a query was compared with.
        """
        if not isinstance(self.index, GroupedIndex):
            self.index.search(queries, min(k, self.items.count))
            return float(self.items.count)
        rows, sizes = np.arange(len(queries)), self.index.sizes
        spread = rows * (self.items.count // max(1, len(rows)))
        groups = np.searchsorted(np.cumsum(sizes), spread, side="right")
        self.index.search(GroupQueries(queries, rows, groups), k)
        return float(sizes[groups].mean()) if len(rows) else 1.0


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


def task_threads() -> int:
    """Return the BLAS and OpenMP threads of a task: its cores (spark.task.cpus)."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return 1 if context is None else max(1, context.cpus())


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
    ref: BundleRef, queries: Rows, k: int, knob: int | None, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield `time_search` in a bundle, once; the content of `batches` is ignored."""
    for _ in batches:
        pass
    yield time_search(open_bundle(ref).tuned(knob), queries, k)
