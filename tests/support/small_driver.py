"""A program for a driver that is far smaller than its data: fit, search, save, load, search."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, KNNModel
from tests.support.sessions import start

ROWS, DIM = 800_000, 64
ROOM = 100 << 20
"""What Python may take on top of what it has; the vectors take 195 MiB."""


def main(folder: Path) -> None:
    """Print how far an item is from itself, before and after saving."""
    spark = start(
        "small-driver",
        folder / "warehouse",
        spark__driver__memory="512m",
        spark__driver__maxResultSize="16m",
    )
    # After the JVM came up: its limits are its own. Executors are no children of this process.
    held = Path("/proc/self/statm").read_text().split()[5]
    limit = int(held) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    places = F.sequence(F.lit(1), F.lit(DIM))
    value = F.transform(places, lambda i: (F.xxhash64("id", i) / F.lit(2.0**63)).cast("float"))
    items = spark.range(0, ROWS, 1, 8).select("id", value.alias("features"))
    queries = items.where("id % 200000 = 7")
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
