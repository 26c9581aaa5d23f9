"""The part `--only memory` of benchmarks/sparse.py: the memory of workers and of a small driver.

It reads /proc, so it runs on Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from _harness import check, consume, processes_below, show, start
from _sparse_spark import stored, texts, three_grams
from pyspark.ml import Pipeline
from pyspark.ml.feature import IDF, HashingTF
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

WORKERS = 4
NAMES, QUERIES = 500_000, 40_000
WIDE, WORDS, VOCABULARY = 1 << 20, 20, 1_000_000
FITS = {"replicated": 1_000_000, "sharded": 4_000_000}
DRIVER_JVM, DRIVER_PYTHON = 2560, 1536
"""MiB of a driver of 4 GiB: the heap of its JVM, and what Python may use in addition."""


class Watch(threading.Thread):
    """Read some number of all Python workers again and again, and keep the largest."""

    def __init__(self, read: Callable[[Iterable[int]], float]) -> None:
        super().__init__(daemon=True)
        self.peak, self._read, self._stopped = 0.0, read, threading.Event()

    def run(self) -> None:
        """Read until the end of the block."""
        while not self._stopped.wait(0.1):
            self.peak = max(self.peak, self._read(workers()))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def workers() -> Iterator[int]:
    """Yield the process ids of the Python workers, without the daemons that fork them."""
    for daemon, command in processes_below(os.getpid()).items():
        if b"pyspark.daemon" in command:
            yield from processes_below(daemon)


def sum_of_pss(pids: Iterable[int]) -> float:
    """Return the memory of processes in MiB; what several share counts once."""
    return sum(_read(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids)


def largest_peak(pids: Iterable[int]) -> float:
    """Return the largest peak of resident memory that is not of a mapped file, in MiB."""
    return max((_read(f"/proc/{pid}/status", "VmHWM:") for pid in pids), default=0.0)


def _read(path: str, name: str) -> float:
    with contextlib.suppress(OSError):  # the process has just ended
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def memory(scale: float, _: int) -> None:
    """Measure the workers of one executor, and both placements with a small driver."""
    shared_index(int(NAMES * scale))
    rows = []
    for placement, full in FITS.items():
        n = int(full * scale)
        ended = subprocess.run(
            [sys.executable, __file__, placement, str(n)], stdout=subprocess.PIPE, check=True
        )
        found = json.loads(ended.stdout.splitlines()[-1])
        figures = [f"{found[name]:,.0f}" for name in ("index", "python", "jvm", "worker")]
        shards = found["shards"] or ""
        rows.append([placement, f"{n:,}", shards, *figures, f"{found['seconds']:.0f}"])
    show(
        f"HashingTF with {WIDE:,} dimensions, {WORDS} words a row, a driver of 4 GiB "
        f"({DRIVER_JVM:,} MiB for the JVM), two executors of one core; peaks in MiB",
        [
            *("placement", "items", "shards", "index", "driver's Python", "driver's JVM"),
            *("largest worker", "seconds, fit and 1,000 queries"),
        ],
        rows,
    )


def shared_index(n: int) -> None:
    """Measure the workers of one executor while they search the same index of names."""
    spark = start(f"local-cluster[1,{WORKERS},6144]")
    items, queries = texts(spark, n, 1), texts(spark, QUERIES, 2).repartition(8)
    stages = Pipeline(stages=[*three_grams(), IDF(inputCol="counts", outputCol="features")])
    pipeline = stages.fit(items)
    vectors, asked = (
        stored(pipeline.transform(each).select("id", "features")) for each in (items, queries)
    )
    bare = _bare(asked)
    knn = KNNEstimator(k=10, metric="cosine", idCol="id", placement="replicated")
    tiny, model = knn.fit(vectors.limit(100)), knn.fit(vectors)
    size = _size(model)
    vectors.unpersist()
    with Watch(sum_of_pss) as packages:
        consume(tiny.transform(asked))
    with Watch(sum_of_pss) as search:
        consume(model.transform(asked))
    check(len(list(workers())) == WORKERS, f"expected {WORKERS} workers")
    spark.stop()
    rows = [
        ["bare Python workers", bare],
        ["workers that search an index of 100 names", packages.peak],
        ["the index", size],
        [f"workers that search the index of {n:,} names", search.peak],
        ["... relative to the index and bare Python", search.peak / (size + bare)],
        [
            "... relative to the index and a search of 100 names",
            search.peak / (size + packages.peak),
        ],
    ]
    show(
        f"Memory of the {WORKERS} Python workers of an executor, index of {n:,} names",
        ["", "Pss, MiB"],
        [[name, f"{value:,.0f}" if value > 5 else f"{value:.2f}"] for name, value in rows],
    )


def _size(model: Any) -> float:
    """Return the size of the vectors of a replicated model in MiB."""
    return float(model._index._matrix.nbytes) / 2**20


def _bare(frame: DataFrame) -> float:
    """Return the memory of all workers that do nothing with Arrow batches, in MiB."""

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        time.sleep(2)  # so that all workers are there at the same time
        yield from batches

    with Watch(sum_of_pss) as watch:
        consume(frame.select("id").repartition(WORKERS).mapInArrow(wait, "id long"))
    return watch.peak


# --- a driver of 4 GiB, in a process of its own ---------------------------------------------------


def wide(spark: SparkSession, rows: int, seed: int) -> DataFrame:
    """Return ids and counts of words, which are drawn from a Zipf distribution."""

    def word(i: Any) -> Any:
        share = F.xxhash64(F.col("id"), i, F.lit(seed)) / F.lit(2.0**64) + 0.5
        return F.pow(F.lit(float(VOCABULARY)), share).cast("int").cast("string")

    drawn = F.transform(F.sequence(F.lit(1), F.lit(WORDS)), word)
    frame = spark.range(0, rows, 1, 16).select("id", drawn.alias("words"))
    hashing = HashingTF(inputCol="words", outputCol="features", numFeatures=WIDE)
    return hashing.transform(frame).select("id", "features")


def small_driver(placement: str, rows: int) -> None:
    """Fit and search with a driver of little memory, and print the peaks as JSON."""
    spark = start("local-cluster[2,1,3072]", spark__driver__memory=f"{DRIVER_JVM}m")
    # After the JVM has started, which has its own limit. Executors have other parents.
    held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limit = held + (DRIVER_PYTHON << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    begin = time.perf_counter()
    with Watch(largest_peak) as watch:
        knn = KNNEstimator(k=10, metric="cosine", idCol="id", placement=placement)
        model = knn.fit(wide(spark, rows, 1))
        consume(model.transform(wide(spark, 1000, 2)))
    took = time.perf_counter() - begin
    jvm = spark.sparkContext._gateway.proc.pid
    index = rows * (WORDS * 8 + 8) / 2**20  # counts are exact in float32
    found = {
        "index": index,
        "shards": model.getNumShards() if placement == "sharded" else None,
        "python": _read("/proc/self/status", "VmHWM:"),
        "jvm": _read(f"/proc/{jvm}/status", "VmHWM:"),
        "worker": watch.peak,
        "seconds": took,
    }
    check(model.getStorage() == "sparse", "the storage is dense")
    spark.stop()
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    small_driver(sys.argv[1], int(sys.argv[2]))
