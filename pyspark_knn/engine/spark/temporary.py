"""Temporary files of the driver or client, and errors that say where they were to be."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Let a failure to write a file say what was to be written, and what to do.

    Parameters
    ----------
    what : str
        What is written.
    remedy : str
        How another folder is chosen.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        # Of the same class, which goes by the number.
        raise OSError(
            error.errno, f"{what} cannot be written to a temporary file: {reason}{where}. {remedy}"
        ) from error


@contextlib.contextmanager
def private_folder(what: str) -> Iterator[Path]:
    """A folder of this process for `what`, among the system's temporary ones; removed at the end.

    Raises
    ------
    OSError
        If no such folder can be made; the message names TMPDIR.
    """
    with contextlib.ExitStack() as stack:
        with explained(what, TMPDIR_REMEDY):
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="knn-"))
        yield Path(name)


def private_file(folder: str) -> tuple[int, Path]:
    """Create a file in `folder` that nobody else can read: its descriptor, and its path."""
    # A cleaner of temporary files removes folders too.
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="knn-", suffix=".bundle", dir=folder)
    return descriptor, Path(name)


TMPDIR_REMEDY = (
    "Set the environment variable TMPDIR to a folder that exists, is writable and has room, and "
    "start Python again."
)
