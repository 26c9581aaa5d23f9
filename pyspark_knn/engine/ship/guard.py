"""Guard functions that run in Python workers: missing packages, and garbage collection."""

from __future__ import annotations

import functools
import gc
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from pyspark import cloudpickle

F = TypeVar("F", bound=Callable[..., Any])

_modules_set_aside = 0


def guarded(function: F) -> F:
    """Wrap a function so that a worker that lacks a package raises an error with a remedy.

    Without the wrapper, unpickling fails in the worker with an error that does not mention this
    package. The wrapper also spares imported modules from garbage collection, see
    `_with_imports_set_aside`.

    Parameters
    ----------
    function : callable
        Takes an iterator of batches and returns an iterator.

    Returns
    -------
    callable
        The wrapped function.
    """
    return _Guarded(function)  # type: ignore[return-value]


class _Guarded:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, batches: Any) -> Any:
        return self._function(batches)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        # The function must be pickled while Spark pickles its command: only then does a broadcast
        # within it register itself with that command.
        run = functools.partial(_with_imports_set_aside, self._function)
        payload = cast("bytes", cast("Any", cloudpickle).dumps(run))
        return _loader(), (payload,)


def _loader() -> Callable[[bytes], Any]:
    driver, machine = sys.executable, platform.node()

    def load(payload: bytes) -> Any:
        # A nested function is pickled by value, so it runs in a worker without this package, if it
        # refers to nothing outside of itself.
        import pickle
        import platform
        import sys

        try:
            return pickle.loads(payload)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            remedy = "install it there and on every other machine of the cluster"
            if platform.node() == machine and sys.executable != driver:
                remedy = (
                    f"set PYSPARK_PYTHON to {driver}, the Python of the driver, before the session "
                    f"starts (or activate its virtual environment), or {remedy}"
                )
            if missing == "pyspark_knn":
                remedy += ", or call pyspark_knn.supply_package(spark) first"
            raise ModuleNotFoundError(
                f"pyspark_knn runs in Spark's Python workers too, and {sys.executable} on "
                f"{platform.node()} has no package {missing!r} ({error}): {remedy}",
                name=error.name,
            ) from None

    return load


def _with_imports_set_aside(
    function: Callable[[Any], Iterator[Any]], batches: Any
) -> Iterator[Any]:
    """Call `function`, after exempting the objects of imported modules from garbage collection.

    Spark's daemon collects garbage after each task, before the worker takes the next one. Scanning
    the objects of numpy, pyarrow and scikit-learn, which are never garbage, takes 0.1 s (4.3.0).
    Many a task takes less.
    """
    global _modules_set_aside
    # Garbage that is frozen is never freed. So freeze at the start of a task, when the daemon has
    # just collected garbage, and only if modules were imported since the last time.
    if len(sys.modules) > _modules_set_aside:
        gc.freeze()
        _modules_set_aside = len(sys.modules)
    try:
        yield from function(batches)
    except ImportError as error:
        # Of a library that is imported only when it is needed, such as that of an index.
        where = f"in Spark's Python worker {sys.executable} on {platform.node()}"
        raise ImportError(f"{error} ({where})", name=error.name) from error
