"""Gets the bundle of an index to every executor, once for each distinct content."""

from __future__ import annotations

import io
import logging
import mmap
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pyspark_knn.engine.ship import broadcasting
from pyspark_knn.engine.ship.bundle import (
    ArtifactRef,
    BroadcastRef,
    BundleRef,
    FileRef,
    InlineRef,
    write_bundle,
)
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.releasing import when_gone
from pyspark_knn.engine.spark.temporary import (
    TMPDIR_REMEDY,
    explained,
    private_file,
    private_folder,
)

logger = logging.getLogger(__name__)


_LOCAL_DIR_REMEDY = (
    "Set spark.local.dir to a folder that is writable and has room, before the session starts."
)

_INLINE_BYTES = 64 << 20
"""A message to a Spark Connect server ends at 128 MiB, and holds a plan beside the index."""


class Shipment:
    """A bundle on its way: alive as long as a model holds it.

    Attributes
    ----------
    ref : BundleRef
        What workers open.
    """

    def __init__(self, ref: BundleRef) -> None:
        self.ref = ref


class ShippingRefused(RuntimeError):
    """The server takes no files from its clients."""


_lock = threading.Lock()
_alive: weakref.WeakValueDictionary[tuple[str, str], Shipment] = weakref.WeakValueDictionary()
"""(session, digest) -> what is shipped already, so that models of equal content share it."""

_files: dict[str, dict[str, Path]] = {}
"""Session -> digest -> file, in local mode. A lazy DataFrame may need such a file after its model
is gone, and nothing tells when: they live as long as the session."""

_uploads: dict[str, set[str]] = {}
"""Session -> digests that its Spark Connect server has, and keeps until the session ends."""

_takes_files: dict[str, bool] = {}
"""Session -> what its Spark Connect server answered."""


def ship(session: SparkSession, content: Any) -> Shipment:
    """Make `content` available to the workers of `session`; starts no job.

    Parameters
    ----------
    session : SparkSession
        Classic or Spark Connect.
    content : object
        What `bundle.open_bundle` shall give in a worker.

    Returns
    -------
    Shipment
        To be kept while it is in use; the same one for equal content.

    Raises
    ------
    ShippingRefused
        If a Spark Connect server takes no artifacts.
    """
    key = compat.session_key(session)
    with _lock:
        if compat.is_connect(session):
            shipped = _by_artifact(session, key, content)
        else:
            shipped = _classic_route(session)(session.sparkContext, key, content)
    logger.info("the index %s goes out by %s", shipped.ref.digest, type(shipped.ref).__name__)
    return shipped


def is_there(shipment: Shipment) -> bool:
    """Whether workers can still open what was shipped, as far as the driver sees.

    In local mode the file may be gone: cleaners of temporary files remove what looks old.
    """
    return not isinstance(shipment.ref, FileRef) or Path(shipment.ref.path).exists()


def takes_files(session: SparkSession) -> bool:
    """Whether `ship` can work: a Spark Connect server may refuse the files of its clients.

    A server is asked once in a session, with a file of few bytes.
    """
    if not compat.is_connect(session):
        return True
    key = compat.session_key(session)
    with _lock:
        if key not in _takes_files:
            _takes_files[key] = _try_upload(session)
        return _takes_files[key]


def _try_upload(session: Any) -> bool:
    with private_folder("a test file for the Spark Connect server") as folder:
        path = folder / "knn-question"
        path.write_text("Do you take files?\n")
        try:
            _upload(session, path)
        except ShippingRefused as error:
            logger.warning("%s; so indexes travel as rows, in shards", error)
            return False
    return True


def ship_inline(content: Any, instead: str) -> Shipment:
    """Make a small `content` a part of the function that Spark ships.

    Parameters
    ----------
    content : object
        What `bundle.open_bundle` shall give in a worker.
    instead : str
        What a user can do where it is too large.

    Raises
    ------
    ValueError
        If it is too large for that.
    """
    file = io.BytesIO()
    digest = write_bundle(content, file)
    size = file.tell()
    if size > _INLINE_BYTES:
        raise ValueError(
            f"the index takes {size / 2**20:.0f} MiB, and workers that get no files get no more "
            f"than {_INLINE_BYTES >> 20} MiB inside of a query: {instead}"
        )
    logger.info("the index %s goes out inside of the query", digest)
    return Shipment(InlineRef(digest, file.getvalue()))


def _classic_route(session: SparkSession) -> Callable[[Any, str, Any], Shipment]:
    if compat.is_encrypted(session):
        return _by_value
    return _by_local_file if compat.is_local(session) else _by_file


def _write(folder: str, content: Any, remedy: str, *, broadcast: bool) -> tuple[Path, str]:
    """Write a bundle into a private file of `folder`, and tell the digest of its content."""
    with explained("the index", remedy):
        descriptor, path = private_file(folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                return path, write_bundle(content, file, broadcast=broadcast)
        except BaseException:
            path.unlink()
            raise


def _by_local_file(context: Any, application: str, content: Any) -> Shipment:
    """Local mode: executors are threads of this machine, so its file is theirs."""
    _forget_stopped(application)
    # The session's own folder: Spark removes it at its end.
    path, digest = _write(context._temp_dir, content, _LOCAL_DIR_REMEDY, broadcast=False)
    known = _files.setdefault(application, {})
    if digest in known and known[digest].exists():
        path.unlink()
    else:
        # A name made of the content: it never changes under a worker that has it mapped, and what
        # was removed comes back for all who were told of it.
        known[digest] = path.rename(path.with_name(f"knn-{digest}.bundle"))
    return _shared(application, digest, lambda: FileRef(digest, str(known[digest])))


def _by_file(context: Any, application: str, content: Any) -> Shipment:
    """A cluster: the file's bytes go out as a broadcast, without a copy in the driver's memory."""
    path, digest = _write(context._temp_dir, content, _LOCAL_DIR_REMEDY, broadcast=True)
    try:
        return _shared(application, digest, lambda: _broadcast_file(context, path, digest))
    finally:
        path.unlink()


def _broadcast_file(context: Any, path: Path, digest: str) -> BroadcastRef:
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return broadcasting.broadcast(context, digest, pickle.PickleBuffer(data))


def _by_value(context: Any, application: str, content: Any) -> Shipment:
    """Encrypted I/O: nothing may touch the disk in the clear, so the bytes stay in memory."""
    file = io.BytesIO()
    digest = write_bundle(content, file)
    # bytes, since Spark's stream for encrypted data takes nothing else; getvalue() copies nothing.
    value = file.getvalue()
    return _shared(application, digest, lambda: broadcasting.broadcast(context, digest, value))


def _by_artifact(session: Any, key: str, content: Any) -> Shipment:
    """Spark Connect: the server hands the file to every executor, and removes it at the end."""
    with private_folder("the index") as folder:
        path, digest = _write(str(folder), content, TMPDIR_REMEDY, broadcast=False)
        # A name made of the content: the server refuses another content under a name that it has.
        path = path.rename(path.with_name(f"knn-{digest}.bundle"))
        if digest not in _uploads.setdefault(key, set()):
            _upload(session, path)
            _uploads[key].add(digest)
    return _shared(key, digest, lambda: ArtifactRef(digest, path.name, compat.session_file))


def _upload(session: Any, path: Path) -> None:
    try:
        session.addArtifact(str(path), file=True)
    except compat.refusals() as error:
        raise ShippingRefused(
            f"the Spark Connect server takes no file from its client: {error}"
        ) from error


def _shared(key: str, digest: str, make: Callable[[], BundleRef]) -> Shipment:
    """The shipment of this content that some model holds already, or else a new one."""
    shipped = _alive.get((key, digest))
    if shipped is None:
        shipped = _alive[key, digest] = Shipment(make())
        if isinstance(shipped.ref, BroadcastRef):
            when_gone(shipped, broadcasting.free, shipped.ref.broadcast)
    return shipped


def _forget_stopped(application: str) -> None:
    """Remove the files of sessions that this process ran before."""
    for stopped in [known for known in _files if known != application]:
        for path in _files.pop(stopped).values():
            path.unlink(missing_ok=True)
