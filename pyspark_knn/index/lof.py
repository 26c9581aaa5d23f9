"""Outlier scores of queries from their neighbors: the local outlier factor, and distances.

The local outlier factor compares the density around a query with the densities around its neighbors
(Breunig, Kriegel, Ng and Sander, "LOF: Identifying Density-Based Local Outliers", 2000). The
formulas are those of scikit-learn. All sums run from the nearest neighbor to the farthest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOF, KTH, MEAN = "lof", "kth", "mean"
SCORES = (LOF, KTH, MEAN)
"""The values of the `score` Param: the local outlier factor, the distance of the k-th neighbor, and
the mean distance of the neighbors."""

AUTO_THRESHOLD = 1.5
"""The largest factor that is normal if contamination is "auto": scikit-learn's ``offset_`` -1.5."""

_SMALLEST = 1e-10
"""Keeps the densities of more than k equal vectors finite, as in scikit-learn."""


def k_distances(found: Found) -> NDArray[np.float64]:
    """Return the distance of the farthest neighbor of each query.

    Parameters
    ----------
    found : Found
        The k nearest neighbors of n_queries queries.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The distances; NaN for a query without neighbors.
    """
    result = np.full(len(found.offsets) - 1, np.nan)
    some = np.diff(found.offsets) > 0
    result[some] = found.distances[found.offsets[1:][some] - 1]
    return result


def densities(found: Found, k_distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the local reachability density of each query.

    Parameters
    ----------
    found : Found
        The k nearest neighbors of n_queries queries.
    k_distance : ndarray of shape (n_items,), dtype float64
        The distance of each item's own k-th neighbor.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The inverse of the mean distance at which a query is reached from its neighbors, which is at
        least the k-distance of the neighbor; NaN for a query without neighbors.
    """
    reached = np.maximum(found.distances, k_distance[found.positions])
    inverse: NDArray[np.float64] = 1.0 / (_means(found, reached) + _SMALLEST)
    return inverse


def factors(
    found: Found, density: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the local outlier factor of each query.

    Parameters
    ----------
    found : Found
        The k nearest neighbors of n_queries queries.
    density : ndarray of shape (n_items,), dtype float64
        The density of each item.
    own : ndarray of shape (n_queries,), dtype float64
        The density of each query.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The mean density of a query's neighbors divided by its own: about 1 inside a cluster, larger
        for an outlier, NaN for a query without neighbors.
    """
    return _means(found, density[found.positions] / own[found.queries])


def distance_scores(found: Found, score: str) -> NDArray[np.float64]:
    """Return the scores that need the distances alone.

    Parameters
    ----------
    found : Found
        The k nearest neighbors of n_queries queries.
    score : {"kth", "mean"}
        The distance of the farthest neighbor, or the mean distance.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The scores; NaN for a query without neighbors.
    """
    return k_distances(found) if score == KTH else _means(found, found.distances)


def outliers(scores: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Return 1 for each score above the threshold, 0 for the others, and NaN for NaN."""
    return np.where(np.isnan(scores), np.nan, (scores > threshold).astype(np.float64))


def threshold_of(scores: NDArray[np.float64], contamination: float) -> float:
    """Return the threshold that a share of the scores is above.

    Parameters
    ----------
    scores : ndarray of shape (n_items,), dtype float64
        The scores; those that are NaN are ignored.
    contamination : float
        The share, in (0, 0.5].

    Returns
    -------
    float
        scikit-learn's threshold, the exact percentile by linear interpolation; NaN if there are no
        scores.
    """
    known = scores[~np.isnan(scores)]
    # Negated as in scikit-learn, since an interpolation from the other side rounds otherwise.
    return -float(np.percentile(-known, 100.0 * contamination)) if len(known) else np.nan


def shortened(found: Found, most: NDArray[np.float64]) -> Found:
    """Return the nearest of the neighbors, as many as the items of a small group have themselves.

    A fit on m items, of which k or fewer are the others of an item, has k = m - 1. So it has in a
    group of m items, for the items and then for all queries.

    Parameters
    ----------
    found : Found
        The k nearest neighbors of n_queries queries.
    most : ndarray of shape (n_items,), dtype float64
        The number of neighbors that each item has at fit.

    Returns
    -------
    Found
        Up to as many neighbors for each query as the item among them that has most.
    """
    counts = np.diff(found.offsets)
    limit = np.zeros(len(counts), np.int64)
    np.maximum.at(limit, found.queries, most[found.positions].astype(np.int64))
    rank = np.arange(len(found.positions)) - np.repeat(found.offsets[:-1], counts)
    kept = rank < limit[found.queries]
    offsets = np.append(0, np.cumsum(np.minimum(counts, limit)))
    return Found(offsets, found.distances[kept], found.positions[kept])


def _means(found: Found, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the values of each query's neighbors; NaN if it has none."""
    counts = np.diff(found.offsets)
    # bincount adds in the order of the values; of no values it returns integers.
    sums = np.bincount(found.queries, values, minlength=len(counts)).astype(np.float64, copy=False)
    means = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
