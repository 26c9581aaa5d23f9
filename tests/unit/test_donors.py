"""The donors of missing values, and their means, as scikit-learn's KNNImputer finds them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.impute import KNNImputer

from pyspark_knn.index import donors as module
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec, NeighborIndex
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.donors import Donors, donated_means, find_donors
from tests.support.oracle import nan_euclidean

NAN = math.nan

Rows = np.ndarray[Any, np.dtype[np.floating]]


def index_of(items: Rows, w: Any = None) -> NeighborIndex:
    metric = resolve_metric("nan_euclidean", 2.0, None if w is None else {"w": w})
    return build_index(items, IndexSpec(metric))[0]


def means_of(items: Rows) -> Rows:
    """The mean of each feature; 0 where all values are missing."""
    counts = (~np.isnan(items)).sum(axis=0)
    return np.nansum(items, axis=0) / np.maximum(counts, 1)


def imputed(items: Rows, queries: Rows, k: int, weights: str = "uniform") -> Rows:
    """The queries without missing values, as a model computes them."""
    result = np.where(np.isnan(queries), means_of(items), queries)
    found = donated_means(find_donors(index_of(items), queries, k), weights)
    result[found.queries, found.features] = found.values
    result[:, np.isnan(items).all(axis=0)] = 0
    return result


def expected(items: Rows, queries: Rows, k: int, weights: str = "uniform") -> Rows:
    # Its products lose digits of small distances.
    metric = nan_euclidean if weights == "distance" else "nan_euclidean"
    imputer = KNNImputer(n_neighbors=k, weights=weights, metric=metric, keep_empty_features=True)
    found: Rows = imputer.fit(items).transform(queries)
    return found


def knocked_out(rows: Rows, shares: Any, random: np.random.Generator) -> Rows:
    return np.where(random.random(rows.shape) < shares, NAN, rows)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_scikit_learns_values(seed: int, weights: str) -> None:
    """From 1 to 60 % missing, differently for each feature, and some features nearly always."""
    random = np.random.default_rng(seed)
    for _ in range(15 if weights == "uniform" else 4):
        count, asked, dim = (int(random.integers(1, most)) for most in (80, 30, 8))
        k = int(random.integers(1, 12))
        shares = random.uniform(0.01, random.choice([0.6, 0.99]), dim)
        items = knocked_out(random.normal(size=(count, dim)), shares, random)
        queries = knocked_out(random.normal(size=(asked, dim)), random.uniform(0, 1), random)
        found = imputed(items, queries, k, weights)
        np.testing.assert_allclose(
            found, expected(items, queries, k, weights), rtol=1e-12, atol=1e-12
        )


BUNDLED = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "linnerud": datasets.load_linnerud,
    "digits": datasets.load_digits,
}


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_data_with_values_knocked_out(name: str, share: float) -> None:
    """As scikit-learn imputes them; a little noise breaks ties, which it breaks at random."""
    random = np.random.default_rng(len(name))
    rows = BUNDLED[name]().data[:600].astype(np.float64)
    rows += 0.01 * rows.std(axis=0) * random.normal(size=rows.shape)
    rows = knocked_out(rows, share, random)
    scale = np.nanmax(np.abs(rows), axis=0, initial=1e-300)
    off = np.abs(imputed(rows, rows, 5) - expected(rows, rows, 5))
    assert (off <= 1e-12 * scale).all()


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_items_that_are_imputed_themselves(weights: str) -> None:
    random = np.random.default_rng(3)
    items = knocked_out(random.normal(size=(90, 5)), 0.3, random)
    found = imputed(items, items, 4, weights)
    assert np.array_equal(found[~np.isnan(items)], items[~np.isnan(items)])
    np.testing.assert_allclose(found, expected(items, items, 4, weights), rtol=1e-12, atol=1e-12)


DEGENERATE = {
    "all equal": np.where(np.eye(6, 4, dtype=bool), NAN, 7.0),
    "one row": np.array([[1.0, NAN, 3.0]]),
    "a feature of one value": np.array([[5.0, 1.0], [5.0, NAN], [NAN, 2.0], [5.0, 3.0]]),
    "a row without values": np.array([[1.0, 2.0], [NAN, NAN], [3.0, NAN], [NAN, 5.0]]),
    "a feature without values": np.array([[1.0, NAN], [NAN, NAN], [3.0, NAN]]),
    "no values at all": np.full((3, 2), NAN),
    "complete": np.arange(12.0).reshape(4, 3),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("k", [1, 2, 50])
def test_degenerate_items(kind: str, weights: str, k: int) -> None:
    items = DEGENERATE[kind]
    found = imputed(items, items, k, weights)
    if kind == "no values at all":
        assert (found == 0).all()
        return
    np.testing.assert_allclose(found, expected(items, items, k, weights), rtol=1e-12)


def test_a_donor_at_distance_zero_decides_alone() -> None:
    items = np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 100.0], [2.0, 1000.0]])
    queries = np.array([[0.0, NAN], [1.5, NAN]])
    assert imputed(items, queries, 4, "distance").tolist()[0] == [0.0, 1.5]
    assert imputed(items, queries, 1).tolist() == [[0.0, 1.0], [1.5, 100.0]]


def test_donors_at_an_infinite_distance_have_no_weight() -> None:
    """Their distance is beyond the range of a double, so its inverse is 0."""
    items, query = np.array([[1.5e308, 3.0, 1.0]]), np.array([[-1.5e308, NAN, 1.0]])
    assert imputed(items, query, 1, "uniform")[0, 1] == 3.0
    found = donated_means(find_donors(index_of(items), query, 1), "distance")
    assert not len(found.values)


def test_weights_of_features_are_their_units() -> None:
    """A feature that is multiplied by a number, and its weight divided by the square."""
    random = np.random.default_rng(5)
    plain = knocked_out(random.normal(size=(60, 3)), 0.2, random)
    units = np.array([1024.0, 1.0, 1 / 64])
    found = find_donors(index_of(plain), plain, 3)
    scaled = find_donors(index_of(plain * units, w=1 / units**2), plain * units, 3)
    assert np.array_equal(found.positions, scaled.positions)
    assert np.array_equal(found.distances, scaled.distances)


def plain_donors(items: Rows, queries: Rows, k: int) -> list[tuple[int, int, float, int, float]]:
    """Every pair of a query and an item that has the feature, sorted."""
    metric = resolve_metric("nan_euclidean")
    shape = len(queries), len(items)
    rows, positions = (each.ravel() for each in np.indices(shape))
    distances = metric.distances(queries, items, rows, positions).reshape(shape)
    found = []
    for query, feature in np.argwhere(np.isnan(queries)).tolist():
        pairs = sorted(
            (float(distance), position, float(items[position, feature]))
            for position, distance in enumerate(distances[query])
            if not (np.isnan(distance) or np.isnan(items[position, feature]))
        )
        found += [(query, feature, *pair) for pair in pairs[:k]]
    return found


@given(st.data())
def test_ties_lists_and_owners(data: st.DataObject) -> None:
    """Values on a lattice, so that most distances are ties, found in both ways."""
    shape = st.tuples(st.integers(1, 25), st.integers(1, 4))
    count, dim = data.draw(shape)
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    share = data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    items, queries = (
        knocked_out(random.integers(0, 3, (rows, dim)).astype(np.float64), share, random)
        for rows in (count, 7)
    )
    k = data.draw(st.integers(1, 30))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST_SHARE", data.draw(st.sampled_from([0.0, 1 / 16, 2.0])))
        patch.setattr(module, "_BLOCK_NEIGHBORS", data.draw(st.sampled_from([1, 1 << 20])))
        patch.setattr(module, "_BLOCK_NUMBERS", data.draw(st.sampled_from([1, 1 << 22])))
        found = find_donors(index_of(items), queries, k)
    rows = zip(*(each.tolist() for each in found), strict=True)
    assert list(rows) == plain_donors(items, queries, k)


def test_values_that_are_missing_together_are_found_among_the_owners() -> None:
    """All of the nearest items lack the feature too, so that no list of bounded length helps."""
    random = np.random.default_rng(11)
    near = np.column_stack([random.normal(size=500), np.full(500, NAN)])
    far = np.column_stack([random.normal(size=500) + 1e3, random.normal(size=500)])
    items = np.concatenate([near, far])
    found = find_donors(index_of(items), near[:20], 3)
    assert found.queries.tolist() == np.repeat(np.arange(20), 3).tolist()
    assert (found.positions >= 500).all()
    rows = zip(*(each.tolist() for each in found), strict=True)
    assert list(rows) == plain_donors(items, near[:20], 3)


def test_donors_are_doubles_whatever_the_items_are() -> None:
    items = np.array([[1.0, 0.1], [2.0, NAN]], np.float32)
    found = find_donors(index_of(items), np.array([[2.0, NAN]]), 1)
    assert found.values.dtype == np.float64
    assert found.values.tolist() == [float(np.float32(0.1))]


def test_means_are_those_of_the_order_of_the_donors() -> None:
    nothing = np.zeros(0, np.int64)
    assert (
        len(donated_means(Donors(nothing, nothing, nothing, nothing, nothing), "uniform")[0]) == 0
    )
    donors = Donors(
        queries=np.array([0, 0, 0, 2]),
        features=np.array([1, 1, 3, 1]),
        distances=np.array([1.0, 2.0, 5.0, 0.0]),
        positions=np.array([4, 2, 9, 9]),
        values=np.array([3.0, 6.0, 8.0, 9.0]),
    )
    found = donated_means(donors, "distance")
    assert [each.tolist() for each in found] == [[0, 0, 2], [1, 3, 1], [4.0, 8.0, 9.0]]
