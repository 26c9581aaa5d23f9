"""The nearest centroids of many queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.approximate import ivf_centroids
from pyspark_knn.index.approximate.ivf_centroids import Centroids, _smallest
from pyspark_knn.index.approximate.ivf_selection import limits

faiss = pytest.importorskip("faiss")


@given(data=st.data())
def test_the_smallest_numbers_of_each_row(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    width = data.draw(st.integers(1, 300))
    many = data.draw(st.integers(1, width))
    table = rng.normal(size=(data.draw(st.integers(1, 20)), width)).astype(np.float32)
    if data.draw(st.booleans()):
        table = table.round(1)
    expected = np.sort(table, axis=1)[:, :many]
    assert (limits(table, many) >= expected[:, -1]).all()
    found, columns = _smallest(table, many)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.take_along_axis(table, columns, axis=1), found)
    assert all(len(set(row)) == many for row in columns.tolist())


def test_limits_rule_out_most_numbers():
    table = np.random.default_rng(1).normal(size=(50, 2000)).astype(np.float32)
    assert (table <= limits(table, 30)[:, None]).sum(axis=1).max() < 90


def test_centroids_are_those_of_each_query_alone(monkeypatch):
    rng = np.random.default_rng(2)
    flat = faiss.IndexFlatL2(12)
    flat.add(rng.normal(size=(400, 12)).astype(np.float32))
    centroids = Centroids(flat)
    queries = rng.normal(size=(300, 12)).astype(np.float32)
    queries[::3] = centroids.vectors[:100]
    # The middle between two centroids, far away from all: the edge cannot be told by products.
    queries[1::3] = 1000 * (centroids.vectors[:100] + centroids.vectors[100:200])
    for many in (1, 5, 399, 400):
        found = centroids.nearest(queries, many)[0]
        alone = np.concatenate([centroids.nearest(each[None], many)[0] for each in queries])
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(alone, axis=1))
        monkeypatch.setattr(ivf_centroids, "_SCORES", 4000)
        again = centroids.nearest(queries, many)[0]
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(again, axis=1))


def test_the_nearest_centroid_is_the_first():
    rng = np.random.default_rng(3)
    flat = faiss.IndexFlatL2(5)
    flat.add(rng.normal(size=(50, 5)).astype(np.float32))
    queries = rng.normal(size=(100, 5)).astype(np.float32)
    expected = flat.search(queries, 1)[1][:, 0]
    for many in (1, 7, 50):
        assert (Centroids(flat).nearest(queries, many)[0][:, 0] == expected).all()
