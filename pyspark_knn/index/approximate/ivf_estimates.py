"""Estimates of how far the neighbors of a query are, from the distances of centroids alone.

In many dimensions, the way from a centroid to an item is nearly at right angles to that from the
centroid to a query. So the squared distance of the two is about the sum of the squares of these
ways. An estimate proves nothing: a search within the estimated distance shows whether it was large
enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_COUNTED = 4
"""Items of each list whose distances from the centroid are known, at regular ranks."""

_NEAREST_LISTS = 16
"""The nearest lists, from which nearly all neighbors are."""

_MARGIN = 1.02
"""By how much the largest error of some estimates is multiplied: few others have a larger one."""

_LEAST_RATIO = 0.5
"""Where the median error is a smaller part of the largest one, estimates would be of little use."""


class Estimates:
    """Estimates of the squared distances of neighbors.

    Parameters
    ----------
    centroids : ndarray of shape (n_lists, n_coordinates), dtype float32
        The centroids.
    lists : sequence of ndarray of shape (n_items, n_coordinates), dtype float32
        The items of each list.
    """

    def __init__(
        self, centroids: NDArray[np.float32], lists: Sequence[NDArray[np.float32]]
    ) -> None:
        self._centroids = centroids
        self._lists = lists
        self._radii: dict[int, NDArray[np.float32]] = {}

    def limits(
        self,
        chosen: NDArray[np.int64],
        squares: NDArray[np.float32],
        rank: int,
        known: NDArray[np.floating],
    ) -> NDArray[np.float32] | None:
        """Return squared distances within which most queries have enough items.

        Parameters
        ----------
        chosen : ndarray of shape (n_queries, nprobe), dtype int64
            The lists of each query, about the nearest first.
        squares : ndarray of shape (n_queries, nprobe), dtype float32
            The squared distances of their centroids.
        rank : int
            The number of items that are wanted for a query.
        known : ndarray of shape (n_known,), dtype float32
            The squared distance of the last of them, for the first queries; the largest float32 if
            there are not so many.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float32, or None
            The limits; None if they would differ too much from the right ones.
        """
        step = max(1, rank // 3)
        radii = self._of_step(step)
        near = slice(0, _NEAREST_LISTS)
        sums = radii.take(chosen[:, near], axis=0)
        sums += squares[:, near, None]
        sums = sums.reshape(len(chosen), -1)
        # Each of these stands for `step` items. With five thirds of the items that are wanted,
        # estimates differ less: GloVe words have 64 candidates a query, and 75 with those alone.
        place = min(-(-5 * rank // (3 * step)), sums.shape[1]) - 1
        estimates: NDArray[np.float32] = np.partition(sums, place, axis=1)[:, place]
        some = estimates[: len(known)]
        there = known < np.finfo(np.float32).max
        if not (there & np.isfinite(some) & (some > 0)).all():
            return None
        ratios = known / some
        if np.median(ratios) < _LEAST_RATIO * ratios.max():
            return None
        estimates[np.isinf(estimates)] = some.max()
        estimates *= np.float32(_MARGIN * ratios.max())
        return estimates

    def _of_step(self, step: int) -> NDArray[np.float32]:
        """Return the squared distances of some items of each list from its centroid."""
        if step not in self._radii:
            places = step * np.arange(1, _COUNTED + 1) - 1
            found = np.full((len(self._lists), _COUNTED), np.inf, np.float32)
            for number, (centroid, items) in enumerate(
                zip(self._centroids, self._lists, strict=True)
            ):
                there = places[places < len(items)]
                if there.size:
                    gaps = items - centroid
                    squares = np.einsum("ij,ij->i", gaps, gaps)
                    found[number, : len(there)] = np.partition(squares, there)[there]
            self._radii[step] = found
        return self._radii[step]
