"""The division of the items of a saved model into shards: that of the fit, and of each append.

The structure of a shard belongs to its items, so a loaded model needs the shards of the saved one.
Saved are the number of the series of each item, and few arrays for each series. The shard of an
item follows from these by the same functions as before, so whatever an exact search relies on, such
as the center of a cell being the nearest one of its items, holds whatever the files contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.engine.shards.layout import ShardSeries
from pyspark_knn.index.approximate.structures import check_range, check_structure, damaged
from pyspark_knn.index.cells import ShardAssignment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.spreads import Spread

_MOST_SHARDS = 100_000
"""The largest number of shards of a saved model."""

_DTYPES: dict[int, np.dtype[Any]] = {4: np.dtype(np.float32), 8: np.dtype(np.float64)}
"""The types of the vectors of a series, by the bytes of a number."""


@dataclass(frozen=True)
class SavedLayout:
    """Assigns the items of a saved model to the shards that they were in.

    Attributes
    ----------
    series : tuple of ShardSeries
        The shards of the fit, and those of each append. They are not those of keys.
    """

    series: tuple[ShardSeries, ...]

    def structure(self) -> dict[str, NDArray[Any]]:
        """Return the series as arrays.

        Returns
        -------
        dict of str to ndarray
            "series": the number of shards of each, and the bytes of a number of its vectors. If the
            shards are cells, "centers", and "ways": the number of shards of each cell in each
            series.
        """
        sizes = [(each.count, each.dtype.itemsize) for each in self.series]
        arrays: dict[str, NDArray[Any]] = {"series": np.array(sizes, np.int64)}
        cuts = [each.assignment for each in self.series]
        cells = [cut for cut in cuts if isinstance(cut, ShardAssignment)]
        if cells:
            arrays["centers"] = cells[0].centers
            arrays["ways"] = np.stack([cut.ways for cut in cells])
        return arrays

    @classmethod
    def restored(
        cls, arrays: Mapping[str, NDArray[Any]], metric: Metric, n_features: int
    ) -> SavedLayout:
        """Return the layout that `structure` was taken from.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            The arrays, which are checked.
        metric : Metric
            The metric of the search.
        n_features : int
            The dimension of the vectors.

        Raises
        ------
        ValueError
            If an array is missing or damaged. The message names it.
        """
        expected: dict[str, Any] = {"series": (np.int64, (None, 2))}
        if "centers" in arrays or "ways" in arrays:
            expected["centers"] = (np.float64, (None, n_features))
            expected["ways"] = (np.int64, (None, None))
        check_structure(arrays, expected)
        counts, widths = arrays["series"].T
        check_range("series", counts, 1, _MOST_SHARDS + 1)
        if counts.sum() > _MOST_SHARDS:
            raise damaged("series", f"has more than {_MOST_SHARDS} shards")
        if not np.isin(widths, list(_DTYPES)).all():
            raise damaged("series", "has vectors of an unknown type")
        cuts: list[ShardAssignment | None] = [None] * len(counts)
        if "ways" in arrays:
            centers, ways = arrays["centers"], arrays["ways"]
            if ways.shape != (len(counts), len(centers)):
                raise damaged("ways", "must have a number for each series and each center")
            check_range("ways", ways, 1, _MOST_SHARDS + 1)
            if not np.array_equal(ways.sum(axis=1), counts):
                raise damaged("ways", "differs from the numbers of shards")
            cuts = [ShardAssignment(centers, np.cumsum(w) - w, w, metric) for w in ways]
        firsts = np.cumsum(counts) - counts
        sizes = zip(firsts.tolist(), counts.tolist(), widths.tolist(), cuts, strict=True)
        return cls(
            tuple(ShardSeries(first, many, _DTYPES[wide], cut) for first, many, wide, cut in sizes)
        )

    def shards(
        self,
        numbers: NDArray[np.integer],
        items: NDArray[np.floating],
        hashes: NDArray[np.uint64],
    ) -> NDArray[np.int64]:
        """Return the shard of each item.

        Parameters
        ----------
        numbers : ndarray of shape (n_items,), integer
            The number of the series of each item.
        items, hashes
            See `ShardAssignment.shards`.

        Returns
        -------
        ndarray of shape (n_items,), dtype int64
            Numbers of shards.

        Raises
        ------
        ValueError
            If a series does not exist.
        """
        check_range("series", numbers, 0, len(self.series))
        found = np.empty(len(items), np.int64)
        for number in np.unique(numbers).tolist():
            rows = np.flatnonzero(numbers == number)
            each = self.series[number]
            if isinstance(each.assignment, ShardAssignment):
                own = each.assignment.shards(items[rows], hashes[rows])
            else:
                own = hashes[rows] % np.uint64(each.count)
            found[rows] = each.first + own.astype(np.int64)
        return found

    def spread(self, shard: int, items: NDArray[np.floating]) -> Spread | None:
        """Return the spread of a shard, see `ShardAssignment.spread`; None if it is not a cell.

        Parameters
        ----------
        shard : int
            The number of the shard.
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items of the shard.
        """
        each = self.series_of(shard)
        if not isinstance(each.assignment, ShardAssignment):
            return None
        return each.assignment.spread(shard - each.first, items)

    def series_of(self, shard: int) -> ShardSeries:
        """Return the series that a shard belongs to, given its number."""
        return next(each for each in self.series if shard < each.first + each.count)
