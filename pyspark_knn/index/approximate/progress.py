"""A line in a terminal or a notebook that says how far a long step is, by its estimated time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

_PERIOD = 1.0
"""Seconds between two states of the line."""


@contextlib.contextmanager
def progress_line(what: str, seconds: float) -> Iterator[None]:
    """Show how long a step has taken so far, on the standard error stream, until it ends.

    Nothing is shown where nobody looks: where the stream is neither a terminal nor a notebook, and
    in Spark's Python workers, which have the terminal of the driver in local mode.

    Parameters
    ----------
    what : str
        The step.
    seconds : float
        How long it is going to take, as estimated.
    """
    if not _is_watched():
        yield
        return
    done = threading.Event()
    line = threading.Thread(target=_show, args=(what, seconds, done), daemon=True)
    line.start()
    try:
        yield
    finally:
        done.set()
        line.join()


def _is_watched() -> bool:
    if "pyspark.worker" in sys.modules:
        return False
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def _show(what: str, seconds: float, done: threading.Event) -> None:
    start, width = time.perf_counter(), 0
    while not done.wait(_PERIOD):
        text = f"{what}: {time.perf_counter() - start:.0f} of about {seconds:.0f} seconds"
        sys.stderr.write(f"\r{text:<{width}}")
        sys.stderr.flush()
        width = len(text)
    sys.stderr.write(f"\r{'':<{width}}\r")
    sys.stderr.flush()
