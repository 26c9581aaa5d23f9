"""Approximate search on Spark, beside FAISS in a function of one's own, at equal recall."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
from _approximate_data import DATA, Matrix
from _harness import consume, median, ratio, show, start, take_turns

from pyspark_knn import KNNEstimator
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

K, TARGET = 10, 0.95
QUERIES = 40_000
JUDGED = 2_000
"""Queries whose exact neighbors are known, to measure the recall of both tools."""

Batches = Iterator[pa.RecordBatch]


def frame_of(spark: SparkSession, matrix: Matrix) -> DataFrame:
    """Return vectors with their row numbers, persisted."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({"id": np.arange(len(matrix)), "features": lists.cast(pa.list_(pa.float32()))})
    frame = spark.createDataFrame(table).repartition(4).persist()
    frame.count()
    return frame


def hand_written(path: str, parameter: str, knob: int) -> Callable[[Batches], Batches]:
    """Return a function for `mapInArrow` that searches with an index in a file."""

    def search(batches: Batches) -> Batches:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        faiss.ParameterSpace().set_index_parameter(index, parameter, knob)
        for batch in batches:
            lists = batch.column("features")
            flat = lists.values.to_numpy()[lists.offsets[0].as_py() : lists.offsets[-1].as_py()]
            distances, ids = index.search(flat.reshape(batch.num_rows, -1), K)
            ends = np.arange(0, ids.size + 1, K, dtype=np.int32)
            columns = [
                batch.column("id"),
                pa.ListArray.from_arrays(ends, pa.array(ids.ravel())),
                pa.ListArray.from_arrays(ends, pa.array(np.sqrt(distances.ravel()).astype(float))),
            ]
            yield pa.RecordBatch.from_arrays(columns, ["id", "neighbors", "distances"])

    return search


SCHEMA = "id long, neighbors array<long>, distances array<double>"
BARE: dict[str, tuple[str, Callable[[Matrix], Any]]] = {
    "ivf": ("nprobe", lambda items: faiss.index_factory(items.shape[1], _lists(items))),
    "hnsw": ("efSearch", lambda items: faiss.index_factory(items.shape[1], "HNSW16,Flat")),
}
"""Our algorithm -> the parameter of a search in FAISS, and its index."""


def _lists(items: Matrix) -> str:
    return f"IVF{4 * int(len(items) ** 0.5)},Flat"


def recall_of(found: DataFrame, truth: np.ndarray) -> float:
    """Return the mean share of the exact neighbors that were found."""
    rows = found.where(f"id < {JUDGED}").select("id", "neighbors").collect()
    return float(np.mean([len(set(row.neighbors) & set(truth[row.id])) / K for row in rows]))


def on_spark(names: list[str], algorithms: list[str], rounds: int) -> None:
    """Print a table: our search and the hand-written one, at the recall that ours reaches."""
    spark = start(spark__driver__memory="6g")
    rows = []
    for name in names:
        whole = DATA[name][1](QUERIES)
        items, queries = whole[:-QUERIES], whole[-QUERIES:]
        exact, _ = build_index(items, IndexSpec(resolve_metric("euclidean"), "brute"))
        truth = exact.kneighbors(queries[:JUDGED], K).positions
        fitted, asked = frame_of(spark, items), frame_of(spark, queries)
        for algorithm in algorithms:
            rows += _compared(name, algorithm, (items, fitted), asked, truth, rounds)
            print(*rows[-1], file=sys.stderr, flush=True)
        for frame in (fitted, asked):
            frame.unpersist()
    show(
        f"{QUERIES:,} queries, k={K}, recall of at least {TARGET}, local[2], seconds (median)",
        ["items", "tool", "knob", "recall", "seconds", "queries per second", "times FAISS's time"],
        rows,
    )


def _compared(
    name: str,
    algorithm: str,
    items: tuple[Matrix, DataFrame],
    asked: DataFrame,
    truth: np.ndarray,
    rounds: int,
) -> list[list[str]]:
    knn = KNNEstimator(k=K, idCol="id", algorithm=algorithm, targetRecall=TARGET)
    model = knn.setPlacement("replicated").fit(items[1])
    reached = recall_of(model.transform(asked), truth)
    parameter, make = BARE[algorithm]
    index = make(items[0])
    index.train(items[0])
    index.add(items[0])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "index")
        faiss.write_index(index, path)

        def other(knob: int) -> DataFrame:
            return asked.mapInArrow(hand_written(path, parameter, knob), SCHEMA)

        knob = 1 if algorithm == "ivf" else K
        while (recall := recall_of(other(knob).where(f"id < {JUDGED}"), truth)) < reached - 0.002:
            knob = max(knob + 1, knob * 9 // 8)
        seconds, _ = take_turns(
            {
                "pyspark_knn": lambda: consume(model.transform(asked)),
                "FAISS": lambda: consume(other(knob)),
            },
            rounds,
        )
    ours = next(iter(model.recall.searchParams.values()))
    shown = [("pyspark_knn", ours, reached), (f"FAISS in mapInArrow, {algorithm}", knob, recall)]
    model.unpersist()
    table = []
    for (tool, used, share), key in zip(shown, seconds, strict=True):
        took = median(seconds[key])
        times = f"{ratio(seconds[key], seconds['FAISS']):.2f}"
        where = f"{name}, {len(items[0]):,} x {items[0].shape[1]}, {algorithm}"
        table.append(
            [where, tool, str(used), f"{share:.3f}", f"{took:.2f}", f"{QUERIES / took:,.0f}", times]
        )
    return table
