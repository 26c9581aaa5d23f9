"""The queries that a tree is asked for at a time, and how many candidates each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Exclusion

_SPARE_CANDIDATES, _SPARE_WITH_TIES = 1, 2
"""Candidates of a query beyond k: enough to see the next distance, also after a small tie where the
values of items repeat, and with them distances."""

_MOST_REORDERED = 16
"""The largest number of candidates for items that are nearer by the tree than by the metric."""

_SAMPLE_ITEMS = 1024
"""Items of the sample that shows whether values repeat."""


def spare_candidates(matrix: NDArray[np.floating]) -> int:
    """Return how many candidates beyond k a tree over these items should be asked for.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.

    Returns
    -------
    int
        The number of candidates.
    """
    sample = matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]
    # If no value of a feature repeats, distances hardly do.
    if any(len(np.unique(values)) == len(sample) for values in sample.T):
        return _SPARE_CANDIDATES
    return _SPARE_WITH_TIES


def reordered_candidates(k: int) -> int:
    """Return how many more candidates a tree is asked for if it has another order of the items.

    Parameters
    ----------
    k : int
        The number of neighbors.

    Returns
    -------
    int
        The number of candidates.
    """
    return min(k // 2, _MOST_REORDERED)


def candidate_batches(
    served: NDArray[np.bool_], many: int, n_items: int, most: int, exclude: Exclusion | None
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the queries that a tree is asked for, in batches of queries with as many candidates.

    Parameters
    ----------
    served : ndarray of shape (n_queries,), dtype bool
        The queries that the tree can be asked for.
    many : int
        The number of candidates of a query without excluded items.
    n_items : int
        The number of items.
    most : int
        The largest number of candidates of a batch. Queries for which so many excluded items are
        among the candidates that they alone need more are left out.
    exclude : Exclusion or None
        Pairs that must not be found.

    Yields
    ------
    many : int
        The number of candidates of each query of the batch.
    rows : ndarray of shape (n_rows,), dtype int64
        The row numbers of the queries.
    """
    groups = [(min(many, n_items), np.flatnonzero(served))]
    if exclude is not None:
        n_excluded = np.bincount(exclude.rows, minlength=len(served))
        # Excluded items are among the candidates. Their number is rounded up to a power of 2, so
        # that queries that need about equally many candidates are searched together.
        more = np.where(n_excluded, 2 ** np.ceil(np.log2(n_excluded + 1)), 0)
        wanted = np.minimum(many + more, n_items).astype(np.int64)
        fits = served & ((n_excluded == 0) | (wanted <= most))
        groups = [
            (int(each), np.flatnonzero(fits & (wanted == each))) for each in np.unique(wanted[fits])
        ]
    for each, rows in groups:
        step = max(1, most // each)
        for start in range(0, len(rows), step):
            yield each, rows[start : start + step]
