"""Spark sessions for tests."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyspark
import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CLASSES = Path(sys.prefix) / "spark_classes.jsa"
"""Classes of Spark as a JVM has read them once (tests/support/keep_classes.py).

A JVM of another version, or with other jars, passes over the file in silence.
"""

QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Tests run each plan once: a third of their time goes into compiling it well."""
if CLASSES.exists() and " " not in str(CLASSES):
    QUICK_JAVA += f" -XX:SharedArchiveFile={CLASSES} -Xlog:cds=off -Xlog:class+path=off"

INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""No Java is generated for plans that run once: compiling it took a sixth of the time of the JVM.

Only in local sessions of Spark 4. Plans are compiled, as for users, on the oldest Spark, on
executors in processes of their own, and on servers of Spark Connect.
"""

ROOT = Path(__file__).parents[2]

MASTERS = {
    "local": "local[2]",
    "cluster": "local-cluster[2,1,2048]",
    "small-driver": "local-cluster[2,1,1024]",
}


def _remember_names_of_java() -> None:
    """Look up each name in the JVM once: py4j asks at each dot, and a miss searches all jars."""
    from py4j.java_gateway import JavaClass, JavaPackage, JVMView

    def remembering(look_up: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def look_up_once(self: Any, name: str) -> Any:
            found = look_up(self, name)
            if isinstance(found, JavaPackage | JavaClass):
                self.__dict__[name] = found
            return found

        return look_up_once

    for view in (JVMView, JavaPackage):
        if view.__getattr__.__module__ != __name__:
            view.__getattr__ = remembering(view.__getattr__)


def start(kind: str, warehouse: Path, **settings: str) -> SparkSession:
    """Start a Spark of a kind (see tests/conftest.py), with dots in settings written as `__`."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("pyspark_knn tests")
    builder = builder.remote("local[2]") if kind == "connect" else builder.master(MASTERS[kind])
    plain = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Spark describes each plan for its page of queries, at length by default.
        "spark.sql.ui.explainMode": "simple",
        "spark.driver.memory": "2g",
        "spark.driver.extraJavaOptions": QUICK_JAVA,
        "spark.executor.extraJavaOptions": QUICK_JAVA,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.warehouse.dir": str(warehouse),
        # Daylight saving brings hours that come twice: what loses time zones shows here.
        "spark.sql.session.timeZone": "Europe/Berlin",
    }
    if kind == "local" and int(pyspark.__version__.split(".")[0]) >= 4:
        plain |= INTERPRETED
    preloads = kind in ("local", "connect")  # not executors in processes of their own
    if preloads:
        plain["spark.python.daemon.module"] = "tests.support.daemon"
    plain |= {name.replace("__", "."): value for name, value in settings.items()}
    for name, value in plain.items():
        builder = builder.config(name, value)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        if preloads:
            # The JVM passes its path on to workers, which do not all start in the same folder.
            patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        if kind == "connect":
            # Settings of the server are given to the session too, which may not change them.
            warnings.filterwarnings("ignore", "Failed to set .*CANNOT_MODIFY", UserWarning)
        session = builder.getOrCreate()
    if kind != "connect":
        _remember_names_of_java()
        session.sparkContext.setLogLevel("ERROR")
    return session
