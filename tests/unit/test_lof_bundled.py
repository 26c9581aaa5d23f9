"""Outlier factors of the data sets that scikit-learn ships, and of degenerate ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import LocalOutlierFactor

from pyspark_knn.index import lof
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion, Found
from tests.support import bundled

Matrix = NDArray[np.float64]


def fitted(items: Matrix, k: int, metric: str) -> tuple[NeighborIndex, Found]:
    """An index of the items, and the neighbors of each among the others."""
    index, _ = build_index(items, IndexSpec(resolve_metric(metric)))
    rows = np.arange(len(items))
    return index, index.search(items, k, exclude=Exclusion(rows, rows))


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "cosine"])
@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize("name", bundled.NAMES)
def test_factors_are_those_of_scikit_learn(name: str, k: int, metric: str) -> None:
    rows = bundled.without_ties(bundled.load(name))
    items, new = rows[:-9], rows[-9:]
    k = min(k, len(items) - 1)
    index, found = fitted(items, k, metric)
    k_distance = lof.k_distances(found)
    density = lof.densities(found, k_distance)
    theirs = LocalOutlierFactor(k, metric=metric, algorithm="brute").fit(items)
    scores = lof.factors(found, density, density)
    np.testing.assert_allclose(scores, -theirs.negative_outlier_factor_, rtol=1e-9)
    theirs = LocalOutlierFactor(k, metric=metric, algorithm="brute", novelty=True).fit(items)
    asked = index.search(new, k)
    scores = lof.factors(asked, density, lof.densities(asked, k_distance))
    np.testing.assert_allclose(scores, -theirs.score_samples(new), rtol=1e-9)


DEGENERATE = {
    "all equal": np.full((8, 3), 7.0),
    "two rows": np.array([[0.0, 1.0], [3.0, 5.0]]),
    "a feature of one value": np.array([[5.0, 1.0], [5.0, 2.5], [5.0, 2.0], [5.0, 9.0]]),
    "one row apart": np.array([[0.0]] * 6 + [[4.0]]),
    "zeros": np.zeros((5, 2)),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("k", [1, 3])
def test_degenerate_items(kind: str, k: int) -> None:
    items = DEGENERATE[kind]
    k = min(k, len(items) - 1)
    _, found = fitted(items, k, "euclidean")
    density = lof.densities(found, lof.k_distances(found))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate values", UserWarning)
        theirs = LocalOutlierFactor(k, algorithm="brute").fit(items)
    scores = lof.factors(found, density, density)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, -theirs.negative_outlier_factor_, rtol=1e-9)
