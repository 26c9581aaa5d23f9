"""The graph of the nearest neighbors of the items among each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import functions as F
from pyspark.sql import types as T
from scipy.sparse import coo_array
from sklearn.neighbors import kneighbors_graph

from pyspark_knn import KNNEstimator, KNNModel
from pyspark_knn.index.distances import resolve_metric
from tests.support import oracle
from tests.support.frames import frame_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from tests.support.frames import Matrix

K = 3

Edges = list[tuple[Any, Any, float]]

PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "hash": {"placement": "sharded", "numShards": 3},
    "kmeans": {"placement": "sharded", "numShards": 4, "shardBy": "kmeans"},
}


def _lattice() -> tuple[Matrix, list[str]]:
    """Items with many equal distances, several of them equal, and their ids."""
    rng = np.random.default_rng(9)
    items = rng.integers(-3, 4, (90, 2)).astype(np.float64)
    return items, [f"n{i:02d}" for i in rng.permutation(90)]


ITEMS, NAMES = _lattice()


@pytest.fixture(scope="module", params=PLACEMENTS)
def model(request: pytest.FixtureRequest, spark: SparkSession) -> KNNModel:
    items = frame_of(spark, ITEMS, NAMES, id_type=T.StringType(), partitions=3)
    return KNNEstimator(k=K, idCol="id", **PLACEMENTS[request.param]).fit(items)


def edges_of(graph: DataFrame) -> Edges:
    assert graph.columns == ["src", "dst", "distance"]
    return sorted(map(tuple, graph.collect()))


def directed(distances: np.ndarray, ids: list[Any], k: int = K, limit: float = np.inf) -> Edges:
    """The edges from each item, left out by its position, to its k nearest others."""
    n = len(ids)
    near = oracle.nearest(
        distances,
        list(zip(ids, range(n), strict=True)),
        k,
        max_distance=limit,
        excluded=[[(ids[i], i)] for i in range(n)],
    )
    return [(ids[i], dst, far) for i, each in enumerate(near) for (dst, _), far in each]


def shortest(edges: Edges) -> Edges:
    """The edges between different ids, the shortest of those between the same two ids."""
    far = {(src, dst): far for src, dst, far in sorted(edges, key=lambda edge: -edge[2])}
    return sorted((*pair, far[pair]) for pair in far if pair[0] != pair[1])


def shortest_pairs(edges: Edges) -> Edges:
    return shortest([(*sorted(edge[:2]), edge[2]) for edge in edges])


def symmetric(edges: Edges, mode: str) -> Edges:
    """Each pair once: with an edge in one direction at least, or in both."""
    there = {edge[:2] for edge in edges}
    pairs = shortest_pairs(edges)
    return [each for each in pairs if mode == "union" or {each[:2], each[1::-1]} <= there]


DISTANCES = oracle.direct_distances(ITEMS, ITEMS)


def test_the_edges_of_each_mode(model: KNNModel) -> None:
    graph = model.kneighborsGraph()
    assert graph.dtypes == [("src", "string"), ("dst", "string"), ("distance", "double")]
    found = edges_of(graph)
    wanted = directed(DISTANCES, NAMES)
    assert found == sorted(wanted)
    assert any(far == 0 for *_, far in found)
    for mode in ("union", "mutual"):
        assert edges_of(model.kneighborsGraph(mode)) == symmetric(wanted, mode)


def test_limits_of_the_model(model: KNNModel) -> None:
    near = model.copy({model.maxDistance: 1.0})
    assert edges_of(near.kneighborsGraph()) == sorted(directed(DISTANCES, NAMES, K, 1.0))
    # With k=None, the graph has the pairs within the distance, in both directions.
    within = model.copy({model.k: None, model.maxDistance: 1.0})
    every = directed(DISTANCES, NAMES, len(NAMES), 1.0)
    assert edges_of(within.kneighborsGraph()) == sorted(every)
    pairs = sorted(map(tuple, within.pairsWithin().collect()))
    assert edges_of(within.kneighborsGraph("union")) == symmetric(every, "union") == pairs
    assert edges_of(within.kneighborsGraph("mutual")) == pairs


@pytest.mark.parametrize("model", ["kmeans"], indirect=True)
def test_probes_of_the_model(model: KNNModel) -> None:
    wanted = directed(DISTANCES, NAMES)
    one = edges_of(model.copy({model.numProbes: 1}).kneighborsGraph())
    assert len(one) == len(wanted)
    assert sum(far for *_, far in one) > sum(far for *_, far in wanted)
    place = {name: position for position, name in enumerate(NAMES)}
    assert all(DISTANCES[place[src], place[dst]] == far for src, dst, far in one)


def test_the_graph_is_that_of_scikit_learn(spark: SparkSession) -> None:
    matrix = np.random.default_rng(2).normal(size=(70, 4))
    graph = KNNEstimator(k=5, idCol="id").fit(frame_of(spark, matrix)).kneighborsGraph()
    src, dst, distance = zip(*edges_of(graph), strict=True)
    found = coo_array((distance, (src, dst)), shape=(70, 70)).toarray()
    wanted = kneighbors_graph(matrix, 5, mode="distance", include_self=False).toarray()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("metric", "storage", "placement"),
    [
        ("jaccard", "sparse", "replicated"),
        ("cosine", "sparse", "hash"),
        ("inner_product", "dense", "replicated"),
        ("cityblock", "dense", "hash"),
    ],
)
def test_metrics_and_storages(
    spark: SparkSession, metric: str, storage: str, placement: str
) -> None:
    matrix = (np.random.default_rng(1).random((40, 9)) < 0.4).astype(np.float64)
    model = KNNEstimator(
        k=K, metric=metric, storage=storage, idCol="id", **PLACEMENTS[placement]
    ).fit(frame_of(spark, matrix))
    rows, positions = np.divmod(np.arange(1600), 40)
    distances = resolve_metric(metric).distances(matrix, matrix, rows, positions)
    wanted = directed(distances.reshape(40, 40), list(range(40)))
    assert edges_of(model.kneighborsGraph()) == sorted(wanted)


# --- ids ------------------------------------------------------------------------------------------


# Shards of a hash have all items with the same id; cells do not.
@pytest.mark.parametrize("placement", ["replicated", "kmeans"])
def test_items_with_equal_ids_are_one_vertex(spark: SparkSession, placement: str) -> None:
    ids = [int(each) for each in np.random.default_rng(5).integers(0, 30, len(ITEMS))]
    knn = KNNEstimator(k=K, idCol="id", **PLACEMENTS[placement])
    with pytest.warns(UserWarning, match="items have the same id"):
        model = knn.fit(frame_of(spark, ITEMS, ids, partitions=3))
    edges = directed(DISTANCES, ids)
    assert any(src == dst for src, dst, _ in edges)
    wanted = shortest(edges)
    assert len(wanted) < len(edges)
    assert edges_of(model.kneighborsGraph()) == wanted
    assert edges_of(model.kneighborsGraph("mutual")) == symmetric(wanted, "mutual")
    within = model.copy({model.k: None, model.maxDistance: 1.0})
    wanted = shortest(directed(DISTANCES, ids, len(ids), 1.0))
    assert edges_of(within.kneighborsGraph()) == wanted


@pytest.mark.parametrize("placement", ["replicated", "hash"])
def test_positions_in_place_of_ids(spark: SparkSession, placement: str) -> None:
    knn = KNNEstimator(k=K, **PLACEMENTS[placement])
    with pytest.warns(UserWarning, match="idCol"):
        model = knn.fit(frame_of(spark, ITEMS, partitions=1).select("features"))
    graph = model.kneighborsGraph()
    assert graph.dtypes[:2] == [("src", "bigint"), ("dst", "bigint")]
    # The ids of the vertices are the positions of `model.items`.
    rows = model.items.select("position", "features").collect()
    at = {row.position: row.features for row in rows}
    matrix = np.array([at[i] for i in range(len(ITEMS))])
    distances = oracle.direct_distances(matrix, matrix)
    assert edges_of(graph) == sorted(directed(distances, list(range(len(ITEMS)))))


def test_ids_keep_their_type(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[0.0], [1.0], [3.0], [9.0]]), [4, 1, 2, 3])
    dates = items.selectExpr("date_add(date'2024-01-01', int(id)) AS id", "features")
    graph = KNNEstimator(k=1, idCol="id").fit(dates).kneighborsGraph("mutual")
    assert graph.dtypes == [("src", "date"), ("dst", "date"), ("distance", "double")]
    assert [(src.day, dst.day, far) for src, dst, far in edges_of(graph)] == [(2, 5, 1.0)]


# --- keys, new items, mistakes --------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["replicated", "hash"])
def test_edges_within_keys_of_items_that_were_appended_and_removed(
    spark: SparkSession, placement: str
) -> None:
    items = frame_of(spark, ITEMS, partitions=2).withColumn("kind", F.col("id") % 3)
    knn = KNNEstimator(k=K, idCol="id", keyCols="kind", **PLACEMENTS[placement])
    few = knn.fit(items.where("id < 50")).append(items.where("id >= 50"))
    model = few.remove(range(0, 90, 5))
    kept = np.array([i for i in range(90) if i % 5])
    distances = np.where(kept[:, None] % 3 == kept % 3, DISTANCES[np.ix_(kept, kept)], np.inf)
    wanted = [edge for edge in directed(distances, kept.tolist()) if np.isfinite(edge[2])]
    assert edges_of(model.kneighborsGraph()) == sorted(wanted)


def test_one_item_has_no_edges(spark: SparkSession) -> None:
    with pytest.warns(UserWarning, match="k"):
        model = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, np.zeros((1, 2))))
    assert model.kneighborsGraph().collect() == model.kneighborsGraph("union").collect() == []


def test_mistakes(spark: SparkSession) -> None:
    model = KNNEstimator(maxDistance=1.0, idCol="id").fit(frame_of(spark, ITEMS))
    with pytest.raises(ValueError, match="mode must be one of directed, union, mutual, got 'both'"):
        model.kneighborsGraph("both")
    with pytest.warns(UserWarning, match="maxDistance is 1.0, but k is unset") as caught:
        model.kneighborsGraph()
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="k is None"):
        model.copy({model.k: None, model.maxDistance: None}).kneighborsGraph()
    with pytest.raises(ValueError, match="KNNModel has no index"):
        KNNModel().kneighborsGraph()
