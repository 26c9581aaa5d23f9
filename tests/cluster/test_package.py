"""Executors whose Python lacks this package: the error, and the ways to supply it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pyspark

from tests.support.servers import ROOT, environment, python_without, run_script
from tests.support.sessions import QUICK_JAVA

SCRIPT = """
import glob
import os
import sys
from pyspark.sql import SparkSession
from pyspark_knn import KNNEstimator, supply_package

spark = (
    SparkSession.builder.master("local-cluster[2,1,1024]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .getOrCreate()
)
items = spark.createDataFrame([(i, [float(i), 0.0]) for i in range(20)], ["id", "features"])
knn = KNNEstimator(k=2, idCol="id")
try:
    knn.fit(items)
except Exception as error:
    assert "no package 'pyspark_knn'" in str(error), error
    assert "pyspark_knn.supply_package(spark)" in str(error), error
else:
    raise SystemExit("the workers have the package: nothing is tested")
supply_package(spark)
supply_package(spark)
print(knn.fit(items).transform(items.where("id = 7").repartition(4)).first().neighbors)
"""


def test_workers_without_the_package_raise_until_it_is_supplied(tmp_path: Path) -> None:
    bare = python_without(tmp_path / "bare")
    done = run_script(
        SCRIPT, folder=tmp_path, SPARK_WORKER_DIR=str(tmp_path / "work"), PYSPARK_PYTHON=str(bare)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[7, 6]"


JOB = """
import pyspark_knn
from pyspark.sql import SparkSession

assert "pyspark_knn.zip" in pyspark_knn.__file__, "the driver has another: nothing is tested"
spark = SparkSession.builder.getOrCreate()
items = spark.createDataFrame([(i, [float(i), 0.0]) for i in range(20)], ["id", "features"])
model = pyspark_knn.KNNEstimator(k=2, idCol="id").fit(items)
print(model.transform(items.where("id = 7").repartition(2)).first().neighbors)
"""


def test_a_zip_given_to_spark_submit_is_enough(tmp_path: Path) -> None:
    bare = python_without(tmp_path / "bare")
    archive = shutil.make_archive(str(tmp_path / "pyspark_knn"), "zip", ROOT, "pyspark_knn")
    (tmp_path / "job.py").write_text(JOB)
    home = Path(pyspark.__file__).parent
    command = [str(home / "bin" / "spark-submit"), "--master", "local-cluster[1,1,1024]"]
    command += ["--driver-java-options", QUICK_JAVA]
    for setting in ("ui.enabled=false", "driver.host=127.0.0.1", "driver.bindAddress=127.0.0.1"):
        command += ["--conf", f"spark.{setting}"]
    done = subprocess.run(
        [*command, "--py-files", archive, "job.py"],
        cwd=tmp_path,
        env=environment(bare, SPARK_HOME=str(home), SPARK_WORKER_DIR=str(tmp_path / "work")),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[7, 6]"
