"""A column that items carry beside their vector goes by its name through the whole library."""

from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.search.answers import FoundLists

N_ITEMS = 60


class HasDensity:
    """All that a new column takes: to declare it, and to ask for it in an answer."""

    def _item_columns(self) -> list[ItemColumn]:
        mine = ItemColumn("density", "densityCol", "how dense", negative=False)
        return [*super()._item_columns(), mine]  # type: ignore[misc]


class DensityModel(HasDensity, KNNModel):
    """Adds the densities of the neighbors."""

    def _found_lists(self, outputs: dict[str, str]) -> FoundLists:
        lists = super()._found_lists(outputs)
        # A shared search has an output of each model, under names that no other column has.
        output = outputs["neighborsCol"].replace("neighbors", "densities")
        more = T.StructField(output, T.ArrayType(T.DoubleType()))
        return FoundLists(T.StructType([*lists.result_type, more]), (*lists.names, "density"))


class DensityEstimator(HasDensity, KNNEstimator):
    """Reads the densities of the items."""

    def _new_model(self) -> DensityModel:
        return DensityModel()


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    random = np.random.default_rng(7)
    rows = [(f"item {i:02d}", random.normal(size=3).tolist(), float(i)) for i in range(N_ITEMS)]
    return spark.createDataFrame(rows, ["id", "features", "how dense"]).repartition(3).cache()


PLACEMENTS = [
    {"placement": "replicated"},
    {"placement": "sharded", "numShards": 3},
    {"placement": "sharded", "numShards": 3, "shardBy": "kmeans"},
]


def rows_of(model: Any, queries: DataFrame) -> list[tuple[str, list[str], list[float]]]:
    found = model.transform(queries).select("id", "neighbors", "densities").collect()
    return sorted(map(tuple, found))


@pytest.mark.parametrize("settings", PLACEMENTS, ids=lambda each: "-".join(map(str, each.values())))
def test_it_is_found_at_the_neighbors(items: DataFrame, tmp_path: Any, settings: Any) -> None:
    model = DensityEstimator(k=4, idCol="id", **settings).fit(items)
    found = rows_of(model, items)
    assert len(found) == N_ITEMS
    for own, neighbors, densities in found:
        assert neighbors[0] == own
        assert densities == [float(each.split()[1]) for each in neighbors]
    assert sorted(model.items.select("id", "density").collect()) == sorted(
        items.select("id", "how dense").collect()
    )
    model.save(str(tmp_path / "model"))
    assert rows_of(DensityModel.load(str(tmp_path / "model")), items) == found


def test_it_goes_without_ids_too(items: DataFrame, tmp_path: Any) -> None:
    ordered = items.coalesce(1).orderBy("how dense")
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = DensityEstimator(k=4).fit(ordered)
    found = rows_of(model, items)
    assert all(densities == list(map(float, positions)) for _, positions, densities in found)
    model.save(str(tmp_path / "model"))
    assert rows_of(DensityModel.load(str(tmp_path / "model")), items) == found


def test_models_that_share_a_search_have_it(items: DataFrame) -> None:
    knn = DensityEstimator(idCol="id")
    for model in knn.fit(items, [{knn.k: 2}, {knn.k: 5}]):
        for _, neighbors, densities in rows_of(model, items):
            assert len(densities) == model.getK()
            assert densities == [float(each.split()[1]) for each in neighbors]


def test_its_rule_is_checked(items: DataFrame) -> None:
    bad = items.withColumn("how dense", F.col("how dense") - 1)
    with pytest.raises(ValueError, match=r"densityCol 'how dense' .*-1\.0"):
        DensityEstimator(idCol="id").fit(bad)
