"""How far the items of a cell are from its center: by itself, and by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.cell_metrics import cell_metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SAMPLED_ITEMS, _SAMPLED_NUMBERS = 2, 1 << 13
"""Items in the sample of a shard, and the numbers that they have at most."""


class Spread(NamedTuple):
    """The distances of the items of a shard from its center, by `cell_metrics.cell_metric`.

    Attributes
    ----------
    radius : float
        The largest distance.
    ranks : list of float
        The distance of the item that is nearest to the center, of the second, the fourth, the
        eighth and so on, as far as there are items.
    sample : list of float
        The vectors of a few items, one after the other.
    """

    radius: float
    ranks: list[float]
    sample: list[float]


def spread_of(center: NDArray[np.float64], items: NDArray[np.floating], metric: Metric) -> Spread:
    """Return the spread of the items of a shard.

    Parameters
    ----------
    center : ndarray of shape (1, n_features), dtype float64
        The center of the shard.
    items : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items, at least one.
    metric : Metric
        The metric of the search.

    Returns
    -------
    Spread
        Their distances from the center.
    """
    positions = np.arange(len(items))
    distances = np.sort(cell_metric(metric).distances(center, items, positions * 0, positions))
    powers = 1 << np.arange(len(items).bit_length())
    many = min(_SAMPLED_ITEMS, _SAMPLED_NUMBERS // items.shape[1], len(items))
    sample = items[np.arange(many) * len(items) // max(1, many)]
    return Spread(
        radius=float(distances[-1]),
        ranks=distances[powers - 1].tolist(),
        sample=sample.astype(np.float64).ravel().tolist(),
    )


def ranks_of(shards: list[list[float]]) -> NDArray[np.float64]:
    """Return `Spread.ranks` of several shards as a matrix, with inf where there is no item.

    Parameters
    ----------
    shards : list of list of float
        The ranks of each shard.

    Returns
    -------
    ndarray of shape (n_shards, n_powers), dtype float64
        The distances.
    """
    longest = max(map(len, shards), default=0)
    table = np.full((len(shards), longest), np.inf)
    for row, ranks in zip(table, shards, strict=True):
        row[: len(ranks)] = ranks
    return table
