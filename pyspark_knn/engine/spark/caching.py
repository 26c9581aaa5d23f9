"""Persist DataFrames on the cluster, and unpersist them when they are no longer needed."""

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
    """Persist a DataFrame in memory and on disk.

    Serverless Spark Connect offerings refuse that. Then a warning is logged, and the DataFrame is
    computed each time it is used.

    Parameters
    ----------
    frame : DataFrame
        The DataFrame to persist.

    Returns
    -------
    DataFrame
        The persisted DataFrame, or `frame` itself if the server refuses.
    """
    if not compat.is_connect(frame.sparkSession):
        return frame.persist()
    try:
        return frame.persist()
    except compat.refusals() as error:
        logger.warning(
            "the Spark Connect server cannot persist DataFrames, so they are computed again each "
            "time that they are used: %s",
            error,
        )
        return frame


def unpersist(frame: DataFrame) -> None:
    """Unpersist a DataFrame; no effect if its session was stopped."""
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
    """Persist a DataFrame, and unpersist it if the block fails; otherwise it stays persisted."""
    kept = persist(frame)
    with freed_on_error(kept):
        yield kept


@contextlib.contextmanager
def freed_on_error(frame: DataFrame) -> Iterator[None]:
    """Unpersist a DataFrame if the block fails."""
    try:
        yield
    except BaseException:
        unpersist(frame)
        raise


def free_with(owner: object, frame: DataFrame) -> weakref.finalize[..., Any]:
    """Unpersist a DataFrame when its owner is gone, on Spark Connect also before the session ends.

    Parameters
    ----------
    owner : object
        The object that uses the DataFrame.
    frame : DataFrame
        A persisted DataFrame.

    Returns
    -------
    weakref.finalize
        Detach it if the DataFrame is unpersisted earlier.
    """
    release = when_gone(owner, unpersist, frame)
    if compat.is_connect(frame.sparkSession):
        _free_before_end(frame)
    return release


# --- the end of a Spark Connect session -----------------------------------------------------------

_held: dict[str, list[DataFrame]] = {}
"""Session key -> its persisted DataFrames. They stay here until they have been unpersisted, even if
their owner is gone."""

_held_lock = threading.Lock()
_watched: weakref.WeakSet[SparkSession] = weakref.WeakSet()


def _free_before_end(frame: DataFrame) -> None:
    """Unpersist a DataFrame before its Spark Connect session ends.

    The server would keep it, since its cache outlives all sessions (4.3.0), and a client gets no
    notice of the end of its session. So this session's method `stop` is wrapped. If it is never
    called, the DataFrames are unpersisted when Python exits, as Spark does with its own models.
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
            # If the server does not respond, each call is retried for minutes, so skip the others.
            logger.debug("cannot unpersist DataFrames", exc_info=True)
            break
