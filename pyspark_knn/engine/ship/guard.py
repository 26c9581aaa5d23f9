"""Functions on their way to the Python workers, which may lack what they need."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from pyspark import cloudpickle

F = TypeVar("F", bound=Callable[..., Any])

_modules_set_aside = 0


def guarded(function: F) -> F:
    """`function`, such that a worker which lacks a package says which, and what to do about it.

    Without this the unpickler fails there, with no word of whose function it was. The function must
    return an iterator; see `_with_imports_set_aside` for what happens before.
    """
    return _Guarded(function)  # type: ignore[return-value]


class _Guarded:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, batches: Any) -> Any:
        return self._function(batches)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        # Pickled now and not before: a broadcast in it tells Spark that it is needed.
        run = functools.partial(_with_imports_set_aside, self._function)
        payload = cast("bytes", cast("Any", cloudpickle).dumps(run))
        return _loader(), (payload,)


def _loader() -> Callable[[bytes], Any]:
    def load(payload: bytes) -> Any:
        # A function inside of a function is pickled with its code, so it runs where this package
        # does not exist; but all that it uses must be inside of it.
        import pickle
        import platform
        import sys

        try:
            return pickle.loads(payload)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            remedy = f"install it in {sys.executable} on every machine of the cluster"
            if missing == "pyspark_knn":
                remedy += ", or call pyspark_knn.supply_package(spark) first"
            raise ModuleNotFoundError(
                f"pyspark_knn runs in Spark's Python workers too, and the one on "
                f"{platform.node()} has no package {missing!r} ({error}): {remedy}",
                name=error.name,
            ) from None

    return load


def _with_imports_set_aside(
    function: Callable[[Any], Iterator[Any]], batches: Any
) -> Iterator[Any]:
    """The results of `function`; what was imported so far is set aside from garbage collection.

    Spark's daemon collects garbage after each task, before the worker can take the next one. To
    look through all that numpy, pyarrow and scikit-learn have made takes 0.1 s (4.3.0), which is
    more than many a task; and none of it is ever garbage.
    """
    global _modules_set_aside
    # At the start, where the daemon has just collected: garbage that is set aside stays for good.
    # Only where there is something new, for the same reason.
    if len(sys.modules) > _modules_set_aside:
        gc.freeze()
        _modules_set_aside = len(sys.modules)
    yield from function(batches)
