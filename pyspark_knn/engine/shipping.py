"""Gets the bundle of an index to every executor, once for each distinct content."""

from __future__ import annotations

import io
import logging
import mmap
import os
import pickle
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pyspark_knn.engine import compat
from pyspark_knn.engine.bundle import BroadcastRef, BundleRef, FileRef, write_bundle

logger = logging.getLogger(__name__)


class Shipment:
    """A bundle on its way: alive as long as a model holds it.

    Attributes
    ----------
    ref : BundleRef
        What workers open.
    """

    def __init__(self, ref: BundleRef) -> None:
        self.ref = ref


_lock = threading.Lock()
_alive: weakref.WeakValueDictionary[tuple[str, str], Shipment] = weakref.WeakValueDictionary()
"""(application, digest) -> what is shipped already, so that models of equal content share it."""

_files: dict[str, dict[str, Path]] = {}
"""Application -> digest -> file, in local mode. A lazy DataFrame may need such a file after its
model is gone, and nothing tells when: they live as long as the session."""


def ship(session: SparkSession, content: Any) -> Shipment:
    """Make `content` available to the workers of `session`; starts no job.

    Parameters
    ----------
    session : SparkSession
        Classic, not Spark Connect.
    content : object
        What `bundle.open_bundle` shall give in a worker.

    Returns
    -------
    Shipment
        To be kept while it is in use; the same one for equal content.
    """
    context = session.sparkContext
    application = str(context.applicationId)
    route = _by_value if _encrypted(session) else _by_file
    if compat.is_local(session) and route is _by_file:
        route = _by_local_file
    with _lock:
        _forget_stopped(application)
        shipped = route(context, application, content)
    logger.info("the index %s goes out by %s", shipped.ref.digest, type(shipped.ref).__name__)
    return shipped


def _encrypted(session: SparkSession) -> bool:
    return session.conf.get("spark.io.encryption.enabled", "false") == "true"


def _write(context: Any, content: Any, *, broadcast: bool) -> tuple[Path, str]:
    """Write a bundle into the session's own folder: private, and removed by Spark at its end."""
    descriptor, name = tempfile.mkstemp(prefix="knn-", suffix=".bundle", dir=context._temp_dir)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            return path, write_bundle(content, file, broadcast=broadcast)
    except BaseException:
        path.unlink()
        raise


def _by_local_file(context: Any, application: str, content: Any) -> Shipment:
    """Local mode: executors are threads of this machine, so its file is theirs."""
    path, digest = _write(context, content, broadcast=False)
    known = _files.setdefault(application, {})
    if digest in known:
        path.unlink()
    else:
        # A name made of the content: it never changes under a worker that has it mapped.
        known[digest] = path.rename(path.with_name(f"knn-{digest}.bundle"))
    return _shared(application, digest, lambda: FileRef(digest, str(known[digest])))


def _by_file(context: Any, application: str, content: Any) -> Shipment:
    """A cluster: the file's bytes go out as a broadcast, without a copy in the driver's memory."""
    path, digest = _write(context, content, broadcast=True)
    try:
        return _shared(application, digest, lambda: _broadcast_file(context, path, digest))
    finally:
        path.unlink()


def _broadcast_file(context: Any, path: Path, digest: str) -> BroadcastRef:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    broadcast = context.broadcast(pickle.PickleBuffer(data))
    # Spark has the bytes in blocks of its own by now, and never reads the driver's file again.
    written = getattr(broadcast, "_path", None)
    if written is not None:
        Path(written).unlink(missing_ok=True)
    return BroadcastRef(digest, broadcast)


def _by_value(context: Any, application: str, content: Any) -> Shipment:
    """Encrypted I/O: nothing may touch the disk in the clear, so the bytes stay in memory."""
    file = io.BytesIO()
    digest = write_bundle(content, file)
    value = pickle.PickleBuffer(file.getbuffer())
    return _shared(application, digest, lambda: BroadcastRef(digest, context.broadcast(value)))


def _shared(application: str, digest: str, make: Callable[[], BundleRef]) -> Shipment:
    """The shipment of this content that some model holds already, or else a new one."""
    shipped = _alive.get((application, digest))
    if shipped is None:
        shipped = _alive[application, digest] = Shipment(make())
        if isinstance(shipped.ref, BroadcastRef):
            weakref.finalize(shipped, _unpersist, shipped.ref.broadcast).atexit = False
    return shipped


def _unpersist(broadcast: Any) -> None:
    """Free the executors' copies. Never destroy: a lazy DataFrame may still need the broadcast.

    The driver's blocks go when the JVM collects the broadcast, which no plan refers to any more.
    """
    if broadcast._sc is not None and broadcast._sc._jsc is not None:
        broadcast.unpersist()


def _forget_stopped(application: str) -> None:
    """Remove the files of sessions that this process ran before."""
    for stopped in [known for known in _files if known != application]:
        for path in _files.pop(stopped).values():
            path.unlink(missing_ok=True)
