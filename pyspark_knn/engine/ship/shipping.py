"""Ship the bundle of an index to every executor, once for each distinct content."""

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
    "Set spark.local.dir to a writable folder with enough free space before the session starts."
)
"""The remedy for files in the temporary folder of a classic session."""

_INLINE_BYTES = 64 << 20
"""The largest index, in bytes, that is sent within a query. A message to a Spark Connect server is
limited to 128 MiB and contains a plan as well."""


class Shipment:
    """A bundle that was shipped, and stays available as long as a model refers to this object.

    Attributes
    ----------
    ref : BundleRef
        The location of the bundle for workers.
    """

    def __init__(self, ref: BundleRef) -> None:
        self.ref = ref


class ShippingRefused(RuntimeError):
    """The Spark Connect server accepts no files from its clients."""


_lock = threading.Lock()
_alive: weakref.WeakValueDictionary[tuple[str, str], Shipment] = weakref.WeakValueDictionary()
"""(session key, digest) -> shipment in use, so that models of equal content share one."""

_files: dict[str, dict[str, Path]] = {}
"""Session key -> digest -> file, in local mode. The files exist as long as the session, because a
lazy DataFrame may need one after its model is gone."""

_uploads: dict[str, set[str]] = {}
"""Session key -> digests of the artifacts that its server keeps until the session ends."""

_takes_files: dict[str, bool] = {}
"""Session key -> whether the Spark Connect server accepts files."""


def ship(session: SparkSession, content: Any) -> Shipment:
    """Make a bundle available to the workers of a session, without a Spark job.

    Parameters
    ----------
    session : SparkSession
        A classic or Spark Connect session.
    content : object
        The content of the bundle, which `bundle.open_bundle` returns in a worker.

    Returns
    -------
    Shipment
        The shipment, the same object for equal content. Refer to it as long as it is needed.

    Raises
    ------
    ShippingRefused
        If the Spark Connect server accepts no artifacts.
    """
    key = compat.session_key(session)
    with _lock:
        if compat.is_connect(session):
            shipped = _by_artifact(session, key, content)
        else:
            shipped = _classic_route(session)(session.sparkContext, key, content)
    logger.info("shipped index %s as %s", shipped.ref.digest, type(shipped.ref).__name__)
    return shipped


def is_there(shipment: Shipment) -> bool:
    """Whether workers can still open a shipped bundle, as far as the driver can check.

    In local mode a cleaner of temporary files may have deleted the file.

    Parameters
    ----------
    shipment : Shipment
        The shipment.

    Returns
    -------
    bool
        False if the file is missing.
    """
    return not isinstance(shipment.ref, FileRef) or Path(shipment.ref.path).exists()


def takes_files(session: SparkSession) -> bool:
    """Whether a session accepts files: a Spark Connect server may refuse those of its clients.

    This is tested once per session, with a file of a few bytes.

    Parameters
    ----------
    session : SparkSession
        A classic or Spark Connect session.

    Returns
    -------
    bool
        Whether `ship` works in this session.
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
        path = folder / "knn-test"
        path.write_text("A test whether the server accepts files.\n")
        try:
            _upload(session, path)
        except ShippingRefused as error:
            logger.warning("%s. Indexes are sharded and stored as rows instead.", error)
            return False
    return True


def ship_inline(content: Any, instead: str) -> Shipment:
    """Make a small bundle part of the function that workers run.

    Parameters
    ----------
    content : object
        The content of the bundle, which `bundle.open_bundle` returns in a worker.
    instead : str
        What a user can do if the bundle is too large: a sentence for the error message.

    Returns
    -------
    Shipment
        The shipment, which contains the bundle.

    Raises
    ------
    ValueError
        If the bundle takes more than 64 MiB.
    """
    file = io.BytesIO()
    digest = write_bundle(content, file)
    size = file.tell()
    if size > _INLINE_BYTES:
        raise ValueError(
            f"the index takes {size / 2**20:.0f} MiB. It would have to be sent within the query, "
            "since the Python workers of this query cannot read files, but a query can contain at "
            f"most {_INLINE_BYTES >> 20} MiB. {instead}"
        )
    logger.info("shipped index %s within the query", digest)
    return Shipment(InlineRef(digest, file.getvalue()))


def _classic_route(session: SparkSession) -> Callable[[Any, str, Any], Shipment]:
    if compat.is_encrypted(session):
        return _by_value
    return _by_local_file if compat.is_local(session) else _by_file


def _write(folder: str, content: Any, remedy: str, *, broadcast: bool) -> tuple[Path, str]:
    """Write a bundle to a private file in `folder`; return its path and its digest."""
    with explained("the index", remedy):
        descriptor, path = private_file(folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                return path, write_bundle(content, file, broadcast=broadcast)
        except BaseException:
            path.unlink()
            raise


def _by_local_file(context: Any, application: str, content: Any) -> Shipment:
    """Ship a file in local mode, where executors are threads on this machine and can read it."""
    _forget_stopped(application)
    # Spark deletes its temporary folder when the session ends.
    path, digest = _write(context._temp_dir, content, _LOCAL_DIR_REMEDY, broadcast=False)
    known = _files.setdefault(application, {})
    if digest in known and known[digest].exists():
        path.unlink()
    else:
        # The name depends on the content only. So a file never changes while a worker has mapped
        # it, and a deleted file is restored for all plans that refer to it.
        known[digest] = path.rename(path.with_name(f"knn-{digest}.bundle"))
    return _shared(application, digest, lambda: FileRef(digest, str(known[digest])))


def _by_file(context: Any, application: str, content: Any) -> Shipment:
    """Broadcast a file on a cluster, without copying it into the driver's memory."""
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
    """Broadcast bytes under I/O encryption, where nothing may be written to disk unencrypted."""
    file = io.BytesIO()
    digest = write_bundle(content, file)
    # Spark's stream of encrypted data accepts only bytes. getvalue() does not copy them.
    value = file.getvalue()
    return _shared(application, digest, lambda: broadcasting.broadcast(context, digest, value))


def _by_artifact(session: Any, key: str, content: Any) -> Shipment:
    """Upload an artifact to a Spark Connect server, which deletes it when the session ends."""
    with private_folder("the index") as folder:
        path, digest = _write(str(folder), content, TMPDIR_REMEDY, broadcast=False)
        # The name depends on the content, since the server refuses new content under a known name.
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
            f"the Spark Connect server accepts no files from its clients: {error}"
        ) from error


def _shared(key: str, digest: str, make: Callable[[], BundleRef]) -> Shipment:
    """Return the shipment of this content that another model uses, or a new one."""
    shipped = _alive.get((key, digest))
    if shipped is None:
        shipped = _alive[key, digest] = Shipment(make())
        if isinstance(shipped.ref, BroadcastRef):
            when_gone(shipped, broadcasting.free, shipped.ref.broadcast)
    return shipped


def _forget_stopped(application: str) -> None:
    """Delete the files of earlier applications of this process."""
    for stopped in [known for known in _files if known != application]:
        for path in _files.pop(stopped).values():
            path.unlink(missing_ok=True)
