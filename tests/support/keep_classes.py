"""Keep the classes of Spark that most tests use in a file: a JVM starts in half the time with it.

`.ci/test` runs this before all tests; where the file exists, nothing is left to do.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support.sessions import CLASSES


def main() -> None:
    if CLASSES.exists():
        return
    new = CLASSES.with_suffix(".new")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_SUBMIT_OPTS"] = f"-XX:ArchiveClassesAtExit={new} -Xlog:cds=off"
    with tempfile.TemporaryDirectory() as folder:
        _use_spark(Path(folder))
    new.rename(CLASSES)


def _use_spark(folder: Path) -> None:
    from pyspark import SparkContext
    from pyspark.ml import Pipeline, PipelineModel

    from pyspark_knn import KNNClassifier
    from tests.support.sessions import start
    from tests.support.stages import common_frame

    spark = start("local", folder / "warehouse")
    frame = common_frame(spark).cache()
    path = (folder / "model").as_uri()
    Pipeline(stages=[KNNClassifier(k=3)]).fit(frame).save(path)
    PipelineModel.load(path).transform(frame).collect()
    spark.stop()
    # The JVM writes the file when it ends, and it ends when nobody writes to it any more.
    jvm = SparkContext._gateway.proc
    jvm.stdin.close()
    jvm.wait(timeout=120)


if __name__ == "__main__":
    main()
