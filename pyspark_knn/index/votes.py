"""Votes and weighted means of the labels of neighbors.

Functions on the lists of `pyspark_knn.index.found.Found`, independent of how these were searched.
All sums run from the nearest neighbor to the farthest, as scikit-learn's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Found

WEIGHTS = ("uniform", "distance")
"""The values of the `weights` Param."""

_HUGE = 2.0**512
"""Weights above this are scaled down, since their sums could be infinite."""


def vote_weights(
    found: Found, weights: str, item_weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the weight of each neighbor's vote.

    Parameters
    ----------
    found : Found
        The neighbors of n_queries queries, n_neighbors in all.
    weights : {"uniform", "distance"}
        "uniform": 1. "distance": the inverse of the distance; where a query has neighbors whose
        inverse is infinite (a distance of zero), those count 1 and its others 0. Both as in
        scikit-learn (Dudani, "The Distance-Weighted k-Nearest-Neighbor Rule", 1976, has the idea).
    item_weights : ndarray of shape (n_items,), dtype float64, optional
        A factor >= 0 for the votes of each item. Default: 1.

    Returns
    -------
    ndarray of shape (n_neighbors,), dtype float64
        The weight of each vote, >= 0.
    """
    result = np.ones(len(found.positions)) if weights == "uniform" else _inverses(found)
    return result if item_weights is None else result * item_weights[found.positions]


def _inverses(found: Found) -> NDArray[np.float64]:
    """Return the inverse of each distance; see `vote_weights` for those that are infinite."""
    query = found.queries
    with np.errstate(divide="ignore", over="ignore"):
        result = 1.0 / found.distances
    infinite = np.isinf(result)
    if infinite.any():
        touched = np.zeros(len(found.offsets) - 1, dtype=bool)
        touched[query[infinite]] = True
        result = np.where(touched[query], infinite, result)
    # Where sums of them could be infinite, the votes of the query are scaled down together.
    huge = (_largest(found, result) > _HUGE)[query]
    return np.where(huge, _scaled(found, result), result) if huge.any() else result


def class_votes(
    found: Found,
    weights: NDArray[np.float64],
    labels: NDArray[np.float64],
    num_classes: int,
) -> NDArray[np.float64]:
    """Return the sum of the votes for each class.

    Parameters
    ----------
    found : Found
        The neighbors of n_queries queries, n_neighbors in all.
    weights : ndarray of shape (n_neighbors,), dtype float64
        The weight of each vote, see `vote_weights`.
    labels : ndarray of shape (n_items,), dtype float64
        The class of each item, a whole number from 0 to ``num_classes - 1``.
    num_classes : int
        The number of classes.

    Returns
    -------
    ndarray of shape (n_queries, num_classes), dtype float64
        The votes, >= 0.
    """
    count = len(found.offsets) - 1
    classes = labels[found.positions].astype(np.int64)
    votes = _sums(found.queries * num_classes + classes, weights, count * num_classes)
    return votes.reshape(count, num_classes)


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
    found: Found, weights: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted mean of the neighbors' values.

    Parameters
    ----------
    found : Found
        The neighbors of n_queries queries, n_neighbors in all.
    weights : ndarray of shape (n_neighbors,), dtype float64
        The weight of each neighbor, see `vote_weights`.
    values : ndarray of shape (n_items,), dtype float64
        The value of each item.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The means; NaN for a query whose weights are all zero, or that has no neighbors.
    """
    query, count = found.queries, len(found.offsets) - 1
    share = _scaled(found, weights)
    total = _sums(query, share, count)
    summed = _sums(query, share * values[found.positions], count)
    means = np.full(count, np.nan)
    np.divide(summed, total, out=means, where=total > 0)
    return means


def _largest(found: Found, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest of each query's values, at least 0."""
    largest = np.zeros(len(found.offsets) - 1)
    starts, stops = found.offsets[:-1], found.offsets[1:]
    if len(values):
        some = stops > starts
        largest[some] = np.maximum.reduceat(values, starts[some])
    return largest


def _scaled(found: Found, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the values of each query by a power of two, which changes no digit, to at most 1."""
    _, exponents = np.frexp(_largest(found, values))
    scaled: NDArray[np.float64] = np.ldexp(values, -exponents[found.queries])
    return scaled


def _sums(bins: NDArray[np.int64], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Sum the values of each bin, in their order."""
    # bincount of no values returns integers.
    return np.bincount(bins, values, minlength=size).astype(np.float64, copy=False)
