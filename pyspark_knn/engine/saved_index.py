"""The saved structure of an approximate index, read on the driver."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.search.structures import STRUCTURE_SCHEMA, restored_index
from pyspark_knn.engine.shards.restoring import ADVICE, SHARD_STRUCTURE_SCHEMA, SavedShards
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.folders import literal
from pyspark_knn.index.registry import approximate_classes

if TYPE_CHECKING:
    import pyarrow as pa

    from pyspark_knn.index.approximate.base import ApproximateIndex
    from pyspark_knn.index.base import IndexSpec
    from pyspark_knn.index.found import Rows

_SLICE_BYTES = 256 << 20
"""The bytes that are fetched at a time, less than spark.driver.maxResultSize."""


class SavedIndex(ABC):
    """The folder of a saved structure.

    Attributes
    ----------
    path : str
        The folder.
    """

    path: str

    def restored(self, matrix: Rows, spec: IndexSpec) -> ApproximateIndex | None:
        """Return the index of a saved model.

        Parameters
        ----------
        matrix : ndarray or SparseRows of shape (n_items, n_features)
            The vectors of the items.
        spec : IndexSpec
            How the index was built.

        Returns
        -------
        ApproximateIndex or None
            The index. None if its structure is not saved, or if it is, with a warning, that of
            other items.

        Raises
        ------
        ValueError
            If the structure is damaged.
        """
        kind = approximate_classes().get(spec.algorithm)
        if kind is None or not kind.worth_saving or not isinstance(matrix, np.ndarray):
            return None
        try:
            rows = self._rows()
            if rows is None:
                self._warn("is missing")
                return None
            index = restored_index(matrix, spec, rows)
            if index is None:
                self._warn("does not belong to the items")
            return index
        except (PySparkException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: {compat.reason(error)}. {ADVICE}") from error

    def of_shards(self, spec: IndexSpec) -> SavedShards | None:
        """Return the structures of the shards of a saved model, which the workers read.

        Parameters
        ----------
        spec : IndexSpec
            How the shards were built.

        Returns
        -------
        SavedShards or None
            The structures. None if there are none: models of earlier releases and models with
            too many appended shards have none.

        Raises
        ------
        ValueError
            If the files are damaged.
        """
        return None

    def _warn(self, problem: str) -> None:
        warnings.warn(
            f"{self.path} {problem}, so the index is built again from the items.", stacklevel=2
        )

    @abstractmethod
    def _rows(self) -> list[dict[str, Any]] | None:
        """Return the rows, None if there is no such folder."""


@dataclass(frozen=True)
class IndexFolder(SavedIndex):
    """A folder that Spark reads.

    Attributes
    ----------
    session : SparkSession
        The session that reads it.
    path : str
        The folder.
    """

    session: SparkSession
    path: str

    def of_shards(self, spec: IndexSpec) -> SavedShards | None:
        """See `SavedIndex.of_shards`."""
        kind = approximate_classes().get(spec.algorithm)
        if kind is None or not kind.worth_saving:
            return None
        try:
            frame = self._frame()
            if frame is None or "shard" not in frame.columns:
                return None
            return SavedShards(self.path, _checked(frame, SHARD_STRUCTURE_SCHEMA))
        except (PySparkException, ValueError) as error:
            raise ValueError(f"{self.path}: {compat.reason(error)}. {ADVICE}") from error

    def _frame(self) -> DataFrame | None:
        """Return the content of the folder, None if there is no such folder."""
        try:
            frame = self.session.read.parquet(literal(self.path))
            frame.schema  # noqa: B018  Spark Connect reads nothing before this
        except PySparkException as error:
            if "PATH_NOT_FOUND" in str(error) or "does not exist" in str(error):
                return None
            raise
        return frame

    def _rows(self) -> list[dict[str, Any]] | None:
        found_frame = self._frame()
        if found_frame is None:
            return None
        frame = _checked(found_frame, STRUCTURE_SCHEMA)
        sizes = frame.select("name", "part", F.length("bytes").alias("size")).collect()
        found: list[dict[str, Any]] = []
        for part in _slices([tuple(row) for row in sizes]):
            found += compat.collect(_only(frame, part, whole=len(part) == len(sizes)))
        return found


def check_types(types: Mapping[str, str], schema: pa.Schema) -> None:
    """Raise a ValueError unless there are the columns of a schema, by their types in SQL."""
    for field in from_arrow_schema(schema).fields:
        if types.get(field.name) != field.dataType.simpleString():
            raise ValueError(f"column {field.name!r} is missing or has another type")


def _checked(frame: DataFrame, schema: pa.Schema) -> DataFrame:
    """Return the columns of a schema; raise a ValueError if one is missing or of another type."""
    check_types({each.name: each.dataType.simpleString() for each in frame.schema.fields}, schema)
    return frame.select(*schema.names)


def _slices(sizes: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Divide parts of arrays into lists of bounded size."""
    slices: list[list[tuple[Any, ...]]] = [[]]
    size = 0
    for each in sizes:
        if size + (each[2] or 0) > _SLICE_BYTES and slices[-1]:
            slices.append([])
            size = 0
        slices[-1].append(each)
        size += each[2] or 0
    return slices


def _only(frame: DataFrame, parts: list[tuple[Any, ...]], *, whole: bool) -> DataFrame:
    if whole:
        return frame
    key = F.concat_ws(" ", "part", "name")
    return frame.where(key.isin([f"{part} {name}" for name, part, _ in parts]))
