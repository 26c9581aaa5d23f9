"""Models that other versions of Spark saved (tests/support/saved.py) give the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyspark
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.feature import IndexToString
from pyspark.sql import functions as F

from pyspark_knn import KNNClassificationModel, KNNModel, KNNRegressionModel
from tests.support import oracle, saved
from tests.support.frames import answers, frame_of
from tests.support.oracle import direct_distances, nearest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DISTANCES = direct_distances(saved.QUERIES, saved.ITEMS)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


ALL = sorted(saved.FOLDER.iterdir(), key=lambda folder: _release(folder.name))
READABLE = [each for each in ALL if _release(each.name) <= _release(pyspark.__version__)]


def test_every_supported_spark_has_saved_models() -> None:
    assert [_release(each.name) for each in ALL] == [(3, 5), (4, 0), (4, 1), (4, 2), (4, 3)]


@pytest.mark.parametrize("folder", READABLE, ids=lambda path: path.name)
def test_a_saved_model_loads_and_answers(spark: SparkSession, folder: Path) -> None:
    queries = frame_of(spark, saved.QUERIES)
    named = KNNModel.load(str(folder / "names"))
    assert answers(named.transform(queries)) == nearest(DISTANCES, saved.NAMES, 6)
    timed = KNNModel.load(str(folder / "times"))
    assert timed.getAlgorithm() == "kd_tree"
    # As numbers, because Python would read times in the time zone of this process.
    numbers = F.transform("neighbors", F.unix_micros)
    found = answers(timed.transform(queries).withColumn("neighbors", numbers))
    assert found == nearest(DISTANCES, [round(each.timestamp() * 1e6) for each in saved.TIMES], 3)
    pipeline = PipelineModel.load(str(folder / "pipeline"))
    expected = nearest(DISTANCES, saved.NUMBERS, 4, max_distance=2.0)
    assert answers(pipeline.transform(saved.apart(queries))) == expected


@pytest.mark.parametrize("folder", READABLE, ids=lambda path: path.name)
def test_a_saved_model_votes_and_averages(spark: SparkSession, folder: Path) -> None:
    queries = frame_of(spark, saved.QUERIES)
    classifier = KNNClassificationModel.load(str(folder / "classes"))
    assert (classifier.labels, classifier.getThresholds()) == (saved.CLASSES, saved.THRESHOLDS)
    regressor = KNNRegressionModel.load(str(folder / "values"))
    regressor.setPredictionCol("value")
    # Without labels of its own, it uses the metadata of the prediction column.
    named = IndexToString(inputCol="prediction", outputCol="said")
    found = named.transform(regressor.transform(classifier.transform(queries)))
    rows = sorted(found.collect(), key=lambda row: row.id)
    labels = dict(zip(saved.NUMBERS, saved.LABELS, strict=True))
    targets = dict(zip(saved.NUMBERS, saved.TARGETS, strict=True))
    weights = dict(zip(saved.NUMBERS, saved.WEIGHTS, strict=True))
    near = nearest(DISTANCES, saved.NUMBERS, 5)
    turned = 0
    for row, pairs in zip(rows, near, strict=True):
        cast = oracle.votes(pairs, labels, len(saved.CLASSES))
        assert row.rawPrediction.toArray().tolist() == cast
        best = int(np.argmax(np.array(cast) / saved.THRESHOLDS))
        assert (row.prediction, row.said) == (best, saved.CLASSES[best])
        turned += cast[best] < max(cast)
        mean = oracle.mean(pairs[:4], targets, by_distance=True, weights=weights)
        assert row.value == pytest.approx(mean, rel=1e-12)
    assert turned, "the thresholds change something"
