"""Sums of one term for each feature: what they are for each metric, and how far they can be off.

Some metrics are sums, or maxima, of one term for each feature, or are computed from such sums. A
search computes the terms in float32 or float64, with unit roundoff u, so a computed sum S' differs
from the exact sum S by rounding. A space converts a limit of the final figures, which are the
distances that `Metric.distances` computes, to a limit of S' that no item within the limit exceeds.
Terms are not negative, so the limit also holds for the sum of any of the terms.

Let n be the number of features and v = 2**-53. A sum of n terms that are not negative is off by
less than ``(n - 1) u (1 + u)`` of itself, in any order (see `pyspark_knn.index.rounding`). Final
figures are right to ``(n + 32) v`` of themselves, which the margins below contain: each has 10 %
for products of errors, and a constant that is larger than needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

LARGEST_COORDINATE = 2.0**12
"""The largest magnitude of a query, where that of items is 1. Its powers do not overflow."""


class Operand(NamedTuple):
    """Transformed vectors.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_features)
        The coordinates.
    sizes : ndarray of shape (n_rows, n_features)
        Their absolute values, for the metrics that need them; otherwise `values` itself.
    norms : ndarray of shape (n_rows,), dtype float64
        The 1-norms of the rows, which the bounds contain.
    rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
        The vectors as they are.
    """

    values: NDArray[Any]
    sizes: NDArray[Any]
    norms: NDArray[np.float64]
    rows: NDArray[np.floating]

    def columns(self) -> Operand:
        """Return the vectors with transposed coordinates: one contiguous row for each feature."""
        values = np.ascontiguousarray(self.values.T)
        plain = self.sizes is self.values
        sizes = values if plain else np.ascontiguousarray(self.sizes.T)
        return self._replace(values=values, sizes=sizes)

    def take(self, rows: NDArray[np.int64] | slice) -> Operand:
        """Return some of the vectors."""
        values = self.values[rows]
        sizes = values if self.sizes is self.values else self.sizes[rows]
        return Operand(values, sizes, self.norms[rows], self.rows[rows])


class Pairs(NamedTuple):
    """Coordinates of vectors to combine: arrays that broadcast together.

    Attributes
    ----------
    left, left_sizes : ndarray
        Coordinates of items, and their absolute values.
    right, right_sizes : ndarray
        The same of queries.
    """

    left: NDArray[Any]
    left_sizes: NDArray[Any]
    right: NDArray[Any]
    right_sizes: NDArray[Any]


class TermSpace(ABC):
    """The transform of vectors to coordinates, their terms, and the limits of sums of terms.

    Parameters
    ----------
    metric : Metric
        The metric.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    dtype : type
        The dtype of the terms, float32 or float64.

    Attributes
    ----------
    acc_dtype : type
        The dtype of sums.
    combine : numpy.ufunc
        Combines terms: `numpy.add` or `numpy.maximum`.
    """

    combine: ClassVar[np.ufunc] = np.add
    wider: ClassVar[bool] = True
    """Whether float64 can rule out more items than float32."""

    has_second: ClassVar[bool] = False
    """Whether distances are ratios of two sums."""

    possible: bool = True
    """Whether the bounds hold for the items."""

    scaling_exponent: int = 0
    """The exponent of the power of two by which values are divided."""

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        self._metric = metric
        self._n_features = matrix.shape[1]
        self.dtype = dtype
        self.acc_dtype: type[Any] = dtype
        self._unit = float(np.finfo(dtype).eps) / 2
        self._tiny = float(np.finfo(dtype).tiny)

    @abstractmethod
    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return for which queries the bounds hold."""

    @abstractmethod
    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """Transform items or queries."""

    @abstractmethod
    def terms(self, pairs: Pairs, out: NDArray[Any], spare: NDArray[Any]) -> None:
        """Write the term of each pair of coordinates to `out`; `spare` has the same shape."""

    @abstractmethod
    def limits(
        self, distances: NDArray[np.float64], queries: Operand, items: Operand
    ) -> NDArray[Any]:
        """Return limits of sums that no item within the distances exceeds.

        Parameters
        ----------
        distances : ndarray of shape (n_queries,), dtype float64
            Final figures, at least 0.
        queries, items : Operand
            The queries, and the items, of which only the norms are read.

        Returns
        -------
        ndarray of shape (n_queries, 1) or (n_queries, n_items), of `acc_dtype`
            The limits, inclusive.
        """

    @abstractmethod
    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return about the final figures that sums stand for.

        Parameters
        ----------
        sums : ndarray, dtype float64
            Sums or, for a metric that has second sums, their ratios.

        Returns
        -------
        ndarray, dtype float64
            The figures. No answer depends on how far they are off.
        """

    def second_of_norms(self, queries: Operand, items: Operand) -> NDArray[Any] | None:
        """Return the second sums of all pairs, where the norms are enough to know them.

        Parameters
        ----------
        queries, items : Operand
            The queries and the items.

        Returns
        -------
        ndarray of shape (n_queries, n_items), of `acc_dtype`, or None
            The sums; None if they must be computed term by term.
        """
        return None

    def second_terms(self, pairs: Pairs, out: NDArray[Any]) -> None:
        """Write the terms of a second sum, for a metric that has one."""
        raise NotImplementedError

    def second_limits(
        self,
        distances: NDArray[np.float64],
        sums: NDArray[Any],
        norms: NDArray[np.float64],
    ) -> NDArray[Any]:
        """Return limits of sums, given the second sums, for a metric that has them.

        Parameters
        ----------
        distances : ndarray, dtype float64
            Final figures.
        sums : ndarray
            The second sums, of a shape that `distances` and `norms` broadcast to.
        norms : ndarray, dtype float64
            Sums of the 1-norms of a query and of an item, or larger numbers.

        Returns
        -------
        ndarray of the shape of `sums`
            The limits, inclusive.
        """
        raise NotImplementedError

    def _rounded_up(self, limits: NDArray[np.float64]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            above: NDArray[Any] = np.nextafter(limits.astype(self.dtype), self.dtype(np.inf))
        return above
