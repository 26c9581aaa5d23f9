"""Send this package to the Python workers of a session."""

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
"""The modification time of every file in the zip, so that zips of equal files are equal."""


def supply_package(session: SparkSession) -> None:
    """Send this package, as it is installed here, to the Python workers of `session`.

    Call it once per session, if the package is not installed for the workers' Python. The package
    is then available until the session ends. Its dependencies are not sent: scikit-learn, numpy,
    pandas, pyarrow, joblib and threadpoolctl must be installed for the workers.

    Parameters
    ----------
    session : SparkSession
        A classic session, which receives the package through ``addPyFile``, or a Spark Connect
        session, which receives it through ``addArtifact``.
    """
    with private_folder("the zip of this package") as folder:
        compat.add_pyfile(session, _zip(folder))


def _zip(folder: Path) -> Path:
    """Zip the package into a file whose name contains a digest of the content."""
    path = folder / f"{_PACKAGE}.zip"
    digest = hashlib.blake2b(digest_size=10)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _sources(resources.files(_PACKAGE), _PACKAGE):
            digest.update(content)
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return path.rename(folder / f"{_PACKAGE}-{digest.hexdigest()}.zip")


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name in the zip and the content of each module in `folder` and its subfolders."""
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{path}/{each.name}"
        if each.is_dir():
            yield from _sources(each, name)
        elif each.name.endswith((".py", ".typed")):
            yield name, each.read_bytes()
