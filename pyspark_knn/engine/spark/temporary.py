"""Temporary files on the driver or client, and errors that name the setting for their folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Add to an OSError of this block what could not be written, and a remedy.

    Parameters
    ----------
    what : str
        What the block writes, such as "the index".
    remedy : str
        A sentence that explains how to choose another folder.

    Raises
    ------
    OSError
        The error of the block, of the same subclass, with another message.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        # OSError derives the subclass from the number.
        raise OSError(
            error.errno, f"{what} cannot be written to a temporary file: {reason}{where}. {remedy}"
        ) from error


@contextlib.contextmanager
def private_folder(what: str) -> Iterator[Path]:
    """Create a temporary folder, which is deleted at the end of the block.

    Parameters
    ----------
    what : str
        What is written to the folder, for the error message.

    Yields
    ------
    Path
        The folder, readable by this user only.

    Raises
    ------
    OSError
        If the folder cannot be created. The message names the environment variable TMPDIR.
    """
    with contextlib.ExitStack() as stack:
        with explained(what, TMPDIR_REMEDY):
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="knn-"))
        yield Path(name)


def private_file(folder: str) -> tuple[int, Path]:
    """Create a file that only this user can read.

    Parameters
    ----------
    folder : str
        Its folder, which is created if it does not exist.

    Returns
    -------
    descriptor : int
        The descriptor of the file, open for reading and writing.
    path : Path
        The path of the file.
    """
    # A cleaner of temporary files may have deleted the folder.
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="knn-", suffix=".bundle", dir=folder)
    return descriptor, Path(name)


TMPDIR_REMEDY = (
    "Set the environment variable TMPDIR to an existing, writable folder with enough free space, "
    "and restart Python."
)
"""The remedy for files in the system's temporary folder."""
