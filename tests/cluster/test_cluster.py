"""Executors in their own processes: same answers, bounded fetches, mapped files, failures."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.pairwise import PairwiseSearch
from tests.support.accidents import AccidentIndex, MapWitness
from tests.support.frames import Matrix, answers, frame_of
from tests.support.wrapped import wrap_index

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.cluster


def _data() -> tuple[Matrix, Matrix]:
    """Items with duplicates, and queries."""
    rng = np.random.default_rng(23)
    items = rng.normal(size=(500, 3))
    items[300:400] = items[:100]
    return items, rng.normal(size=(400, 3))


ITEMS, QUERIES = _data()


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, partitions=3)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return frame_of(spark, QUERIES, partitions=8)


def _one_process(metric: str, k: int) -> list[list[tuple[int, float]]]:
    """The answers of the same search in this process, without Spark."""
    index = PairwiseSearch.build(ITEMS, IndexSpec(resolve_metric(metric)))
    distances, positions = index.kneighbors(QUERIES, k)
    rows = zip(positions.tolist(), distances.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("metric", "algorithm"),
    [("euclidean", "auto"), ("euclidean", "kd_tree"), ("cosine", "brute"), ("canberra", "brute")],
)
def test_equal_to_the_bit_with_one_process(
    items: DataFrame, queries: DataFrame, metric: str, algorithm: str
) -> None:
    model = KNNEstimator(k=7, idCol="id", metric=metric, algorithm=algorithm).fit(items)
    assert answers(model.transform(queries)) == _one_process(metric, 7)


@pytest.mark.parametrize("victim", ["worker", "executor"])
def test_a_killed_process_does_not_change_the_answer(
    items: DataFrame, queries: DataFrame, tmp_path: Path, victim: str
) -> None:
    model = KNNEstimator(k=5, idCol="id").fit(items)
    wrap_index(model, lambda index: AccidentIndex(index, victim, tmp_path))
    assert answers(model.transform(queries)) == _one_process("euclidean", 5)
    assert (tmp_path / "happened").exists()


def test_workers_map_the_file_of_the_broadcast(
    spark: SparkSession, rng: np.random.Generator, tmp_path: Path
) -> None:
    """One copy per executor: a mapped file, aligned and read-only."""
    model = KNNEstimator(k=2, idCol="id").fit(frame_of_numbers(spark, 20_000, 16))
    wrap_index(model, lambda index: MapWitness(index, tmp_path))
    wide = frame_of(spark, rng.normal(size=(40, 16)), partitions=8)
    model.transform(wide).collect()
    notes = [path.read_text().split() for path in tmp_path.iterdir()]
    assert notes
    for mode, aligned, path in notes:
        assert mode.startswith("r-")
        assert aligned == "True"
        assert "broadcast" in path


def frame_of_numbers(spark: SparkSession, rows: int, dim: int) -> DataFrame:
    """Random vectors of float64, generated on the executors."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch.column(0).to_numpy()
            for start in range(0, len(ids), 1000):
                part = ids[start : start + 1000]
                values = np.random.default_rng(int(part[0])).normal(size=len(part) * dim)
                offsets = np.arange(0, len(values) + 1, dim, dtype=np.int32)
                vectors = pa.ListArray.from_arrays(offsets, values)
                yield pa.RecordBatch.from_arrays([pa.array(part), vectors], ["id", "features"])

    return spark.range(0, rows, 1, 4).mapInArrow(make, "id long, features array<double>")


@pytest.mark.slow
def test_more_vectors_than_max_result_size(spark: SparkSession) -> None:
    """205 MB through spark.driver.maxResultSize of 64 MiB."""
    assert spark.conf.get("spark.driver.maxResultSize") == "64m"
    items = frame_of_numbers(spark, 200_000, 128)
    model = KNNEstimator(k=1, idCol="id").fit(items)
    assert model.numItems == 200_000
    found = model.transform(items.where("id % 40000 = 7")).collect()
    assert sorted((row.id, row.neighbors, row.distances) for row in found) == [
        (i, [i], [0.0]) for i in range(7, 200_000, 40_000)
    ]


def _stored(spark: SparkSession) -> int:
    """Bytes of blocks in the memory of the driver and the executors, broadcasts among them."""
    # Not from Spark's status store, which counts a broadcast again when it is removed.
    status = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().values().toList()
    return sum(status.apply(i)._1() - status.apply(i)._2() for i in range(status.size()))


def _settles(spark: SparkSession, bound: int) -> bool:
    """Whether at most `bound` bytes are stored after both garbage collectors have run."""
    for _ in range(40):
        gc.collect()
        spark.sparkContext._jvm.System.gc()
        if _stored(spark) <= bound:
            return True
        time.sleep(0.5)
    return False


def test_broadcasts_do_not_accumulate(spark: SparkSession) -> None:
    """Each index takes 2 MB on the driver and on each executor that searched it."""
    size, slack = 3 * 2_100_000, 1_000_000
    query = frame_of(spark, np.zeros((4, 25)), partitions=2)
    assert _settles(spark, slack)
    kept: list[Any] = []
    for i in range(30):
        # Fifteen models of the same content, then fifteen of different ones.
        matrix = np.random.default_rng(max(0, i - 14)).normal(size=(10_000, 25))
        model = KNNModel.fromSklearn(_fitted(matrix))
        model.transform(query).collect()
        if i < 15:
            kept.append(model)
    # Two are still in use: that of the first fifteen, and the last one.
    assert _settles(spark, 2 * size + slack)
    assert _stored(spark) > size
    del kept, model
    assert _settles(spark, slack)


def _fitted(matrix: Any) -> Any:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(matrix)
