"""Scores of sparse vectors are within their bounds, in whatever order sums are added."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.keyed_rows import KeyedRows, Numbering
from pyspark_knn.index.rounding import V
from pyspark_knn.index.sparse_rows import SparseRows
from pyspark_knn.index.sparse_space import SPACES
from tests.support import sparse


def space_of(metric, items):
    rows = SparseRows.from_dense(items)
    return SPACES[metric.name](metric, KeyedRows.of_items(metric, rows, Numbering(rows.n_features)))


def queries_of(space, metric, rows):
    return space.queries(KeyedRows.of_queries(metric, SparseRows.from_dense(rows)))


def exact_score(name, query, figure, exponent):
    """The score that a final figure stands for, in real numbers."""
    unit = Fraction(2) ** int(-exponent)
    if name == "inner_product":
        return -Fraction(figure) * unit
    if name == "cosine":
        return 1 - Fraction(figure)
    power = 1 if name == "sqeuclidean" else 2
    square = Fraction(figure) ** power * unit**2
    return (sum(Fraction(value) ** 2 for value in query.tolist()) - square) / 2


def products(left, right, dtype):
    """The product of two rows, added from either end."""
    terms = left.astype(dtype) * right.astype(dtype)
    for order in (slice(None), slice(None, None, -1)):
        total = dtype(0)
        for term in terms[order][terms[order] != 0]:
            total = dtype(total + term)
        yield total


@settings(max_examples=30)
@pytest.mark.parametrize("name", sparse.PRODUCTS)
@given(st.data())
def test_the_bound_covers_both_orders_of_summation(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = data.draw(st.sampled_from(["normal", "positive", "offset", "1e155", "row scales"]))
    dim = data.draw(st.sampled_from([1, 2, 5, 33, 300]))
    share = data.draw(st.sampled_from([0.05, 0.5]))
    items = sparse.matrix(rng, 4, dim, share, kind)
    # Queries may have many more values than items.
    rows = np.concatenate([sparse.matrix(rng, 2, dim, 1.0, kind), items[:1]])
    metric = sparse.metric_for(name, dim, rng)
    space = space_of(metric, items)
    queries = queries_of(space, metric, rows)
    lefts = queries.vectors.dense().astype(np.float64)
    for dtype in (np.float32, np.float64):
        terms, widths = space.terms(slice(0, 4), dtype)
        slack = space.slack(queries, dtype)
        rights = space.vectors(SparseRows.from_dense(items), slice(0, 4)).dense()
        null = space.null_ceiling(dtype)
        for row in np.flatnonzero(space.serves(queries)):
            for position in range(4):
                pair = np.array([row]), np.array([position])
                figure = metric.distances(rows, items, *pair)[0]
                score = exact_score(name, lefts[row], figure, queries.exponents[row])
                for product in products(lefts[row], rights[position], dtype):
                    ceiling = dtype(product + dtype(terms[position]))
                    above = Fraction(float(ceiling)) + Fraction(slack[row])
                    width = slack[row] + widths[position]
                    assert Fraction(float(ceiling)) - Fraction(width) <= score <= above
                common = (rows[row] != 0) & (items[position] != 0)
                if null is not None and not common.any():
                    assert figure == space.null_figure
                    assert dtype(terms[position]) < dtype(null)


@settings(max_examples=30)
@pytest.mark.parametrize("name", sparse.PRODUCTS)
@given(st.data())
def test_an_item_at_the_limit_has_the_least_score(name, data):
    """The least score of a distance is at most the exact score of an item at this distance."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim = data.draw(st.sampled_from([1, 40, 4000]))
    items = sparse.matrix(rng, 3, dim, 2 / dim)
    rows = sparse.matrix(rng, 2, dim, 1.0, data.draw(st.sampled_from(["normal", "ones"])))
    metric = sparse.metric_for(name, dim, rng)
    space = space_of(metric, items)
    queries = queries_of(space, metric, rows)
    # What squares can be, if they are added in the worst order.
    error = queries.vectors.lengths * V * data.draw(st.sampled_from([-1, 0, 1]))
    worst = queries._replace(squares=queries.squares * (1 + error))
    lefts = queries.vectors.dense().astype(np.float64)
    for position in range(3):
        figures = metric.distances(rows, items, np.arange(2), np.full(2, position))
        least = space.least_scores(figures, worst)
        for row in range(2):
            score = exact_score(name, lefts[row], figures[row], queries.exponents[row])
            assert Fraction(least[row]) <= score


def test_vectors_of_one_value_are_unit_vectors():
    items = np.array([[3.0, 0.0], [0.0, -(2.0**-1060)], [0.0, 0.0], [2.0**1020, 0.0]])
    metric = resolve_metric("cosine")
    vectors = space_of(metric, items).vectors(SparseRows.from_dense(items), slice(0, 4))
    np.testing.assert_allclose(vectors.dense(), np.sign(items), rtol=4 * V)
