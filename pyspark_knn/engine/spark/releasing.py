"""Runs what is due when an object is gone: soon, but never from inside garbage collection.

Garbage collection may start anywhere, also between a command to Spark and its answer. A finalizer
that talks to Spark on the same connection then takes the answer that another call waits for. So
finalizers only put their work into a queue, and one thread does it.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

_Work: TypeAlias = Callable[[], object]

_lock = threading.Lock()
_due: queue.SimpleQueue[_Work] = queue.SimpleQueue()
"""Unlike a Queue's, its `put` may be called in a finalizer."""
_thread: threading.Thread | None = None


def when_gone(
    owner: object, action: Callable[..., object], *given: Any
) -> weakref.finalize[..., Any]:
    """Call ``action(*given)`` in another thread soon after `owner` is gone.

    Nothing is called when Python exits: what is left goes with the Spark session.

    Parameters
    ----------
    owner : object
        Anything that can be referred to weakly.
    action : callable
        What it raises is logged, not shown.
    *given
        Its arguments; they must not refer to `owner`.

    Returns
    -------
    weakref.finalize
        To be detached where the action is not wanted any more.
    """
    _start()
    release = weakref.finalize(owner, _due.put, functools.partial(action, *given))
    release.atexit = False
    return release


def _start() -> None:
    # Here and not in the finalizer: at the end of Python no thread can be started.
    global _thread
    with _lock:
        if _thread is None:
            _thread = threading.Thread(
                target=_work, args=[_due], name="pyspark_knn-free", daemon=True
            )
            _thread.start()


def _work(due: queue.SimpleQueue[_Work]) -> None:
    while True:
        _run(due.get)


def _run(take: Callable[[], _Work]) -> None:
    """Do one piece of work; a function of its own, so that nothing holds on to it afterwards."""
    try:
        take()()
    except Exception:  # whatever a stopping session raises: there is nothing left to free
        logger.debug("what an index left on the cluster could not be freed", exc_info=True)


def _forget() -> None:
    """In a forked process: leave alone what belongs to its parent, connections among it."""
    global _lock, _due, _thread
    _lock, _due, _thread = threading.Lock(), queue.SimpleQueue(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
