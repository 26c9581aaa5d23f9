"""Sessions with other settings, each in its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]

HEAD = """
import os, sys, warnings
os.environ["PYSPARK_PYTHON"] = sys.executable
from pathlib import Path
import numpy as np
from pyspark_knn import KNNEstimator, KNNModel
from tests.support.frames import answers, frame_of
from tests.support.sessions import start

items, queries = np.arange(12.0).reshape(6, 2), np.array([[0.0, 1.0], [9.0, 9.0]])
expected = [[(0, 0.0), (1, 8.0**0.5)], [(4, 1.0), (5, 5.0**0.5)]]
"""


def _run(tmp_path: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", HEAD + code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "setting"), [("local", "TRUE"), ("cluster", "true")])
def test_encrypted_io(tmp_path: Path, kind: str, setting: str) -> None:
    """The index is never written to disk unencrypted, however the setting is spelled."""
    _run(
        tmp_path,
        f"""
folder = Path(sys.argv[1])
os.environ["SPARK_WORKER_DIR"] = str(folder / "work")
spark = start(
    "{kind}", folder, spark__io__encryption__enabled="{setting}", spark__local__dir=sys.argv[1]
)
items = np.random.default_rng(3).normal(size=(4000, 2))
queries = items[[7, 3999]]
found = [[(7, 0.0)], [(3999, 0.0)]]
model = KNNEstimator(k=1, idCol="id").fit(frame_of(spark, items))
assert answers(model.transform(frame_of(spark, queries, partitions=2))) == found
files = [path for path in folder.rglob("*") if path.is_file()]
assert files and Path(spark.sparkContext._temp_dir).is_relative_to(folder)
assert [path for path in files if items[7:9].tobytes() in path.read_bytes()] == []
assert not list(folder.rglob("knn-*"))
model.save((folder / "model").as_uri())
loaded = KNNModel.load((folder / "model").as_uri())
assert answers(loaded.transform(frame_of(spark, queries))) == found
spark.stop()
""",
    )


@pytest.mark.slow
def test_a_session_that_was_restarted(tmp_path: Path) -> None:
    """Errors of old DataFrames say what to do; the model itself works in the new session."""
    out = _run(
        tmp_path,
        """
KNNEstimator(k=2)  # needs no session
spark = start("local", Path(sys.argv[1]))
model = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, items))
old = frame_of(spark, queries)
assert answers(model.transform(old)) == expected
folder = Path(spark.sparkContext._temp_dir)
assert list(folder.glob("knn-*"))
spark.stop()
for use in (model.transform, model.kneighborsJoin, KNNEstimator(idCol="id").fit):
    try:
        use(old)
    except ValueError as error:
        print(error)
try:
    model.items
except ValueError as error:
    print(error)
spark = start("local", Path(sys.argv[1]))
assert answers(model.transform(frame_of(spark, queries))) == expected
assert model.items.count() == 6
assert not list(folder.glob("knn-*"))
spark.stop()
""",
    )
    stopped = "belongs to a Spark session that was stopped. Create the DataFrame again"
    assert out.count(stopped) == 3
    assert "requires an active Spark session" in out
