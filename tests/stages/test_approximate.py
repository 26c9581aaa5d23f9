"""Approximate models: their measured recall, what goes in and out, saving, append, tuning."""

from __future__ import annotations

import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn import KNNClassifier, KNNEstimator, KNNModel, KNNRegressor
from pyspark_knn.index.approximate import libraries
from pyspark_knn.index.approximate.ivf import IVFSearch
from pyspark_knn.index.distances import resolve_metric
from tests.support.frames import answers, frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.dense

K = 5
ITEMS = np.random.default_rng(11).normal(size=(1500, 6)).astype(np.float32)
QUERIES = np.random.default_rng(12).normal(size=(120, 6)).astype(np.float32)
SHARDS = {"replicated": {}, "sharded": {"numShards": 2, "numReplicas": 1}}
CASES = [(a, p) for a in ("ivf", "hnsw") for p in SHARDS]


def estimator(algorithm: str, placement: str, **settings: Any) -> KNNEstimator:
    known = {"k": K, "idCol": "id", "algorithm": algorithm, "placement": placement}
    return KNNEstimator(**{**known, **SHARDS[placement], **settings})


@pytest.fixture(scope="module")
def items(spark: SparkSession) -> DataFrame:
    return frame_of(spark, ITEMS, kind="float", partitions=3).cache()


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return frame_of(spark, QUERIES, kind="float").coalesce(1).cache()


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def model(request: pytest.FixtureRequest, items: DataFrame) -> Any:
    return estimator(*request.param, targetRecall=0.8).fit(items)


def true_distances(matrix: Any = ITEMS, queries: Any = QUERIES, k: int = K) -> Any:
    gaps = queries[:, None, :].astype(np.float64) - matrix[None, :, :].astype(np.float64)
    return np.sort(np.sqrt((gaps**2).sum(axis=2)), axis=1)[:, :k]


def counted_recall(found: list[list[tuple[Any, float]]], k: int = K) -> float:
    """The share of neighbors that are at most as far as the k-th true one."""
    limits = true_distances(k=k)[:, -1] * (1 + 1e-12)
    hits = [sum(far <= limit for _, far in row) for row, limit in zip(found, limits, strict=True)]
    return float(np.mean(hits)) / k


def test_the_recall_is_what_is_counted_independently(model: Any, queries: DataFrame) -> None:
    found = answers(model.transform(queries))
    assert not model.exact
    recall = model.recall
    assert recall.k == K
    assert len(ITEMS) // 2 - 1 <= recall.numQueries <= len(ITEMS) // 2
    assert recall.low <= recall.mean <= recall.high
    assert recall.low >= 0.8
    # Other queries, and few of them: their own mean has a deviation of at most 0.4 / sqrt(120).
    assert abs(counted_recall(found) - recall.mean) < 0.15
    # Each distance is the true one of that item, and the nearest comes first.
    metric = resolve_metric("euclidean")
    for query, row in enumerate(found):
        ids = np.array([each for each, _ in row])
        distances = [far for _, far in row]
        assert distances == sorted(distances)
        rows = np.full(len(ids), query)
        exact = metric.distances(QUERIES, ITEMS, rows, ids)
        assert distances == exact.tolist()
        assert len(set(ids.tolist())) == K


def test_params_of_the_search_change_without_a_fit_or_a_job(model: Any, queries: DataFrame) -> None:
    name = {"ivf": "nprobe", "hnsw": "efSearch"}[model.getAlgorithm()]
    low = model.copy({model.targetRecall: 0.5})
    high = model.copy({model.targetRecall: 0.9})
    assert low.recall.searchParams[name] <= model.recall.searchParams[name]
    # The least thorough search of a graph of so few items finds nearly all.
    strict = name == "nprobe"
    assert high.recall.searchParams[name] >= low.recall.searchParams[name] + strict
    assert high.recall.low >= 0.9
    assert high._index is model._index
    few = model.copy({model.searchParams: {name: 1}})
    found = [each.transform(queries) for each in (few, high)]
    lower, higher = (counted_recall(answers(each)) for each in found)
    assert lower <= higher - 0.1 * strict
    assert higher > 0.8
    if (name, model.getPlacement()) == ("nprobe", "replicated"):
        with pytest.warns(UserWarning, match="targetRecall 0.9999 is higher than the recall of"):
            model.transform(queries, {model.targetRecall: 0.9999})
    # The most thorough search finds all.
    everything = model.copy({model.searchParams: {name: 10**12}})
    exact = counted_recall(answers(everything.transform(queries)))
    assert exact == 1.0 if name == "nprobe" else exact > 0.99
    with pytest.raises(ValueError, match=r"searchParams .* has no 'speed'"):
        model.copy({model.searchParams: {"speed": 3}}).transform(queries)


def test_exclusion_limits_joins_and_graph(model: Any, items: DataFrame) -> None:
    few = items.where("id < 40")
    excluding = model.copy({model.excludeIdCol: "id", model.targetRecall: 0.9})
    pairs = excluding.kneighborsJoin(few).select("id", "neighbor", "rank", "distance").collect()
    assert len(pairs) == 40 * K
    assert all(row.id != row.neighbor for row in pairs)
    graph = excluding.kneighborsGraph().where("src < 40").collect()
    joined = {(row.id, row.neighbor, row.distance) for row in pairs}
    assert {(row.src, row.dst, row.distance) for row in graph} == joined
    near = answers(model.transform(few, {model.maxDistance: 0.4}))
    assert all(far <= 0.4 for row in near for _, far in row)
    # All within a distance: exact.
    within = answers(model.transform(few, {model.maxDistance: 0.9, model.k: None}))
    gaps = ITEMS[:40, None, :].astype(np.float64) - ITEMS[None, :, :].astype(np.float64)
    counts = (np.sqrt((gaps**2).sum(axis=2)) <= 0.9).sum(axis=1)
    assert [len(row) for row in within] == counts.tolist()


def test_an_invalid_query(model: Any, spark: SparkSession) -> None:
    broken = QUERIES[:6].copy()
    broken[2, 3] = np.nan
    frame = frame_of(spark, broken, kind="float")
    with pytest.raises(Exception, match="featuresCol 'features' contains a NaN"):
        model.transform(frame).collect()
    kept = model.transform(frame, {model.handleInvalid: "keep"}).orderBy("id").collect()
    assert [row.neighbors is None for row in kept] == [i == 2 for i in range(6)]
    assert model.transform(frame, {model.handleInvalid: "skip"}).count() == 5


def test_calibrated_with_queries(model: Any, queries: DataFrame) -> None:
    found = model.calibrate(queries)
    assert found.recall.numQueries == len(QUERIES)
    assert found.recall.searchParams.keys() == model.recall.searchParams.keys()
    # These are all queries, so their recall is no estimate.
    assert counted_recall(answers(found.transform(queries))) == pytest.approx(found.recall.mean)
    assert model.recall.numQueries > len(QUERIES)
    with pytest.warns(UserWarning, match="k is 9999, but the recall was measured"):
        model.copy({model.k: 9999}).transform(queries)
    eight = model.copy({model.k: 8})
    with pytest.warns(UserWarning, match=rf"k is 8, but the recall was measured for k={K}"):
        eight.transform(queries)
    assert eight.calibrate(queries).recall.k == 8


def test_calibrated_without_valid_queries(model: Any, queries: DataFrame) -> None:
    words = "queries contains no valid vectors"
    with pytest.raises(ValueError, match=words):
        model.calibrate(queries.limit(0))
    assert "with 1 query for" in str(model.calibrate(queries.limit(1)).recall)
    skips = model.copy({model.handleInvalid: "skip"})
    with pytest.raises(ValueError, match=words):
        skips.calibrate(queries.selectExpr("id", "CAST(NULL AS array<float>) AS features"))


def test_explained(model: Any, queries: DataFrame) -> None:
    report = model.explainSearch(queries)
    assert f"algorithm  {model.getAlgorithm()}: recall {model.recall}" in report
    if model.getPlacement() == "replicated":
        assert model.toSklearn().algorithm == "brute"


def test_saved_and_loaded(
    model: Any, queries: DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    model.save(path.as_uri())
    assert (path / "index").exists()
    if model.getPlacement() == "replicated":
        # It is restored, not built again.
        monkeypatch.setattr("pyspark_knn.engine.placing.index_items", None)
    loaded = KNNModel.load(path.as_uri())
    assert loaded.recall == model.recall
    assert loaded.explainParams() == model.explainParams()
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    loaded.unpersist()


def test_the_partitioning_changes_nothing(model: Any, items: DataFrame, queries: DataFrame) -> None:
    kind = model.getAlgorithm(), model.getPlacement()
    other = estimator(*kind, targetRecall=0.8).fit(items.repartition(5, "features"))
    assert other.recall == model.recall
    moved = answers(other.transform(queries.repartition(3)))
    assert moved == answers(model.transform(queries))


@pytest.mark.replicated
def test_ties_go_to_the_smaller_id(spark: SparkSession) -> None:
    lattice = np.random.default_rng(3).integers(-2, 3, (400, 3))
    names = [f"n{i:03d}" for i in range(400)]
    frame = frame_of(spark, lattice, names, id_type=T.StringType())
    queries = frame_of(spark, lattice[:30] + 0.25)
    brute = KNNEstimator(k=7, idCol="id", algorithm="brute").fit(frame)
    ivf = KNNEstimator(k=7, idCol="id", algorithm="ivf", searchParams={"nprobe": 1000}).fit(frame)
    found, true = answers(ivf.transform(queries)), answers(brute.transform(queries))
    # Which of the farthest ones are found is arbitrary, their order is not.
    assert [[far for _, far in row] for row in found] == [[far for _, far in row] for row in true]
    assert all(row == sorted(row, key=lambda pair: pair[::-1]) for row in found)
    assert ivf.recall.mean == 1.0


@pytest.mark.replicated
@pytest.mark.parametrize("algorithm", ["ivf", "hnsw"])
def test_append_extends_and_measures_again(
    algorithm: str, items: DataFrame, queries: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = items.where("id % 3 > 0")
    first = estimator(algorithm, "replicated", targetRecall=0.9).fit(old)
    with monkeypatch.context() as patch:
        patch.setattr("pyspark_knn.engine.replicated.index_items", None)
        both = first.append(items.where("id % 3 = 0"))
    assert both.numItems == len(ITEMS)
    assert both.recall.numQueries == len(ITEMS) // 2
    assert both.recall.low >= 0.9
    found = answers(both.transform(queries))
    assert counted_recall(found) > 0.8
    assert first.recall.numQueries == 500
    assert both.remove(list(range(1000))).recall.numQueries == 250


@pytest.mark.replicated
def test_a_damaged_or_missing_index(items: DataFrame, queries: DataFrame, tmp_path: Path) -> None:
    model = estimator("ivf", "replicated").fit(items)
    path = tmp_path / "model"
    model.save(path.as_uri())
    spark = items.sparkSession
    whole = spark.read.parquet((path / "index").as_uri()).cache()
    rows = whole.count()
    changes = {
        "array 'cells' differs from what was saved": F.when(
            F.col("name") == "cells", F.overlay("bytes", F.lit(b"\1\1"), F.lit(1))
        ).otherwise(F.col("bytes")),
    }
    for message, changed in changes.items():
        shutil.rmtree(path / "index")
        whole.withColumn("bytes", changed).write.parquet((path / "index").as_uri())
        with pytest.raises(ValueError, match=f"is damaged: .*{message}.*Delete this folder"):
            KNNModel.load(path.as_uri())
    shutil.rmtree(path / "index")
    whole.where("name != 'cells'").write.parquet((path / "index").as_uri())
    with pytest.raises(ValueError, match="'cells' is missing"):
        KNNModel.load(path.as_uri())
    shutil.rmtree(path / "index")
    with pytest.warns(UserWarning, match="index is missing, so the index is built again"):
        loaded = KNNModel.load(path.as_uri())
    assert answers(loaded.transform(queries)) == answers(model.transform(queries))
    # Items that are not those of the structure.
    whole.withColumn("items", F.lit("0")).write.parquet((path / "index").as_uri())
    with pytest.warns(UserWarning, match="does not belong to the items"):
        KNNModel.load(path.as_uri())
    assert rows >= 2


def test_auto_placement_counts_what_an_approximate_index_takes(
    items: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = ITEMS.nbytes
    monkeypatch.setattr("pyspark_knn.engine.placing.AUTO_BYTES", 3 * vectors // 2)
    exact, approximate = (
        KNNEstimator(k=K, idCol="id", algorithm=each, searchParams=params).fit(items)
        for each, params in (("brute", None), ("ivf", {"nprobe": 4}))
    )
    assert exact.getPlacement() == "replicated"
    assert approximate.getPlacement() == "sharded"
    assert "GiB with an approximate index, more than the limit" in approximate.placementReason


@pytest.mark.replicated
def test_votes_and_grids(spark: SparkSession) -> None:
    labels = (ITEMS[:600, 0] > 0).astype(float).tolist()
    rows = [
        (i, row, label)
        for i, (row, label) in enumerate(zip(ITEMS[:600].tolist(), labels, strict=True))
    ]
    frame = spark.createDataFrame(rows, "id long, features array<float>, label double").cache()
    knn = KNNClassifier(idCol="id", algorithm="ivf", neighborsCol="neighbors")
    grid = (
        ParamGridBuilder()
        .addGrid(knn.searchParams, [{"nprobe": 1}, {"nprobe": 15}])
        .addGrid(knn.k, [1, 9])
        .build()
    )
    split = TrainValidationSplit(
        estimator=knn,
        estimatorParamMaps=grid,
        evaluator=MulticlassClassificationEvaluator(),
        seed=5,
    )
    tuned = split.fit(frame)
    assert len(set(tuned.validationMetrics)) > 2
    assert max(tuned.validationMetrics) > 0.9
    # Models of one fit answer as they would alone, whatever the others search.
    models = [each for _, each in sorted(knn.fitMultiple(frame, grid), key=lambda pair: pair[0])]
    assert len({id(each._index) for each in models}) == 1
    assert [each.recall.k for each in models] == [1, 9, 1, 9]
    shared = [each.transform(frame).orderBy("id").collect() for each in models]
    for each, found in zip(models, shared, strict=True):
        alone = each.copy()
        alone._share(None)
        assert alone.transform(frame).orderBy("id").collect() == found
    assert shared[1] != shared[3]
    vector = ITEMS[7].tolist()
    assert [each.predict(vector) for each in models] == [row[7].prediction for row in shared]
    mean = KNNRegressor(idCol="id", algorithm="ivf", k=3, targetRecall=1.0).fit(frame)
    exact = KNNRegressor(idCol="id", algorithm="brute", k=3).fit(frame)
    both = [each.transform(frame).agg(F.sum("prediction")).first()[0] for each in (mean, exact)]
    assert both[0] == pytest.approx(both[1], abs=3)


@pytest.mark.replicated
@pytest.mark.parametrize("model", [("ivf", "replicated")], indirect=True, ids=" ".join)
def test_a_stream(model: Any, queries: DataFrame, tmp_path: Path) -> None:
    spark = queries.sparkSession
    queries.write.parquet((tmp_path / "in").as_uri())
    stream = spark.readStream.schema(queries.schema).parquet((tmp_path / "in").as_uri())
    query = (
        model.transform(stream)
        .writeStream.format("parquet")
        .option("checkpointLocation", (tmp_path / "at").as_uri())
        .trigger(availableNow=True)
        .start((tmp_path / "out").as_uri())
    )
    assert query.awaitTermination(120)
    found = spark.read.parquet((tmp_path / "out").as_uri())
    assert answers(found) == answers(model.transform(queries))


def test_tiny_and_degenerate_items(spark: SparkSession) -> None:
    for matrix in (np.zeros((1, 3)), np.zeros((7, 3)), np.eye(3)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "k is 5, but there (are|is) only")
            model = KNNEstimator(idCol="id", algorithm="ivf").fit(frame_of(spark, matrix))
        assert model.recall.mean == 1.0
        (found,) = answers(model.transform(frame_of(spark, matrix[:1])))
        assert [each for each, _ in found] == list(range(min(5, len(matrix))))


@pytest.mark.parametrize("algorithm", ["ivf", "hnsw", "annoy"])
def test_negative_and_large_seeds(algorithm: str, spark: SparkSession) -> None:
    if algorithm == "annoy":
        pytest.importorskip("annoy")
    rows = frame_of(spark, ITEMS[:60])
    for seed in (-1, 2**63 - 1):
        model = estimator(algorithm, "replicated", seed=seed).fit(rows)
        assert model.getSeed() == seed
        assert model.recall.mean > 0.9


def choose_ivf(exact: Any, reason: str, spec: Any, *_: Any) -> tuple[Any, str]:
    """In place of a choice by timing."""
    index = IVFSearch.build(exact.matrix, replace(spec, algorithm="ivf"))
    return index, f"{reason}, but ivf is faster"


@pytest.mark.parametrize("placement", SHARDS)
def test_auto_with_a_target_may_choose_an_approximate_algorithm(
    placement: str, items: DataFrame, queries: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark_knn.index.auto.within_recall", choose_ivf)
    model = estimator("auto", placement, targetRecall=0.9).fit(items)
    assert model.getAlgorithm() == "ivf"
    assert "but ivf is faster" in model.algorithmReason
    assert model.recall.low >= 0.9
    assert counted_recall(answers(model.transform(queries))) > 0.8
    # All searches within a radius are exact, so an approximate index would not be faster.
    assert estimator("auto", placement, k=None, maxDistance=1.0, targetRecall=0.9).fit(items).exact


def test_cells_and_lists_are_two_levels(items: DataFrame, queries: DataFrame) -> None:
    cells = {"shardBy": "kmeans", "numShards": 3, "numProbes": 1}
    knn = estimator("ivf", "sharded", searchParams={"nprobe": 1000}, **cells)
    model = knn.fit(items)
    assert 0.3 < model.recall.mean < 0.99
    found = counted_recall(answers(model.transform(queries)))
    assert abs(found - model.recall.mean) < 0.15
    # The lists do not limit the recall, so other lists would not help.
    target = model.copy({model.searchParams: None, model.targetRecall: 0.99})
    with pytest.warns(UserWarning, match="out of reach of numProbes 1 .* a higher numProbes"):
        target.transform(queries)
    more = model.copy({model.numProbes: None})
    assert more.recall is None
    assert more.calibrate(queries).recall.mean == 1.0


def test_auto_with_a_target_may_stay_exact(items: DataFrame, queries: DataFrame) -> None:
    few = items.where("id < 300")
    for placement in SHARDS:
        model = estimator("auto", placement, targetRecall=0.9).fit(few)
        assert model.exact
        assert "exact search is fast enough for 300 items" in model.algorithmReason
        assert model.recall is None
        assert len(answers(model.transform(queries))) == len(QUERIES)
    brute = estimator("brute", "replicated", targetRecall=0.9).fit(few)
    assert brute.exact
    assert brute.recall is None
    with pytest.raises(ValueError, match="calibrate requires an approximate algorithm"):
        brute.calibrate(queries)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"storage": "sparse"}, r"'ivf' does not support storage 'sparse'. Use storage='dense'"),
        ({"keyCols": "kind"}, r"'ivf' does not support keyCols \['kind'\]. Fit one model for each"),
        ({"metric": "cityblock"}, r"'ivf' does not support metric 'cityblock'. Metrics that it"),
        ({"metric": "minkowski", "p": 3}, r"'ivf' does not support metric 'minkowski' with p=3"),
        ({"indexParams": {"M": 8}}, r"indexParams of algorithm 'ivf' has no 'M'. Supported: 'nli"),
        ({"indexParams": {"encoding": "pq"}}, r"indexParams\['encoding'\] must be one of 'flat', "),
        ({"indexParams": {"nlist": 0}}, r"indexParams\['nlist'\] must be >= 1, got 0"),
        ({"algorithm": "hnsw", "indexParams": {"M": 2000}}, r"\['M'\] must be <= 1024, got 2000"),
        (
            {"algorithm": "hnsw", "indexParams": {"efConstruction": 2**31}},
            "must be <= 1048576, got",
        ),
        ({"algorithm": "annoy", "indexParams": {"nTrees": 2**31}}, "must be <= 65536, got 2147"),
        ({"searchParams": {"efSearch": 8}}, r"searchParams of algorithm 'ivf' has no 'efSearch'"),
        ({"algorithm": "brute", "searchParams": {"nprobe": 1}}, r"'brute' does not support searc"),
        ({"algorithm": "auto", "indexParams": {"M": 4}}, r"'auto' does not support indexParams"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    knn = KNNEstimator(**{"idCol": "id", "algorithm": "ivf", **settings})
    with pytest.raises(ValueError, match=message):
        knn._check_params()


def test_a_missing_library_is_named_at_fit(
    items: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "_loaded", {})
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'pyspark_knn\[faiss\]'"):
        estimator("ivf", "replicated").fit(items)


def test_a_target_out_of_reach(items: DataFrame) -> None:
    # One byte for each feature, and one list: whatever is probed, the order is uncertain.
    with pytest.warns(UserWarning, match="targetRecall 1 is out of reach of algorithm 'hnsw'"):
        model = estimator(
            "hnsw", "replicated", k=60, targetRecall=1.0, indexParams={"M": 2, "efConstruction": 2}
        ).fit(items)
    assert model.recall.mean < 1.0
    assert math.isfinite(model.recall.low)


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
def test_the_reason_says_why_a_target_has_no_effect(items: DataFrame, placement: str) -> None:
    few = items.limit(60).withColumn("kind", F.col("id") % 2)
    known: dict[str, Any] = {"idCol": "id", "targetRecall": 0.9, "placement": placement}
    keyed = KNNEstimator(k=2, keyCols="kind", **known).fit(few)
    assert "; targetRecall 0.9 has no effect: a search with keyCols is exact" in (
        keyed.algorithmReason
    )
    near = KNNEstimator(k=None, maxDistance=1.0, **known).fit(few)
    assert "; targetRecall 0.9 has no effect: a search with k=None is exact" in near.algorithmReason
