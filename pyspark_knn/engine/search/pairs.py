"""All pairs of items within a distance, each pair once, in a Python worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pyspark_knn.engine.rows.vectors import vector_rows
from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import BLOCK_NUMBERS
from pyspark_knn.engine.search.export import steps
from pyspark_knn.engine.search.searchable import Searchable, task_threads
from pyspark_knn.engine.search.within import found_within
from pyspark_knn.engine.ship.bundle import BundleRef, open_bundle
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.engine.spark.arrow import list_offsets

if TYPE_CHECKING:
    from pyspark_knn.index.cells import Cells

BLOCK_ITEMS = 1024
"""Items that are compared at a time with all items after the first of them."""

NEIGHBOR = "neighbor"
"""The id of the second item of a pair; the first is "id"."""

_QUERY_BYTES = 32 << 20
"""The vectors in one batch of the items that are sent to other shards, in bytes."""


def pairs_in_bundle(
    ref: BundleRef,
    max_distance: float,
    batches: Iterator[pa.RecordBatch],
    block_items: int = BLOCK_ITEMS,
    most: int = BLOCK_NUMBERS,
) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of some blocks of items with the items after them.

    The fewer items come after a block, the less it takes. So unit i consists of the i-th block and
    the i-th last one, and all units take the same.

    Parameters
    ----------
    ref : BundleRef
        Where the index is.
    max_distance : float
        The largest distance of a pair, inclusive.
    batches : iterator of pyarrow.RecordBatch
        One column of numbers of units.
    block_items : int, default=BLOCK_ITEMS
        The number of items in a block.
    most : int, default=BLOCK_NUMBERS
        The number of pairs in a batch, unless one item has more.

    Yields
    ------
    pyarrow.RecordBatch
        The columns "id", `NEIGHBOR` and `DISTANCE`; the neighbor has the larger position.
    """
    searchable = open_bundle(ref)
    n_blocks = -(-searchable.items.count // block_items)
    with threadpool_limits(limits=task_threads()):
        for batch in batches:
            for unit in batch.column(0).to_pylist():
                for block in sorted({unit, n_blocks - 1 - unit}):
                    yield from _pairs_of_block(searchable, block, max_distance, block_items, most)


def n_units(n_items: int, block_items: int = BLOCK_ITEMS) -> int:
    """Return the number of units of `pairs_in_bundle`."""
    return -(-n_items // (2 * block_items))


def _pairs_of_block(
    searchable: Searchable,
    block: int,
    max_distance: float,
    block_items: int,
    most: int,
) -> Iterator[pa.RecordBatch]:
    items, index = searchable.items, searchable.index
    start = block * block_items
    positions = np.arange(start, min(start + block_items, items.count))
    queries = searchable.own_queries(positions)
    for found in found_within(index, queries, max_distance, after=positions, most=most):
        yield pa.RecordBatch.from_pydict(
            {
                "id": items.take("id", start + found.queries),
                NEIGHBOR: items.take("id", found.positions),
                DISTANCE: pa.array(found.distances),
            }
        )
        start += len(found.offsets) - 1


# --- shards ---------------------------------------------------------------------------------------

ORIGIN, PLACE, ROUTE = "origin", "place", "route"
"""Of an item that is sent to shards: its own shard, its position in it, and the shards."""


@dataclass(frozen=True)
class PairRoutes:
    """The shards that an item is compared in, so that every two shards are compared once.

    Attributes
    ----------
    shards : tuple of int
        The numbers of the shards that have items, in ascending order.
    max_distance : float
        The largest distance of a pair, inclusive.
    cells : Cells or None
        The cells that the shards are; None if they are not cells.
    dtype : numpy dtype
        The type of the vectors that are sent; those of some shards may be narrower.
    """

    shards: tuple[int, ...]
    max_distance: float
    cells: Cells | None
    dtype: np.dtype[np.floating]

    def targets(self, shard: int) -> NDArray[np.int64]:
        """Return the numbers in `shards` of those that the items of a shard are sent to.

        Of n shards in a circle, each is compared with itself and the next n/2. If n is even, two
        shards that are opposite each other are compared once, in the second of them.
        """
        count, own = len(self.shards), self.shards.index(shard)
        ahead = (count - 1) // 2 + (count % 2 == 0 and own < count // 2)
        return (own + np.arange(ahead + 1)) % count

    def of(self, shard: int, vectors: Any) -> pa.ListArray:
        """Return the shards that each of some items of a shard is sent to, its own included."""
        targets = self.targets(shard)
        sent = np.ones((len(vectors), len(targets)), bool)
        if self.cells is not None:
            limits = np.full(len(vectors), self.max_distance)
            sent = self.cells.within(vectors, limits)[:, targets]
        numbers = np.array(self.shards)[targets[np.nonzero(sent)[1]]]
        return pa.ListArray.from_arrays(
            list_offsets(sent.sum(axis=1)), pa.array(numbers, pa.int32())
        )


def read_pair_queries(
    digests: dict[int, str],
    routes: PairRoutes,
    columns: Sequence[str],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the items of shards as queries for other shards.

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    routes : PairRoutes
        Where to send the items.
    columns : sequence of str
        The item columns to yield: "id", and the keys if there are any.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        The columns `ORIGIN`, `PLACE`, `ROUTE`, "features" and `columns`.
    """
    for shard, searchable in open_shards(digests, batches):
        matrix = searchable.vectors(slice(None))
        for first, last in steps(matrix, _QUERY_BYTES):
            vectors, positions = matrix[first:last], np.arange(first, last)
            yield pa.RecordBatch.from_pydict(
                {
                    ORIGIN: pa.array(np.full(last - first, shard), pa.int32()),
                    PLACE: pa.array(positions),
                    ROUTE: routes.of(shard, vectors),
                    "features": vector_rows(vectors, routes.dtype),
                    **{name: searchable.items.take(name, positions) for name in columns},
                }
            )
