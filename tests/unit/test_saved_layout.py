"""The division into shards in a saved model: round trips, and arrays that are damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyspark_knn.engine.shards.layout import ShardSeries
from pyspark_knn.engine.shards.saved_layout import SavedLayout
from pyspark_knn.index.cells import ShardAssignment
from pyspark_knn.index.distances import resolve_metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

EUCLIDEAN = resolve_metric("euclidean")
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
CENTERS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])


def cut(*ways: int) -> ShardAssignment:
    counts = np.array(ways)
    return ShardAssignment(CENTERS, np.cumsum(counts) - counts, counts, EUCLIDEAN)


def cells() -> SavedLayout:
    return SavedLayout((ShardSeries(0, 4, F32, cut(1, 2, 1)), ShardSeries(4, 3, F64, cut(1, 1, 1))))


def hashes() -> SavedLayout:
    return SavedLayout((ShardSeries(0, 5, F32), ShardSeries(5, 1, F32), ShardSeries(6, 2, F64)))


@pytest.mark.parametrize("layout", [cells(), hashes()], ids=["cells", "hashes"])
def test_round_trip(layout: SavedLayout) -> None:
    back = SavedLayout.restored(layout.structure(), EUCLIDEAN, 2)
    rng = np.random.default_rng(5)
    items = rng.normal(size=(200, 2)) * 5
    numbers = rng.integers(len(layout.series), size=200)
    marks = rng.integers(1 << 60, size=200).astype(np.uint64)
    found = layout.shards(numbers, items, marks)
    np.testing.assert_array_equal(back.shards(numbers, items, marks), found)
    assert set(found.tolist()) == set(range(sum(each.count for each in layout.series)))
    for shard in np.unique(found).tolist():
        assert set(numbers[found == shard]) == {layout.series.index(layout.series_of(shard))}
        assert back.series_of(shard).dtype == layout.series_of(shard).dtype
        spreads = [each.spread(shard, items[found == shard]) for each in (layout, back)]
        radii = [each and each.radius for each in spreads]
        assert radii[0] == radii[1]


DAMAGES: list[tuple[dict[str, Any], str]] = [
    ({"series": None}, "'series' is missing"),
    ({"ways": None}, "'ways' is missing"),
    ({"centers": None}, "'centers' is missing"),
    ({"other": np.zeros(1)}, "'other' is unknown"),
    ({"centers": np.zeros((3, 4))}, "'centers' must have shape"),
    ({"centers": np.full((3, 2), np.nan)}, "'centers' contains NaN"),
    ({"series": np.array([[4, 4], [0, 8]])}, "'series' must contain integers from 1"),
    ({"series": np.array([[4, 4], [-1, 8]])}, "'series' must contain integers from 1"),
    ({"series": np.array([[4, 2], [3, 8]])}, "'series' has vectors of an unknown type"),
    ({"series": np.array([[90_000, 4], [90_000, 8]])}, "'series' has more than 100000 shards"),
    ({"series": np.array([[4, 4], [4, 8]])}, "'ways' differs from the numbers of shards"),
    ({"ways": np.array([[1, 2, 1]])}, "'ways' must have a number for each series and each"),
    ({"ways": np.array([[1, 2, 1], [1, 2, 0]])}, "'ways' must contain integers from 1"),
]


@pytest.mark.parametrize(("changes", "problem"), DAMAGES)
def test_damage(changes: dict[str, Any], problem: str) -> None:
    arrays: dict[str, NDArray[Any]] = {**cells().structure(), **changes}
    arrays = {name: part for name, part in arrays.items() if part is not None}
    with pytest.raises(ValueError, match=problem):
        SavedLayout.restored(arrays, EUCLIDEAN, 2)


def test_a_series_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="'series' must contain integers from 0 to 2, got -1 to 1"):
        hashes().shards(np.array([1, -1]), np.zeros((2, 2)), np.zeros(2, np.uint64))
