"""Importing a stage on the driver imports only what every use of it needs."""

from __future__ import annotations

import subprocess
import sys

import pyspark_knn

HEAVY = ("joblib", "mlflow", "pandas", "scipy", "sklearn")

# Some versions of PySpark import pandas and scipy by themselves.
CODE = f"""
import sys, pyspark.ml.functions, pyspark.ml.tuning, pyspark.sql.pandas.types
before = set(sys.modules)
from pyspark_knn import {", ".join(pyspark_knn.__all__)}
added = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(added & set({HEAVY})))
"""


def test_stages_do_not_import_what_only_some_uses_need() -> None:
    # scikit-learn takes one to two seconds of each program, even of one that only makes a Pipeline.
    found = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
