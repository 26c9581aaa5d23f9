"""Estimates of the distances of neighbors, which change the time of a search and no answer."""

from __future__ import annotations

import numpy as np
import pytest

from pyspark_knn.index.approximate import ivf_estimates
from pyspark_knn.index.approximate.ivf import IVFSearch
from pyspark_knn.index.approximate.ivf_estimates import Estimates
from pyspark_knn.index.approximate.ivf_products import ListProducts
from pyspark_knn.index.approximate.ivf_search import ListSearch
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric

pytest.importorskip("faiss")


def built(items: np.ndarray, nlist: int, metric: str = "euclidean") -> IVFSearch:
    spec = IndexSpec(resolve_metric(metric), "ivf", index_params={"nlist": nlist})
    return IVFSearch.build(items, spec)


def normal(n_items: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_items, dim)).astype(np.float32)


def test_most_queries_have_enough_items_within_the_limit_and_not_many_more():
    rows = normal(9000, 24)
    items, queries = rows[:8000], rows[8000:]
    index = built(items, 40)
    lists = index._opened()
    chosen, squares = lists.centroids.nearest(queries, 6)
    there = (index.structure()["cells"][None, None] == chosen[:, :, None]).any(axis=1)
    true = np.square(queries[:, None].astype(np.float64) - items).sum(axis=2)
    true[~there] = np.inf
    for rank in (1, 10, 40):
        known = np.partition(true, rank - 1, axis=1)[:, rank - 1]
        estimates = Estimates(lists.centroids.vectors, [each[0] for each in _contents(lists)])
        limits = estimates.limits(chosen, squares, rank, known[:64].astype(np.float32))
        within = (true <= limits[:, None]).sum(axis=1)
        assert (within >= rank).mean() > 0.9
        assert np.median(within) < 12 * rank


def test_no_limits_where_estimates_are_of_no_use():
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(3, 2)).astype(np.float32)
    lists = [centroids[:1] + normal(30, 2), centroids[1:2] + normal(30, 2), normal(0, 2)]
    chosen, squares = np.array([[0, 1]] * 9), np.ones((9, 2), np.float32)
    estimates = Estimates(centroids, lists)
    known = np.full(5, 2, np.float32)
    assert estimates.limits(chosen, squares, 6, known) is not None
    # They differ too much, there are not enough items, or all distances are 0.
    known[1:] = 0.5
    assert estimates.limits(chosen, squares, 6, known) is None
    assert estimates.limits(chosen, squares, 100, np.full(5, 2, np.float32)) is None
    missing = np.full(5, np.finfo(np.float32).max)
    assert estimates.limits(chosen, squares, 6, missing) is None
    copies = Estimates(centroids, [np.repeat(each[None], 30, axis=0) for each in centroids])
    assert copies.limits(chosen, 0 * squares, 6, np.zeros(5, np.float32)) is None


def test_a_query_of_lists_without_items_has_the_largest_limit_of_the_first_ones():
    centroids = np.zeros((2, 2), np.float32)
    estimates = Estimates(centroids, [normal(30, 2), normal(0, 2)])
    chosen = np.array([[0], [0], [1]])
    limits = estimates.limits(chosen, np.ones((3, 1), np.float32), 6, np.ones(2, np.float32))
    assert limits[2] == limits[0] == limits[1]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", [0.3, 1.0, 30.0])
def test_answers_do_not_depend_on_the_estimates(metric, margin, monkeypatch):
    monkeypatch.setattr(ivf_estimates, "_MARGIN", margin)
    given, left = [], []
    nearest, scanned = ListProducts.nearest, ListSearch._scanned

    def recording(self, queries, chosen, many, most):
        given.append(most)
        return nearest(self, queries, chosen, many, most)

    def counting(self, queries, chosen, first, many):
        left.append(len(queries))
        return scanned(self, queries, chosen, first, many)

    monkeypatch.setattr(ListProducts, "nearest", recording)
    monkeypatch.setattr(ListSearch, "_scanned", counting)
    rows = normal(5000, 12)
    index, queries = built(rows[:4000], 30, metric).with_knob(5), rows[4000:]
    found = index.kneighbors(queries, 10)
    assert given[0] is not None
    # With too low limits, FAISS searches the lists of many queries. The first ones are tried.
    assert (sum(left) > 500) == (margin == 0.3)
    alone = [index.kneighbors(each[None], 10) for each in queries]
    np.testing.assert_array_equal(found.positions, [each.positions[0] for each in alone])
    np.testing.assert_array_equal(found.distances, [each.distances[0] for each in alone])


def _contents(lists: ListSearch) -> list:
    return lists._products._contents


def test_lists_that_have_as_many_items_as_are_wanted():
    # One list of ten items for each query: there is no item beyond these.
    centers = 100 * normal(20, 3)
    rows = np.repeat(centers, 80, axis=0) + normal(1600, 3)
    items, queries = rows.reshape(20, 80, 3)[:, :10].reshape(-1, 3), rows
    index = built(items, 20).with_knob(1)
    found = index.kneighbors(queries, 10)
    alone = [index.kneighbors(each[None], 10).positions[0] for each in queries[::40]]
    np.testing.assert_array_equal(found.positions[::40], alone)
