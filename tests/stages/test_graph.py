"""The graph of the nearest neighbors of the items among each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.sql import types as T

from pyspark_knn import KNNEstimator, KNNModel
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


def symmetric(edges: Edges, mode: str) -> Edges:
    there = {(src, dst): far for src, dst, far in edges if src != dst}
    pairs = {(*sorted(pair), far) for pair, far in there.items()}
    if mode == "mutual":
        pairs = {(a, b, far) for a, b, far in pairs if (a, b) in there and (b, a) in there}
    return sorted(pairs)


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
