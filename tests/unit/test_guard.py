"""The guard around a function of a Python worker, without Spark."""

import gc
import sys
import types
from collections.abc import Iterator

import pytest
from pyspark import cloudpickle

from pyspark_knn.engine.ship import guard


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
