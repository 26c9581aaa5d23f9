"""How far the items of a cell are from its center: by itself, and by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pyspark_knn.index.cell_metrics import cell_metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SAMPLED_ITEMS, _SAMPLED_NUMBERS = 64, 1 << 11
"""Items in the sample of a shard, and the numbers that they have at most."""

_SAMPLED_PAIRS = 1 << 19
"""The distances of items from the sample of their shard, at most: with more, they take a while."""

_APART = 2
"""Items of a sample that are no pivots, so that they show where queries are."""

_PIVOTS = 1024
"""About how many pivots all shards have, besides their centers: a query is compared with each."""


class Spread(NamedTuple):
    """The distances of the items of a shard from its center, by `cell_metrics.cell_metric`.

    Attributes
    ----------
    radius : float
        The largest distance.
    ranks : list of float
        The distance of the item that is nearest to the center, of the second, the fourth, the
        eighth and so on, as far as there are items. Then the same for each item of the sample.
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
    count, n_features = items.shape
    many = min(_SAMPLED_ITEMS, _SAMPLED_NUMBERS // n_features, _SAMPLED_PAIRS // count, count)
    sample = items[np.arange(many) * count // max(1, many)].astype(np.float64)
    powers = 1 << np.arange(count.bit_length())
    positions = np.arange(count)
    radius = 0.0
    ranks: list[float] = []
    for point in (*center, *sample):
        to_items = cell_metric(metric).distances(point[None], items, positions * 0, positions)
        to_items.sort()
        radius = radius if ranks else float(to_items[-1])
        ranks += to_items[powers - 1].tolist()
    return Spread(radius, ranks, sample.ravel().tolist())


class Pivots(NamedTuple):
    """Points whose distances from the items near them are known: centers and a few items.

    Attributes
    ----------
    points : ndarray of shape (n_pivots, n_features), dtype float64
        The points.
    ranks : ndarray of shape (n_pivots, n_powers), dtype float64
        The distance of the 2**j-th nearest item of the shard of each; inf if it has fewer items.
    """

    points: NDArray[np.float64]
    ranks: NDArray[np.float64]


def pivots_of(
    centers: NDArray[np.float64], ranks: list[list[float]], samples: list[list[float]]
) -> Pivots:
    """Return the pivots of shards: their centers, and some of their samples.

    Parameters
    ----------
    centers : ndarray of shape (n_shards, n_features), dtype float64
        The center of each shard.
    ranks, samples : list of list of float
        See `Spread`, of each shard.

    Returns
    -------
    Pivots
        The pivots.
    """
    n_shards, n_features = centers.shape
    most = _PIVOTS // max(1, n_shards)
    points, tables = [np.zeros((0, n_features))], []
    for center, known, flat in zip(centers, ranks, samples, strict=True):
        sample = np.reshape(flat, (-1, n_features))
        table = np.reshape(known, (1 + len(sample), -1))
        many = max(0, min(most, len(sample) - _APART))
        points += [center[None], sample[:many]]
        tables.append(table[: 1 + many])
    widest = max((table.shape[1] for table in tables), default=0)
    padded = [
        np.pad(table, ((0, 0), (0, widest - table.shape[1])), constant_values=np.inf)
        for table in tables
    ]
    return Pivots(np.concatenate(points), np.concatenate([np.zeros((0, widest)), *padded]))


def apart_of(samples: list[list[float]], n_features: int) -> NDArray[np.float64]:
    """Return the items of the samples of shards that are no pivots.

    Parameters
    ----------
    samples : list of list of float
        See `Spread`, of each shard.
    n_features : int
        The dimension of the vectors.

    Returns
    -------
    ndarray of shape (n_items, n_features), dtype float64
        The items.
    """
    vectors = [np.reshape(flat, (-1, n_features))[-_APART:] for flat in samples]
    return np.concatenate([np.zeros((0, n_features)), *vectors])
