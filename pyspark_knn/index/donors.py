"""Imputation: the donors of missing values, and the means of what they donate.

A donor of a feature to a query is an item that has the feature, and at least one other feature that
the query has as well. A missing value is the mean of the values of its k nearest donors, so each
feature that a query lacks may have other donors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyspark_knn.index import votes
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.found import Found
from pyspark_knn.index.selection import NearestSoFar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.base import NeighborIndex

_BLOCK_NEIGHBORS = 1 << 20
"""Neighbors that are searched at a time."""

_BLOCK_NUMBERS = 1 << 22
"""Numbers of the items that are copied, or checked for missing values, at a time."""

_LEAST_SHARE = 1 / 16
"""Of a feature that a smaller share of the items has, the nearest items would make too long a list
to find k donors among them."""


class Donors(NamedTuple):
    """The donors of missing values, by query, then by feature, nearest first.

    Attributes
    ----------
    queries, features : ndarray of shape (n_donors,), dtype int64
        The row number of the query, and the feature that it lacks.
    distances : ndarray of shape (n_donors,), dtype float64
        The distances; non-decreasing for each query and feature.
    positions : ndarray of shape (n_donors,), dtype int64
        Row numbers in the item matrix; in ascending order among equal distances.
    values : ndarray of shape (n_donors,), dtype float64
        The donor's value of the feature.
    """

    queries: NDArray[np.int64]
    features: NDArray[np.int64]
    distances: NDArray[np.float64]
    positions: NDArray[np.int64]
    values: NDArray[np.float64]


def find_donors(index: NeighborIndex, queries: NDArray[np.floating], k: int) -> Donors:
    """Return the k nearest donors of each missing value, or as many as there are.

    The nearest items of a query are searched once for all features that it lacks, and each feature
    takes the first k items of this list that have it. If there are fewer in the list, which happens
    where most of the nearest items lack the feature as well, the items that have it are searched by
    themselves.

    Parameters
    ----------
    index : NeighborIndex
        An index of metric "nan_euclidean".
    queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
        The queries; NaN where a value is missing.
    k : int
        The number of donors of a value; may exceed the number of items.

    Returns
    -------
    Donors
        The donors. There are none of a feature that no item has.
    """
    counts = _counts(index.matrix)
    wanted = np.isnan(queries) & (counts > 0)
    # A query that has nothing in common with any item has no donors.
    wanted[(wanted == (counts > 0)).all(axis=1)] = False
    rows = np.flatnonzero(wanted.any(axis=1))
    length = _list_length(wanted[rows], counts / len(index.matrix), k, len(index.matrix))
    parts: list[Donors] = []
    if length:
        step = max(1, _BLOCK_NEIGHBORS // length)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            parts += _from_lists(index, queries, part, wanted, k, length)
    for feature in np.flatnonzero(wanted.any(axis=0)).tolist():
        left = np.flatnonzero(wanted[:, feature])
        step = max(1, _BLOCK_NEIGHBORS // k)
        for start in range(0, len(left), step):
            parts.append(_from_owners(index, queries, left[start : start + step], feature, k))
    return _sorted(parts, queries.shape[1])


def _counts(matrix: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the number of items that have each feature."""
    counts = np.zeros(matrix.shape[1], np.int64)
    step = max(1, _BLOCK_NUMBERS // matrix.shape[1])
    for start in range(0, len(matrix), step):
        counts += (~np.isnan(matrix[start : start + step])).sum(axis=0)
    return counts


def _list_length(
    wanted: NDArray[np.bool_], shares: NDArray[np.float64], k: int, n_items: int
) -> int:
    """Return how many items to search for all features of a query together; 0 for none.

    There are two times k donors to expect in the list, for the features that are missing most.
    """
    if not len(wanted):
        return 0
    share = np.median(np.broadcast_to(shares, wanted.shape)[wanted])
    if share < _LEAST_SHARE:
        return 0
    return min(int(2 * k / share) + 8, n_items)


def _from_lists(
    index: NeighborIndex,
    queries: NDArray[np.floating],
    rows: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    k: int,
    length: int,
) -> Iterator[Donors]:
    """Yield the donors among the nearest items, and clear `wanted` where these are all.

    Parameters
    ----------
    index : NeighborIndex
        The index.
    queries : ndarray of shape (n_queries, n_features)
        All queries.
    rows : ndarray of shape (n_rows,), dtype int64
        Those to search.
    wanted : ndarray of shape (n_queries, n_features), dtype bool
        The values to find donors for. Updated in place.
    k : int
        The number of donors.
    length : int
        The number of items to search.

    Yields
    ------
    Donors
        The donors of one feature.
    """
    found = index.kneighbors(np.ascontiguousarray(queries[rows]), length)
    complete = found.positions[:, -1] < 0
    if length == len(index.matrix):
        complete[:] = True
    for feature in np.flatnonzero(wanted[rows].any(axis=0)).tolist():
        at = np.flatnonzero(wanted[rows, feature])
        positions = found.positions[at]
        values = index.matrix[positions, feature]
        has = ~np.isnan(values) & (positions >= 0)
        rank = has.cumsum(axis=1)
        done = complete[at] | (rank[:, -1] >= k)
        wanted[rows[at[done]], feature] = False
        row, column = np.nonzero(has & (rank <= k) & done[:, None])
        yield Donors(
            rows[at[row]],
            np.full(len(row), feature),
            found.distances[at[row], column],
            positions[row, column],
            values[row, column].astype(np.float64),
        )


def _from_owners(
    index: NeighborIndex,
    queries: NDArray[np.floating],
    rows: NDArray[np.int64],
    feature: int,
    k: int,
) -> Donors:
    """Return the nearest of the items that have a feature, which are searched block by block."""
    matrix, spec = index.matrix, IndexSpec(index.metric)
    owners = np.flatnonzero(~np.isnan(matrix[:, feature]))
    asked = np.ascontiguousarray(queries[rows])
    best = NearestSoFar(len(rows), min(k, len(owners)))
    step = max(k, _BLOCK_NUMBERS // matrix.shape[1])
    for start in range(0, len(owners), step):
        block = owners[start : start + step]
        near = index.build(matrix[block], spec).search(asked, min(k, len(block)))
        best.offer(near.queries, block[near.positions], near.distances)
    found = Found.from_padded(best.neighbors())
    values = matrix[found.positions, feature].astype(np.float64)
    features = np.full(len(values), feature)
    return Donors(rows[found.queries], features, found.distances, found.positions, values)


def _sorted(parts: list[Donors], n_features: int) -> Donors:
    """Return donors by query, then by feature; those of one value are together, nearest first."""
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Donors(nothing, nothing, np.zeros(0), nothing, np.zeros(0))
    joined = _of(zip(*parts, strict=True), np.concatenate)
    cells = joined.queries * n_features + joined.features
    order = np.argsort(cells, kind="stable")
    return _of(joined, lambda each: each[order])


def _of(arrays: Iterable[Any], make: Callable[[Any], NDArray[Any]]) -> Donors:
    return Donors(*map(make, arrays))


class Means(NamedTuple):
    """The means of donated values.

    Attributes
    ----------
    queries, features : ndarray of shape (n_values,), dtype int64
        The row number of the query, and the feature that it lacks.
    values : ndarray of shape (n_values,), dtype float64
        The means.
    """

    queries: NDArray[np.int64]
    features: NDArray[np.int64]
    values: NDArray[np.float64]


def donated_means(donors: Donors, weights: str) -> Means:
    """Return the mean of the values of each query and feature that have donors.

    The sums run from the nearest donor to the farthest. Values without a mean are left out: those
    whose donors are all so far that their weights are 0.

    Parameters
    ----------
    donors : Donors
        The donors.
    weights : {"uniform", "distance"}
        The weight of a donor, see `votes.vote_weights`: at a distance of zero it decides alone.

    Returns
    -------
    Means
        The means.
    """
    count = len(donors.values)
    starts = np.ones(count, dtype=bool)
    starts[1:] = np.diff(donors.queries) != 0
    starts[1:] |= np.diff(donors.features) != 0
    first = np.flatnonzero(starts)
    lists = Found(np.append(first, count), donors.distances, np.arange(count))
    means = votes.weighted_means(lists, votes.vote_weights(lists, weights), donors.values)
    known = ~np.isnan(means)
    first = first[known]
    return Means(donors.queries[first], donors.features[first], means[known])
