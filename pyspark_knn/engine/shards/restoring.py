"""The structures of approximate shards in a saved model: written and read in Python workers.

A shard that is built of the same items as a saved one gets its structure from there. It is checked
in the worker that builds the shard, so that the driver reads no structure.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.fit.chunks import SERIES
from pyspark_knn.engine.search.structures import (
    STRUCTURE_SCHEMA,
    digest_of_items,
    read_structure,
    restored_index,
    structure_rows,
    worth_saving,
)
from pyspark_knn.engine.shards.saved_layout import SavedLayout
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.index.choices import SharedChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.engine.ship.shard_rows import Shard
    from pyspark_knn.index.base import IndexSpec, NeighborIndex
    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Rows

SHARD_STRUCTURE_SCHEMA = pa.schema([("shard", pa.int32()), *STRUCTURE_SCHEMA])
"""Rows of `STRUCTURE_SCHEMA` with the number of the shard."""

ADVICE = "Delete this folder to build the index again when the model is loaded"
"""What to do about a damaged structure."""

RESTORED = "the index was saved"
"""The reason for the algorithm of an index that was restored."""

_LARGEST = 1 << 29
"""Larger structures of a shard are not saved, in bytes: before Spark 4, the vectors of a shard and
its structure may be in one Arrow batch, whose limit is 2 GiB. They are larger only in few
dimensions, where a search is fast without them."""

_OF_ALL = -1
"""The shard in rows that belong to all shards: the arrays of their layout."""

_MARK = "restores"
"""The column that is true in rows of structures, and null in pieces of shards."""


def write_shard_structures(
    digests: dict[int, str],
    layout: SavedLayout,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the structures of shards.

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    layout : SavedLayout
        The division into shards, which is written with the first shard.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `SHARD_STRUCTURE_SCHEMA`.
    """
    for number, searchable in open_shards(digests, batches):
        if number == min(digests):
            yield from _rows(_OF_ALL, layout.structure(), "")
        if not worth_saving(searchable.index):
            continue
        structure = searchable.index.structure()
        if sum(array.nbytes for array in structure.values()) <= _LARGEST:
            yield from _rows(number, structure, digest_of_items(searchable.index.matrix))


def _rows(
    number: int, structure: Mapping[str, NDArray[Any]], items: str
) -> Iterator[pa.RecordBatch]:
    for row in structure_rows(structure, items):
        columns = [pa.array([number], pa.int32()), *row.columns]
        yield pa.RecordBatch.from_arrays(columns, schema=SHARD_STRUCTURE_SCHEMA)


@dataclass(frozen=True)
class SavedShards:
    """The structures of the shards of a saved model.

    Attributes
    ----------
    path : str
        Their folder.
    frame : DataFrame
        Rows of `SHARD_STRUCTURE_SCHEMA`, which may be damaged.
    """

    path: str
    frame: DataFrame

    def layout(self, metric: Metric, packed: PackedItems) -> SavedLayout | None:
        """Return the division of packed items into shards, None if it is not saved.

        Runs a small job. Cells depend on the partitions that KMeans found them in, so they are not
        found again.
        """
        from pyspark_knn.engine.spark import compat  # not in the workers

        rows = compat.collect(self.frame.where(f"shard = {_OF_ALL}"))
        if not rows:
            return None
        try:
            layout = SavedLayout.restored(read_structure(rows), metric, packed.num_features)
            if len(layout.series) > 1 and SERIES not in packed.source.columns:
                raise ValueError("the items have no column 'series'")
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}. {ADVICE}") from error
        return layout

    def pieces(self, num_shards: int) -> DataFrame:
        """Return the rows to add to the pieces of the shards 0 to `num_shards` - 1."""
        from pyspark.sql import functions as F  # not in the workers

        known = self.frame.where(F.col("shard").between(0, num_shards - 1))
        return known.withColumn(_MARK, F.lit(True))

    def warn_of_others(self, shards: Sequence[Shard]) -> None:
        """Warn if some shards had to be built again."""
        built = sum(each.reason != RESTORED for each in shards)
        if built:
            warnings.warn(
                f"{self.path} lacks the structure of {built} of {len(shards)} shards, so they are "
                "built again from the items.",
                stacklevel=2,
            )


class RestoringChoice(SharedChoice):
    """Restores the index of a shard from its saved structure, or builds it.

    Parameters
    ----------
    where : str
        The folder and the shard, for errors.
    otherwise : SharedChoice
        Builds the index if no structure of these items was saved.
    """

    def __init__(self, where: str, otherwise: SharedChoice) -> None:
        super().__init__()
        self._where = where
        self._otherwise = otherwise
        self._rows: list[Mapping[str, Any]] = []

    def without_structures(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Yield the pieces of a shard, and keep the rows of its structure."""
        for row in rows:
            if row[_MARK]:
                self._rows.append(row)
            else:
                yield row

    def build(self, matrix: Rows, spec: IndexSpec) -> tuple[NeighborIndex, str]:
        """See `SharedChoice.build`."""
        rows, self._rows = self._rows, []
        try:
            index = restored_index(cast("np.ndarray[Any, Any]", matrix), spec, rows)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._where}: {error}. {ADVICE}") from error
        return self._otherwise.build(matrix, spec) if index is None else (index, RESTORED)
