"""Functions on their way to the Python workers, which may lack what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from pyspark import cloudpickle

F = TypeVar("F", bound=Callable[..., Any])


def guarded(function: F) -> F:
    """`function`, such that a worker which lacks a package says which, and what to do about it.

    Without this the unpickler fails there, with no word of whose function it was.
    """
    return _Guarded(function)  # type: ignore[return-value]


class _Guarded:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, batches: Any) -> Any:
        return self._function(batches)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        # Pickled now and not before: a broadcast in it tells Spark that it is needed.
        payload = cast("bytes", cast("Any", cloudpickle).dumps(self._function))
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
