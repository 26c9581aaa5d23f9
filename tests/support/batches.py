"""Feature vectors as Spark hands them to Python: see pyspark_knn.engine.columns.features_of."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

Sparse = tuple[int, dict[int, float]]
"""Dimension, and place -> value."""


def vector_columns(vectors: Sequence[list[float] | Sparse | None]) -> tuple[pa.Array, ...]:
    """The values, indices and sizes of MLlib vectors, dense (a list) and sparse."""
    values: list[list[float] | None] = []
    indices: list[list[int]] = []
    sizes: list[int | None] = []
    for vector in vectors:
        if isinstance(vector, tuple):
            sizes.append(vector[0])
            indices.append(list(vector[1]))
            values.append(list(vector[1].values()))
        else:
            sizes.append(None)
            indices.append([])
            values.append(vector)
    return (
        pa.array(values, pa.list_(pa.float64())),
        pa.array(indices, pa.list_(pa.int32())),
        pa.array(sizes, pa.int32()),
    )


def array_column(
    vectors: Sequence[list[float | None] | None], kind: pa.DataType | None = None
) -> tuple[pa.Array, ...]:
    """A column of arrays of numbers."""
    return (pa.array(vectors, pa.list_(kind or pa.float64())),)
