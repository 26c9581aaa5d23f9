"""Broadcasts of bundles on the driver: the file behind each of them, and when it can go."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark_knn.engine.ship.bundle import BroadcastRef

logger = logging.getLogger(__name__)

_CLEANED_SECONDS = 60.0
"""Spark's cleaner removes the blocks of a collected broadcast soon, but not at once."""


@dataclass(eq=False)
class _Leftover:
    """A file of the driver behind a broadcast that no model holds any more.

    Attributes
    ----------
    context : SparkContext
        Of the broadcast.
    broadcast : py4j.java_gateway.JavaObject
        A weak reference in the JVM.
    path : Path
        The file.
    collected : float or None
        When the broadcast was first seen to be collected.
    """

    context: Any
    broadcast: Any
    path: Path
    collected: float | None = None


_leftovers: list[_Leftover] = []
_lock = threading.Lock()


def broadcast(context: Any, digest: str, value: Any) -> BroadcastRef:
    """Broadcast the bytes of a bundle."""
    sweep()
    return BroadcastRef(digest, context.broadcast(value))


def free(made: Any) -> None:
    """Free the executors' copies of a broadcast that no model holds any more.

    It is never destroyed, as a lazy DataFrame may still need it: the driver's blocks go when the
    JVM collects the broadcast, which no plan refers to then.
    """
    context, path = made._sc, getattr(made, "_path", None)
    weakly = None
    if _is_running(context):
        made.unpersist()
        weakly = context._jvm.java.lang.ref.WeakReference(made._jbroadcast)
    if path is not None:
        with _lock:
            _leftovers.append(_Leftover(context, weakly, Path(path)))
    sweep()


def sweep() -> None:
    """Remove the driver's files behind broadcasts that the JVM has forgotten.

    Not before: to make room for other blocks, Spark writes a broadcast to disk, and reads its file
    for that. Without the file, whatever needed the room fails.
    """
    with _lock:
        held = [each for each in _leftovers if _is_held(each)]
        for each in _leftovers:
            if each not in held:
                each.path.unlink(missing_ok=True)
        _leftovers[:] = held


def _is_running(context: Any) -> bool:
    return context is not None and context._jsc is not None


def _is_held(left: _Leftover) -> bool:
    """Whether the driver may still have blocks of a broadcast."""
    if left.broadcast is None or not _is_running(left.context):
        return False
    try:
        if not left.broadcast.refersTo(None):
            return True
    except Exception:  # before Java 16: then the file stays until the session ends
        logger.debug("whether a broadcast was collected is unknown", exc_info=True)
        return True
    now = time.monotonic()
    left.collected = now if left.collected is None else left.collected
    return now - left.collected < _CLEANED_SECONDS
