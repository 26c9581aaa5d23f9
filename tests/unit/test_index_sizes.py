"""The memory of approximate indexes, as estimated before they are built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyspark_knn.engine.shards import sizing
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.registry import class_for, expected_bytes

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("ivf", "euclidean", {}),
    ("ivf", "euclidean", {"encoding": "sq8"}),
    ("ivf", "cosine", {}),
    ("ivf", "inner_product", {"encoding": "sq8"}),
    ("hnsw", "euclidean", {}),
    ("hnsw", "euclidean", {"M": 8}),
    ("hnsw", "cosine", {}),
    ("hnsw", "inner_product", {}),
    ("annoy", "euclidean", {}),
    ("annoy", "cosine", {"nTrees": 10}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("algorithm", "metric", "params"), CASES)
def test_the_estimate_is_near_what_an_index_takes(
    algorithm: str, metric: str, params: dict[str, Any], dtype: type[np.floating]
) -> None:
    if algorithm == "annoy":
        pytest.importorskip("annoy")
    items = np.random.default_rng(3).normal(size=(2000, 40)).astype(dtype)
    spec = IndexSpec(resolve_metric(metric), algorithm, index_params=params)
    index = class_for(algorithm, spec.metric).build(items, spec)
    expected = expected_bytes(spec, items.shape, items.dtype)
    assert 0.8 < expected / index.added_bytes < 1.3


def test_what_auto_may_choose_counts() -> None:
    shape, dtype = (10_000, 64), np.dtype(np.float32)
    auto = IndexSpec(resolve_metric("euclidean"), "auto")
    assert expected_bytes(auto, shape, dtype) == 0
    assert expected_bytes(replace(auto, algorithm="brute"), shape, dtype) == 0
    tried = expected_bytes(replace(auto, target_recall=0.9), shape, dtype)
    assert tried == expected_bytes(replace(auto, algorithm="ivf"), shape, dtype) > 4 * 640_000
    manhattan = replace(auto, metric=resolve_metric("manhattan"), target_recall=0.9)
    assert expected_bytes(manhattan, shape, dtype) == 0


def test_default_shards_have_room_for_their_index() -> None:
    mib, many = 1 << 20, 10**6
    assert sizing.choose_num_shards(None, 900 * mib, many, 2, added=900 * mib) == 8
    assert sizing.choose_num_shards(3, 900 * mib, many, 2, added=900 * mib) == 3
