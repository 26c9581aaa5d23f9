"""The time of a long build is logged before it starts."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from pyspark_knn.index.approximate import long_builds
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.registry import approximate_classes

ITEMS = np.random.default_rng(5).normal(size=(3200, 8)).astype(np.float32)


@pytest.mark.parametrize("algorithm", ["ivf", "hnsw", "annoy"])
def test_a_long_build_is_logged(
    algorithm: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if algorithm == "annoy":
        pytest.importorskip("annoy")
    monkeypatch.setattr(long_builds, "_TIMED_ITEMS", 200)
    spec = IndexSpec(resolve_metric("euclidean"), algorithm)
    for longest, logged in ((0.0, True), (1000.0, False)):
        monkeypatch.setattr(long_builds, "_LONG_SECONDS", longest)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            index, _ = build_index(ITEMS, spec)
        message = f"building the {algorithm} index of 3200 items takes about"
        assert (message in caplog.text) is logged
        assert len(index.matrix) == len(ITEMS)


@pytest.mark.parametrize("algorithm", ["ivf", "hnsw", "annoy"])
def test_the_work_of_a_build_grows_more_than_the_items(algorithm: str) -> None:
    kind = approximate_classes()[algorithm]
    spec = IndexSpec(resolve_metric("euclidean"), algorithm)
    small, large = (kind.build_work(n, spec) for n in (10_000, 1_000_000))
    assert 100 < large / small < 1100


def test_many_lists_are_more_work() -> None:
    kind, metric = approximate_classes()["ivf"], resolve_metric("euclidean")
    few, many = (
        kind.build_work(100_000, IndexSpec(metric, "ivf", index_params={"nlist": n}))
        for n in (100, 3000)
    )
    assert many > 30 * few


def test_what_auto_tries_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_builds, "_TIMED_ITEMS", 200)
    monkeypatch.setattr(long_builds, "_LONG_SECONDS", 0.0)
    from pyspark_knn.index.auto import Trials

    spec = IndexSpec(resolve_metric("euclidean"), "auto", target_recall=0.9)
    with caplog.at_level(logging.WARNING):
        build_index(ITEMS, spec, Trials(sample_items=1000, timer=lambda index: 1.0))
    assert "building the ivf index" in caplog.text
