"""The line that shows how far a long build is."""

from __future__ import annotations

import io
import sys
import time
import types

import pytest

from pyspark_knn.index.approximate import progress
from pyspark_knn.index.approximate.progress import progress_line


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, or not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    stream = Terminal(terminal)
    monkeypatch.setattr(progress, "_PERIOD", 0.01)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line("building the index", 150.0):
        time.sleep(0.2)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a worker of Spark nor a notebook, whatever other tests have imported."""
    for name in ("pyspark.worker", "ipykernel"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_line_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    assert "\rbuilding the index: 0 of about 150 seconds" in text
    # It is removed at the end, so that it does not stand before other output.
    assert text.endswith("\r" + " " * len("building the index: 0 of about 150 seconds") + "\r")


def test_a_line_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert "of about 150 seconds" in shown(monkeypatch, terminal=False)


def test_nothing_in_a_job_and_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False) == ""
    monkeypatch.setitem(sys.modules, "pyspark.worker", types.ModuleType("worker"))
    assert shown(monkeypatch, terminal=True) == ""


def test_an_error_of_the_step_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    with pytest.raises(ValueError, match="of the step"), progress_line("building", 1.0):
        raise ValueError("of the step")
