"""Votes and weighted means of the labels of neighbors.

Free functions on the arrays of `pyspark_knn.index.base.Neighbors`; they know nothing of the search.
All sums run from the nearest neighbour to the farthest, as scikit-learn's do, and leave out places
where there is no neighbour: a figure does not depend on how wide the arrays happen to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import Neighbors

WEIGHTS = ("uniform", "distance")
"""The values of the `weights` Param."""

_HUGE = 2.0**512
"""Weights above this are scaled down, since their sums could be infinite."""


def vote_weights(
    neighbors: Neighbors, weights: str, item_weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """What the vote of each neighbour counts.

    Parameters
    ----------
    neighbors : Neighbors
        Of n_queries queries.
    weights : {"uniform", "distance"}
        "uniform": 1. "distance": the inverse of the distance; where a query has neighbours whose
        inverse is infinite (a distance of zero), those count 1 and its others 0. Both as in
        scikit-learn (Dudani, "The Distance-Weighted k-Nearest-Neighbor Rule", 1976, has the idea).
    item_weights : ndarray of shape (n_items,), dtype float64, optional
        A factor for each item's votes, >= 0.

    Returns
    -------
    ndarray of shape (n_queries, k), dtype float64
        0 where there is no neighbour.
    """
    there = neighbors.positions >= 0
    if weights == "uniform":
        result = there.astype(np.float64)
    else:
        with np.errstate(divide="ignore", over="ignore"):
            result = 1.0 / neighbors.distances  # of the infinite distance of no neighbour: 0
        same = np.isinf(result)
        touched = same.any(axis=1)
        result[touched] = same[touched]
        # Where sums of them could be infinite, the votes of the query are scaled down together.
        huge = result.max(axis=1, initial=0.0) > _HUGE
        result[huge] = _scaled(result[huge])
    if item_weights is not None:
        result *= np.where(there, item_weights[neighbors.positions], 0.0)
    return result


def class_votes(
    neighbors: Neighbors,
    weights: NDArray[np.float64],
    labels: NDArray[np.float64],
    num_classes: int,
) -> NDArray[np.float64]:
    """The votes of each class.

    Parameters
    ----------
    neighbors : Neighbors
        Of n_queries queries.
    weights : ndarray of shape (n_queries, k), dtype float64
        Of each vote, see `vote_weights`.
    labels : ndarray of shape (n_items,), dtype float64
        Whole numbers from 0 to ``num_classes - 1``.
    num_classes : int

    Returns
    -------
    ndarray of shape (n_queries, num_classes), dtype float64
    """
    rows, columns = np.nonzero(neighbors.positions >= 0)
    classes = labels[neighbors.positions[rows, columns]].astype(np.int64)
    size = len(weights) * num_classes
    votes = _sums(rows * num_classes + classes, weights[rows, columns], size)
    return votes.reshape(len(weights), num_classes)


def probabilities(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each class in the votes of a query.

    Parameters
    ----------
    votes : ndarray of shape (n_queries, num_classes), dtype float64
        The votes of each class, >= 0.

    Returns
    -------
    ndarray of shape (n_queries, num_classes), dtype float64
        The probabilities; all 0 for a query without votes.
    """
    total = votes.sum(axis=1, keepdims=True)
    shares = np.zeros_like(votes)
    np.divide(votes, total, out=shares, where=total > 0)
    return shares


def winners(
    votes: NDArray[np.float64], thresholds: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the class with the most votes; ties go to the smaller class.

    Parameters
    ----------
    votes : ndarray of shape (n_queries, num_classes), dtype float64
        The votes of each class, >= 0.
    thresholds : ndarray of shape (num_classes,), dtype float64, optional
        MLlib's rule: the class with the largest ``probability / threshold`` wins; a class with
        threshold 0 wins wherever it has any vote.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The predicted class of each query; NaN for a query without votes.
    """
    scores = votes
    if thresholds is not None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scores = probabilities(votes) / thresholds
        scores[np.isnan(scores)] = -np.inf  # 0 / 0: a class without votes is never predicted
    return np.where(votes.any(axis=1), scores.argmax(axis=1), np.nan)


def weighted_means(
    neighbors: Neighbors, weights: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The weighted mean of the neighbours' values; NaN where there is no weight.

    Parameters
    ----------
    neighbors : Neighbors
        Of n_queries queries.
    weights : ndarray of shape (n_queries, k), dtype float64
        Of each neighbour, see `vote_weights`.
    values : ndarray of shape (n_items,), dtype float64

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
    """
    rows, columns = np.nonzero(neighbors.positions >= 0)
    share = _scaled(weights)[rows, columns]
    given = values[neighbors.positions[rows, columns]]
    count = len(weights)
    total = _sums(rows, share, count)
    summed = _sums(rows, share * given, count)
    means = np.full(count, np.nan)
    np.divide(summed, total, out=means, where=total > 0)
    return means


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row times a power of two that brings its largest value near 1: no digit changes."""
    _, exponents = np.frexp(values.max(axis=1, keepdims=True, initial=0.0))
    scaled: NDArray[np.float64] = np.ldexp(values, -exponents)
    return scaled


def _sums(places: NDArray[np.int64], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Sum `values` into their `places`, one after the other."""
    # Of no values at all bincount makes integers.
    return np.bincount(places, values, minlength=size).astype(np.float64, copy=False)
