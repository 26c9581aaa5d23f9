"""Models that each version of Spark saves, and the answers they must give in every version.

``python -m tests.support.saved`` writes those of the Spark that is installed to tests/saved, unless
they are there.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn import KNNClassifier, KNNEstimator, KNNRegressor
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FOLDER = Path(__file__).parents[1] / "saved"

# A lattice, so that every distance is exact, with many ties.
_STEPS = np.arange(30)
ITEMS = np.stack([_STEPS % 5, _STEPS * 7 % 4, _STEPS * 3 % 7], axis=1).astype(float)
QUERIES = ITEMS[::4] + np.array([1.0, 0.0, -2.0])

NAMES = [f"ä{17 * i % 30:02}" for i in range(30)]
NUMBERS = [17 * i % 30 - 5 for i in range(30)]
# Half an hour apart, so that some are in the hour that occurs twice in Europe/Berlin.
_START = datetime.datetime(2021, 10, 30, 20, 0, tzinfo=datetime.timezone.utc)
TIMES = [_START + datetime.timedelta(minutes=30 * i) for i in range(30)]

CLASSES = ["rot", "grün", "blau"]
LABELS = [float(i * 11 % 7 % 3) for i in range(30)]
THRESHOLDS = [0.7, 0.5, 0.3]
TARGETS = [float(i * 13 % 8) - 2.5 for i in range(30)]
WEIGHTS = [float(i % 4) / 2 for i in range(30)]


def models(spark: SparkSession) -> dict[str, Any]:
    """The models, by the names of their folders."""
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import VectorAssembler

    assembler = VectorAssembler(inputCols=["x", "y", "z"], outputCol="features")
    pipeline = Pipeline(stages=[assembler, KNNEstimator(k=4, idCol="id", maxDistance=2.0)])
    times = [(at, row) for at, row in zip(TIMES, ITEMS.tolist(), strict=True)]
    return {
        "names": KNNEstimator(k=6, idCol="id").fit(_named(spark)),
        "times": KNNEstimator(k=3, idCol="id", algorithm="kd_tree").fit(
            spark.createDataFrame(times, "id timestamp, features array<double>")
        ),
        "pipeline": pipeline.fit(apart(frame_of(spark, ITEMS, NUMBERS))),
        "classes": KNNClassifier(k=5, idCol="id", thresholds=THRESHOLDS).fit(_classed(spark)),
        "values": KNNRegressor(k=4, idCol="id", weights="distance", weightCol="weight").fit(
            _labeled(spark, TARGETS)
        ),
    }


def _named(spark: SparkSession) -> DataFrame:
    rows = list(zip(NAMES, ITEMS.tolist(), strict=True))
    return spark.createDataFrame(rows, "id string, features array<float>")


def _labeled(spark: SparkSession, labels: list[float]) -> DataFrame:
    rows = list(zip(NUMBERS, ITEMS.tolist(), labels, WEIGHTS, strict=True))
    return spark.createDataFrame(
        rows, "id int, features array<double>, label double, weight double"
    )


def _classed(spark: SparkSession) -> DataFrame:
    """Labels whose metadata names the classes."""
    names = {"ml_attr": {"type": "nominal", "name": "label", "vals": CLASSES}}
    return _labeled(spark, LABELS).withMetadata("label", names)


def apart(frame: DataFrame) -> DataFrame:
    """The features as columns x, y and z."""
    return frame.selectExpr("id", *(f"features[{i}] AS {name}" for i, name in enumerate("xyz")))


def _main() -> None:
    import tempfile

    import pyspark

    from tests.support.sessions import start

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    folder = FOLDER / pyspark.__version__
    with tempfile.TemporaryDirectory() as warehouse:
        spark = start("local", Path(warehouse))
        for name, model in models(spark).items():
            # Existing folders were saved by an earlier version of this package and are kept.
            if not (folder / name).exists():
                model.write().save(str(folder / name))
        spark.stop()
    for file in [*folder.rglob("*.crc"), *folder.rglob("_SUCCESS")]:
        file.unlink()


if __name__ == "__main__":
    _main()
