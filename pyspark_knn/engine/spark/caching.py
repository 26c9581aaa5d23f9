"""DataFrames that are persisted on the cluster, and how they are freed again."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.releasing import when_gone

logger = logging.getLogger(__name__)


def persist(frame: DataFrame) -> DataFrame:
    """Persist `frame` in memory and on disk.

    Hosted Spark Connect servers without machines of their own decline that: a line in the log, and
    `frame` is computed each time that it is used.
    """
    if not compat.is_connect(frame.sparkSession):
        return frame.persist()
    try:
        return frame.persist()
    except compat.refusals() as error:
        logger.warning("the server persists nothing, so rows are computed once more: %s", error)
        return frame


def unpersist(frame: DataFrame) -> None:
    """Free what `persist` keeps; nothing happens where the session is gone."""
    session = frame.sparkSession
    if not compat.is_alive(session):
        return
    if not compat.is_connect(session):
        frame.unpersist()
        return
    with contextlib.suppress(*compat.refusals()):
        frame.unpersist()
    _forget(frame)


@contextlib.contextmanager
def persisted(frame: DataFrame) -> Iterator[DataFrame]:
    """`frame`, persisted; it stays so after the block, unless that fails."""
    kept = persist(frame)
    try:
        yield kept
    except BaseException:
        unpersist(kept)
        raise


def free_with(owner: object, frame: DataFrame) -> weakref.finalize[..., Any]:
    """Unpersist `frame` when `owner` is gone; on Spark Connect also before the session ends.

    Returns
    -------
    weakref.finalize
        To be detached where `frame` is freed before.
    """
    release = when_gone(owner, unpersist, frame)
    if compat.is_connect(frame.sparkSession):
        _free_before_end(frame)
    return release


# --- the end of a client of Spark Connect ---------------------------------------------------------

_held: dict[str, list[DataFrame]] = {}
"""What is persisted by each session. Dead owners' frames too, until they are freed in truth."""

_held_lock = threading.Lock()
_watched: weakref.WeakSet[SparkSession] = weakref.WeakSet()


def _free_before_end(frame: DataFrame) -> None:
    """See to what a Spark Connect server would keep: its cache outlives all sessions (4.3.0).

    A client is not told of the end of its session either. So `stop` of this one session is wrapped;
    a client that ends without it does the same at its exit, as Spark does with its own models.
    """
    session = frame.sparkSession
    key = compat.session_key(session)
    with _held_lock:
        _held.setdefault(key, []).append(frame)
    if session in _watched:
        return
    _watched.add(session)
    stop = session.stop

    @functools.wraps(stop)
    def free_and_stop() -> None:
        try:
            _free_all_of(key)
        finally:
            stop()

    session.stop = free_and_stop  # type: ignore[method-assign]
    atexit.register(_free_all_of, key)


def _forget(frame: DataFrame) -> None:
    key = compat.session_key(frame.sparkSession)
    with _held_lock:
        _held[key] = [each for each in _held.get(key, []) if each is not frame]


def _free_all_of(key: str) -> None:
    with _held_lock:
        frames = _held.pop(key, [])
    for frame in frames:
        try:
            frame.unpersist()
        except Exception:
            # A server that does not answer costs minutes of trying: not again for the others.
            logger.debug("persisted DataFrames could not be freed", exc_info=True)
            break
