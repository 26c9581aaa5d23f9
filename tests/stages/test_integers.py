"""Arrays of integers are searched exactly, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.spark import compat
from tests.support.frames import answers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


INEXACT = (1 << 53) + 1


def _longs(spark: SparkSession, cells: list[Any]) -> DataFrame:
    return spark.createDataFrame(list(enumerate(cells)), "id long, features array<bigint>")


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
@pytest.mark.parametrize("way", ["arrow", "pandas"])
def test_integers_that_float64_cannot_hold_are_refused(
    spark: SparkSession, placement: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "pandas":
        monkeypatch.setattr(compat, "has_arrow_udf", lambda: False)
    exact = [[INEXACT - 1, 0], [-(1 << 60), 5], [7, 1]]
    knn = KNNEstimator(k=1, idCol="id", placement=placement, handleInvalid="skip")
    message = rf"featuresCol 'features' contains {INEXACT}, which a double cannot .*array<double>"
    with pytest.raises(ValueError, match=message):
        knn.fit(_longs(spark, [*exact, [INEXACT, 0]]))
    largest = (1 << 63) - 1
    with pytest.raises(ValueError, match=f"contains {largest}"):
        knn.fit(_longs(spark, [[largest, 0]]))
    model = knn.fit(_longs(spark, [*exact, [None, 1]]))
    assert (model.numItems, model.numSkipped) == (3, 1)
    queries = _longs(spark, [*exact, None, [3, None]])
    assert answers(model.transform(queries)) == [[(i, 0.0)] for i in range(3)]
    for how in ("error", "skip", "keep"):
        strict = model.copy({model.handleInvalid: how})
        with pytest.raises(Exception, match=message):
            strict.transform(_longs(spark, [[INEXACT, 0]])).collect()
    rounded = _longs(spark, [[INEXACT, 0]]).withColumn(
        "features", F.col("features").cast("array<double>")
    )
    assert answers(model.transform(rounded)) == [[(0, 0.0)]]
    assert "pairs" in model.explainSearch(queries)
