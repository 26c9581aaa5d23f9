"""The k nearest of what several shards found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn.engine.search.merge import nearest_of


@pytest.mark.parametrize("n_groups", [1, 40, 70_000], ids=str)
@pytest.mark.parametrize("n_distances", [3, 1 << 40], ids=["ties", "no_ties"])
@pytest.mark.parametrize("k", [4, None], ids=str)
def test_the_nearest_of_each_group_by_distance_then_by_columns(
    n_groups: int, n_distances: int, k: int | None
) -> None:
    rng = np.random.default_rng(7)
    count = 2 * n_groups + 300
    group = rng.integers(0, n_groups, count)
    distance = rng.integers(0, n_distances, count) / 4
    # Each pair of an id and a number once, so that the order is complete.
    ids, numbers = np.divmod(rng.permutation(count), 7)
    columns = {"id": pa.array(ids), "number": pa.array(numbers)}
    counts = np.bincount(group, minlength=n_groups)
    nearest, kept = nearest_of(group, counts, distance, columns, k)
    order = np.lexsort((numbers, ids, distance, group))
    rank = np.arange(count) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = order if k is None else order[rank < k]
    assert nearest.tolist() == wanted.tolist()
    assert kept.tolist() == (counts if k is None else np.minimum(counts, k)).tolist()
