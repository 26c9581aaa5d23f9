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

from pyspark_knn.engine.search.structures import (
    STRUCTURE_SCHEMA,
    digest_of_items,
    read_structure,
)
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.folders import literal
from pyspark_knn.index.registry import approximate_classes

if TYPE_CHECKING:
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
            if {row["items"] for row in rows} != {digest_of_items(matrix)}:
                self._warn("does not belong to the items")
                return None
            return kind.restored(matrix, spec, read_structure(rows))
        except (PySparkException, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path}: {compat.reason(error)}. Delete this folder to build the index again "
                "when the model is loaded"
            ) from error

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

    def _rows(self) -> list[dict[str, Any]] | None:
        try:
            frame = self.session.read.parquet(literal(self.path))
            fields = frame.schema.fields  # Spark Connect reads nothing before this
        except PySparkException as error:
            if "PATH_NOT_FOUND" in str(error) or "does not exist" in str(error):
                return None
            raise
        check_structure_types({field.name: field.dataType.simpleString() for field in fields})
        frame = frame.select(*STRUCTURE_SCHEMA.names)
        sizes = frame.select("name", "part", F.length("bytes").alias("size")).collect()
        found: list[dict[str, Any]] = []
        for part in _slices([tuple(row) for row in sizes]):
            found += compat.collect(_only(frame, part, whole=len(part) == len(sizes)))
        return found


def check_structure_types(types: Mapping[str, str]) -> None:
    """Raise a ValueError unless there are the columns of a structure, by their types in SQL."""
    for field in from_arrow_schema(STRUCTURE_SCHEMA).fields:
        if types.get(field.name) != field.dataType.simpleString():
            raise ValueError(f"column {field.name!r} is missing or has another type")


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
