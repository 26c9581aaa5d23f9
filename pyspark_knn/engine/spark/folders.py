"""Folders of saved stages: comparing their paths, and replacing a folder safely."""

from __future__ import annotations

import contextlib
import logging
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyspark.sql import SparkSession

from pyspark_knn.engine.spark import compat

logger = logging.getLogger(__name__)


# --- comparing paths ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedAt:
    """The identity of a saved stage.

    Attributes
    ----------
    address : str
        The normalized path of its folder, see `address`.
    metadata : str or None
        The text of its metadata, which contains the time of the save; None if there is no saved
        stage at the address.
    """

    address: str
    metadata: str | None

    def overlaps(self, other: SavedAt) -> bool:
        """Whether both may be the same folder, or one may be within the other.

        Paths alone do not suffice, since links, mounts and relative paths give one folder several
        names. So stages with equal metadata count as the same.
        """
        same = self.metadata is not None and self.metadata == other.metadata
        return same or overlap(self.address, other.address)


def address(session: SparkSession, path: str) -> str:
    """Return `path` normalized and, except on Spark Connect, with links and mounts resolved."""
    found = compat.resolved(session, path)
    return normalized(path) if found is None else found


def normalized(path: str) -> str:
    """Return `path` without redundant dots and slashes."""
    scheme, authority, rest = _parts(path)
    given = f"{scheme}://{authority}" if authority else f"{scheme}:" if scheme else ""
    return given + rest


def literal(path: str) -> str:
    """Escape `path` for Spark's readers, which expand patterns such as ``*`` and ``{a,b}``.

    The option ``__globPaths__`` turns patterns off too, but not on Spark Connect (4.3.0).
    """
    return re.sub(r"([][{}*?\\])", r"\\\1", path)


def overlap(one: str, other: str) -> bool:
    """Whether two paths may be the same folder, or one may be within the other.

    A path without a scheme, an authority or a root may have any.
    """
    schemes, authorities, (path, place) = zip(_parts(one), _parts(other), strict=True)
    for pair in (schemes, authorities):
        if all(pair) and pair[0] != pair[1]:
            return False
    if path.startswith("/") == place.startswith("/"):
        return _within(path, place) or _within(place, path)
    relative, absolute = sorted((path, place), key=lambda each: each.startswith("/"))
    below = re.sub(r"^(\.\.?(/|$))+", "", relative)
    return f"/{below}/" in f"{absolute}/" if below else True


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _parts(path: str) -> tuple[str, str, str]:
    """Split a Hadoop path, which has no escapes, into scheme, authority and normalized path."""
    found = re.fullmatch(r"(?:([A-Za-z][\w+.-]*):)?(?://([^/]*)(?=/|$))?(.*)", path, re.DOTALL)
    scheme, authority, rest = found.groups() if found else (None, None, path)
    rooted = f"/{rest.lstrip('/')}" if rest.startswith("/") or authority else rest
    return scheme or "", authority or "", posixpath.normpath(rooted)


# --- replacing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(session: SparkSession, path: str, copy: Callable[[str, str], None]) -> Iterator[str]:
    """Yield a new folder to write to, which replaces `path` when the block succeeds.

    The content of `path` stays until the new folder is complete. If the block fails, the new folder
    is deleted and `path` is unchanged.

    Parameters
    ----------
    session : SparkSession
        The session that accesses the file system.
    path : str
        The folder to replace. It need not exist.
    copy : callable
        Copies a folder, given the paths of source and target. Called on Spark Connect, where
        folders cannot be renamed.

    Yields
    ------
    str
        The path of the new folder, which does not exist yet.

    Raises
    ------
    RuntimeError
        If copying fails. The new folder is kept.
    """
    new = _beside(session, path, "saving")
    try:
        yield new
    except BaseException:
        # A failure to delete must not hide the error of the block.
        with contextlib.suppress(Exception):
            compat.remove_folder(session, new)
        raise
    if compat.can_rename(session):
        _swap(session, new, path)
        return
    compat.remove_folder(session, path)
    try:
        copy(new, path)
    except Exception as error:
        raise RuntimeError(
            f"{path} could not be written: {compat.reason(error)}. The saved stage is complete in "
            f"{new}. Load it from there and save it again."
        ) from error
    compat.remove_folder(session, new)


def _swap(session: SparkSession, new: str, path: str) -> None:
    old = _beside(session, path, "replaced")
    existed = compat.rename_folder(session, path, old)
    try:
        if not compat.rename_folder(session, new, path):
            raise FileNotFoundError(f"{new} was deleted before it could be renamed to {path}")
    except BaseException:
        if existed:
            compat.rename_folder(session, old, path)
        raise
    if not existed:
        return
    try:
        compat.remove_folder(session, old)
    except Exception:
        logger.warning(
            "%s was replaced, but its old content could not be deleted from %s", path, old
        )


def _beside(session: SparkSession, path: str, purpose: str) -> str:
    """Return a new path beside `path`, which is on the same file system, so that renaming works."""
    place = compat.qualified(session, path) or normalized(path)
    name = posixpath.basename(_parts(place)[2])
    if name in ("", ".", ".."):
        raise ValueError(f"path must end with the name of a folder, got {path!r}")
    return f"{place}.{purpose}-{uuid.uuid4().hex}"
