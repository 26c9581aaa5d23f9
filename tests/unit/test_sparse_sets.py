"""The number of common features that a neighbor needs, and their exact counts."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_knn.index import sparse_sets
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.kernels import set_distance
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sparse_rows import SparseRows
from pyspark_knn.index.sparse_sets import SparseSetSearch
from tests.support import sparse

LARGEST = 2**31 - 1


@pytest.mark.parametrize("name", sparse.SETS)
def test_no_neighbor_needs_more_common_features_than_it_has(name):
    rng = np.random.default_rng(0)
    count = 100_000
    query = np.floor(2.0 ** rng.uniform(0, 31, count))
    common = np.minimum(query, np.floor(2.0 ** rng.uniform(0, rng.choice([2, 31]), count)))
    item = common * np.where(rng.random(count) < 0.5, 1, rng.integers(1, 5, count))
    limits = set_distance(name, common, query, item, LARGEST)
    index = SparseSetSearch.build(SparseRows.from_dense(np.eye(2)), IndexSpec(resolve_metric(name)))
    least = index._least_counts(limits, query)
    assert (least >= 1).all()
    assert (least <= common).all()
    # Items with much less in common are ruled out.
    assert np.median(common / least) < 10


@pytest.mark.parametrize("name", sparse.SETS)
def test_counts_beyond_float32_are_made_in_float64(monkeypatch, name):
    monkeypatch.setattr(sparse_sets, "_MOST_COUNTED", 8)
    rng = np.random.default_rng(0)
    items = sparse.matrix(rng, 40, 60, 0.3, "ones")
    metric = resolve_metric(name)
    dtypes = []
    make = sparse_sets.SparseBatch

    def noted(queries, dtype, sizes):
        dtypes.append(dtype)
        return make(queries, dtype, sizes)

    monkeypatch.setattr(sparse_sets, "SparseBatch", noted)
    rows = SparseRows.from_dense(items)
    found = SparseSetSearch.build(rows, IndexSpec(metric)).kneighbors(rows, 5)
    expected = PairwiseSearch(items, metric).kneighbors(items, 5)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert dtypes == [np.float64]
