"""DataFrames for tests, and answers collected from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.linalg import SparseVector, Vectors, VectorUDT
from pyspark.sql import types as T

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Matrix = NDArray[np.floating]


def _sparse(row: Sequence[float]) -> SparseVector:
    return Vectors.sparse(len(row), {i: float(x) for i, x in enumerate(row) if x})


def _dense(row: Sequence[float]) -> Any:
    return Vectors.dense([float(x) for x in row])


# Kind of a features column -> its type, and the conversion of a row. Integers suit all of them.
KINDS: dict[str, tuple[T.DataType, Callable[[Any], Any]]] = {
    "dense": (VectorUDT(), _dense),
    "sparse": (VectorUDT(), _sparse),
    "mixed": (VectorUDT(), lambda row: _dense(row) if row[0] > 0 else _sparse(row)),
    "double": (T.ArrayType(T.DoubleType()), lambda row: [float(x) for x in row]),
    "float": (T.ArrayType(T.FloatType()), lambda row: [float(x) for x in row]),
    "int": (T.ArrayType(T.IntegerType()), lambda row: [int(x) for x in row]),
    "long": (T.ArrayType(T.LongType()), lambda row: [int(x) for x in row]),
    "short": (T.ArrayType(T.ShortType()), lambda row: [int(x) for x in row]),
    "decimal": (T.ArrayType(T.DecimalType(10, 2)), lambda row: [Decimal(int(x)) for x in row]),
}


def frame_of(
    spark: SparkSession,
    matrix: Matrix,
    ids: Sequence[Any] | None = None,
    *,
    kind: str = "double",
    id_type: T.DataType | None = None,
    partitions: int | None = None,
    id_col: str = "id",
    features_col: str = "features",
) -> DataFrame:
    """A DataFrame of ids (0, 1, ... unless given) and features of one of KINDS."""
    names = list(range(len(matrix))) if ids is None else list(ids)
    features_type, cell = KINDS[kind]
    schema = T.StructType(
        [
            T.StructField(id_col, id_type or T.LongType()),
            T.StructField(features_col, features_type),
        ]
    )
    rows = [(name, cell(row)) for name, row in zip(names, matrix.tolist(), strict=True)]
    frame = spark.createDataFrame(rows, schema)
    return frame if partitions is None else frame.repartition(partitions)


def answers(
    found: DataFrame, neighbors: str = "neighbors", distances: str = "distances", key: str = "id"
) -> list[list[tuple[Any, float]]]:
    """The (id, distance) pairs of each query, in the order of the queries' keys."""
    rows = sorted(found.select(key, neighbors, distances).collect(), key=lambda row: row[0])
    return [list(zip(row[1], row[2], strict=True)) for row in rows]
