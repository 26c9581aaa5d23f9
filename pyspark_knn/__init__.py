"""k-nearest-neighbor search, classification, regression and imputation as pyspark.ml stages."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

__version__: str

if TYPE_CHECKING:
    from pyspark_knn.classification import KNNClassificationModel, KNNClassifier
    from pyspark_knn.engine.ship.package import supply_package
    from pyspark_knn.evaluation import NeighborsEvaluator
    from pyspark_knn.imputation import KNNImputer, KNNImputerModel
    from pyspark_knn.local_outlier_factor import LocalOutlierFactor, LocalOutlierFactorModel
    from pyspark_knn.neighbors import KNNEstimator, KNNModel
    from pyspark_knn.pipeline import SharedPrefixPipeline
    from pyspark_knn.regression import KNNRegressionModel, KNNRegressor

__all__ = [
    "KNNClassificationModel",
    "KNNClassifier",
    "KNNEstimator",
    "KNNImputer",
    "KNNImputerModel",
    "KNNModel",
    "KNNRegressionModel",
    "KNNRegressor",
    "LocalOutlierFactor",
    "LocalOutlierFactorModel",
    "NeighborsEvaluator",
    "SharedPrefixPipeline",
    "supply_package",
]


def _has_pyspark() -> bool:
    if "pyspark" in sys.modules:
        return True
    found = importlib.util.find_spec("pyspark")
    # Uninstalling pyspark but not pyspark-client leaves empty folders, found as a package.
    return found is not None and found.origin is not None


if not _has_pyspark():
    raise ModuleNotFoundError(
        "pyspark_knn requires PySpark, which is not installed. Run pip install "
        "'pyspark_knn[spark]', or install pyspark-client or databricks-connect for Spark Connect.",
        name="pyspark",
    )

_HOMES = {
    "KNNClassificationModel": "classification",
    "KNNClassifier": "classification",
    "KNNEstimator": "neighbors",
    "KNNImputer": "imputation",
    "KNNImputerModel": "imputation",
    "KNNModel": "neighbors",
    "KNNRegressionModel": "regression",
    "KNNRegressor": "regression",
    "LocalOutlierFactor": "local_outlier_factor",
    "LocalOutlierFactorModel": "local_outlier_factor",
    "NeighborsEvaluator": "evaluation",
    "SharedPrefixPipeline": "pipeline",
    "supply_package": "engine.ship.package",
}


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"  # a copy that is not installed, such as the one of supply_package


def __getattr__(name: str) -> Any:
    # Names are imported lazily (PEP 562), because Spark's Python workers import only a few modules
    # of this package. The stages and their imports would take about 100 MiB in each worker.
    value: Any
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
