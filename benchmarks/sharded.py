"""Measure sharded placement: search and fit against replicated, driver memory, and cells.

    python benchmarks/sharded.py [--scale 0.1] [--only search,memory,cells,few,fit,busy,sizes]

Times are medians of interleaved runs in one process: compare ratios rather than seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _harness import (
    VECTORS,
    check,
    consume,
    medians,
    processes_below,
    start,
    vector_maker,
    vectors,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator, NeighborsEvaluator

RUNS = 3
MEMORY_SIZES = (100_000, 500_000, 2_000_000)
SIZES = (1_000_000, 4_000_000, 12_000_000)
CHECKED = 200


def unit(*what: Any) -> Any:
    """Return a column of numbers from -1 to 1 that depend only on the columns `what`."""
    return F.xxhash64(*what) / F.lit(2.0**63)


def uniform(spark: SparkSession, rows: int, dim: int, seed: int) -> DataFrame:
    """Return ids and uniformly distributed vectors."""
    places = F.sequence(F.lit(1), F.lit(dim))
    value = F.transform(places, lambda i: unit(F.col("id"), i, F.lit(seed)).cast("float"))
    return spark.range(0, rows, 1, 8).select("id", value.alias("features"))


def clustered(
    spark: SparkSession, rows: int, dim: int, seed: int, clusters: int = 200
) -> DataFrame:
    """Return ids and vectors in clusters, which are the same for all seeds."""
    places = F.sequence(F.lit(1), F.lit(dim))
    cluster = F.pmod(F.xxhash64(F.col("id"), F.lit(seed)), F.lit(clusters))

    def value(i: Any) -> Any:
        noise = sum((unit(F.col("id"), i, F.lit(seed + j)) for j in range(1, 4)), F.lit(0.0))
        return (10 * unit(cluster, i) + 0.5 * noise).cast("float")

    return spark.range(0, rows, 1, 8).select("id", F.transform(places, value).alias("features"))


def stored(frame: DataFrame) -> DataFrame:
    """Persist and compute `frame`."""
    frame = frame.persist()
    frame.count()
    return frame


def search(scale: float) -> None:
    """Time the search of a sharded index against that of a replicated index."""
    spark = start(spark__driver__memory="6g")
    n, q = int(500_000 * scale), int(20_000 * scale)
    items, queries = stored(uniform(spark, n, 64, 1)), stored(uniform(spark, q, 64, 2))
    one = KNNEstimator(k=10, idCol="id", placement="replicated").fit(items)
    cut = KNNEstimator(k=10, idCol="id", placement="sharded", numShards=8).fit(items)
    consume(one.transform(queries.limit(10)))  # ships the index to the workers
    taken = medians(
        {
            "replicated": lambda: consume(one.transform(queries)),
            "sharded": lambda: consume(cut.transform(queries)),
        },
        RUNS,
    )
    print(f"search: {n:,} x 64 items, {q:,} queries, k=10, 8 shards, local[2]")
    for name, value in taken.items():
        print(f"  {name:<12} {value:7.2f} s")
    print(f"  ratio        {taken['sharded'] / taken['replicated']:7.2f}")
    spark.stop()


def cells(scale: float) -> None:
    """Time cells against hash shards, exact and approximate, and print the recall."""
    spark = start(spark__driver__memory="6g")
    n, q = int(2_000_000 * scale), int(100_000 * scale)
    items, queries = stored(clustered(spark, n, 8, 1)), stored(clustered(spark, q, 8, 9))
    for algorithm in ("brute", "auto"):
        knn = KNNEstimator(k=10, idCol="id", placement="sharded", algorithm=algorithm)
        dealt, near = knn.fit(items), knn.copy({knn.shardBy: "kmeans"}).fit(items)
        print(
            f"cells: {n:,} x 8 items in 200 clusters, {q:,} queries, k=10, algorithm {algorithm}: "
            f"{dealt.getNumShards()} hash shards, {near.getNumShards()} cells, local[2]"
        )
        models = {"hash": dealt, "kmeans, exact": near}
        for probes in (1, 2, 4):
            models[f"kmeans, numProbes={probes}"] = near.copy({near.numProbes: probes})
        taken = medians({m: lambda m=m: consume(models[m].transform(queries)) for m in models}, 2)
        exact = near.copy({near.neighborsCol: "exact", near.distancesCol: ""})
        both = stored(exact.transform(queries.limit(10_000)))
        for name, value in taken.items():
            recall = NeighborsEvaluator().evaluate(models[name].transform(both))
            ratio = taken["hash"] / value
            print(
                f"  {name:<20} {value:7.2f} s {ratio:6.1f} times as fast   recall@10 {recall:.4f}",
                flush=True,
            )
        both.unpersist()
        dealt.unpersist()
        near.unpersist()
    spark.stop()


def few(scale: float) -> None:
    """Time few queries against few items in cells and in hash shards, and both fits."""
    spark = start(spark__driver__memory="3g")
    n, q = int(200_000 * scale), int(5_000 * scale)
    items, queries = stored(clustered(spark, n, 8, 1)), stored(clustered(spark, q, 8, 9))
    knn = KNNEstimator(k=10, idCol="id", placement="sharded")
    print(f"few: {n:,} x 8 items in 200 clusters, {q:,} queries, k=10, local[2]; CPU seconds")
    models = {}
    for name in ("hash", "kmeans"):
        models[name], seconds, busy = timed(
            lambda name=name: knn.copy({knn.shardBy: name}).fit(items)
        )
        print(f"  fit {name:<8} {seconds:6.2f} s   CPU {busy:6.2f}")
    found = {}
    for turn in range(RUNS):
        for name, model in models.items():
            found[name], seconds, busy = timed(lambda model=model: answers(model, queries))
            print(f"  search {turn} {name:<8} {seconds:6.2f} s   CPU {busy:6.2f}", flush=True)
    check(found["hash"].equals(found["kmeans"]), "cells and hash shards differ")
    spark.stop()


def sizes(scale: float) -> None:
    """Time the fit and two searches of growing numbers of items, and check some of the answers."""
    spark = start(spark__driver__memory="1g")
    q = int(1_000 * scale)
    queries = vectors(spark, q, 32, seed=9, partitions=2)
    small = KNNEstimator(k=10, idCol="id", placement="sharded").fit(queries)
    consume(small.transform(queries))  # starts the workers, and compiles
    print(f"sizes: n x 32 items, {q:,} queries, k=10, brute, local[2], a heap of 1 GiB")
    for size in SIZES:
        n = int(size * scale)
        items = drawn(spark, n, 32, 1)
        knn = KNNEstimator(k=10, idCol="id", placement="sharded", algorithm="brute")
        model, seconds, busy = timed(lambda knn=knn, items=items: knn.fit(items))
        print(
            f"  {n:>10,} items, {model.getNumShards()} shards: fit {seconds:.1f} s, CPU {busy:.1f}"
        )
        for turn in ("first", "second"):
            found, seconds, busy = timed(lambda model=model: answers(model, queries))
            pair = 1e9 * busy / n / q
            print(
                f"    {turn} search {seconds:.1f} s, CPU {busy:.1f}: {pair:.2f} ns of a core a pair"
            )
        expected = reference(items, queries.where(f"id < {CHECKED}"), 10)
        same = found[found["id"] < CHECKED].reset_index(drop=True).equals(expected)
        check(same, f"the neighbors among {n:,} items")
        model.unpersist()
    spark.stop()


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a result, the wall time and the CPU time of all processes, in seconds."""
    before, begin = sum(_cpu_seconds().values()), time.perf_counter()
    result = run()
    return result, time.perf_counter() - begin, sum(_cpu_seconds().values()) - before


def answers(model: Any, queries: DataFrame) -> pd.DataFrame:
    """Return the ids of the neighbors of all queries, by the ids of the queries."""
    found = model.transform(queries).select("id", "neighbors").toPandas()
    found["neighbors"] = found["neighbors"].map(tuple)
    return found.sort_values("id", ignore_index=True)


def drawn(spark: SparkSession, rows: int, dim: int, seed: int) -> DataFrame:
    """Return the items of `_harness.vectors` without persisting them."""
    return spark.range(0, rows, 1, 48).mapInArrow(vector_maker(dim, seed), VECTORS)


def reference(items: DataFrame, queries: DataFrame, k: int) -> pd.DataFrame:
    """Return what `answers` returns, from differences in float64 of the pairs that may matter.

    A product in float64 picks 4 k items of a batch for each query. The order of its sums, which is
    off by less than 1e-12, would have to hide more than 3 k of them to lose a neighbor.
    """
    asked = queries.orderBy("id").toPandas()
    points = np.stack(asked["features"].to_numpy()).astype(np.float64)

    def least(pairs: pd.DataFrame) -> pd.DataFrame:
        return pairs.sort_values(["query", "square", "item"]).groupby("query").head(k)

    def nearest(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        found = []
        for frame in frames:
            rows = np.stack(frame["features"].to_numpy()).astype(np.float64)
            rough = (rows**2).sum(axis=1) - 2 * points @ rows.T
            some = np.argpartition(rough, min(4 * k, len(rows) - 1), axis=1)[:, : 4 * k]
            squares = ((points[:, None, :] - rows[some]) ** 2).sum(axis=2)
            query = np.repeat(np.arange(len(points)), some.shape[1])
            ids = frame["id"].to_numpy()[some.ravel()]
            pairs = pd.DataFrame({"query": query, "item": ids, "square": squares.ravel()})
            found.append(least(pairs))
        if found:
            yield least(pd.concat(found))

    pairs = least(items.mapInPandas(nearest, "query long, item long, square double").toPandas())
    neighbors = pairs.groupby("query")["item"].agg(tuple).to_numpy()
    return pd.DataFrame({"id": asked["id"], "neighbors": neighbors})


def fit(scale: float) -> None:
    """Time a replicated and a sharded fit."""
    spark = start(spark__driver__memory="6g")
    n = int(2_000_000 * scale)
    items = stored(uniform(spark, n, 64, 1))

    def once(**settings: Any) -> None:
        KNNEstimator(idCol="id", algorithm="brute", **settings).fit(items).unpersist()

    taken = medians(
        {
            "replicated": lambda: once(placement="replicated"),
            "sharded": lambda: once(placement="sharded"),
        },
        2,
    )
    print(f"fit: {n:,} x 64 items, local[2]")
    for name, value in taken.items():
        print(f"  {name:<12} {value:7.2f} s")
    spark.stop()


def busy(scale: float) -> None:
    """Measure the CPU time of the driver and of the executors during a fit."""
    n = int(2_000_000 * scale)
    print(f"busy: fit of {n:,} x 64 items, two executors of one core; CPU seconds")
    for placement in ("replicated", "sharded"):
        spark = start("local-cluster[2,1,4096]", spark__driver__memory="4g")
        items = stored(uniform(spark, n, 64, 1))
        drivers = {os.getpid(), spark.sparkContext._gateway.proc.pid}
        before, begin = _cpu_seconds(), time.perf_counter()
        model = KNNEstimator(idCol="id", algorithm="brute", placement=placement).fit(items)
        wall = time.perf_counter() - begin
        spent = {pid: cpu - before.get(pid, 0.0) for pid, cpu in _cpu_seconds().items()}
        driver = sum(cpu for pid, cpu in spent.items() if pid in drivers)
        executors = sum(spent.values()) - driver
        print(
            f"  {placement:<12} {wall:6.1f} s   driver {driver:5.1f}   executors {executors:5.1f} "
            f"  executors busy {executors / wall / 2:4.0%}   driver busy {driver / wall:4.0%}",
            flush=True,
        )
        model.unpersist()
        spark.stop()


def _cpu_seconds() -> dict[int, float]:
    """Return pid -> CPU seconds so far, of this process and all its child processes."""
    spent = {}
    for pid in (os.getpid(), *processes_below(os.getpid())):
        with contextlib.suppress(FileNotFoundError):
            figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # Those of child processes that have ended, too: Spark ends idle workers.
            ticks = sum(map(int, figures[11:15]))
            spent[pid] = ticks / os.sysconf("SC_CLK_TCK")
    return spent


def memory(scale: float) -> None:
    """Measure the peak memory of the driver for increasing numbers of items."""
    print("memory: peak of the driver (Python and JVM), 64 dimensions, two executors")
    for size in MEMORY_SIZES:
        out = subprocess.run(
            [sys.executable, __file__, "--memory-of", str(int(size * scale))],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        peak = json.loads(out.stdout.splitlines()[-1])
        print(
            f"  {peak['items']:>9,} items  Python {peak['python']:5.0f} MiB  JVM {peak['jvm']:5.0f}"
        )


def memory_of(rows: int) -> None:
    """Fit and search with separate executors, and print the peak memory of this driver."""
    spark = start("local-cluster[2,1,3072]", spark__driver__memory="512m")
    model = KNNEstimator(k=10, idCol="id", placement="sharded").fit(uniform(spark, rows, 64, 1))
    consume(model.transform(uniform(spark, 500, 64, 2)))
    jvm = spark.sparkContext._gateway.proc.pid
    peaks = {"items": rows, "python": _peak(os.getpid()), "jvm": _peak(jvm)}
    spark.stop()
    print(json.dumps(peaks))


def _peak(pid: int) -> float:
    """Return the peak resident memory of a process in MiB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    """Run the selected parts."""
    parts = {
        "search": search,
        "memory": memory,
        "cells": cells,
        "few": few,
        "fit": fit,
        "busy": busy,
        "sizes": sizes,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the numbers of items and queries"
    )
    parser.add_argument("--only", default=",".join(parts), help="parts to run, separated by commas")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.memory_of:
        memory_of(given.memory_of)
        return
    for name in given.only.split(","):
        parts[name](given.scale)


if __name__ == "__main__":
    main()
