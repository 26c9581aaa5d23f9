"""Which distances of a tree are final figures already, equal to `Metric.distances` to the bit.

A tree computes a maximum of differences, or a sum of two terms, by the operations of our formulas,
which are correctly rounded, so that there is one possible result. The exception is a compiler that
contracts ``a * a + s`` to one operation, as some do on ARM; `_agrees` finds out. Sums of more terms
are computed in another order.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.tree_space import TreeSpace

_MOST_FEATURES = {"chebyshev": np.inf, "cityblock": 2, "euclidean": 2}
"""Metric -> the largest number of features with which the tree computes our figures."""

_LEAST = {"euclidean": 2.0**-449}
"""Metric -> figures below this are computed by our formula from scaled terms, since squares lose
bits to underflow. See `pyspark_knn.index.summation.unsafe`; large ones are no matter, since
`TreeSpace.serves` excludes them."""

_PROBES = 64
"""Vectors, of which all pairs are compared. Contracted sums differ in about every fourth pair."""


class FinalFigures(NamedTuple):
    """The distances of a tree that are final figures.

    Attributes
    ----------
    least : float
        The smallest distance that is one.
    """

    least: float

    @classmethod
    def of(cls, tree_class: Any, space: TreeSpace, n_features: int) -> FinalFigures | None:
        """Return which distances of a tree are final figures; None if they are not.

        Parameters
        ----------
        tree_class : type
            scikit-learn's class of the tree.
        space : TreeSpace
            The coordinates of the tree.
        n_features : int
            The dimension of the vectors.

        Returns
        -------
        FinalFigures or None
            The figures.
        """
        metric = space.source
        changed = space.exponent != 0 or space.linear is not None
        if changed or n_features > _MOST_FEATURES.get(metric.name, 0):
            return None
        if not _agrees(tree_class, metric.name, n_features):
            return None
        return cls(_LEAST.get(metric.name, 0.0))

    def other(self, distances: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where distances are no final figures.

        Parameters
        ----------
        distances : ndarray of shape (n_queries, n_items), dtype float64
            Distances by the tree.

        Returns
        -------
        rows, columns : ndarray of shape (n_pairs,), dtype int64
            The places of the others.
        """
        return np.divmod(np.flatnonzero(distances < self.least), distances.shape[1])


@functools.cache
def _agrees(tree_class: Any, name: str, n_features: int) -> bool:
    """Whether the tree of this platform computes our figures, for pairs of random vectors."""
    # Not at the top, since the module depends on this one.
    from pyspark_knn.index.distances import resolve_metric

    metric: Metric = resolve_metric(name)
    vectors = np.random.default_rng(0).standard_normal((_PROBES, n_features))
    distances, positions = tree_class(vectors, metric=name).query(vectors, _PROBES)
    rows = np.repeat(np.arange(_PROBES), _PROBES)
    expected = metric.distances(vectors, vectors, rows, positions.ravel())
    return np.array_equal(distances.ravel(), expected)
