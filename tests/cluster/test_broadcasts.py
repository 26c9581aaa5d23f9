"""A model and its broadcast do not interfere with the rest of a session."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.ship import broadcasting
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from pyspark_knn import KNNModel

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


def _searched(spark: SparkSession, seed: int) -> tuple[KNNModel, DataFrame]:
    items = frame_of(spark, np.random.default_rng(seed).normal(size=(50, 4)))
    model = KNNEstimator(k=1, idCol="id").fit(items)
    found = model.transform(items)
    assert found.count() == 50
    return model, found


class _Interrupted:
    """A stream that runs a function before its first line is read, as garbage collection may."""

    def __init__(self, stream: Any, action: Callable[[], object]) -> None:
        self._stream = stream
        self._actions = [action]

    def readline(self) -> Any:
        for action in self._actions:
            self._actions = []
            action()
        return self._stream.readline()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_garbage_collection_between_a_command_and_its_answer(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list(_searched(spark, seed=1))
    parse = spark.sparkContext._jvm.java.lang.Integer.parseInt
    assert parse("41") == 41
    client = spark.sparkContext._gateway._gateway_client
    connection = client.get_thread_connection()

    def collect() -> None:
        held.clear()
        gc.collect()

    with monkeypatch.context() as patch:
        patch.setattr(connection, "stream", _Interrupted(connection.stream, collect))
        assert [parse("42"), parse("43")] == [42, 43]
    assert parse("44") == 44


def test_the_file_on_the_driver_is_removed_with_the_broadcast(spark: SparkSession) -> None:
    folder = Path(spark.sparkContext._temp_dir)

    def files() -> set[Path]:
        return {path for path in folder.iterdir() if path.is_file()}

    _searched(spark, seed=2)  # so that all that goes along with the first search is there
    before = files()
    model, found = _searched(spark, seed=3)
    (made,) = files() - before
    assert made.stat().st_mode & 0o077 == 0
    # A lazy DataFrame still needs it, which only the JVM knows.
    del model
    _collect(spark)
    assert made.exists()
    assert found.count() == 50
    del found
    for _ in range(60):
        _collect(spark)
        if not made.exists():
            break
    assert not made.exists()


def _collect(spark: SparkSession) -> None:
    """Run both garbage collectors, and at once delete the files of what they collected."""
    gc.collect()
    spark.sparkContext._jvm.System.gc()
    time.sleep(0.5)
    broadcasting.sweep(kept_seconds=0.0)


FULL = """
import os, sys
os.environ["PYSPARK_PYTHON"] = sys.executable
from pathlib import Path
import numpy as np
from pyspark_knn import KNNEstimator
from tests.support.frames import answers, frame_of
from tests.support.sessions import start

# 42 MiB for blocks.
spark = start(
    "small-driver", Path(sys.argv[1]), spark__driver__memory="512m", spark__memory__fraction="0.2"
)
items = np.random.default_rng(3).normal(size=(4000, 8))
queries = frame_of(spark, items[:2])
model = KNNEstimator(k=1, idCol="id").fit(frame_of(spark, items))
assert answers(model.transform(queries)) == [[(0, 0.0)], [(1, 0.0)]]
for _ in range(4):
    spark.sparkContext.broadcast(os.urandom(15 << 20))
# The index has gone to disk on the driver, and still serves executors that lack it.
(shipment,) = model._index._shipments.values()
shipment.ref.broadcast.unpersist(blocking=True)
print(answers(model.transform(queries)))
spark.stop()
"""


@pytest.mark.slow
def test_broadcasts_of_the_user_survive_a_full_driver(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "[[(0, 0.0)], [(1, 0.0)]]"
