"""Measure the memory of Python workers in separate executors, and one executor against two.

    python benchmarks/executors.py [--rounds 3]

The memory is read from /proc, so this benchmark runs on Linux only.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from _harness import check, matrix_of, median, processes_below, show, start, take_turns, vectors
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

K = 10


def worker_memory(items: int, dim: int) -> None:
    """Compare the sum of the Pss of four workers of one executor, after all of them searched."""
    rows = []
    for name in ("pyspark_knn", "broadcast recipe"):
        spark = start("local-cluster[1,4,4096]")
        frame = vectors(spark, items, dim, seed=1)
        queries = vectors(spark, 8_000, dim, seed=2, partitions=8)
        if name == "pyspark_knn":
            model = KNNEstimator(k=K, idCol="id", algorithm="brute").fit(frame)
            found = model.transform(queries)
        else:
            fitted = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(matrix_of(frame))
            found = _in_blocks(spark.sparkContext.broadcast(fitted), queries)
        frame.unpersist()
        found.write.format("noop").mode("overwrite").save()
        pss, workers = _worker_pss()
        check(workers == 4, f"expected 4 workers, found {workers}")
        rows.append([name, f"{pss / 2**20:,.0f}", pss])
        spark.stop()
    share = rows[0][2] / rows[1][2]
    size = items * dim * 4 / 2**20
    show(
        f"Memory of the Python workers, index of {size:,.0f} MiB, 4 workers of one executor",
        ["tool", "sum of Pss, MiB", "relative to the recipe"],
        [[*rows[0][:2], f"{share:.2f}"], [*rows[1][:2], "1"]],
    )


def _in_blocks(shared: Any, queries: DataFrame) -> DataFrame:
    def search(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        with threadpool_limits(limits=1):
            for batch in batches:
                found = shared.value.kneighbors(np.stack(batch["features"].to_numpy()))
                yield pd.DataFrame({"id": batch["id"], "neighbors": list(found[1])})

    return queries.mapInPandas(search, "id long, neighbors array<long>")


def _worker_pss() -> tuple[int, int]:
    """Return the sum of the workers' Pss in bytes and their number, while they wait for a job."""
    total, workers = 0, 0
    for daemon, command in processes_below(os.getpid()).items():
        if b"pyspark.daemon" in command:
            for worker in processes_below(daemon):
                rollup = Path(f"/proc/{worker}/smaps_rollup").read_text()
                total += int(rollup.split("Pss:")[1].split()[0]) * 1024
                workers += 1
    return total, workers


def one_and_two(items: int, queries: int, dim: int, rounds: int) -> None:
    """Time the same search with one executor of one core, and with two."""
    took = {}
    for executors in (1, 2):
        spark = start(f"local-cluster[{executors},1,3072]")
        model = KNNEstimator(k=K, idCol="id").fit(vectors(spark, items, dim, seed=1))
        asked = vectors(spark, queries, dim, seed=2, partitions=8)

        def run(model: Any = model, asked: DataFrame = asked) -> None:
            model.transform(asked).write.format("noop").mode("overwrite").save()

        seconds, _ = take_turns({"ours": run}, rounds)
        took[executors] = median(seconds["ours"])
        spark.stop()
        time.sleep(1)
    show(
        f"{queries:,} queries, {items:,} x {dim} items, executors of one core each",
        ["executors", "seconds (median)", "speed-up"],
        [[n, f"{each:.2f}", f"{took[1] / each:.2f}"] for n, each in took.items()],
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    worker_memory(items=400_000, dim=144)
    one_and_two(items=100_000, queries=40_000, dim=64, rounds=options.rounds)


if __name__ == "__main__":
    main()
