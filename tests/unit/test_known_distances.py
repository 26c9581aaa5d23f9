"""What a worker knows of the distances of queries, from the shards that it has searched."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn.engine.search.answers import distances_alone
from pyspark_knn.engine.search.batches import Request
from pyspark_knn.engine.search.known_distances import KnownDistances, known_distances

REQUEST = Request(
    k=2,
    max_distance=None,
    handle_invalid="keep",
    features_col="features",
    inputs=("values",),
    answer=distances_alone(),
)


def lists(*rows: list[float] | None) -> pa.ListArray:
    return pa.array(rows, pa.list_(pa.float64()))


def test_the_limit_is_the_kth_distance_of_all_shards() -> None:
    known = KnownDistances(2)
    assert known.limits([("a", 3)]) is None
    known.add("a", 0, lists([1.0, 5.0], [2.0], None))
    known.add("b", 0, lists([7.0, 8.0]))
    blocks = [("b", 1), ("other", 2), ("a", 3)]
    limits = known.limits(blocks)
    assert limits is not None
    assert limits.tolist() == [8.0, np.inf, np.inf, 5.0, np.inf, np.inf]
    known.add("a", 7, lists([4.0], [0.0, 3.0], None))
    known.add("a", 3, lists([], [1.0], None))
    limits = known.limits(blocks)
    assert limits is not None
    assert limits.tolist() == [8.0, np.inf, np.inf, 4.0, 1.0, np.inf]


def test_a_shard_that_is_searched_again_adds_nothing() -> None:
    known = KnownDistances(2)
    for _ in range(3):
        known.add("a", 0, lists([1.0], [1.0, 5.0]))
    limits = known.limits([("a", 2)])
    assert limits is not None
    assert limits.tolist() == [np.inf, 5.0]


def test_no_more_distances_are_kept_than_allowed() -> None:
    known = KnownDistances(2, most=7)
    known.add("a", 0, lists([1.0, 2.0], [3.0, 4.0]))
    known.add("b", 0, lists([1.0, 2.0], [3.0, 4.0]))
    known.add("c", 0, lists([1.0, 2.0]))
    known.add("a", 1, lists([0.0], []))
    limits = known.limits([("a", 2), ("b", 2), ("c", 1)])
    assert limits is not None
    assert limits.tolist() == [1.0, 4.0, np.inf, np.inf, 2.0]


def test_distances_are_known_in_one_search_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyspark

    stage = 3

    def in_stage(number: int, request: Request, search: str) -> Any:
        context = types.SimpleNamespace(stageId=lambda: number)
        monkeypatch.setattr(pyspark.TaskContext, "get", lambda: context)
        return known_distances(search, request)

    known = in_stage(stage, REQUEST, "one")
    assert in_stage(stage, REQUEST, "one") is known
    for other in (
        in_stage(stage + 1, REQUEST, "one"),
        in_stage(stage, REQUEST, "another"),
        in_stage(stage, REQUEST, "one"),
    ):
        assert other is not known
    assert in_stage(stage, replace(REQUEST, held_out=np.arange(3)), "one") is None
    assert in_stage(stage, replace(REQUEST, k=None, max_distance=1.0), "one") is None
