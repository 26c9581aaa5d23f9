"""Missing values in the data sets that scikit-learn ships: distances, neighbors, imputed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.impute import KNNImputer
from sklearn.metrics.pairwise import nan_euclidean_distances

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.donors import donated_means, find_donors
from tests.support import bundled

Matrix = NDArray[np.float64]

CASES = [
    (name, share, seed)
    for name in bundled.NAMES
    for seed, share in enumerate([0.01, 0.1, 0.3, 0.6])
]

K = 5


def index_of(items: Matrix, weights: Any = None) -> NeighborIndex:
    metric = resolve_metric("nan_euclidean", 2.0, None if weights is None else {"w": weights})
    return build_index(items, IndexSpec(metric))[0]


def imputed(index: NeighborIndex, queries: Matrix, k: int, weights: str) -> Matrix:
    """The queries without missing values, by the rules of the imputer."""
    items = index.matrix
    counts = (~np.isnan(items)).sum(axis=0)
    result = np.where(np.isnan(queries), np.nansum(items, axis=0) / np.maximum(counts, 1), queries)
    found = donated_means(find_donors(index, queries, k), weights)
    result[found.queries, found.features] = found.values
    return result


def differences(items: Matrix, queries: Matrix) -> Matrix:
    """All distances from the differences of the values, NaN where nothing is in common."""
    both = ~np.isnan(queries)[:, None] & ~np.isnan(items)
    squares = np.where(both, np.nan_to_num(queries)[:, None] - np.nan_to_num(items), 0.0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(items.shape[1] / both.sum(axis=2) * squares.sum(axis=2))


def decided(items: Matrix, distances: Matrix, k: int) -> NDArray[np.bool_]:
    """Whether the k nearest donors of each value are not tied with the next one."""
    clear = np.zeros((len(distances), items.shape[1]), bool)
    for feature in range(items.shape[1]):
        owners = ~np.isnan(items[:, feature])
        near = np.sort(np.where(owners & ~np.isnan(distances), distances, np.inf), axis=1)
        padded = np.pad(near, ((0, 0), (0, k + 1)), constant_values=np.inf)
        with np.errstate(invalid="ignore"):
            gap = padded[:, k] - padded[:, k - 1]
        clear[:, feature] = np.isinf(padded[:, k]) | (gap > 1e-6 * (1 + padded[:, k]))
    return clear


@pytest.mark.parametrize(("name", "share", "seed"), CASES)
def test_neighbors(name: str, share: float, seed: int) -> None:
    rows = bundled.knocked_out(bundled.load(name), share, seed)
    items, queries = rows[:-8], rows[-8:]
    found = index_of(items).search(queries, len(items))
    true = differences(items, queries)
    counts = (~np.isnan(true)).sum(axis=1)
    assert np.diff(found.offsets).tolist() == counts.tolist()
    np.testing.assert_allclose(found.distances, true[found.queries, found.positions], rtol=1e-12)
    for start, stop in zip(found.offsets, found.offsets[1:], strict=False):
        assert (np.diff(found.distances[start:stop]) >= 0).all()
        assert len(set(found.positions[start:stop].tolist())) == stop - start
    # scikit-learn's products lose digits where the values are large.
    theirs = nan_euclidean_distances(queries, items)
    assert (np.isnan(theirs) == np.isnan(true)).all()
    scale = 1e-6 * (1 + np.nanmax(np.abs(rows)))
    np.testing.assert_allclose(true, theirs, rtol=1e-6, atol=scale)


def nearest_donors(items: Matrix, distances: Matrix, k: int) -> dict[tuple[int, int], Any]:
    """The positions of the donors of each feature to each query, unless ties leave a choice."""
    found = {}
    clear = decided(items, distances, k)
    for query, feature in zip(*np.nonzero(clear), strict=True):
        near = np.where(np.isnan(items[:, feature]), np.nan, distances[query])
        order = np.argsort(near, kind="stable")[:k]
        found[int(query), int(feature)] = order[~np.isnan(near[order])]
    return found


@pytest.mark.parametrize(("name", "share", "seed"), CASES)
def test_imputed_values(name: str, share: float, seed: int) -> None:
    rows = bundled.knocked_out(bundled.load(name), share, seed)
    cut = 3 * len(rows) // 4
    items, queries = rows[:cut], rows[cut:]
    index, asked = index_of(items), np.isnan(queries)
    distances = differences(items, queries)
    clear = decided(items, distances, K)
    assert (clear & asked).any() or share < 0.05

    found = imputed(index, queries, K, "uniform")
    wanted = KNNImputer(n_neighbors=K, keep_empty_features=True).fit(items).transform(queries)
    np.testing.assert_array_equal(found[~asked], queries[~asked])
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-12, atol=1e-12)

    # scikit-learn's distances have too few digits for this: equal rows are not at distance 0.
    found = imputed(index, queries, K, "distance")
    for (query, feature), donors in nearest_donors(items, distances, K).items():
        if asked[query, feature] and len(donors):
            far, values = distances[query, donors], items[donors, feature]
            weights = (far == 0) * 1.0 if (far == 0).any() else 1 / far
            wanted_value = (weights * values).sum() / weights.sum()
            assert found[query, feature] == pytest.approx(wanted_value, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", bundled.NAMES)
def test_values_that_are_imputed_in_units_of_their_spread(name: str) -> None:
    rows = bundled.knocked_out(bundled.without_ties(bundled.load(name)), 0.2, seed=7)
    spread = np.nanstd(rows, axis=0)
    rows, spread = rows[:, spread > 0], spread[spread > 0]
    found = imputed(index_of(rows, (1 / spread**2).tolist()), rows, K, "uniform")
    wanted = KNNImputer(n_neighbors=K).fit_transform(rows / spread) * spread
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
