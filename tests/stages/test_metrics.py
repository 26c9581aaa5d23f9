"""Requirements of single metrics: units, sets, cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 2},
    "cells": {"placement": "sharded", "numShards": 3, "shardBy": "kmeans"},
}
EARTH = 6371.0088

# Paris, London, Rome, Tokyo, Honolulu: latitude and longitude in degrees.
CITIES = np.array([[48.86, 2.35], [51.51, -0.13], [41.9, 12.5], [35.68, 139.69], [21.31, -157.86]])


class TestHaversine:
    """Radians, and distances in the unit of the radius."""

    @pytest.mark.parametrize("placement", PLACEMENTS)
    def test_items_in_degrees_are_refused(self, spark: SparkSession, placement: str) -> None:
        items = frame_of(spark, CITIES)
        knn = KNNEstimator(
            idCol="id", metric="haversine", handleInvalid="skip", **PLACEMENTS[placement]
        )
        message = r"featuresCol must contain .* radians .* got latitude .*radians\(lat\)"
        with pytest.raises(Exception, match=message):
            knn.fit(items)

    @pytest.mark.parametrize("placement", PLACEMENTS)
    def test_queries_in_degrees_are_refused_for_any_handle_invalid(
        self, spark: SparkSession, placement: str
    ) -> None:
        items = frame_of(spark, np.radians(CITIES))
        knn = KNNEstimator(k=2, idCol="id", metric="haversine", **PLACEMENTS[placement])
        model = knn.fit(items)
        for how in ("error", "skip", "keep"):
            found = model.copy({model.handleInvalid: how}).transform(frame_of(spark, CITIES))
            with pytest.raises(Exception, match=r"got latitude .*radians\(lat\)"):
                found.collect()

    def test_one_query_in_degrees_is_refused(self, spark: SparkSession) -> None:
        items = frame_of(spark, np.radians(CITIES)).selectExpr("*", "id % 2 AS label")
        model = KNNRegressor(k=1, idCol="id", metric="haversine", placement="replicated").fit(items)
        assert model.predict(Vectors.dense(np.radians(CITIES[1]))) == 1.0
        with pytest.raises(ValueError, match=r"got latitude 48\.86"):
            model.predict(Vectors.dense(CITIES[0]))

    @pytest.mark.parametrize(
        "settings",
        [
            {"algorithm": "brute", **PLACEMENTS["replicated"]},
            {"algorithm": "ball_tree", **PLACEMENTS["replicated"]},
            PLACEMENTS["sharded"],
            PLACEMENTS["cells"],
        ],
        ids=lambda settings: "-".join(map(str, settings.values())),
    )
    def test_the_radius_scales_distances_and_max_distance(
        self, spark: SparkSession, settings: dict[str, Any]
    ) -> None:
        rng = np.random.default_rng(5)
        items = np.radians(np.concatenate([CITIES, rng.uniform([-90, -180], [90, 180], (60, 2))]))
        frame = frame_of(spark, items)
        plain = KNNEstimator(k=3, idCol="id", metric="haversine", algorithm="brute")
        angles = answers(plain.fit(frame).transform(frame))
        knn = KNNEstimator(k=3, idCol="id", metric="haversine", **settings)
        model = knn.setMetricParams({"radius": EARTH}).fit(frame)
        found = answers(model.transform(frame))
        assert found == [[(item, angle * EARTH) for item, angle in row] for row in angles]
        near = answers(model.copy({model.maxDistance: 1500.0}).transform(frame))
        assert near == [[pair for pair in row if pair[1] <= 1500.0] for row in found]
        assert any(len(row) < 3 for row in near)

    def test_the_radius_is_saved(self, spark: SparkSession, tmp_path: Path) -> None:
        frame = frame_of(spark, np.radians(CITIES))
        knn = KNNEstimator(k=2, idCol="id", metric="haversine", metricParams={"radius": EARTH})
        model = knn.fit(frame)
        model.save((tmp_path / "model").as_uri())
        loaded = KNNModel.load((tmp_path / "model").as_uri())
        assert loaded.getMetricParams() == {"radius": EARTH}
        found = answers(loaded.transform(frame))
        assert found == answers(model.transform(frame))
        paris_to_london = found[0][1]
        assert paris_to_london == (1, pytest.approx(344, abs=2))
        with pytest.raises(ValueError, match="is not supported by scikit-learn's haversine"):
            model.toSklearn()


class TestSets:
    """Metrics that compare sets count every number but 0 as 1."""

    @pytest.mark.parametrize("placement", ["replicated", "sharded"])
    @pytest.mark.parametrize("metric", ["jaccard", "yule"])
    def test_values_other_than_zero_and_one_warn(
        self, spark: SparkSession, placement: str, metric: str
    ) -> None:
        items = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        knn = KNNEstimator(k=1, idCol="id", metric=metric, **PLACEMENTS[placement])
        with pytest.warns(
            UserWarning, match=f"metric '{metric}' .* counts every nonzero value as 1"
        ):
            knn.fit(frame_of(spark, items))

    @pytest.mark.parametrize("placement", ["replicated", "sharded"])
    def test_zeros_and_ones_do_not_warn(self, spark: SparkSession, placement: str) -> None:
        items = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        knn = KNNEstimator(k=1, idCol="id", metric="jaccard", **PLACEMENTS[placement])
        # A warning would be an error here, as in all tests.
        knn.fit(frame_of(spark, items))
        # Other metrics take numbers as they are.
        knn.setMetric("hamming").fit(frame_of(spark, items * 0.5))


class TestSquaresInCells:
    """sqeuclidean orders items as euclidean does, so it uses the same cells."""

    def test_answers_are_exact(self, spark: SparkSession) -> None:
        rng = np.random.default_rng(8)
        # A lattice: most queries have ties at their k-th distance.
        items = rng.integers(0, 9, (300, 2)) * 0.1
        frame, queries = frame_of(spark, items), frame_of(spark, items[:60] + 0.05)
        knn = KNNEstimator(k=4, idCol="id", metric="sqeuclidean", algorithm="brute")
        expected = answers(knn.fit(frame).transform(queries))
        cells = KNNEstimator(k=4, idCol="id", metric="sqeuclidean", **PLACEMENTS["cells"])
        model = cells.fit(frame)
        assert answers(model.transform(queries)) == expected
        limit = expected[0][1][1]
        near = answers(model.copy({model.maxDistance: limit}).transform(queries))
        assert near == [[pair for pair in row if pair[1] <= limit] for row in expected]
        # The same cells are probed as by the distance itself.
        probed = answers(model.setNumProbes(1).transform(queries))
        plain = cells.setMetric("euclidean").setNumProbes(1).fit(frame)
        roots = answers(plain.transform(queries))
        assert [[i for i, _ in row] for row in probed] == [[i for i, _ in row] for row in roots]

    def test_the_error_for_cosine_names_the_alternative(self, spark: SparkSession) -> None:
        knn = KNNEstimator(idCol="id", metric="cosine", **PLACEMENTS["cells"])
        with pytest.raises(ValueError, match=r"Normalizer.*'euclidean'"):
            knn.fit(frame_of(spark, np.eye(3)))


def assembled(spark: SparkSession, order: list[str]) -> DataFrame:
    """Rows of two features, assembled in the given order."""
    from pyspark.ml.feature import VectorAssembler

    numbers = spark.createDataFrame([(0, 1.0, 9.0), (1, 9.0, 1.0)], ["id", "a", "b"])
    return VectorAssembler(inputCols=order, outputCol="features").transform(numbers)


class TestNames:
    """The ML attributes of the features column name the features of a vector."""

    @pytest.mark.parametrize("stage", [KNNEstimator, KNNClassifier])
    @pytest.mark.parametrize("reload", [False, True])
    def test_features_in_another_order_are_refused(
        self, spark: SparkSession, tmp_path: Path, stage: Any, reload: bool
    ) -> None:
        items = assembled(spark, ["a", "b"]).withColumnRenamed("id", "label")
        model = stage(k=1, idCol="label", neighborsCol="neighbors").fit(items)
        if reload:
            model.save((tmp_path / "model").as_uri())
            model = type(model).load((tmp_path / "model").as_uri())
        queries = assembled(spark, ["b", "a"])
        message = "feature 0 is 'b' instead of 'a' .2 of 2 features differ.*withMetadata"
        with pytest.raises(ValueError, match=message):
            model.transform(queries)
        # The alternative that the error names.
        meant = queries.withMetadata("features", {"ml_attr": {}})
        rows = sorted(model.transform(meant).collect(), key=lambda row: row.id)
        assert [row.neighbors for row in rows] == [[1], [0]]

    def test_nothing_is_compared_where_one_side_has_no_names(self, spark: SparkSession) -> None:
        named, plain = assembled(spark, ["a", "b"]), frame_of(spark, np.eye(2), kind="dense")
        for items, queries in ((named, plain), (plain, named)):
            model = KNNEstimator(k=1, idCol="id").fit(items)
            assert model.transform(queries).count() == 2

    def test_more_names_than_the_limit_are_not_kept(self, spark: SparkSession) -> None:
        size = 10_001
        names = {"attrs": {"numeric": [{"idx": i, "name": f"n{i}"} for i in range(size)]}}
        frame = spark.createDataFrame([(0, Vectors.sparse(size, {1: 1.0}))], ["id", "features"])
        frame = frame.withMetadata("features", {"ml_attr": {"num_attrs": size, **names}})
        model = KNNEstimator(k=1, idCol="id").fit(frame)
        assert model._fit_record()["featureNames"] is None
