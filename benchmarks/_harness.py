"""Shared functions of the Spark benchmarks: generating data, taking turns, medians, tables."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession

# Workers must run this interpreter, not any python3 on PATH. Set before a JVM starts.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def start(master: str = "local[2]", **settings: str) -> SparkSession:
    """Start Spark; in the names of settings, `__` stands for a dot."""
    builder = (
        SparkSession.builder.master(master)
        .appName("pyspark_knn benchmark")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "4g")
        .config("spark.driver.maxResultSize", "2g")
        .config("spark.sql.shuffle.partitions", "4")
    )
    for name, value in settings.items():
        builder = builder.config(name.replace("__", "."), value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def vectors(
    spark: SparkSession, rows: int, dim: int, *, seed: int = 0, partitions: int = 4
) -> DataFrame:
    """Return a persisted DataFrame of `rows` ids and vectors (arrays of normal floats)."""
    made = spark.range(0, rows, 1, partitions)
    frame = made.mapInArrow(vector_maker(dim, seed), VECTORS).persist()
    frame.count()
    return frame


VECTORS = "id long, features array<float>"
"""The columns of `vectors`."""


def vector_maker(dim: int, seed: int) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return a function that makes the rows of `vectors`, given their ids."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            for begin in range(0, len(ids), 1000):
                part = ids[begin : begin + 1000]
                values = np.random.default_rng([seed, int(part[0])]).standard_normal(
                    len(part) * dim, dtype=np.float32
                )
                lists = pa.ListArray.from_arrays(
                    np.arange(0, len(values) + 1, dim, dtype=np.int32), values
                )
                yield pa.RecordBatch.from_arrays([pa.array(part), lists], ["id", "features"])

    return make


def as_mllib(frame: DataFrame) -> DataFrame:
    """Return the same rows with MLlib vectors, persisted."""
    mllib = frame.withColumn("features", array_to_vector("features")).persist()
    mllib.count()
    return mllib


def matrix_of(frame: DataFrame) -> np.ndarray:
    """Collect the vectors to the driver as float32, in the order of the ids."""
    rows = frame.orderBy("id").toPandas()
    return np.stack(rows["features"].to_numpy()).astype(np.float32)


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, *, warm: bool = True
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run all contestants in turns, so that other work on the machine slows all of them equally.

    Returns
    -------
    seconds : dict
        Name -> wall time of each round, in seconds.
    results : dict
        Name -> return value of the last run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results: dict[str, Any] = {}
    for turn in range(-1 if warm else 0, rounds):
        for name, run in contestants.items():
            begin = time.perf_counter()
            results[name] = run()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds, results


def consume(frame: DataFrame) -> None:
    """Compute the whole DataFrame without collecting any row to the driver."""
    frame.write.format("noop").mode("overwrite").save()


def processes_below(pid: int) -> dict[int, bytes]:
    """Return pid -> command line of all direct and indirect child processes of `pid` (Linux)."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "status").read_text()
                commands[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # the process has just ended
            parents[int(folder.name)] = int(status.split("PPid:")[1].split()[0])
    found, grew = {pid}, True
    while grew:
        below = {each for each, parent in parents.items() if parent in found}
        grew = not below <= found
        found |= below
    return {each: commands[each] for each in found - {pid}}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def medians(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each contestant, in turns and including the first round."""
    seconds, _ = take_turns(contestants, rounds, warm=False)
    return {name: median(times) for name, times in seconds.items()}


def show(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(headers) + " |")
    print("| " + " | ".join("---" for _ in headers) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def check(condition: bool, what: str) -> None:
    """Stop the benchmark after a wrong answer, since its times would be meaningless."""
    if not condition:
        raise SystemExit(f"wrong answer: {what}")
