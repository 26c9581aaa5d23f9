"""Spark sessions for tests."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

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

MASTERS = {
    "local": "local[2]",
    "cluster": "local-cluster[2,1,2048]",
    "small-driver": "local-cluster[2,1,1024]",
}


def start(kind: str, warehouse: Path, **settings: str) -> SparkSession:
    """Start a Spark of a kind (see tests/conftest.py), with dots in settings written as `__`."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName("pyspark_knn tests")
    builder = builder.remote("local[2]") if kind == "connect" else builder.master(MASTERS[kind])
    plain = {
        "spark.ui.enabled": "false",
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
    plain |= {name.replace("__", "."): value for name, value in settings.items()}
    for name, value in plain.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        if kind == "connect":
            # Settings of the server are given to the session too, which may not change them.
            warnings.filterwarnings("ignore", "Failed to set .*CANNOT_MODIFY", UserWarning)
        session = builder.getOrCreate()
    if kind != "connect":
        session.sparkContext.setLogLevel("ERROR")
    return session
