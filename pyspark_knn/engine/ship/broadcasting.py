"""Broadcasts of bundles: creating them, freeing them, and deleting their files on the driver."""

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
"""How long a file is kept after the JVM has collected its broadcast, whose blocks Spark's cleaner
removes asynchronously."""


@dataclass(eq=False)
class _Leftover:
    """The driver's file of a broadcast that no model uses any more.

    Attributes
    ----------
    context : SparkContext
        The context that created the broadcast.
    broadcast : py4j.java_gateway.JavaObject or None
        A weak reference to the broadcast in the JVM; None if the context was stopped.
    path : Path
        The path of the file.
    collected : float or None
        When the broadcast was first found to be collected by the JVM, in seconds of the monotonic
        clock; None before that.
    """

    context: Any
    broadcast: Any
    path: Path
    collected: float | None = None


_leftovers: list[_Leftover] = []
_lock = threading.Lock()


def broadcast(context: Any, digest: str, value: Any) -> BroadcastRef:
    """Broadcast a bundle.

    Parameters
    ----------
    context : SparkContext
        The context of a classic session.
    digest : str
        The digest of the bundle's content.
    value : bytes or pickle.PickleBuffer
        The bundle.

    Returns
    -------
    BroadcastRef
        The reference by which workers open the bundle.
    """
    sweep()
    return BroadcastRef(digest, context.broadcast(value))


def free(variable: Any) -> None:
    """Free the executors' copies of a broadcast that no model uses any more.

    The broadcast is not destroyed, since a lazy DataFrame may still need it. Spark removes the
    driver's blocks when no plan refers to the broadcast, so that the JVM collects it.

    Parameters
    ----------
    variable : pyspark.core.broadcast.Broadcast
        The broadcast.
    """
    context, path = variable._sc, getattr(variable, "_path", None)
    weakly = None
    if _is_running(context):
        variable.unpersist()
        weakly = context._jvm.java.lang.ref.WeakReference(variable._jbroadcast)
    if path is not None:
        with _lock:
            _leftovers.append(_Leftover(context, weakly, Path(path)))
    sweep()


def sweep(kept_seconds: float = _CLEANED_SECONDS) -> None:
    """Delete the driver's files of broadcasts that the JVM has collected.

    Files of other broadcasts must stay. When Spark runs out of storage memory it moves the blocks
    of a broadcast to disk, for which it reads the file; if the file is missing, the task or
    broadcast that needed the memory fails.

    Parameters
    ----------
    kept_seconds : float, default=_CLEANED_SECONDS
        How long a file is kept after the JVM has collected its broadcast.
    """
    with _lock:
        held = [each for each in _leftovers if _is_held(each, kept_seconds)]
        for each in _leftovers:
            if each not in held:
                each.path.unlink(missing_ok=True)
        _leftovers[:] = held


def _is_running(context: Any) -> bool:
    return context is not None and context._jsc is not None


def _is_held(left: _Leftover, kept_seconds: float) -> bool:
    """Whether the driver may still store blocks of a broadcast."""
    if left.broadcast is None or not _is_running(left.context):
        return False
    try:
        if not left.broadcast.refersTo(None):
            return True
    except Exception:  # Java before 16 has no refersTo: the file stays until the session ends
        logger.debug("cannot determine whether a broadcast was collected", exc_info=True)
        return True
    now = time.monotonic()
    left.collected = now if left.collected is None else left.collected
    return now - left.collected < kept_seconds
