"""The memory that the JVM of an executor has for each of its tasks, by the settings of Spark."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from pyspark.sql import SparkSession

from pyspark_knn.engine.spark import compat

_DEFAULT = "1g"
"""The heap of a driver and of an executor, unless it is set."""


def heap_per_task(session: SparkSession, cores: int) -> int:
    """Return the heap of an executor, divided by the number of tasks that it runs at a time.

    Parameters
    ----------
    session : SparkSession
        The session, classic or Spark Connect.
    cores : int
        The number of tasks that the cluster runs at a time.

    Returns
    -------
    int
        Bytes. Where an executor takes all cores of its machine (standalone clusters, unless
        `spark.executor.cores` is set), their number is unknown, and so this is its whole heap.
    """
    return heap_of(functools.partial(compat.setting, session), cores)


def heap_of(setting: Callable[[str, str], str], cores: int) -> int:
    """Return what `heap_per_task` returns.

    Parameters
    ----------
    setting : callable
        Returns a setting, given its name and its default.
    cores : int
        See `heap_per_task`.
    """
    # A single process is the driver and the executor.
    if re.match(r"local(\[|$)", setting("spark.master", "")):
        return _memory(setting("spark.driver.memory", _DEFAULT)) // max(1, cores)
    tasks = int(setting("spark.executor.cores", "1")) // int(setting("spark.task.cpus", "1"))
    return _memory(setting("spark.executor.memory", _DEFAULT)) // max(1, tasks)


def bytes_of(size: str) -> int:
    """Convert a size in Spark's settings, such as "64m", "1g" or "1048576", to bytes."""
    text = size.strip().lower().rstrip("b")
    unit = "kmgtp".find(text[-1:]) + 1 if text[-1:].isalpha() else 0
    return int(float(text[:-1] if unit else text) * 1024**unit)


def _memory(size: str) -> int:
    """Convert a size of memory to bytes; without a unit, it is in MiB."""
    return bytes_of(size if size.strip()[-1:].isalpha() else f"{size}m")
