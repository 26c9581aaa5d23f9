"""Cosine and correlation of nearly parallel vectors, compared with sixty digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.sparse.kernels import SparseDistances
from pyspark_knn.index.sparse.keyed import KeyedRows, Numbering
from pyspark_knn.index.sparse.rows import SparseRows
from tests.support import exact


def ours(metric, left, right) -> float:
    first = np.zeros(1, np.int64)
    return float(metric.distances(left[None, :], right[None, :], first, first)[0])


@st.composite
def narrow_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Vectors at any angle down to 1e-10, of any lengths, with zeros and means or without."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dim = draw(st.sampled_from([3, 4, 17, 100]))
    row = rng.normal(size=dim) * (rng.random(dim) < draw(st.sampled_from([0.5, 1.0])))
    row[:2] = 1.0, -0.75
    row = row + draw(st.sampled_from([0.0, 0.0, 3.0]))
    other = row + 10.0 ** draw(st.integers(-10, 0)) * rng.normal(size=dim)
    left, right = (
        10.0 ** draw(st.sampled_from([0.0, 0.3, -20.0, 150.0])) * each for each in (row, other)
    )
    return left, right


@pytest.mark.parametrize("name", ["cosine", "correlation"])
@given(pair=narrow_pairs())
def test_distances_have_nearly_all_digits_at_any_angle(name, pair):
    metric = resolve_metric(name)
    true = exact.distance(metric, *pair)
    levels = np.ceil(np.log2(len(pair[0])))
    relative = (4 * levels + 24) * 2.0**-53 + 2.0**-76 / np.sqrt(2 * true)
    assert abs(ours(metric, *pair) - true) <= true * relative
    assert ours(metric, *pair) == ours(metric, *pair[::-1])


@pytest.mark.parametrize("name", ["cosine", "correlation"])
@given(pair=narrow_pairs(), factor=st.floats(0.01, 100.0))
def test_equal_and_parallel_vectors_are_at_0_and_zeros_at_1(name, pair, factor):
    metric = resolve_metric(name)
    row = pair[0]
    assert ours(metric, row, row) == 0.0
    assert ours(metric, row, row * 2.0**-30) == 0.0
    if name == "cosine":
        assert ours(metric, row, row * factor) == 0.0
    assert ours(metric, row, row * 0.0) == 1.0
    assert ours(metric, row * 0.0, row * 0.0) == 1.0


@given(pair=narrow_pairs())
def test_sparse_vectors_have_the_same_distances(pair):
    metric = resolve_metric("cosine")
    left, right = (SparseRows.from_dense(each[None, :]) for each in pair)
    numbering = Numbering.of(right)
    found = SparseDistances(
        metric,
        KeyedRows.of_queries(metric, left),
        KeyedRows.of_items(metric, numbering.numbered(right), numbering),
    )(np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert found.tolist() == [ours(metric, *pair)]


@pytest.mark.parametrize("name", ["cosine", "correlation"])
@pytest.mark.parametrize("narrow", [np.float32, np.float64])
def test_pairs_together_and_alone_have_the_same_distances(name, narrow):
    """Together, each vector becomes a unit vector once."""
    rng = np.random.default_rng(3)
    items = (rng.normal(size=(20, 5)) * 10.0 ** rng.integers(-9, 9, size=(20, 1))).astype(narrow)
    queries = np.concatenate([items[:5], 3 * items[5:9] + items[3], np.zeros((1, 5), narrow)])
    metric = resolve_metric(name)
    rows, positions = np.divmod(np.arange(200), 20)
    together = metric.distances(queries, items, rows, positions)
    for index in range(200):
        alone = metric.distances(
            queries, items, rows[index : index + 1], positions[index : index + 1]
        )
        assert alone[0] == together[index]
