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

from pyspark_knn.engine.search.structures import (
    STRUCTURE_SCHEMA,
    digest_of_items,
    read_structure,
    restored_index,
    structure_rows,
    worth_saving,
)
from pyspark_knn.engine.ship.shard_rows import open_shards
from pyspark_knn.index.approximate.structures import check_range, check_structure, damaged
from pyspark_knn.index.cells import ShardAssignment
from pyspark_knn.index.choices import SharedChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

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
"""The shard in rows that belong to all shards: the centers of their cells."""

_MOST_WAYS = 100_000
"""The largest number of shards of a saved model."""

_MARK = "restores"
"""The column that is true in rows of structures, and null in pieces of shards."""


def write_shard_structures(
    digests: dict[int, str],
    cells: ShardAssignment | None,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield the structures of shards.

    Parameters
    ----------
    digests : dict of int to str
        The expected digest of each shard, see `shard_rows.ShardReader`.
    cells : ShardAssignment or None
        The cells that the shards are, which are written with the first shard.
    batches : iterator of pyarrow.RecordBatch
        `shard_rows.SHARD_COLUMNS`, the parts of each shard in order.

    Yields
    ------
    pyarrow.RecordBatch
        Rows of `SHARD_STRUCTURE_SCHEMA`.
    """
    for number, searchable in open_shards(digests, batches):
        if cells is not None and number == min(digests):
            yield from _rows(_OF_ALL, {"centers": cells.centers, "ways": cells.ways}, "")
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

    def cells(self, metric: Metric, n_features: int) -> ShardAssignment | None:
        """Return the cells of the saved shards, None if they are not saved; runs a small job.

        They depend on the partitions that KMeans found them in, so they are not found again.
        """
        from pyspark_knn.engine.spark import compat  # not in the workers

        rows = compat.collect(self.frame.where(f"shard = {_OF_ALL}"))
        if not rows:
            return None
        try:
            arrays = read_structure(rows)
            shapes = {"centers": (np.float64, (None, n_features)), "ways": (np.int64, (None,))}
            check_structure(arrays, shapes)
            ways = arrays["ways"]
            check_range("ways", ways, 1, len(ways) + _MOST_WAYS)
            if len(ways) != len(arrays["centers"]):
                raise damaged("ways", "must be as many as the centers")
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}. {ADVICE}") from error
        return ShardAssignment(arrays["centers"], np.cumsum(ways) - ways, ways, metric)

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
