"""The order in which a tree is asked for queries."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spatial_order(coordinates: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order of queries in which queries that follow one another are close, mostly.

    A tree that is asked in this order finds its nodes in the cache.

    Parameters
    ----------
    coordinates : ndarray of shape (n_queries, n_coordinates), dtype float64
        The coordinates of the queries.

    Returns
    -------
    ndarray of shape (n_queries,), dtype int64
        The order, as `numpy.argsort` returns it.
    """
    # A Z-order curve over the first coordinates. numpy sorts integers of 16 bits in linear time.
    n_columns = min(3, coordinates.shape[1]) if len(coordinates) else 0
    bits = 16 // max(1, n_columns)
    key = np.zeros(len(coordinates), np.uint16)
    spread = _spread(bits, n_columns)
    for column in range(n_columns):
        # One by one and contiguous: numpy takes several times as long to reduce short rows.
        values = coordinates[:, column].copy()
        low = values.min()
        with np.errstate(over="ignore"):
            span = values.max() - low
        if 0.0 < span < np.inf:
            cells = (values - low) / span * (2**bits - 1)
            key |= spread[cells.astype(np.uint16)] << column
    return np.argsort(key, kind="stable")


@functools.cache
def _spread(bits: int, step: int) -> NDArray[np.uint16]:
    """Return the numbers of `bits` bits with the bits moved apart, to every `step`-th place."""
    numbers = np.arange(2**bits)
    moved = [((numbers >> bit) & 1) << (bit * step) for bit in range(bits)]
    return np.asarray(np.sum(moved, axis=0), np.uint16)
