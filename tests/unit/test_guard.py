"""The guard around a function of a Python worker, without Spark."""

import gc
import platform
import sys
import types
from collections.abc import Iterator

import pytest
from pyspark import cloudpickle

from pyspark_knn.engine.ship import guard
from pyspark_knn.index.approximate import libraries


@pytest.fixture
def nothing_set_aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(guard, "_modules_set_aside", 0)
    yield
    gc.unfreeze()


def test_imported_objects_are_frozen_once(monkeypatch, nothing_set_aside):
    def double(batches):
        return (2 * batch for batch in batches)

    payload = cloudpickle.dumps(guard.guarded(double))
    assert gc.get_freeze_count() == 0
    assert list(cloudpickle.loads(payload)(iter([1, 2]))) == [2, 4]
    first = gc.get_freeze_count()
    assert first > 0

    # No new module was imported, so objects of this task must not be frozen.
    mine = [[] for _ in range(1000)]
    assert list(cloudpickle.loads(payload)(iter([3]))) == [6]
    assert gc.get_freeze_count() <= first

    monkeypatch.setitem(sys.modules, "one_more_for_this_test", types.ModuleType("one_more"))
    assert list(cloudpickle.loads(payload)(iter([3]))) == [6]
    assert gc.get_freeze_count() > first + len(mine) // 2


@pytest.mark.usefixtures("nothing_set_aside")
def test_a_library_that_a_worker_lacks_is_named_with_the_machine(monkeypatch):
    """It is imported in the middle of a search, when the index is opened."""

    def search(batches):
        from pyspark_knn.index.approximate.libraries import load_library

        yield from batches
        load_library("faiss", "1.15.1")

    payload = cloudpickle.dumps(guard.guarded(search))
    monkeypatch.setattr(libraries, "_loaded", {})
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError) as error:
        list(cloudpickle.loads(payload)(iter([1])))
    message = str(error.value)
    assert "which built the index with version 1.15.1" in message
    assert "pip install 'pyspark_knn[faiss]'" in message
    assert f"worker {sys.executable} on {platform.node()}" in message


def test_another_python_on_the_machine_of_the_driver(monkeypatch):
    """As in local mode where a virtual environment is not activated: Spark runs "python3"."""
    payload = cloudpickle.dumps(guard.guarded(platform.node))
    for name in [each for each in sys.modules if each.startswith("pyspark_knn")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError) as error:
        cloudpickle.loads(payload)
    assert "set PYSPARK_PYTHON" not in str(error.value)
    driver = sys.executable
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    with pytest.raises(ModuleNotFoundError) as error:
        cloudpickle.loads(payload)
    assert f"set PYSPARK_PYTHON to {driver}, the Python of the driver" in str(error.value)
    assert "/usr/bin/python3 on" in str(error.value)
