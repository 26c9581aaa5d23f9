"""Release resources when an object is gone, soon but never within garbage collection.

Garbage collection can start anywhere, also between a command to Spark and its response. A finalizer
that sends a command on the same connection would then read the response to another call. So
finalizers only add an action to a queue, and a single thread runs the actions.
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
"""The queue of actions. In contrast to that of `Queue`, the `put` of `SimpleQueue` may be called in
a finalizer."""
_thread: threading.Thread | None = None


def when_gone(
    owner: object, action: Callable[..., object], *args: Any
) -> weakref.finalize[..., Any]:
    """Call ``action(*args)`` in another thread soon after `owner` was garbage collected.

    Nothing is called when Python exits: the Spark session then frees what is left.

    Parameters
    ----------
    owner : object
        An object that supports weak references.
    action : callable
        The function to call. Its exceptions are logged at level DEBUG.
    *args : object
        The arguments of `action`. They must not refer to `owner`.

    Returns
    -------
    weakref.finalize
        Detach it to cancel the call.
    """
    _start()
    release = weakref.finalize(owner, _due.put, functools.partial(action, *args))
    release.atexit = False
    return release


def _start() -> None:
    # Not in the finalizer: no thread can be started while Python exits.
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
    """Run one action. This is a function so that no variable refers to the action afterwards."""
    try:
        take()()
    except Exception:  # a stopping session may raise any error, and frees its resources itself
        logger.debug("cannot release resources of an index", exc_info=True)


def _forget() -> None:
    """Start anew in a forked process: the queued work uses connections of the parent process."""
    global _lock, _due, _thread
    _lock, _due, _thread = threading.Lock(), queue.SimpleQueue(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
