"""Items in packed chunks: how many there are, and how they are put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyspark_knn.engine.fit.chunks import HIDDEN, columns_of, placed, unpack
from pyspark_knn.engine.fit.packing import PackRequest
from pyspark_knn.engine.fit.source import ItemSource
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups
from pyspark_knn.index.found import SPARSE

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pyspark_knn.index.found import Rows


class Chunk(NamedTuple):
    """The summary of a chunk on the driver; for the fields see `chunks.CHUNK_SCHEMA`."""

    partition: int
    chunk: int
    rows: int
    size: int
    stored: int | None
    content: int
    digest: int


class Gathered(NamedTuple):
    """Items on the driver.

    Attributes
    ----------
    items : Items
        The items without their vectors.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        Their vectors: in the order of `groups` if there are keys, else in the order of `items`.
    groups : Groups or None
        The groups of items with equal keys; None if there are no keys.
    """

    items: Items
    matrix: Rows
    groups: Groups | None = None


class CountedItems:
    """Items in packed chunks: a context manager, which frees these at its end.

    Parameters
    ----------
    source : ItemSource
        What was read of the items.

    Attributes
    ----------
    num_items, num_features, num_skipped : int
        The number of items, the dimension of their vectors, and the number of invalid rows that
        were skipped.
    dtype : numpy dtype
        The type of the vectors: float32 if that represents every value exactly or the source
        requires it, otherwise float64.
    largest_label : float or None
        The largest label, if the items have labels.
    chunks : list of Chunk
        The chunks that contain the items, in order.
    """

    num_items: int
    num_features: int
    num_skipped: int
    dtype: np.dtype[np.floating]
    largest_label: float | None
    chunks: list[Chunk]

    def __init__(self, source: ItemSource) -> None:
        self.source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free what the chunks take."""

    def _request(self, chunk_bytes: int) -> PackRequest:
        """Return how to pack the items into chunks of about this size."""
        source = self.source
        return PackRequest(
            features_col=source.features_col,
            columns=tuple(source.columns),
            id_col=source.id_col,
            dim=source.features.attributes,
            handle_invalid=source.handle_invalid,
            dtype=source.dtype,
            chunk_bytes=chunk_bytes,
            numbers=source.numbers,
            sparse=source.storage == SPARSE,
            keys=tuple(source.key_types),
            missing=source.missing,
            features_param=source.features_param,
        )

    def nbytes(self, storage: str) -> int:
        """Return the size of the vectors in bytes, if they are stored dense or sparse."""
        width = self.dtype.itemsize
        if storage == SPARSE:
            return self.stored * (width + 4) + self.num_items * 8
        return self.num_items * self.num_features * width

    @property
    def stored(self) -> int:
        """The number of values that the items store; of a dense vector, all of them."""
        return sum(
            chunk.rows * self.num_features if chunk.stored is None else chunk.stored
            for chunk in self.chunks
        )

    def sparse_size(self) -> tuple[int, int]:
        """Return the size of all items that are packed sparse, in bytes: as packed, and dense."""
        sparse = [(chunk.rows, chunk.stored) for chunk in self.chunks if chunk.stored is not None]
        rows, stored = (sum(each) for each in zip(*sparse, strict=True)) if sparse else (0, 0)
        width = self.dtype.itemsize
        return stored * (width + 4) + rows * 8, rows * self.num_features * width

    def gather(self, storage: str) -> Gathered:
        """Return the items on the driver; each vector is copied to its row of the matrix.

        Parameters
        ----------
        storage : {"dense", "sparse"}
            The form of the vectors.

        Returns
        -------
        Gathered
            The items, sorted by `source.sort_by`, and their vectors.
        """
        rows, chunks = self._fetched()
        items, groups, place = arranged(self._gather_columns(rows), self.num_items, self.source)
        parts = (part for row in chunks for _, part in unpack(row, self.num_features, storage))
        matrix = placed(parts, place, self.num_features, self.dtype, storage)
        return Gathered(items, matrix, groups)

    def _fetched(self) -> tuple[Iterable[dict[str, Any]], Iterable[dict[str, Any]]]:
        """Return the chunks in order, twice: for their columns, and for their vectors."""
        raise NotImplementedError

    def _count(self, rows: Sequence[Any], *, may_be_empty: bool = False) -> None:
        """Count the items in chunks, and check them; `rows` are those of `chunks.CHUNK_SCHEMA`."""
        rows = sorted(rows, key=lambda row: (row.partition, row.chunk))
        problems = [row.problem for row in rows if row.problem is not None]
        if problems:
            raise ValueError(problems[0])
        chunks = [row for row in rows if row.chunk >= 0]
        dims: Counter[int] = Counter()
        for row in chunks:
            dims[row.dim] += row.rows
        param, name = self.source.features_param, self.source.features_col
        self.num_skipped = sum(row.skipped for row in rows if row.chunk < 0)
        if not dims and not may_be_empty:
            keys = bool(self.source.key_types)
            kind = "rows with invalid vectors or null keys" if keys else "invalid rows"
            skipped = f" ({self.num_skipped} {kind} were skipped)" * bool(self.num_skipped)
            raise ValueError(f"{param} {name!r} contains no vectors to fit{skipped}")
        if len(dims) > 1 and self.source.handle_invalid == "error":
            found = ", ".join(f"{dim} ({dims[dim]} rows)" for dim in sorted(dims))
            raise ValueError(
                f"{param} {name!r} contains vectors of different dimensions: {found}. Set "
                "handleInvalid to 'skip' to fit only the items of the most frequent dimension."
            )
        self._several_dims = len(dims) > 1
        # The most frequent dimension is kept, which does not depend on the partitioning.
        self.num_features = min(dims, key=lambda dim: (-dims[dim], dim), default=0)
        self.num_items = dims.pop(self.num_features, 0)
        self.num_skipped += dims.total()
        kept = [row for row in chunks if row.dim == self.num_features]
        self.dtype = np.result_type(np.float32, *{row.dtype for row in kept})
        labels = [row.label for row in kept if row.label is not None]
        self.largest_label = max(labels, default=None)
        self.chunks = [Chunk(*(row[name] for name in Chunk._fields)) for row in kept]

    def _gather_columns(self, rows: Iterable[dict[str, Any]]) -> pa.Table | None:
        if not self.source.columns:
            return None
        return pa.concat_tables(columns_of(row) for row in rows)


def arranged(
    table: pa.Table | None, count: int, source: ItemSource
) -> tuple[Items, Groups | None, NDArray[np.int64]]:
    """Sort items, and divide them into groups if they have keys.

    Parameters
    ----------
    table : pyarrow.Table or None
        The columns of the items; None if they have none.
    count : int
        The number of items.
    source : ItemSource
        What was read of the items.

    Returns
    -------
    items : Items
        The items without their vectors, sorted by `source.sort_by`; of equal items the first one
        stays first.
    groups : Groups or None
        Their groups; None if there are no keys.
    place : ndarray of shape (count,), dtype int64
        The row of the matrix for the vector of each row of `table`, see `Gathered`.
    """
    place = np.arange(count)
    if table is None:
        return Items(count, {}), None, place
    if source.sort_by:
        order = pc.sort_indices(table, [(name, "ascending") for name in source.sort_by])
        table = table.take(order)
        place[order.to_numpy()] = np.arange(count)
    hidden = [name for name in HIDDEN if name in table.column_names]
    items = Items.from_table(table.drop(hidden))
    if not source.key_types:
        return items, None, place
    groups = Groups.of(items, list(source.key_types))
    return items, groups, groups.rows[place]
