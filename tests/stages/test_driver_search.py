"""kneighbors on the driver returns what transform does, and says where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pyspark_knn import KNNEstimator
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ITEMS = np.random.default_rng(8).integers(0, 9, (40, 3)).astype(float)


@pytest.mark.replicated
def test_equals_transform(spark: SparkSession) -> None:
    items = frame_of(spark, ITEMS)
    model = KNNEstimator(k=5, idCol="id", placement="replicated").fit(items)
    expected = answers(model.transform(items))
    ids, distances = model.kneighbors(ITEMS)
    assert [list(zip(*pair, strict=True)) for pair in zip(ids, distances, strict=True)] == expected
    # Items are excluded by ids, which vectors do not have.
    assert model.setExcludeIdCol("id").kneighbors(ITEMS[0])[0].tolist() == ids[0].tolist()


def test_a_sharded_model_and_one_with_keys(spark: SparkSession) -> None:
    items = frame_of(spark, ITEMS)
    sharded = KNNEstimator(idCol="id", placement="sharded", numShards=1).fit(items)
    with pytest.raises(ValueError, match=r"sharded model .* Call transform .*'replicated'"):
        sharded.kneighbors(ITEMS[0])
    keyed = KNNEstimator(idCol="id", keyCols="key", placement="replicated").fit(
        items.selectExpr("*", "id % 2 AS key")
    )
    with pytest.raises(ValueError, match=r"keyCols is \['key'\], but one vector has no key"):
        keyed.kneighbors(ITEMS[0])
