"""Feature vectors as Spark hands them to Python, see `columns.features_of`."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES, VectorBatch

Sparse = tuple[int, dict[int, float]]
"""Dimension, and place -> value."""


def vector_columns(vectors: Sequence[list[float] | Sparse | None]) -> tuple[pa.Array, ...]:
    """The values and layouts of MLlib vectors, dense (a list) and sparse."""
    values: list[list[float] | None] = []
    layouts: list[list[int]] = []
    for vector in vectors:
        values.append(list(vector[1].values()) if isinstance(vector, tuple) else vector)
        layouts.append([vector[0], *vector[1]] if isinstance(vector, tuple) else [])
    return (pa.array(values, pa.list_(pa.float64())), pa.array(layouts, pa.list_(pa.int32())))


def array_column(
    vectors: Sequence[list[float | None] | None], kind: pa.DataType | None = None
) -> tuple[pa.Array, ...]:
    """A column of arrays of numbers."""
    return (pa.array(vectors, pa.list_(kind or pa.float64())),)


def vector_batch(arrays: tuple[pa.Array, ...]) -> VectorBatch:
    """The vectors in columns of one of the other functions."""
    return VectorBatch.from_arrow(dict(zip((VALUES, LAYOUT), arrays, strict=False)))
