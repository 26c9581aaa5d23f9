"""Gets this package to the Python workers of a session that lack it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.temporary import private_folder

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_PACKAGE = "pyspark_knn"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip, so that equal files make equal zips."""


def supply_package(session: SparkSession) -> None:
    """Send this package, as it is installed here, to the Python workers of `session`.

    Needed once in a session, and only where the workers' Python lacks the package; it is then there
    until the session ends. What the package itself needs is not sent: scikit-learn, numpy, pandas,
    pyarrow, joblib and threadpoolctl must be there.

    Parameters
    ----------
    session : SparkSession
        Classic (the package goes out by ``addPyFile``) or Spark Connect (by ``addArtifact``).
    """
    with private_folder("the zip of this package") as folder:
        compat.add_pyfile(session, _zip(folder))


def _zip(folder: Path) -> Path:
    """Zip the package; the name of the file tells the content."""
    path = folder / f"{_PACKAGE}.zip"
    digest = hashlib.blake2b(digest_size=10)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _sources(resources.files(_PACKAGE), _PACKAGE):
            digest.update(content)
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return path.rename(folder / f"{_PACKAGE}-{digest.hexdigest()}.zip")


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    """The name in the zip and the content of each module below `folder`."""
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{path}/{each.name}"
        if each.is_dir():
            yield from _sources(each, name)
        elif each.name.endswith((".py", ".typed")):
            yield name, each.read_bytes()
