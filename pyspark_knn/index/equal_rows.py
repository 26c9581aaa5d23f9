"""Equal queries of a batch, of which only one needs to be searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Neighbors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_MOST_FEATURES = 16
"""With more features, few vectors of sets or of codes are equal."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""An odd factor that spreads the bits of a number."""


def distinct_rows(
    rows: NDArray[np.generic],
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return one of all equal rows each, and which of them every row is equal to.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
        The rows.

    Returns
    -------
    distinct : ndarray of shape (n_distinct,), dtype int64
        Row numbers.
    which : ndarray of shape (n_rows,), dtype int64
        For each row, the place in `distinct` of the row that it is equal to.

        None in place of both if most rows are different, or may be.
    """
    if rows.shape[1] > _MOST_FEATURES or not len(rows):
        return None
    # Adding 0 makes 0.0 of -0.0, which is equal.
    bits = (rows.astype(np.float64) + 0.0).view(np.uint64)
    keys = np.zeros(len(rows), np.uint64)
    for column in range(rows.shape[1]):
        keys = (keys ^ (bits[:, column] >> np.uint64(32)) ^ bits[:, column]) * _MULTIPLIER
    _, distinct, which = np.unique(keys, return_index=True, return_inverse=True)
    if 2 * len(distinct) > len(rows) or not np.array_equal(rows[distinct][which], rows):
        return None
    return distinct, which


def search_each_once(
    search: Callable[[NDArray[np.floating]], Neighbors],
    queries: NDArray[np.floating],
    rows: NDArray[np.generic],
) -> Neighbors:
    """Search queries, but those that are equal only once if that halves the work.

    Parameters
    ----------
    search : callable
        Searches some queries.
    queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
        The queries.
    rows : ndarray of shape (n_queries, n_features)
        What the metric compares: queries with equal rows have the same neighbors.

    Returns
    -------
    Neighbors
        The neighbors of all queries.
    """
    found = distinct_rows(rows)
    if found is None:
        return search(queries)
    distinct, which = found
    neighbors = search(queries[distinct])
    return Neighbors(neighbors.distances[which], neighbors.positions[which])
