"""The libraries of approximate indexes, which are optional and imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Library(NamedTuple):
    """A library that an extra of this package installs.

    Attributes
    ----------
    extra : str
        The name of the extra, and of the module.
    package : str
        The name of the package.
    least : tuple of int
        The oldest version that works.
    """

    extra: str
    package: str
    least: tuple[int, ...]


LIBRARIES = {
    # Older versions copy the lists of a mapped index.
    "faiss": Library("faiss", "faiss-cpu", (1, 14, 3)),
    "annoy": Library("annoy", "annoy", (1, 17, 3)),
}
"""Name of the module -> the library."""

_loaded: dict[str, Any] = {}


def load_library(name: str, built_with: str = "") -> Any:
    """Import a library.

    Parameters
    ----------
    name : str
        A key of `LIBRARIES`.
    built_with : str, optional
        The version that built the index, for the message where it cannot be opened.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If the library is missing or too old. The message names the extra that installs it.
    """
    if name in _loaded:
        return _loaded[name]
    library = LIBRARIES[name]
    needed = f"{library.package}>={'.'.join(map(str, library.least))}"
    index = f", which built the index with version {built_with}" if built_with else ""
    advice = f"Install it with pip install 'pyspark_knn[{library.extra}]', on all executors too."
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        problem = "is not installed" if missing else f"cannot be imported ({error})"
        raise ImportError(f"{needed} {problem}{index}. {advice}") from error
    found = library_version(name)
    if _numbers(found) < library.least:
        raise ImportError(f"{needed} is required{index}, got version {found}. {advice}")
    if name == "faiss":
        # More than one OpenMP thread can hang a process that was forked after the import.
        # threadpoolctl raises the number during a search where a task has more cores.
        module.omp_set_num_threads(1)
    _loaded[name] = module
    return module


def is_installed(name: str) -> bool:
    """Return whether a library can be loaded.

    Parameters
    ----------
    name : str
        A key of `LIBRARIES`.

    Returns
    -------
    bool
        False if it is missing or too old.
    """
    try:
        load_library(name)
    except ImportError:
        return False
    return True


def library_version(name: str) -> str:
    """Return the installed version of a library.

    Parameters
    ----------
    name : str
        A key of `LIBRARIES`.

    Returns
    -------
    str
        The version; "" if the package has no metadata.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(LIBRARIES[name].package)
    except PackageNotFoundError:
        return str(getattr(importlib.import_module(name), "__version__", ""))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 14, 3) of "1.14.3.post1"."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
