"""The score spaces of sparse vectors, see `pyspark_knn.index.score_space`.

The bound of `pyspark_knn.index.rounding` depends on the number of terms of a sum. Terms of 0 are
added without rounding, so of the sums that the bound covers:

* a product with an item, and the squared norm of the item, have at most m terms other than 0, where
  m is the largest number of stored values of an item;
* norms for cosine and final figures are added in the order of `summation.fold`, so a term takes
  part in up to ``L = ceil(log2(d))`` additions, where d is the dimension.

The bound has a term ``5 L v`` for the latter. It grows by at least ``3 v`` with each feature, so it
grows by more than ``5 L v`` with 3 L features, and the bound for ``m + 3 L`` features holds.

The squared norm of a query is a sum of up to d terms, in an order that is up to numpy. It is off by
at most ``n v`` of itself, where n is the number of its terms. Only `least_scores` of euclidean
distance need it to that accuracy, and they allow for it.

Nothing is centered, since centered vectors are not sparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.rounding import V
from pyspark_knn.index.score_space import (
    Queries,
    ScoreSpace,
    remaining_exponent,
    scaling_exponent,
)
from pyspark_knn.index.score_spaces import DirectionSpace, EuclideanSpace, ProductSpace
from pyspark_knn.index.sparse.keyed import KeyedRows, scaled_rows
from pyspark_knn.index.sparse.rows import slices_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.sparse.rows import SparseRows

_BLOCK_VALUES = 1 << 18
"""Stored values of the items whose norms are computed at a time."""

_ABOVE = 1.0 + 2.0**-20
"""A number multiplied by this is above it, also after both are rounded to float32."""

_SAFE_EXPONENT = 500
"""Up to this exponent, a row can be scaled by one multiplication."""


class SparseEuclideanSpace(EuclideanSpace):
    """Scores of euclidean distance, squared or not, with factors or without."""

    def __init__(self, metric: Metric, items: KeyedRows) -> None:
        rows = items.rows
        ScoreSpace.__init__(self, metric, n_terms(items))
        exponent = scaling_exponent(_largest(rows))
        self._scale = 2.0**-exponent
        self._factor = None
        self._more_scale = 1.0
        factor = metric.params.get("factor")
        if factor is not None:
            more = int(np.frexp(factor.max())[1])
            self._factor = np.ldexp(factor, -more)
            # Scaled before vectors are squared, since squares lose bits where they underflow.
            rest = remaining_exponent(
                max(_largest(self.vectors(rows[where], where)) for where in _blocks(rows))
            )
            self._more_scale = 2.0**-rest
            exponent += more + rest
        squares = self._squares_of(rows)
        rest = remaining_exponent(float(np.sqrt(squares.max())))
        # Separate from `_scale`, since the product of both may be beyond the range of float64.
        self._more_scale *= 2.0**-rest
        self._squares = np.ldexp(squares, -2 * rest)
        self._exponent = exponent + rest
        self._norm = float(np.sqrt(self._squares.max()))

    def _squares_of(self, rows: SparseRows) -> NDArray[np.float64]:
        squares = np.empty(len(rows))
        for where in _blocks(rows):
            squares[where] = _squared_norms(self.vectors(rows[where], where))
        return squares

    def vectors(self, items: SparseRows, where: slice | NDArray[np.int64]) -> SparseRows:
        """See `ScoreSpace.vectors`."""
        if self._scale == 1.0 and self._more_scale == 1.0 and self._factor is None:
            return items
        items = items.compact()
        values = np.multiply(items.data, self._scale, dtype=np.float64)
        if self._factor is not None:
            values *= self._factor[items.indices]
        if self._more_scale != 1.0:
            values *= self._more_scale
        return items.replaced(values)

    def queries(self, rows: KeyedRows) -> Queries:
        """See `ScoreSpace.queries`."""
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = self.vectors(rows.rows, slice(None))
            squares = _squared_norms(vectors)
        return Queries(vectors, squares, np.full(len(squares), self._exponent))

    def least_scores(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """See `ScoreSpace.least_scores`, and above."""
        errors = queries.vectors.lengths * V * queries.squares
        least: NDArray[np.float64] = super().least_scores(limits, queries) - errors
        return least


class SparseProductSpace(ProductSpace):
    """Scores of inner_product."""

    null_figure = 0.0

    def __init__(self, metric: Metric, items: KeyedRows) -> None:
        rows = items.rows
        ScoreSpace.__init__(self, metric, n_terms(items))
        self._exponent = scaling_exponent(_largest(rows))
        self._scale = 2.0**-self._exponent
        self._norms = np.empty(len(rows))
        for where in _blocks(rows):
            self._norms[where] = np.sqrt(_squared_norms(self.vectors(rows[where], where)))
        self._norm = float(self._norms.max())

    def null_ceiling(self, dtype: type[np.floating]) -> float:
        """See `ScoreSpace.null_ceiling`: the ceiling of such a pair is the item's term."""
        terms, _ = self.terms(np.array([self._norms.argmax()]), dtype)
        return float(terms[0]) * _ABOVE

    def vectors(self, items: SparseRows, where: slice | NDArray[np.int64]) -> SparseRows:
        """See `ScoreSpace.vectors`."""
        if self._scale == 1.0:
            return items
        items = items.compact()
        return items.replaced(np.multiply(items.data, self._scale, dtype=np.float64))

    def queries(self, rows: KeyedRows) -> Queries:
        """See `ScoreSpace.queries`."""
        vectors, exponents = scaled_rows(rows.rows)
        more = np.frexp(np.sqrt(_squared_norms(vectors)))[1].astype(np.int64)
        vectors = vectors.replaced(np.ldexp(vectors.data, -np.repeat(more, vectors.lengths)))
        return Queries(vectors, _squared_norms(vectors), exponents + more + self._exponent)


class SparseDirectionSpace(DirectionSpace):
    """Scores of cosine."""

    null_figure = 1.0
    per_item = ("_items",)

    def __init__(self, metric: Metric, items: KeyedRows) -> None:
        ScoreSpace.__init__(self, metric, n_terms(items))
        self._items = items

    def vectors(self, items: SparseRows, where: slice | NDArray[np.int64]) -> SparseRows:
        """See `ScoreSpace.vectors`."""
        return _units(items, self._items, where)

    def queries(self, rows: KeyedRows) -> Queries:
        """See `ScoreSpace.queries`."""
        vectors = _units(rows.rows, rows, slice(None))
        return Queries(vectors, _squared_norms(vectors), np.zeros(len(vectors), np.int64))

    def terms(
        self, where: slice | NDArray[np.int64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ScoreSpace.terms`."""
        errors = np.full(len(self._items.rows[where]), self._error(dtype))
        return errors, 2.0 * errors

    def _error(self, dtype: type[np.floating]) -> float:
        return self._rounding[dtype] + 4.0 * self._underflow[dtype]

    def null_ceiling(self, dtype: type[np.floating]) -> float:
        """See `ScoreSpace.null_ceiling`: the ceiling of such a pair is the item's term."""
        return self._error(dtype) * _ABOVE


def n_terms(items: KeyedRows) -> int:
    """Return the number of features for which the bound of `rounding` holds, see above.

    Parameters
    ----------
    items : KeyedRows
        The items, at least one.

    Returns
    -------
    int
        The number of features.
    """
    return int(items.rows.lengths.max()) + 3 * items.n_features.bit_length()


def _blocks(rows: SparseRows) -> list[slice]:
    return slices_of(rows.lengths, _BLOCK_VALUES)


def _largest(rows: SparseRows) -> float:
    data = rows.compact().data
    return max(float(data.max(initial=0.0)), -float(data.min(initial=0.0)))


def _squared_norms(rows: SparseRows) -> NDArray[np.float64]:
    data = rows.compact().data.astype(np.float64, copy=False)
    squares = np.zeros(len(rows))
    some = np.flatnonzero(rows.lengths)
    if some.size:
        squares[some] = np.add.reduceat(data * data, (rows.indptr - rows.indptr[0])[some])
    return squares


def _units(rows: SparseRows, keyed: KeyedRows, where: slice | NDArray[np.int64]) -> SparseRows:
    """Return the unit vectors of `rows`, which are the rows `where` of `keyed`."""
    if keyed.exponents is None or keyed.norms is None:
        raise ValueError("only rows for metric 'cosine' have norms")
    rows = rows.compact()
    exponents = keyed.exponents[where].astype(np.int64)
    inverse = 1.0 / keyed.norms[where]
    values = rows.data
    if np.abs(exponents).max(initial=0) > _SAFE_EXPONENT:
        values = np.ldexp(values.astype(np.float64), -np.repeat(exponents, rows.lengths))
    else:
        inverse = np.ldexp(inverse, -exponents)
    return rows.replaced(values * np.repeat(inverse, rows.lengths))


SPACES: dict[str, Callable[[Metric, KeyedRows], ScoreSpace]] = {
    "cosine": SparseDirectionSpace,
    "euclidean": SparseEuclideanSpace,
    "inner_product": SparseProductSpace,
    "minkowski": SparseEuclideanSpace,
    "seuclidean": SparseEuclideanSpace,
    "sqeuclidean": SparseEuclideanSpace,
}
"""Canonical name of a metric -> its score space."""
