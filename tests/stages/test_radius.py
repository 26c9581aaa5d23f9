"""Searches for all items within a radius: k=None with maxDistance or minSimilarity."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import (
    KNNClassificationModel,
    KNNClassifier,
    KNNEstimator,
    KNNModel,
    KNNRegressor,
)
from pyspark_knn.engine.search import batches
from tests.support import oracle
from tests.support.frames import Matrix, answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RADIUS = 2.0
FAR_AWAY = [40.0, 0.0, 0.0]


def _lattice() -> tuple[Matrix, list[str], Matrix, Matrix]:
    """Items with many equal distances, their ids and labels, and queries, one of them far away."""
    rng = np.random.default_rng(4)
    items = rng.integers(-3, 4, (120, 3)).astype(np.float64)
    names = [f"n{i:03d}" for i in rng.permutation(120)]
    queries = np.vstack([rng.integers(-3, 4, (24, 3)), [FAR_AWAY]]).astype(np.float64)
    return items, names, queries, rng.integers(0, 3, 120).astype(np.float64)


ITEMS, NAMES, QUERIES, LABELS = _lattice()

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "hash": {"placement": "sharded", "numShards": 3},
    "kmeans": {"placement": "sharded", "numShards": 4, "shardBy": "kmeans"},
}


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    frame = frame_of(spark, ITEMS, NAMES, id_type=T.StringType(), partitions=3)
    labels = dict(zip(NAMES, LABELS.tolist(), strict=True))
    label = F.create_map(*(F.lit(each) for pair in labels.items() for each in pair))[F.col("id")]
    return frame.withColumn("label", label).persist()


@pytest.fixture(scope="module", params=PLACEMENTS)
def model(request: pytest.FixtureRequest, items: DataFrame) -> KNNModel:
    settings = PLACEMENTS[request.param]
    return KNNEstimator(k=None, maxDistance=RADIUS, idCol="id", **settings).fit(items)


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    """Valid queries, then one invalid, each with ids to exclude."""
    rows: list[Any] = [(i, row, NAMES[i : i + 3]) for i, row in enumerate(QUERIES.tolist())]
    rows.insert(5, (100, None, None))
    return spark.createDataFrame(rows, "id int, features array<double>, seen array<string>")


def expected(radius: float = RADIUS, *, exclude: bool = False) -> list[list[tuple[Any, float]]]:
    seen = [NAMES[i : i + 3] for i in range(len(QUERIES))] if exclude else None
    distances = oracle.direct_distances(QUERIES, ITEMS)
    return oracle.nearest(distances, NAMES, 1000, max_distance=radius, excluded=seen)


def valid(queries: DataFrame) -> DataFrame:
    return queries.where("features IS NOT NULL")


def test_transform_lists_all_items_within_the_distance(model: KNNModel, queries: DataFrame) -> None:
    found = answers(model.transform(valid(queries)))
    assert found == expected()
    assert max(map(len, found)) > 10
    assert found[-1] == []


def test_excluded_ids_invalid_queries_and_another_radius(
    model: KNNModel, queries: DataFrame
) -> None:
    other = model.copy(
        {model.excludeIdCol: "seen", model.handleInvalid: "keep", model.maxDistance: 1.0}
    )
    rows = other.transform(queries).where("id < 100").select("id", "neighbors", "distances")
    assert answers(rows) == expected(1.0, exclude=True)
    kept = other.transform(queries).where("id = 100").first()
    assert kept is not None
    assert kept.neighbors is None


def test_the_join_returns_a_row_for_each_pair(model: KNNModel, queries: DataFrame) -> None:
    pairs = model.copy({model.handleInvalid: "keep"}).kneighborsJoin(queries, how="left")
    rows = sorted(
        tuple(r)
        for r in pairs.select("id", "rank", "neighbor", "distance").collect()
        if r.rank is not None
    )
    wanted = [
        (query, rank, name, distance)
        for query, near in enumerate(expected())
        for rank, (name, distance) in enumerate(near, 1)
    ]
    assert rows == wanted
    alone = pairs.where("rank IS NULL").select("id").collect()
    assert sorted(row.id for row in alone) == [len(QUERIES) - 1, 100]


def test_a_query_with_more_neighbors_than_fit_in_a_row(
    model: KNNModel, queries: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    busiest = max(range(len(QUERIES)), key=lambda query: len(expected()[query]))
    asked = valid(queries).where(f"id IN ({busiest}, 24)")
    narrow = functools.partial(batches.Request, row_neighbors=4)
    monkeypatch.setattr("pyspark_knn.models.neighbors.Request", narrow)
    with pytest.raises(PySparkException, match=r"that fit in one row. Use KNNModel.kneighborsJoin"):
        model.transform(asked).collect()
    rows = model.kneighborsJoin(asked).select("id", "rank", "neighbor", "distance").collect()
    assert sorted(map(tuple, rows)) == [
        (busiest, rank, *near) for rank, near in enumerate(expected()[busiest], 1)
    ]


def all_pairs(radius: float, metric: str = "euclidean") -> list[tuple[Any, Any, float]]:
    distances = oracle.direct_distances(ITEMS, ITEMS, metric).tolist()
    return sorted(
        (*sorted((NAMES[i], NAMES[j])), distances[i][j])
        for i in range(len(ITEMS))
        for j in range(i)
        if distances[i][j] <= radius
    )


def test_each_pair_once(model: KNNModel) -> None:
    pairs = model.pairsWithin(1.0)
    assert pairs.dtypes == [("id", "string"), ("neighbor", "string"), ("distance", "double")]
    assert sorted(map(tuple, pairs.collect())) == all_pairs(1.0)
    assert model.pairsWithin().count() == len(all_pairs(RADIUS))


# --- votes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["replicated", "hash"])
def test_votes_of_all_within_the_radius(
    items: DataFrame, queries: DataFrame, placement: str
) -> None:
    settings = {"idCol": "id", "k": None, "maxDistance": RADIUS, **PLACEMENTS[placement]}
    classifier = KNNClassifier(outlierLabel="most_frequent", **settings).fit(items)
    asked = classifier.copy({classifier.handleInvalid: "keep"}).transform(queries)
    rows = sorted(asked.select("id", "rawPrediction", "prediction").collect())
    labels = dict(zip(NAMES, LABELS.tolist(), strict=True))
    wanted = [oracle.votes(near, labels, 3) for near in expected()]
    most = int(np.bincount(LABELS.astype(int)).argmax())
    wanted[-1] = [float(label == most) for label in range(3)]
    assert [row.rawPrediction.toArray().tolist() for row in rows[:-1]] == wanted
    assert [row.prediction for row in rows[:-1]] == [votes.index(max(votes)) for votes in wanted]
    # An invalid query is not an outlier.
    assert np.isnan(rows[-1].prediction)

    regressor = KNNRegressor(weights="distance", **settings).fit(items)
    means = sorted(regressor.transform(valid(queries)).select("id", "prediction").collect())
    for row, near in zip(means, expected(), strict=True):
        mean = oracle.mean(near, labels, by_distance=True)
        assert row.prediction == pytest.approx(mean, nan_ok=True)


def test_the_most_frequent_class_of_a_sharded_model(
    items: DataFrame, queries: DataFrame, tmp_path: Path
) -> None:
    settings = {"idCol": "id", "k": None, "maxDistance": RADIUS, **PLACEMENTS["hash"]}
    knn = KNNClassifier(**settings)
    # The models of one fit share the index; the second one knows what the first did not need.
    model, other = knn.fit(items, [{}, {knn.outlierLabel: "most_frequent"}])
    with pytest.raises(ValueError, match="outlierLabel 'most_frequent' can be set on a sharded"):
        model.copy({model.outlierLabel: "most_frequent"}).transform(valid(queries))
    with pytest.raises(ValueError, match="outlierLabel must be one of the 3 classes"):
        model.copy({model.outlierLabel: 3}).transform(valid(queries))
    path = (tmp_path / "model").as_uri()
    other.save(path)
    most = float(np.bincount(LABELS.astype(int)).argmax())
    for each in (other, KNNClassificationModel.load(path)):
        found = each.transform(valid(queries)).where("id = 24").first()
        assert found.prediction == most


# --- saved, streamed, tuned -----------------------------------------------------------------------


def test_saved_and_loaded(items: DataFrame, queries: DataFrame, tmp_path: Path) -> None:
    model = KNNEstimator(k=None, minSimilarity=0.5, metric="cosine", idCol="id").fit(items)
    path = (tmp_path / "model").as_uri()
    model.save(path)
    loaded = KNNModel.load(path)
    assert (loaded.getK(), loaded.getMinSimilarity()) == (None, 0.5)
    assert answers(loaded.transform(valid(queries))) == answers(model.transform(valid(queries)))
    estimator = KNNEstimator(k=None, maxDistance=1.0)
    path = (tmp_path / "estimator").as_uri()
    estimator.save(path)
    assert KNNEstimator.load(path).getK() is None


@pytest.mark.replicated
def test_a_stream(
    spark: SparkSession, items: DataFrame, queries: DataFrame, tmp_path: Path
) -> None:
    model = KNNEstimator(k=None, maxDistance=RADIUS, idCol="id").fit(items)
    source, target = str(tmp_path / "source"), str(tmp_path / "target")
    valid(queries).coalesce(1).write.parquet(source)
    stream = spark.readStream.schema(queries.schema).parquet(source)
    writer = model.transform(stream).writeStream.format("parquet").option("path", target)
    run = writer.option("checkpointLocation", str(tmp_path / "checkpoint"))
    assert run.trigger(availableNow=True).start().awaitTermination(120)
    assert answers(spark.read.parquet(target)) == expected()


def test_models_of_one_fit_share_a_search_within_a_radius(
    items: DataFrame, queries: DataFrame
) -> None:
    knn = KNNClassifier(idCol="id", neighborsCol="neighbors", distancesCol="distances")
    maps: list[Any] = [
        {knn.k: 3},
        {knn.k: None, knn.maxDistance: 1.0},
        {knn.k: None, knn.maxDistance: RADIUS, knn.outlierLabel: 2},
        {knn.k: 4, knn.maxDistance: 1.0},
    ]
    models = knn.fit(items, maps)
    cached = valid(queries).persist()
    cached.count()
    distances = oracle.direct_distances(QUERIES, ITEMS)
    for model, k, radius in zip(
        models, (3, 1000, 1000, 4), (np.inf, 1.0, RADIUS, 1.0), strict=True
    ):
        wanted = oracle.nearest(distances, NAMES, k, max_distance=radius)
        assert answers(model.transform(cached)) == wanted
    last = models[2].transform(cached).where("id = 24").first()
    assert last is not None
    assert last.prediction == 2.0
    cached.unpersist()


# --- similarities ---------------------------------------------------------------------------------

SETS = (np.random.default_rng(1).random((60, 12)) < 0.4).astype(np.float64)


@pytest.mark.parametrize(
    ("metric", "storage", "placement"),
    [
        ("jaccard", "sparse", "replicated"),
        ("dice", "dense", "replicated"),
        ("cosine", "sparse", "hash"),
        ("inner_product", "dense", "replicated"),
    ],
)
def test_the_similarity_is_inclusive(
    spark: SparkSession, metric: str, storage: str, placement: str
) -> None:
    frame = frame_of(spark, SETS)
    similarity = {"jaccard": 0.6, "dice": 0.8, "cosine": 0.75, "inner_product": 4.0}[metric]
    common, sizes = SETS @ SETS.T, SETS.sum(axis=1)
    below = {
        "jaccard": sizes[:, None] + sizes - common,
        "dice": (sizes[:, None] + sizes) / 2,
        "cosine": np.sqrt(sizes[:, None] * sizes),
        "inner_product": np.ones_like(common),
    }[metric]
    # Compared without division; a square root of a product of whole numbers is exact if it is one.
    similar = common >= similarity * below - 1e-9
    assert (common == similarity * below).any()
    settings = {"storage": storage, **PLACEMENTS[placement]}
    knn = KNNEstimator(k=None, minSimilarity=similarity, metric=metric, idCol="id", **settings)
    model = knn.fit(frame)
    found = model.transform(frame).select("id", "neighbors").collect()
    assert {row.id: sorted(row.neighbors) for row in found} == {
        i: np.flatnonzero(row).tolist() for i, row in enumerate(similar)
    }
    pairs = model.copy({model.minSimilarity: None}).pairsWithin(minSimilarity=similarity)
    i, j = np.nonzero(np.triu(similar, 1))
    rows = pairs.select("id", "neighbor").collect()
    assert sorted((row.id, row.neighbor) for row in rows) == list(
        zip(i.tolist(), j.tolist(), strict=True)
    )


# --- pairs, and mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["replicated", "hash"])
def test_pairs_of_positions_and_of_equal_ids(spark: SparkSession, placement: str) -> None:
    matrix = np.array([[0.0], [0.0], [1.0], [5.0], [5.0], [9.0]])
    settings = {"k": None, "maxDistance": 0.0, **PLACEMENTS[placement], "numShards": 2}
    if placement == "replicated":
        del settings["numShards"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "idCol", UserWarning)
        positions = KNNEstimator(**settings).fit(frame_of(spark, matrix).select("features"))
        dates = frame_of(spark, matrix, [3, 1, 2, 4, 4, 6]).selectExpr(
            "date_add(date'2024-01-01', int(id)) AS id", "features"
        )
        model = KNNEstimator(idCol="id", **settings).fit(dates)
    assert [tuple(row) for row in positions.pairsWithin().orderBy("id").collect()] == [
        (0, 1, 0.0),
        (3, 4, 0.0),
    ]
    found = model.pairsWithin().orderBy("id")
    assert found.dtypes == [("id", "date"), ("neighbor", "date"), ("distance", "double")]
    assert [(row.id.day, row.neighbor.day) for row in found.collect()] == [(2, 4), (5, 5)]
    assert positions.pairsWithin(float("inf")).count() == 15


def test_mistakes(spark: SparkSession, items: DataFrame, queries: DataFrame) -> None:
    with pytest.raises(ValueError, match=r"k is None, .*maxDistance \(or minSim.*\), or set k"):
        KNNEstimator(k=None, idCol="id").fit(items)
    with pytest.raises(ValueError, match="minSimilarity does not support metric 'euclidean'"):
        KNNEstimator(minSimilarity=0.5, idCol="id").fit(items)
    with pytest.raises(ValueError, match="are both set"):
        KNNEstimator(minSimilarity=0.5, maxDistance=0.5, metric="cosine", idCol="id").fit(items)
    model = KNNEstimator(k=3, idCol="id").fit(items)
    model.setK(None)
    for search in (model.transform, model.kneighborsJoin, model.explainSearch):
        with pytest.raises(ValueError, match="k is None"):
            search(queries)
    with pytest.raises(ValueError, match="pairsWithin requires maxDistance or minSimilarity"):
        model.pairsWithin()
    with pytest.raises(ValueError, match=r"maxDistance must be >= 0, got -0\.5"):
        model.pairsWithin(-0.5)
    with pytest.raises(ValueError, match=r"maxDistance must be a number \(not NaN\), got nan"):
        model.pairsWithin(float("nan"))
    with pytest.raises(TypeError, match="maxDistance must be a number"):
        model.pairsWithin("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="minSimilarity does not support metric"):
        model.pairsWithin(minSimilarity=0.5)
    report = model.setMaxDistance(1.0).explainSearch(valid(queries))
    assert "all neighbors within maxDistance" in report


def test_an_unset_k_is_pointed_out(items: DataFrame, queries: DataFrame) -> None:
    model = KNNEstimator(metric="cosine", minSimilarity=0.5, idCol="id").fit(items)
    with pytest.warns(UserWarning, match="minSimilarity is 0.5, but k is unset: .* or k=None to"):
        model.transform(valid(queries))
