"""What "auto" says of a target recall that no approximate algorithm serves."""

from __future__ import annotations

import numpy as np

from pyspark_knn.index.auto import Trials, build_index
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.sparse.rows import SparseRows


def test_sparse_vectors() -> None:
    dense = np.random.default_rng(1).normal(size=(2000, 20)).astype(np.float32)
    spec = IndexSpec(resolve_metric("euclidean"), "auto", target_recall=0.9)
    trials = Trials(sample_items=1000, timer=lambda index: 1.0)
    _, reason = build_index(SparseRows.from_dense(dense), spec, trials)
    assert "ivf does not support storage 'sparse'" in reason
    manhattan = IndexSpec(resolve_metric("cityblock"), "auto", target_recall=0.9)
    _, reason = build_index(dense, manhattan, trials)
    assert "ivf does not support metric 'cityblock'" in reason
