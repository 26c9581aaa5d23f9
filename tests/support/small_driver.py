"""A program for a driver with far less memory than its data: fit, search, save, load, search."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import sklearn.utils  # noqa: F401 - what a fit imports is loaded before memory is limited

from pyspark_knn import KNNEstimator, KNNModel
from tests.support.sessions import start

ROWS, DIM, STEP = 640_000, 128, 160_000
ROOM = 100 << 20
"""Memory that Python may use in addition; the vectors take 625 MiB."""


def with_vectors(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Add a vector to each id: consecutive parts of a sequence without a pattern."""
    for batch in batches:
        for first in range(0, batch.num_rows, 1000):
            ids = batch.column(0).slice(first, 1000)
            places = ids.to_numpy()[:, None] * DIM + np.arange(DIM)
            values = pa.array((places * 0.6180339887498949 % 1.0).ravel())
            lists = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, DIM, np.int32), values)
            yield pa.RecordBatch.from_arrays([ids, lists], ["id", "features"])


def main(folder: Path) -> None:
    """Print the distance of an item to itself, before and after saving."""
    spark = start(
        "small-driver",
        folder / "warehouse",
        spark__driver__memory="512m",
        spark__driver__maxResultSize="16m",
    )
    # After the JVM has started, which has its own limits. Executors have other parents.
    held = Path("/proc/self/statm").read_text().split()[5]
    limit = int(held) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    ids = spark.range(0, ROWS, 1, 8)
    items, queries = (
        some.mapInArrow(with_vectors, "id long, features array<double>")
        for some in (ids, ids.where(f"id % {STEP} = 7"))
    )
    model = KNNEstimator(k=1, idCol="id", placement="sharded", algorithm="brute").fit(items)
    path = str(folder / "model")
    for held_model in (model, None):
        used = held_model or KNNModel.load(path)
        rows = used.transform(queries).select("id", "neighbors", "distances").collect()
        print(sorted((row.id, *row.neighbors, *row.distances) for row in rows), flush=True)
        if held_model is not None:
            model.write().save(path)
            model.unpersist()
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
