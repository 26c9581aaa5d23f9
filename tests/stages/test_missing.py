"""The metric nan_euclidean on Spark: missing values in items and in queries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import DenseVector, SparseVector, Vectors
from pyspark.sql import functions as F
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressionModel, KNNRegressor
from tests.support import oracle
from tests.support.frames import answers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

NAN = math.nan
DIM = 5
METRIC = "nan_euclidean"
PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 3},
}
placed = pytest.mark.parametrize("placement", PLACEMENTS)

Found = list[list[tuple[Any, float]]]


def _matrix(rows: int, seed: int) -> np.ndarray:
    """Rows on a lattice, full of ties, a third of whose values are missing; the last has none."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-4, 5, (rows, DIM)) / 4
    matrix[rng.random(matrix.shape) < 0.35] = NAN
    matrix[-1] = NAN
    return matrix


ITEMS, QUERIES = _matrix(70, 0), _matrix(20, 1)
IDS = np.random.default_rng(2).permutation(70).tolist()
LABELS = [float(i % 3) for i in range(70)]
KEYS = [i % 4 for i in range(70)]
SCHEMA = "id long, features array<double>, label double, key int"


def distances(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All distances, by the definition; inf where there is none. Sums of these values are exact."""
    gaps = queries[:, None, :] - items[None, :, :]
    present = (~np.isnan(gaps)).sum(axis=2)
    sums = np.nansum(gaps**2, axis=2)
    figures = np.sqrt(sums * (DIM / np.maximum(present, 1)))
    return np.where(present > 0, figures, np.inf)


FIGURES = distances(QUERIES, ITEMS)
FARTHEST = float(FIGURES[np.isfinite(FIGURES)].max())


def expected(k: int, **limits: Any) -> Found:
    """The neighbors by sorting all distances."""
    limits = {"max_distance": FARTHEST, **limits}
    return oracle.nearest(FIGURES, IDS, k, **limits)


def _row(values: np.ndarray) -> list[float | None]:
    """The values, of which every second missing one is null."""
    row = values.tolist()
    return [None if value != value and i % 2 else value for i, value in enumerate(row)]


@pytest.fixture(scope="module")
def items(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> DataFrame:
    """Parquet with NaN and null elements of arrays."""
    path = str(tmp_path_factory.mktemp("missing") / "items")
    rows = list(zip(IDS, map(_row, ITEMS), LABELS, KEYS, strict=True))
    spark.createDataFrame(rows, SCHEMA).repartition(3).write.parquet(path)
    return spark.read.parquet(path)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    rows = [(i, Vectors.dense(row), i % 5) for i, row in enumerate(QUERIES.tolist())]
    return spark.createDataFrame(rows, ["id", "features", "key"]).coalesce(2).cache()


@pytest.fixture(scope="module")
def models(items: DataFrame) -> dict[str, KNNModel]:
    """A model of each placement."""
    return {
        name: KNNEstimator(k=4, idCol="id", metric=METRIC, **params).fit(items)
        for name, params in PLACEMENTS.items()
    }


@placed
def test_neighbors(models: dict[str, KNNModel], queries: DataFrame, placement: str) -> None:
    """Of arrays with nulls in Parquet, and of vectors with NaN; all to the last bit."""
    model = models[placement]
    assert (model.getPlacement(), model.getAlgorithm()) == (placement, "brute")
    assert (model.numItems, model.numSkipped, model.getStorage()) == (70, 0, "dense")
    found = answers(model.transform(queries))
    assert found == expected(4)
    assert found[-1] == []


@placed
def test_within_a_radius(models: dict[str, KNNModel], queries: DataFrame, placement: str) -> None:
    model = models[placement].copy()
    model.setK(None).setMaxDistance(0.75)
    assert answers(model.transform(queries)) == expected(70, max_distance=0.75)
    model.setMaxDistance(math.inf)
    joined = model.kneighborsJoin(queries, how="left").groupBy("id").agg(F.count("neighbor"))
    counts = dict(joined.collect())
    assert counts == {i: int(np.isfinite(row).sum()) for i, row in enumerate(FIGURES)}


@placed
def test_pairs(models: dict[str, KNNModel], placement: str) -> None:
    figures = distances(ITEMS, ITEMS)
    found = models[placement].pairsWithin(0.5).collect()
    wanted = {
        (IDS[i], IDS[j], float(figures[i, j]))
        for i, j in zip(*np.nonzero(figures <= 0.5), strict=True)
        if IDS[i] < IDS[j]
    }
    assert len(found) == len(wanted)
    assert {tuple(row) for row in found} == wanted


@placed
def test_keys_and_excluded_items(items: DataFrame, queries: DataFrame, placement: str) -> None:
    """A query whose key no item has, and one that excludes its nearest item."""
    nearest = [found[0][0] if found else None for found in expected(1)]
    asked = queries.withColumn(
        "not", F.element_at(F.create_map(*_literals(nearest)), F.col("id").cast("int"))
    )
    knn = KNNEstimator(k=3, idCol="id", metric=METRIC, excludeIdCol="not", keyCols="key")
    model = knn.setParams(**PLACEMENTS[placement]).fit(items)
    other = [[i for i, key in zip(IDS, KEYS, strict=True) if key != q % 5] for q in range(20)]
    banned = [[*ids, near] for ids, near in zip(other, nearest, strict=True)]
    assert answers(model.transform(asked)) == expected(3, excluded=banned)


def _literals(values: list[Any]) -> list[Any]:
    return [F.lit(each) for pair in enumerate(values) for each in pair]


@placed
def test_append_remove_save_and_load(
    items: DataFrame, queries: DataFrame, placement: str, tmp_path: Path
) -> None:
    late = F.col("id") % 3 == 0
    knn = KNNEstimator(k=4, idCol="id", metric=METRIC, **PLACEMENTS[placement])
    model = knn.fit(items.where(~late | (F.col("id") < 6))).remove([0, 3]).append(items.where(late))
    model.save(str(tmp_path / "model"))
    loaded = KNNModel.load(str(tmp_path / "model"))
    assert answers(loaded.transform(queries)) == answers(model.transform(queries)) == expected(4)
    stored = {row.id: row.features for row in loaded.items.select("id", "features").collect()}
    for name, row in zip(IDS, ITEMS, strict=True):
        np.testing.assert_array_equal(stored[name], row)


def test_weights_of_features_and_float32(items: DataFrame, queries: DataFrame) -> None:
    """Weights with exact roots; items rounded once."""
    weights = np.array([4.0, 1.0, 0.25, 0.0, 16.0])
    figures = distances(QUERIES * np.sqrt(weights), ITEMS * np.sqrt(weights))
    params = {"metricParams": {"w": weights.tolist()}, "dtype": "float32"}
    model = KNNEstimator(k=4, idCol="id", metric=METRIC, **params).fit(items)
    assert "array<float>" in dict(model.items.dtypes).values()
    wanted = oracle.nearest(figures, IDS, 4, max_distance=1e9)
    assert answers(model.transform(queries)) == wanted
    with pytest.raises(ValueError, match=r"metricParams\['w'\] is not supported by scikit-learn's"):
        model.toSklearn()


def test_sparse_vectors(spark: SparkSession) -> None:
    """A zero of a sparse vector is a value, whether it is stored or not; a stored NaN is none."""
    vectors = [
        SparseVector(300, {0: 1.0, 7: NAN}),
        SparseVector(300, {0: 0.0}),
        DenseVector([2.0] + [NAN] * 299),
    ]
    items = spark.createDataFrame(list(enumerate(vectors)), ["id", "features"])
    model = KNNEstimator(k=3, idCol="id", metric=METRIC).fit(items)
    assert model.getStorage() == "dense"
    assert model.storageReason.startswith("metric 'nan_euclidean' requires dense vectors")
    query = spark.createDataFrame([(0, vectors[0])], ["id", "features"])
    (found,) = answers(model.transform(query))
    assert found == [(0, 0.0), (1, math.sqrt(300 / 299)), (2, math.sqrt(300))]


def test_classification_and_regression(items: DataFrame, queries: DataFrame) -> None:
    """Queries without neighbors have no votes; the driver predicts as the executors do."""
    labels = dict(zip(IDS, LABELS, strict=True))
    found = expected(4)
    knn = KNNClassifier(k=4, idCol="id", metric=METRIC, placement="replicated")
    fitted = knn.fit(items)
    rows = fitted.transform(queries).orderBy("id").collect()
    assert [row.rawPrediction.toArray().tolist() for row in rows] == [
        oracle.votes(each, labels, 3) for each in found
    ]
    assert math.isnan(rows[-1].prediction)
    assert fitted.predict(rows[0].features) == rows[0].prediction
    with pytest.raises(ValueError, match="value contains infinity"):
        fitted.predict([math.inf] * DIM)

    regressor = KNNRegressor(k=4, weights="distance", idCol="id", metric=METRIC).fit(items)
    means = [oracle.mean(each, labels, by_distance=True) for each in found]
    rows = regressor.transform(queries).orderBy("id").collect()
    assert [row.prediction for row in rows] == pytest.approx(means, nan_ok=True)


def _sklearn_allows_missing() -> bool:
    """Old releases list the metric, but refuse NaN."""
    try:
        NearestNeighbors(metric=METRIC).fit([[NAN, 1.0]])
    except ValueError:
        return False
    return True


@pytest.mark.skipif(not _sklearn_allows_missing(), reason="scikit-learn refuses NaN")
def test_from_and_to_sklearn(spark: SparkSession) -> None:
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(50, 3))
    matrix[:, 1:][rng.random((50, 2)) < 0.3] = NAN
    theirs = NearestNeighbors(n_neighbors=3, metric=METRIC).fit(matrix)
    model = KNNModel.fromSklearn(theirs, ids=list(range(50)))
    queries = spark.createDataFrame([(i, matrix[i].tolist()) for i in range(9)], ["id", "features"])
    positions = theirs.kneighbors(matrix[:9], return_distance=False)
    assert [[p for p, _ in row] for row in answers(model.transform(queries))] == positions.tolist()
    again = model.toSklearn().kneighbors(matrix[:9], return_distance=False)
    assert again.tolist() == positions.tolist()
    targets = KNeighborsRegressor(metric=METRIC).fit(matrix, np.arange(50.0))
    regressor = KNNRegressionModel.fromSklearn(targets)
    wanted = targets.predict(matrix[:9])
    assert regressor.predict(matrix[4]) == pytest.approx(wanted[4])
    assert regressor.toSklearn().predict(matrix[:9]) == pytest.approx(wanted)


# --- what stays invalid ---

WRONG = {
    "an infinity": [1.0, NAN, math.inf, 0.0, 0.0],
    "a null": None,
    "a vector of dimension 4 instead of 5": [1.0, NAN, 2.0, 0.0],
}


@pytest.mark.parametrize("what", WRONG)
def test_invalid_queries(spark: SparkSession, models: dict[str, KNNModel], what: str) -> None:
    frame = spark.createDataFrame(
        [(0, WRONG[what]), (1, [NAN] * DIM)], "id long, features array<double>"
    )
    model = models["replicated"]
    with pytest.raises(Exception, match=f"featuresCol 'features' contains {what}"):
        model.transform(frame).collect()
    model = model.copy().setHandleInvalid("keep")
    rows = model.transform(frame).orderBy("id").collect()
    assert [row.neighbors for row in rows] == [None, []]


def test_invalid_items(spark: SparkSession, items: DataFrame) -> None:
    rows = [(1000 + i, row, 0.0, 0) for i, row in enumerate(WRONG.values())]
    more = items.union(spark.createDataFrame(rows, SCHEMA))
    knn = KNNEstimator(idCol="id", metric=METRIC)
    with pytest.raises(ValueError, match="featuresCol 'features' contains"):
        knn.fit(more)
    model = knn.setHandleInvalid("skip").fit(more)
    assert (model.numItems, model.numSkipped) == (70, 3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"storage": "sparse"}, f"storage 'sparse' does not support metric '{METRIC}'"),
        ({"algorithm": "kd_tree"}, f"algorithm 'kd_tree' does not support metric '{METRIC}'"),
        (
            {"placement": "sharded", "shardBy": "kmeans"},
            f"shardBy 'kmeans' does not support metric '{METRIC}'",
        ),
        ({"metricParams": {"w": [1.0]}}, r"metricParams\['w'\] is for 1 features, but .* have 5"),
    ],
)
def test_what_does_not_go_with_it(items: DataFrame, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KNNEstimator(idCol="id", metric=METRIC, **params).fit(items)


def test_the_cost_of_a_search(models: dict[str, KNNModel], queries: DataFrame) -> None:
    assert "20, 4 neighbors each: 1.4e+03 pairs" in models["replicated"].explainSearch(queries)
