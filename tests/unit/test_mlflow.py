"""MLflow is optional, and the requirements of a model name the packages of its stages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from pyspark.ml import PipelineModel

from pyspark_knn import KNNModel

WITHOUT_MLFLOW = """
import sys

class Hidden:
    @staticmethod
    def find_spec(name, *_):
        if name == "mlflow":
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")

sys.meta_path.insert(0, Hidden)
import pyspark_knn.mlflow
"""


def test_without_mlflow_the_error_names_the_extra() -> None:
    program = [sys.executable, "-c", WITHOUT_MLFLOW]
    found = subprocess.run(program, capture_output=True, text=True)
    expected = "requires MLflow. Run pip install 'pyspark_knn[mlflow]'."
    assert expected in found.stderr.splitlines()[-1]


def test_requirements_of_an_approximate_index() -> None:
    flavor = pytest.importorskip("pyspark_knn.mlflow")
    model = PipelineModel([PipelineModel([KNNModel()._set(algorithm="ivf")])])
    packages = ["faiss-cpu", "pyspark", "pyspark_knn"]
    expected = [f"{name}=={version(name)}" for name in packages]
    assert flavor.get_default_pip_requirements(model) == expected
