"""The formulas of `pyspark_knn.index.kernels` for pairs of sparse vectors, to the last bit.

A formula gets the values of both vectors at the features where at least one of them is stored, and
adds its terms in the order of the dense formula, see `pyspark_knn.index.sparse_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.kernels import PARALLEL
from pyspark_knn.index.sparse_rows import SparseRows, slices_of
from pyspark_knn.index.sparse_sums import KEY_BITS, Terms, features_of, fold_keys
from pyspark_knn.index.summation import unsafe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_MANY_FEATURES = 1 << 16
"""An index of up to this dimension has a column for each feature."""

_CHUNK_VALUES = 1 << 18
"""Stored values of the pairs whose distances are computed at a time. Each takes about 100 bytes."""


@dataclass(frozen=True)
class Numbering:
    """The columns of an index: all features or, of very many, only those that items have.

    So a table with an entry for each column never takes much more memory than the items.

    Attributes
    ----------
    n_features : int
        The dimension of the vectors.
    used : ndarray of shape (n_columns,), dtype int32, or None
        The feature of each column, in ascending order; None if the columns are the features.
    """

    n_features: int
    used: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, items: SparseRows) -> Numbering:
        """Return the numbering for an index of `items`."""
        if items.n_features <= max(_MANY_FEATURES, items.size):
            return cls(items.n_features)
        # Feature 0 is always used, so that there is at least one column.
        return cls(items.n_features, np.union1d(items.compact().indices, np.int32(0)))

    @property
    def n_columns(self) -> int:
        """The number of columns."""
        return self.n_features if self.used is None else len(self.used)

    def features(self) -> NDArray[np.integer]:
        """Return the feature of each column: ndarray of shape (n_columns,), integer."""
        return np.arange(self.n_features) if self.used is None else self.used

    def numbered(self, rows: SparseRows) -> SparseRows:
        """Return rows with columns instead of features; other features are dropped."""
        if self.used is None:
            return rows
        rows = rows.compact()
        column = np.searchsorted(self.used, rows.indices)
        np.minimum(column, len(self.used) - 1, out=column)
        known = self.used[column] == rows.indices
        row = np.repeat(np.arange(len(rows)), rows.lengths)[known]
        shape = len(rows), len(self.used)
        return SparseRows.from_entries(row, column[known], rows.data[known], shape)


@dataclass(frozen=True)
class KeyedRows:
    """Sparse rows, the keys of their features, and for cosine what makes them unit vectors.

    Attributes
    ----------
    rows : SparseRows
        The vectors.
    n_features : int
        The dimension of the vectors. `rows` may have fewer columns, see `Numbering`.
    keys : ndarray, dtype int64 or uint32
        The key of each stored value or, if `by_column`, of each column of `rows`.
    by_column : bool
        What `keys` are for. Items have many values in the same columns.
    exponents, norms : ndarray of shape (n_rows,), dtype int16 and float64, or None
        For cosine: the power of two that `summation.scale` divides a row by, and the norm of the
        scaled row; 1 for a row of zeros.
    """

    rows: SparseRows
    n_features: int
    keys: NDArray[np.integer]
    by_column: bool
    exponents: NDArray[np.int16] | None = None
    norms: NDArray[np.float64] | None = None

    @classmethod
    def of_queries(cls, metric: Metric, rows: SparseRows) -> KeyedRows:
        """Return queries with the keys of their stored values.

        Parameters
        ----------
        metric : Metric
            The metric.
        rows : SparseRows
            The vectors.
        """
        rows = rows.compact()
        keys = fold_keys(rows.indices, rows.n_features)
        return cls(rows, rows.n_features, keys, by_column=False)._with_norms(metric)

    @classmethod
    def of_items(cls, metric: Metric, rows: SparseRows, numbering: Numbering) -> KeyedRows:
        """Return items with the keys of their columns.

        Parameters
        ----------
        metric : Metric
            The metric.
        rows : SparseRows
            The vectors, with the columns of `numbering`.
        numbering : Numbering
            The columns.
        """
        keys = fold_keys(numbering.features(), numbering.n_features).astype(np.uint32)
        keyed = cls(rows, numbering.n_features, keys, by_column=True)
        return keyed._with_norms(metric)

    def _with_norms(self, metric: Metric) -> KeyedRows:
        if metric.name != "cosine":
            return self
        rows = self.rows
        exponents = np.frexp(row_maxima(rows))[1].astype(np.int16)
        norms = np.empty(len(rows))
        for part in slices_of(rows.lengths, _CHUNK_VALUES):
            numbers = np.arange(part.start, part.stop)
            row, key, value = self.values(numbers)
            value = np.ldexp(value, -exponents[part].astype(np.int64)[row])
            norms[part] = np.sqrt(Terms.of(row, key, value * value).fold(len(numbers)))
        norms[norms == 0] = 1.0
        return replace(self, exponents=exponents, norms=norms)

    def values(
        self, rows: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return the stored values of some rows.

        Parameters
        ----------
        rows : ndarray of shape (n,), integer
            Row numbers, in any order.

        Returns
        -------
        row : ndarray of shape (n_values,), dtype int64
            The position of the value's row in `rows`.
        key : ndarray of shape (n_values,), dtype int64
            The key of the value's feature.
        value : ndarray of shape (n_values,), dtype float64
            The value.
        """
        row, at = self.rows.entries(rows)
        key = self.keys[self.rows.indices[at] if self.by_column else at]
        value = self.rows.data[at].astype(np.float64, copy=False)
        return row, key.astype(np.int64, copy=False), value

    def units(
        self, rows: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return what `values` does, of the unit vectors of the rows."""
        if self.exponents is None or self.norms is None:
            raise ValueError("only rows for metric 'cosine' have norms")
        row, key, value = self.values(rows)
        value = np.ldexp(value, -self.exponents[rows].astype(np.int64)[row])
        value /= self.norms[rows][row]
        return row, key, value


def row_maxima(rows: SparseRows) -> NDArray[np.float64]:
    """Return the largest magnitude in each row, 0 for rows of zeros: ndarray of shape (n_rows,)."""
    maxima = np.zeros(len(rows))
    some = np.flatnonzero(rows.lengths)
    for first in range(0, len(some), _CHUNK_VALUES):
        part = some[first : first + _CHUNK_VALUES]
        start, stop = rows.indptr[part[0]], rows.indptr[part[-1] + 1]
        sizes = np.abs(rows.data[start:stop])
        maxima[part] = np.maximum.reduceat(sizes, rows.indptr[part] - start)
    return maxima


class SparseDistances:
    """The distances of pairs of a query and an item: those of `Metric.distances`, to the last bit.

    Parameters
    ----------
    metric : Metric
        A metric of sparse vectors that is not one of sets.
    queries, items : KeyedRows
        The vectors.
    """

    def __init__(self, metric: Metric, queries: KeyedRows, items: KeyedRows) -> None:
        self._metric = metric
        self._queries = queries
        self._items = items
        self._factor = metric.params.get("factor")

    def __call__(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Return the distance of each pair.

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), integer
            The row number of the query, and that of the item.

        Returns
        -------
        ndarray of shape (n_pairs,), dtype float64
            The distances.
        """
        formula = {"cosine": self._cosine, "inner_product": self._inner_product}
        compute = formula.get(self._metric.name, self._euclidean)
        result = np.empty(len(rows))
        lengths = self._queries.rows.lengths[rows] + self._items.rows.lengths[positions]
        for part in slices_of(lengths, _CHUNK_VALUES):
            result[part] = compute(rows[part], positions[part])
        return result

    # --- euclidean and its kin ---

    def _euclidean(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        count = len(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            terms = self._differences(rows, positions)
            values = terms.values
            if self._factor is not None:
                values = values * self._factors(terms)
            sums = Terms(terms.places, values * values).fold(count)
        exponents = np.zeros(count, np.int64)
        redo = np.flatnonzero(unsafe(sums) & (terms.largest(count) > 0))
        if redo.size:
            sums[redo], exponents[redo] = self._scaled_squares(rows[redo], positions[redo])
        with np.errstate(over="ignore"):
            if self._metric.name == "sqeuclidean":
                return np.ldexp(sums, 2 * exponents)
            return np.ldexp(np.sqrt(sums), exponents)

    def _differences(
        self,
        rows: NDArray[np.integer],
        positions: NDArray[np.integer],
        scale: NDArray[np.float64] | None = None,
    ) -> Terms:
        """Return the differences of pairs; `scale` multiplies both vectors of each pair."""
        one, key, left = self._queries.values(rows)
        other, more, right = self._items.values(positions)
        if scale is not None:
            left, right = left * scale[one], right * scale[other]
        return _differences((one, key, left), (other, more, right))

    def _factors(self, terms: Terms) -> NDArray[np.float64]:
        factor = np.asarray(self._factor)
        return factor[features_of(terms.keys, len(factor))]

    def _scaled_squares(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return sums of squares, and their exponents, as `summation.scaled_difference` does."""
        count = len(rows)
        with np.errstate(over="ignore"):
            terms = self._differences(rows, positions)
        beyond = np.isinf(terms.largest(count))
        if beyond.any():
            terms = self._differences(rows, positions, np.where(beyond, 0.25, 1.0))
        if self._factor is None:
            exponents = np.frexp(terms.largest(count))[1].astype(np.int64)
            scaled = np.ldexp(terms.values, -exponents[terms.sums])
        else:
            # Fractions and exponents are multiplied separately, since a product may overflow.
            scaled, powers = np.frexp(terms.values)
            more, more_powers = np.frexp(self._factors(terms))
            scaled *= more
            powers = np.where(scaled == 0, -10_000, powers.astype(np.int64) + more_powers)
            exponents = np.full(count, -10_000)
            np.maximum.at(exponents, terms.sums, powers)
            scaled = np.ldexp(scaled, powers - exponents[terms.sums])
        sums = Terms(terms.places, scaled * scaled).fold(count)
        return sums, exponents + 2 * beyond

    # --- products ---

    def _inner_product(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        left, right = self._queries.values(rows), self._items.values(positions)
        with np.errstate(over="ignore", invalid="ignore"):
            sums = _products(left, right).fold(len(rows))
        redo = np.flatnonzero(~np.isfinite(sums))
        if redo.size:
            left, exponents = _scaled(self._queries, rows[redo])
            right, more = _scaled(self._items, positions[redo])
            with np.errstate(over="ignore"):
                sums[redo] = np.ldexp(_products(left, right).fold(len(redo)), exponents + more)
        # Subtracting from zero, not negating, so that no distance is -0.0.
        return 0.0 - sums

    def _cosine(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        left, right = self._queries.units(rows), self._items.units(positions)
        cosines = _products(left, right).fold(len(rows))
        distances = np.minimum(1.0 - cosines, 2.0)
        near = np.flatnonzero(cosines > 0.5)
        if near.size:
            gap = _differences(self._queries.units(rows[near]), self._items.units(positions[near]))
            squares = Terms(gap.places, gap.values * gap.values).fold(len(near))
            squares[squares < PARALLEL**2] = 0.0
            distances[near] = 0.5 * squares
        return distances


_Values = tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float64]"]
"""What `KeyedRows.values` returns."""


def _differences(left: _Values, right: _Values) -> Terms:
    return Terms.of(
        np.concatenate([left[0], right[0]]),
        np.concatenate([left[1], right[1]]),
        np.concatenate([left[2], -right[2]]),
    )


def _products(left: _Values, right: _Values) -> Terms:
    """Return the products of the features that both vectors of a pair have."""
    places = np.concatenate([(row << KEY_BITS) | key for row, key, _ in (left, right)])
    values = np.concatenate([left[2], right[2]])
    order = np.argsort(places)
    places, values = places[order], values[order]
    both = np.flatnonzero(places[1:] == places[:-1])
    return Terms(places[both], values[both] * values[both + 1])


def _scaled(keyed: KeyedRows, rows: NDArray[np.integer]) -> tuple[_Values, NDArray[np.int64]]:
    """Return the values of rows scaled as by `summation.scale`, and the exponents."""
    row, key, value = keyed.values(rows)
    exponents = np.frexp(row_maxima(keyed.rows.take(rows)))[1].astype(np.int64)
    return (row, key, np.ldexp(value, -exponents[row])), exponents
