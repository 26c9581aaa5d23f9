"""Which pairs are within a distance, by the signs of products, in spite of their rounding errors.

Let q and x be two vectors of d features, of which both have c: let J be these, S the sum of
``(q_j - x_j)**2`` over J, and B that of ``q_j**2 + x_j**2``. The distance is at most r if ``S <=
t c``, where ``t = r**2 / d``. With 0 in place of missing values, and with m, which is 1 where
there is a value and otherwise 0,

    t c - S  =  the sum of  (t m_q - q**2) m_x  +  2 q x  -  m_q x**2  over all features.

This is one product of 3 d columns: the first factors are those of the query (`QueryFactors`), the
second ones those of the item (`MissingSpace.right`). Its sign says whether the item is a
candidate.

What is computed is off by rounding. All terms of features outside of J are exactly 0, so the
error depends on J alone. Let u be the unit roundoff of the products (2**-24 or 2**-53), ``v =
2**-53``, and n = 3 d + 2, which is the largest number of columns.

1. Additions. In whatever order, every partial sum is a sum of some of the terms. The positive
   terms are at most ``t c + B`` together, since ``2 |q x| <= q**2 + x**2``. The negative ones are
   no more than that if ``S <= t c``. So each of the n - 1 additions is off by at most ``u (t c +
   B)``, to first order.
2. Multiplications are off by u of their terms, whose sizes are at most ``t c + 2 B`` together;
   with fused multiply-adds they are exact.
3. Vectors are off by 3 v of each component (a scale, a center, a factor) and are then rounded. So
   ``t m_q - q**2`` is off by ``(u + 8 v) (t + q**2)``, ``2 q x`` by ``(2 u + 8 v) 2 |q x|`` and
   ``m_q x**2`` by ``(4 u + 8 v) x**2``: together by at most ``(3 u + 16 v) (t c + 2 B)``.
4. Where no item lacks a feature, its m_x is 1, and these factors of the query are added up to one
   column. Where no query lacks it, the same is done with ``x**2``. These sums are made in
   float64: they are off by ``d v`` of the sizes of their terms.

With 5 % for products of these errors, the sum of all is below ``rho (t c + B)``, where

    rho = 1.05 ((n + 8) u + 2 (d + 16) v).

The remedy costs nothing: ``q**2`` and the m_q of the third column are multiplied by ``1 - rho``,
which adds ``rho B`` to the true number, and t is divided by ``1 - rho``, which adds ``rho t c``,
of the new t. Then *the computed number of every pair within the distance is above 0*. That of a
pair without a common feature is exactly 0, since all of its terms are.

With t = 0 and ``1 + rho``, what is computed is at most ``-S (1 - rho)``: the negative terms are S
more than the positive ones, so the error is below ``rho (S + B)``. (The terms grow by ``1 +
rho``, for which the 5 % suffice as long as ``rho < 0.02``.) With t = 1 and without the other
terms, it is c, a sum of ones, without any error. So a product of each kind gives ``S / c``, and
with it a first t.

Underflow may hide the smallest normal number for each of the n multiplications and additions, and
for each component, times what this is multiplied by: less than ``n tiny (8 + 2 |q| + 2 |x|)``.
This is added to t, which counts at least once.

The square of a final figure is off by ``(L + 10) v`` of itself, where L = ceil(log2(d)): the sum
(see `summation.fold`), its terms, the ratio ``d / c``, and the root. To this comes the smallest
float64. So r is raised by as much before it is squared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.missing.factors import Queries, QueryFactors, chosen, columns
from pyspark_knn.index.rounding import V
from pyspark_knn.index.score_space import remaining_exponent, row_blocks, scaling_exponent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_LARGEST_REACH = 2.0**100
"""The t of a query of which every item with a common feature is a candidate: ``S / c`` is at most
2**82 for components up to 2**40."""

_WORTH_CENTERING = 0.75
"""The share of the means in the sums of squares from which on they are subtracted."""

_SAMPLE_ITEMS = 1 << 16
"""Items of the sample whose means are computed."""


def rounding(n_features: int, dtype: type[np.floating]) -> float:
    """Return the rho of the bound above.

    Parameters
    ----------
    n_features : int
        The dimension of the vectors, d.
    dtype : type
        The dtype of the products, float32 or float64.

    Returns
    -------
    float
        The relative error of a product; inf if it is too large to rule out anything.
    """
    unit = float(np.finfo(dtype).eps) / 2
    rho = 1.05 * ((3 * n_features + 10) * unit + 2 * (n_features + 16) * V)
    return rho if rho < 0.02 else np.inf


class MissingSpace:
    """The transform of items and queries to the factors of a product, see above.

    Parameters
    ----------
    metric : Metric
        The metric nan_euclidean.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.

    Attributes
    ----------
    dtypes : tuple of type
        The dtypes of products that can rule out items, in the order in which to try them.
    """

    def __init__(self, metric: Metric, matrix: NDArray[np.floating]) -> None:
        self._n_features = int(matrix.shape[1])
        kinds: tuple[type[np.floating], ...] = (np.float32, np.float64)
        self._rounding = {kind: rounding(self._n_features, kind) for kind in kinds}
        self.dtypes = tuple(kind for kind in kinds if self._rounding[kind] < np.inf)
        self._center: NDArray[np.float64] | None = None
        self._factor: NDArray[np.float64] | None = None
        self._lacking = np.zeros(self._n_features, bool)
        largest = 0.0
        for _, rows in row_blocks(matrix):
            self._lacking |= np.isnan(rows).any(axis=0)
            largest = max(largest, _largest(rows))
        self._exponent = scaling_exponent(largest)
        self._scale = 2.0**-self._exponent
        if "factor" in metric.params:
            factor = metric.params["factor"]
            more = int(np.frexp(factor.max())[1])
            self._factor = np.ldexp(factor, -more)
            self._exponent += more
        self._center = self._worthwhile_center(matrix)
        largest = max(_largest(self._transformed(rows)[0]) for _, rows in row_blocks(matrix))
        rest = remaining_exponent(largest)
        if rest:
            ones = np.ones(self._n_features)
            self._factor = np.ldexp(ones if self._factor is None else self._factor, -rest)
            self._exponent += rest
        self._largest = float(np.ldexp(largest, -rest))

    def _worthwhile_center(self, matrix: NDArray[np.floating]) -> NDArray[np.float64] | None:
        """Return the means of the present values of a sample, if it is worthwhile to subtract."""
        sample = matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]
        sums, squares = np.zeros(self._n_features), np.zeros(self._n_features)
        counts = np.zeros(self._n_features)
        for _, rows in row_blocks(sample):
            scaled = np.multiply(rows, self._scale, dtype=np.float64)
            missing = np.isnan(scaled)
            scaled[missing] = 0.0
            sums += scaled.sum(axis=0)
            squares += np.square(scaled).sum(axis=0)
            counts += len(rows) - missing.sum(axis=0)
        means: NDArray[np.float64] = sums / np.maximum(counts, 1)
        weights = np.ones(self._n_features) if self._factor is None else self._factor**2
        worthwhile = weights @ (counts * means**2) > _WORTH_CENTERING * (weights @ squares)
        return means if worthwhile else None

    def _transformed(
        self, rows: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """Return vectors with 0 for what is missing, and where it is."""
        missing = np.isnan(rows)
        if self._scale == 1.0 and self._center is None and self._factor is None:
            return np.where(missing, rows.dtype.type(0), rows), missing
        vectors: NDArray[np.float64] = np.multiply(rows, self._scale, dtype=np.float64)
        if self._center is not None:
            vectors -= self._center
        if self._factor is not None:
            vectors *= self._factor
        vectors[missing] = 0.0
        return vectors, missing

    def queries(self, rows: NDArray[np.floating]) -> Queries:
        """Transform queries; `serves` is False for those that overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            vectors, missing = self._transformed(rows)
            wide = vectors.astype(np.float64, copy=False)
            lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        lacking: NDArray[np.bool_] = np.any(missing, axis=0)
        return Queries(wide, ~missing, lengths, lacking)

    def serves(self, queries: Queries) -> NDArray[np.bool_]:
        """Return for which queries the bound holds: neither products nor figures overflow."""
        longest = np.sqrt(self._n_features) * (queries.lengths + self._largest)
        with np.errstate(invalid="ignore"):
            exponents = self._exponent + np.frexp(longest)[1] + self._n_features.bit_length()
        served: NDArray[np.bool_] = (queries.lengths < 2.0**40) & (exponents < 1020)
        return served

    def left(self, queries: Queries, dtype: type[np.floating]) -> QueryFactors:
        """Return the queries' factors of products in `dtype`."""
        return QueryFactors(queries, self._lacking, self._rounding[dtype], dtype)

    def right(
        self, rows: NDArray[np.floating], lacking: NDArray[np.bool_], out: NDArray[np.floating]
    ) -> None:
        """Write the factors of items.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
            The items.
        lacking : ndarray of shape (n_features,), dtype bool
            The features that some query lacks.
        out : ndarray of shape (n_rows, n_columns), dtype float32 or float64
            Where to write them.
        """
        vectors, missing = self._transformed(rows)
        masks, plain, squares = columns(self._lacking, lacking)
        np.logical_not(missing[:, chosen(self._lacking)], out=out[:, masks], casting="unsafe")
        out[:, plain] = vectors
        some = out[:, plain][:, chosen(lacking)]
        np.multiply(some, some, out=out[:, squares])
        out[:, -2] = 1.0
        rest = vectors[:, ~lacking]
        out[:, -1] = np.einsum("ij,ij->i", rest, rest, dtype=np.float64)

    def reaches(
        self, limits: NDArray[np.float64], queries: Queries, dtype: type[np.floating]
    ) -> NDArray[np.float64]:
        """Return the t of each query, raised by all errors of products in `dtype`.

        Parameters
        ----------
        limits : ndarray of shape (n_queries,), dtype float64
            The largest distance of a candidate of each query, inclusive.
        queries : Queries
            The queries.
        dtype : type
            The dtype of the products.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The numbers; -1 for a negative distance.
        """
        least = 2.0 ** min(300, -1074 - self._exponent)
        with np.errstate(over="ignore"):
            squares = (np.ldexp(limits, -self._exponent) + least) ** 2
            reaches = squares / self._n_features * (1.0 + self._figure_error)
        reaches += self._underflow(queries, dtype)
        reaches /= 1.0 - self._rounding[dtype]
        return np.where(limits < 0, -1.0, np.minimum(reaches, _LARGEST_REACH))

    def limits(
        self, ratios: NDArray[np.float64], queries: Queries, dtype: type[np.floating]
    ) -> NDArray[np.float64]:
        """Return distances that final figures do not exceed, given the computed ``S / c``.

        Parameters
        ----------
        ratios : ndarray of shape (n_queries,), dtype float64
            Quotients of the products of `QueryFactors.sums`, in `dtype`; may be inf.
        queries, dtype
            See `reaches`.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The distances.
        """
        unit = float(np.finfo(dtype).eps)
        squares = np.maximum(ratios, 0.0) * (1.0 + 4.0 * unit) / (1.0 - self._rounding[dtype])
        squares += self._underflow(queries, dtype)
        figures = np.sqrt(squares * self._n_features) * (1.0 + self._figure_error)
        with np.errstate(over="ignore"):
            limits: NDArray[np.float64] = np.ldexp(figures, self._exponent) + 2.0**-1074
        return limits

    @property
    def _figure_error(self) -> float:
        """Twice the relative error of the square of a final figure, and more."""
        return 2.0 * (self._n_features.bit_length() + 16) * V

    def _underflow(self, queries: Queries, dtype: type[np.floating]) -> NDArray[np.float64]:
        tiny = max(float(np.finfo(dtype).tiny), 2.0**-400)
        sizes = 8.0 + 2.0 * queries.lengths + 2.0 * self._largest
        underflow: NDArray[np.float64] = (3 * self._n_features + 2) * tiny * sizes
        return underflow


def _largest(rows: NDArray[np.floating]) -> float:
    """Return the largest magnitude of the values that are there."""
    flat = rows.ravel()
    largest: float = max(np.fmax.reduce(flat, initial=0.0), -np.fmin.reduce(flat, initial=0.0))
    return float(largest)
