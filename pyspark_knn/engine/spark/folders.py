"""Folders of saved stages: which is which, and how a new one takes the place of an old one."""

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


# --- which is which -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedAt:
    """What identifies a saved stage.

    Attributes
    ----------
    address : str
        Where it is, as far as that can be resolved.
    metadata : str or None
        Its metadata, which differ from save to save; None where there is nothing.
    """

    address: str
    metadata: str | None

    def overlaps(self, other: SavedAt) -> bool:
        """Whether both may be one folder, or one lies within the other.

        Names alone cannot tell: a link, a mount or a relative path is another name for a folder.
        """
        same = self.metadata is not None and self.metadata == other.metadata
        return same or overlap(self.address, other.address)


def address(session: SparkSession, path: str) -> str:
    """Where `path` is: links are followed and mounts resolved, as far as `session` can tell."""
    found = compat.resolved(session, path)
    return normalized(path) if found is None else found


def normalized(path: str) -> str:
    """`path` without the dots and slashes that mean nothing to Hadoop."""
    scheme, authority, rest = _parts(path)
    given = f"{scheme}://{authority}" if authority else f"{scheme}:" if scheme else ""
    return given + rest


def literal(path: str) -> str:
    """`path` for one of Spark's readers, which take some characters as a pattern.

    The option ``__globPaths__`` would do as well, but not on Spark Connect (4.3.0).
    """
    return re.sub(r"([][{}*?\\])", r"\\\1", path)


def overlap(one: str, other: str) -> bool:
    """Whether two paths may mean the same folder, or one within the other.

    Where a path has no scheme, no authority, or no root, it could have any.
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
    """The scheme, the authority and the path of a Hadoop path; it knows no escapes."""
    found = re.fullmatch(r"(?:([A-Za-z][\w+.-]*):)?(?://([^/]*)(?=/|$))?(.*)", path, re.DOTALL)
    scheme, authority, rest = found.groups() if found else (None, None, path)
    rooted = f"/{rest.lstrip('/')}" if rest.startswith("/") or authority else rest
    return scheme or "", authority or "", posixpath.normpath(rooted)


# --- replacing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(session: SparkSession, path: str, copy: Callable[[str, str], None]) -> Iterator[str]:
    """A folder to write to, which takes the place of `path` once the block succeeds.

    What is at `path` stays until the new folder is whole; where the block fails, nothing changes.

    Parameters
    ----------
    session : SparkSession
        Its file systems.
    path : str
        What to replace, if there is anything.
    copy : callable
        Copies one folder to another one, where folders cannot be renamed.
    """
    new = _beside(session, path, "saving")
    try:
        yield new
    except BaseException:
        # What went wrong is to be told, not that nothing could be removed either.
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
            f"{path} could not be written; what was to be saved is complete in {new}: load it "
            f"from there, and save it again ({compat.reason(error)})"
        ) from error
    compat.remove_folder(session, new)


def _swap(session: SparkSession, new: str, path: str) -> None:
    old = _beside(session, path, "replaced")
    existed = compat.rename_folder(session, path, old)
    try:
        if not compat.rename_folder(session, new, path):
            raise FileNotFoundError(f"{new} is gone: it was to be renamed to {path}")
    except BaseException:
        if existed:
            compat.rename_folder(session, old, path)
        raise
    if not existed:
        return
    try:
        compat.remove_folder(session, old)
    except Exception:
        logger.warning("%s was replaced, but the old folder could not be removed: %s", path, old)


def _beside(session: SparkSession, path: str, purpose: str) -> str:
    """A name for a folder beside `path`: on the same file system, so that renaming is all."""
    place = compat.qualified(session, path) or normalized(path)
    name = posixpath.basename(_parts(place)[2])
    if name in ("", ".", ".."):
        raise ValueError(f"path must name a folder below another one, got {path!r}")
    return f"{place}.{purpose}-{uuid.uuid4().hex}"
