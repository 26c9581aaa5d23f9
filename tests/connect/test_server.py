"""A Spark Connect server in its own process, whose workers' Python lacks this package.

Each test has sessions of its own on it, as users do.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyspark
import pytest
from pyspark.errors import PySparkException
from sklearn.neighbors import NearestNeighbors

from pyspark_knn import KNNEstimator, KNNModel, supply_package
from pyspark_knn.engine.ship import shipping
from tests.support.oracle import direct_distances, nearest
from tests.support.servers import (
    Server,
    connect_server,
    environment,
    python_without,
    run_script,
)
from tests.support.wheels import build_wheel, packages, pip

if int(pyspark.__version__.split(".")[0]) < 4:
    pytest.skip("Spark Connect is for Spark 4.0 and later", allow_module_level=True)

from pyspark.errors.exceptions.connect import SparkConnectGrpcException

ITEMS = np.random.default_rng(3).normal(size=(60, 4))
QUERIES = np.random.default_rng(4).normal(size=(12, 4))
NAMES = [f"n{i:02}" for i in range(60)]
K = 3


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[Server]:
    bare = python_without(server_folder / "bare")
    with connect_server(server_folder, bare, "local-cluster[2,1,1024]") as server:
        yield server


@pytest.fixture
def bare_session(server: Server) -> Iterator[Any]:
    """A new session, whose workers lack the package."""
    made = new_session(server.url)
    yield made
    made.stop()


@pytest.fixture
def session(bare_session: Any) -> Any:
    """A new session, whose workers have the package."""
    supply_package(bare_session)
    return bare_session


def new_session(url: str) -> Any:
    from pyspark.sql import SparkSession

    return SparkSession.builder.remote(url).create()


def frame(session: Any, matrix: Any) -> Any:
    rows = list(zip(NAMES, matrix.tolist(), strict=False))
    return session.createDataFrame(rows, "name string, features array<double>")


def fitted(session: Any, items: Any = ITEMS) -> KNNModel:
    return KNNEstimator(k=K, idCol="name").fit(frame(session, items))


def neighbors(model: KNNModel, session: Any) -> list[list[str]]:
    rows = model.transform(frame(session, QUERIES)).collect()
    return [row.neighbors for row in sorted(rows, key=lambda row: row.name)]


def expected(items: Any = ITEMS) -> list[list[str]]:
    found = nearest(direct_distances(QUERIES, items), NAMES[: len(items)], K)
    return [[name for name, _ in row] for row in found]


def kept_by(server_folder: Path) -> list[Path]:
    """Return the files that the server keeps for its sessions.

    Executors' copies are Spark's affair: it removes those of a session that was idle for long.
    """
    # os.walk, since a Path's glob raises an error when the server removes a folder meanwhile.
    sessions = (server_folder / "kept").glob("artifacts*")
    return [
        Path(folder, name)
        for session in sessions
        for folder, _, names in os.walk(session)
        for name in names
    ]


def as_many(count: int, ask: Callable[[], list[Any]], seconds: float) -> list[Any]:
    """Return what `ask` returns once it has the given length: a server cleans up with a delay."""
    deadline = time.monotonic() + seconds
    while len(found := ask()) != count and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_workers_without_the_package_raise_until_it_is_supplied(bare_session: Any) -> None:
    session = bare_session
    with pytest.raises(PySparkException, match="no package 'pyspark_knn'") as raised:
        fitted(session)
    assert "pyspark_knn.supply_package(spark)" in str(raised.value)
    supply_package(session)
    supply_package(session)  # once too often does no harm
    assert neighbors(fitted(session), session) == expected()


ONE_OF_TWO = """
import json
import os
import sys
import time
from pathlib import Path
from pyspark.sql import SparkSession
from pyspark_knn import KNNEstimator, supply_package

url, kept, k, items, queries, here, other = sys.argv[1:]
spark = SparkSession.builder.remote(url).create()


def frame(text):
    rows = [(f"n{i:02}", row) for i, row in enumerate(json.loads(text))]
    return spark.createDataFrame(rows, "name string, features array<double>")


def neighbors():
    rows = model.transform(frame(queries)).collect()
    return [row.neighbors for row in sorted(rows, key=lambda row: row.name)]


supply_package(spark)
model = KNNEstimator(k=int(k), idCol="name").fit(frame(items))
found = [neighbors()]
names = [name for _, _, names in os.walk(kept) for name in names]
if not any(name.startswith("knn-") and name.endswith(".bundle") for name in names):
    raise SystemExit("the server keeps the index elsewhere: nothing is tested")
Path(here).touch()
deadline = time.monotonic() + 120
while not Path(other).exists():
    if time.monotonic() > deadline:
        raise SystemExit("the other client did not come")
    time.sleep(0.05)
# From here on both clients have an index on the server.
found += [neighbors(), neighbors()]
spark.stop()
print(json.dumps(found))
"""


def test_two_clients_are_independent_and_leave_no_files(
    server: Server, server_folder: Path, tmp_path: Path
) -> None:
    many = [ITEMS, -ITEMS[:50]]
    flags = [str(tmp_path / name) for name in ("first-is-up", "second-is-up")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def client(one: int) -> Any:
        folder = tmp_path / str(one)
        folder.mkdir()
        matrices = [json.dumps(each.tolist()) for each in (many[one], QUERIES)]
        arguments = [str(server_folder / "kept"), str(K), *matrices, flags[one], flags[1 - one]]
        done = run_script(ONE_OF_TWO, server.url, *arguments, folder=folder, TMPDIR=str(temporary))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(client, range(2)))
    assert found == [[expected(items)] * 3 for items in many]
    assert found[0] != found[1]
    assert not list(temporary.iterdir())
    assert as_many(0, lambda: kept_by(server_folder), 90) == []


SHARDED = """
import sys
import time
from pathlib import Path
from pyspark.sql import SparkSession
from pyspark_knn import KNNEstimator, supply_package

url, end, fitted, seen = sys.argv[1:]
spark = SparkSession.builder.remote(url).create()
supply_package(spark)
rows = [(i, [float(i)]) for i in range(9)]
items = spark.createDataFrame(rows, "id long, features array<double>")
knn = KNNEstimator(k=2, idCol="id", placement="sharded", numShards=2)
models = [knn.fit(items), knn.fit(items.where("id < 5")), knn.fit(items)]
models.pop().unpersist()
print(sorted(row.neighbors for row in models[1].transform(items.where("id > 7")).collect()))
Path(fitted).touch()
while not Path(seen).exists():
    time.sleep(0.05)
if end == "garbage":
    models.clear()
if end != "exit":
    spark.stop()
"""


@pytest.mark.parametrize("end", ["stop", "garbage", "exit"])
def test_shards_are_freed_when_their_client_disconnects(
    server: Server, tmp_path: Path, end: str
) -> None:
    fitted, seen = tmp_path / "fitted", tmp_path / "seen"
    with ThreadPoolExecutor(1) as pool:
        arguments = [server.url, end, str(fitted), str(seen)]
        client = pool.submit(run_script, SHARDED, *arguments, folder=tmp_path)
        while not (fitted.exists() or client.done()):
            time.sleep(0.05)
        held = as_many(2, server.persisted, 60)
        seen.touch()
        done = client.result()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[4, 3]]"
    assert len(held) == 2, held
    assert as_many(0, server.persisted, 60) == []


def test_one_upload_for_equal_content(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    add = type(session).addArtifact

    def noting(self: Any, *paths: str, **options: Any) -> None:
        sent.extend(paths)
        add(self, *paths, **options)

    monkeypatch.setattr(type(session), "addArtifact", noting)
    models = [fitted(session), fitted(session), fitted(session).setK(1)]
    assert [len(neighbors(model, session)[0]) for model in models] == [K, K, 1]
    assert len([path for path in sent if path.endswith(".bundle")]) == 1


def test_a_server_that_accepts_no_files_and_persists_nothing(
    session: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from pyspark.sql.connect.dataframe import DataFrame

    def refuse(*_: Any, **__: Any) -> None:
        raise SparkConnectGrpcException("this is not supported here")

    fitted(session).write().save(str(tmp_path / "saved"))
    with caplog.at_level(logging.WARNING, "pyspark_knn"):
        for kind, name in ((type(session), "addArtifact"), (DataFrame, "persist")):
            monkeypatch.setattr(kind, name, refuse)
        monkeypatch.setattr(DataFrame, "unpersist", refuse)
        # This session accepted files before, so forget that.
        monkeypatch.setattr(shipping, "_takes_files", {})
        model = fitted(session)
        loaded = KNNModel.read().session(session).load(str(tmp_path / "saved"))
        assert neighbors(model, session) == neighbors(loaded, session) == expected()
        # Data on the client is sent within the query, up to the limit.
        taken = KNNModel.fromSklearn(NearestNeighbors(n_neighbors=K).fit(ITEMS), ids=NAMES)
        assert neighbors(taken, session) == expected()
        assert taken._fitted.items_frame(session).count() == len(ITEMS)
        monkeypatch.setattr(shipping, "_INLINE_BYTES", 1 << 10)
        taken = KNNModel.fromSklearn(NearestNeighbors(n_neighbors=K).fit(ITEMS), ids=NAMES)
        with pytest.raises(ValueError, match="Fit or load the model in this session"):
            taken.transform(frame(session, QUERIES))
    assert model.getPlacement() == loaded.getPlacement() == "sharded"
    assert "the Spark Connect server accepts no files" in model.placementReason
    assert "Indexes are sharded and stored as rows" in caplog.text
    assert "cannot persist DataFrames" in caplog.text


def test_a_client_without_a_temporary_folder(
    session: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = fitted(session)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OSError, match=r"the index cannot be written.*variable TMPDIR") as raised:
        model.transform(frame(session, QUERIES))
    assert str(tmp_path / "gone") in str(raised.value)


def test_mlflow_needs_a_jvm_on_the_client(session: Any, tmp_path: Path) -> None:
    flavor = pytest.importorskip("pyspark_knn.mlflow")
    model = fitted(session)
    message = "MLflow copies the files of Spark models by the JVM of a classic Spark session"
    with pytest.raises(ValueError, match=message):
        flavor.save_model(model, str(tmp_path / "saved"))


CLIENT = """
import sys
import tempfile
import numpy as np
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession
import pyspark_knn

try:
    import py4j
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("this is not a client without a JVM")
if "site-packages" not in pyspark_knn.__file__:
    raise SystemExit("this is not what was installed")
url, folder = sys.argv[1:]
spark = SparkSession.builder.remote(url).getOrCreate()
pyspark_knn.supply_package(spark)
rows = [(i, float(i), float(i % 3)) for i in range(20)]
points = spark.createDataFrame(rows, ["id", "x", "y"])
stages = [
    VectorAssembler(inputCols=["x", "y"], outputCol="features"),
    pyspark_knn.KNNEstimator(k=2, idCol="id", excludeIdCol="id"),
]
model = Pipeline(stages=stages).fit(points)
for each in (model, model.stages[-1]):
    each.write().overwrite().save(folder)
    each.write().overwrite().save(folder)
    loaded = type(each).load(folder)
found = loaded.kneighborsJoin(model.stages[0].transform(points), items=points)
print(sorted((r.id, r.rank, r.neighbor, r.item.y) for r in found.where("id < 2").collect()))
"""


def test_a_client_without_jars(server: Server, tmp_path: Path) -> None:
    """pyspark-client and our wheel, as pip installs it there: no checkout, no pyspark."""
    client = python_without(tmp_path / "client", "pyspark", "py4j")
    pip(client, "install", "--no-deps", f"pyspark-client<={pyspark.__version__}")
    pip(client, "install", "--no-index", str(build_wheel(tmp_path)))
    assert "pyspark" not in packages(client)
    script = tmp_path / "script.py"
    script.write_text(CLIENT)
    done = subprocess.run(
        [str(client), "-W", "error::UserWarning", str(script), server.url, str(tmp_path / "saved")],
        cwd=tmp_path,
        env=environment(client),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    # On the line of points (i, i mod 3), by Pythagoras: 1 and 2 are at sqrt(2) of each other.
    assert done.stdout.strip() == str(
        [(0, 1, 1, 1.0), (0, 2, 2, 2.0), (1, 1, 0, 0.0), (1, 2, 2, 2.0)]
    )
