"""The shapes of groups in benchmarks/keyed.py, and rows with keys of these shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Shape:
    """Groups of items, and how often queries ask for each.

    Attributes
    ----------
    name : str
        What the table calls it.
    sizes : ndarray of shape (n_groups,), dtype int64
        The number of items of each group.
    shares : ndarray of shape (n_groups,), dtype float64
        The share of the queries that ask for each group.
    """

    name: str
    sizes: NDArray[np.int64]
    shares: NDArray[np.float64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each group begins, if items are sorted by group."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def groups(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Draw the groups of queries."""
        return rng.choice(len(self.sizes), n, p=self.shares)


def shapes(scale: float, zipf_items: int) -> list[Shape]:
    """Return the four shapes; `scale` is a factor for the number of groups, or of items."""
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, int(20_000 * scale) + 1)
    weights /= weights.sum()
    many, some = int(100_000 * scale), int(1_000 * scale)
    return [
        _even(f"{many:,} of 1 to 50", rng.integers(1, 51, many)),
        _even(f"{some:,} of 100 to 500", rng.integers(100, 501, some)),
        Shape(
            f"Zipf over {len(weights):,}",
            np.maximum(1, (weights * zipf_items * scale).astype(np.int64)),
            weights,
        ),
        _even(f"10 of {int(30_000 * scale):,}", np.full(10, int(30_000 * scale))),
    ]


def _even(name: str, sizes: NDArray[np.int64]) -> Shape:
    return Shape(name, sizes, np.full(len(sizes), 1.0 / len(sizes)))


def rows(
    spark: SparkSession, keys: NDArray[np.int64], dim: int, seed: int, partitions: int = 8
) -> DataFrame:
    """Return a persisted DataFrame of ids, keys and vectors (arrays of normal floats)."""
    shared = spark.sparkContext.broadcast(keys.astype(np.int32))

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            rng = np.random.default_rng([seed, int(ids[0])])
            values = rng.standard_normal(len(ids) * dim, dtype=np.float32)
            offsets = np.arange(0, len(values) + 1, dim, dtype=np.int32)
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column(0),
                    pa.array(shared.value[ids]),
                    pa.ListArray.from_arrays(offsets, values),
                ],
                ["id", "key", "features"],
            )

    made = spark.range(0, len(keys), 1, partitions)
    frame = made.mapInArrow(make, "id long, key int, features array<float>").persist()
    frame.count()
    return frame
