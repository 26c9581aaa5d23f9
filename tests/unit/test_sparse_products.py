"""Products of sparse queries with a block of items are those of the dense vectors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyspark_knn.index.sparse.products import SparseBatch, TransposedBlock
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.index.sparse.sizes import Sizes

INTERNAL = "scipy.sparse._sparsetools"


def small_integers(rng, shape, share):
    """Values whose products are exact in any order, a share of them other than 0."""
    return rng.integers(1, 9, shape) * (rng.random(shape) < share) * 1.0


def products(items, queries, dtype, sizes):
    batch = SparseBatch(SparseRows.from_dense(queries), dtype, sizes)
    rows = SparseRows.from_dense(items)
    block = TransposedBlock(rows, batch.numbers(rows.n_features), batch)
    return batch, [block.products(group) for group in batch.groups]


@pytest.mark.parametrize("internal", [True, False], ids=["scipy's kernel", "public methods"])
@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 16),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 30)),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    group_values=st.sampled_from([1, 40, 1 << 16]),
)
def test_products(internal, seed, shape, share, dtype, group_values):
    n_items, n_queries, dim = shape
    rng = np.random.default_rng(seed)
    items = small_integers(rng, (n_items, dim), share)
    queries = small_integers(rng, (n_queries, dim), share)
    with pytest.MonkeyPatch.context() as patch:
        if not internal:
            # As in a release of scipy that has moved it.
            patch.setitem(sys.modules, INTERNAL, None)
        sizes = Sizes(group_values=group_values)
        batch, found = products(items, queries, dtype, sizes)
    assert [row for group in batch.groups for row in range(*group.bounds)] == [*range(n_queries)]
    assert all(part.dtype == dtype for part in found)
    np.testing.assert_array_equal(np.concatenate(found), queries @ items.T)


def test_long_queries_have_small_groups():
    """The arrays of a group are bounded, also where one query is far longer than the others."""
    sizes = Sizes(group_queries=16, group_values=64)
    lengths = np.array([1, 60, 2, 3])
    assert [part.stop - part.start for part in sizes.groups(lengths)] == [1, 1, 1, 1]
    assert sizes.groups(np.ones(20, np.int64)) == [slice(0, 16), slice(16, 20)]
    assert sizes.groups(np.zeros(2, np.int64)) == [slice(0, 2)]
