"""Sparse rows with the keys of their features, which their exact sums need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.sparse.rows import SparseRows, slices_of
from pyspark_knn.index.sparse.sums import Terms, fold_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_MANY_FEATURES = 1 << 16
"""An index of up to this dimension has a column for each feature."""

_SAFE_EXPONENT = 1000
"""Up to this exponent, a power of two is a normal number, and so is its inverse."""

_CHUNK_VALUES = 1 << 18
"""Stored values of the rows that are read at a time. In norms, each takes about 100 bytes."""


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
        columns = np.empty(rows.size, np.int32)
        for start in range(0, rows.size, _CHUNK_VALUES):
            part = slice(start, start + _CHUNK_VALUES)
            columns[part] = np.searchsorted(self.used, rows.indices[part])
        np.minimum(columns, len(self.used) - 1, out=columns)
        known = self.used[columns] == rows.indices
        if known.all():
            return SparseRows(rows.data, columns, rows.indptr, len(self.used))
        row = np.repeat(np.arange(len(rows)), rows.lengths)[known]
        shape = len(rows), len(self.used)
        return SparseRows.from_entries(row, columns[known], rows.data[known], shape)

    def restored(self, rows: SparseRows) -> SparseRows:
        """Return rows with features instead of columns: the inverse of `numbered`."""
        if self.used is None:
            return rows
        return SparseRows(rows.data, self.used[rows.indices], rows.indptr, self.n_features)


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
        The key of each stored value or, if `numbering` is given, of each column of `rows`: items
        have many values in the same columns.
    numbering : Numbering or None
        The columns of `rows`; None if they are the features.
    exponents, norms : ndarray of shape (n_rows,), dtype int16 and float64, or None
        For cosine: the power of two that `summation.scale` divides a row by, and the norm of the
        scaled row; 1 for a row of zeros.
    """

    rows: SparseRows
    n_features: int
    keys: NDArray[np.integer]
    numbering: Numbering | None = None
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
        return cls(rows, rows.n_features, keys)._with_norms(metric)

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
        return cls(rows, numbering.n_features, keys, numbering)._with_norms(metric)

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

    def __getitem__(self, where: slice) -> KeyedRows:
        """Return some of the items: views of the arrays."""
        if self.exponents is None or self.norms is None:
            return replace(self, rows=self.rows[where])
        return replace(
            self,
            rows=self.rows[where],
            exponents=self.exponents[where],
            norms=self.norms[where],
        )

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
        key = self.keys[at if self.numbering is None else self.rows.indices[at]]
        value = self.rows.data[at].astype(np.float64, copy=False)
        return row, key.astype(np.int64, copy=False), value

    def scaled(
        self, rows: NDArray[np.integer]
    ) -> tuple[
        tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]
    ]:
        """Return what `values` does, scaled as by `summation.scale`, and the norms of the rows."""
        row, key, value = self.values(rows)
        value, norms = self._scaled(value, rows)
        return (row, key, value), norms

    def _scaled(
        self, values: NDArray[np.float64], rows: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the stored values of some rows scaled, and the norms of the scaled rows."""
        if self.exponents is None or self.norms is None:
            raise ValueError("only rows for metric 'cosine' have norms")
        lengths = self.rows.lengths[rows]
        exponents = -self.exponents[rows].astype(np.int64)
        if np.abs(exponents).max(initial=0) <= _SAFE_EXPONENT:
            # The same: a product is rounded once, too. numpy's ldexp takes several times as long.
            values = values * np.repeat(np.ldexp(1.0, exponents), lengths)
        else:
            values = np.ldexp(values, np.repeat(exponents, lengths))
        return values, self.norms[rows]

    def units(
        self, rows: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return what `values` does, of the unit vectors of the rows."""
        (row, key, value), norms = self.scaled(rows)
        value /= norms[row]
        return row, key, value

    def unit_rows(self, rows: NDArray[np.integer]) -> SparseRows:
        """Return the unit vectors of some rows, with the columns of `rows`."""
        taken = self.rows.take(rows)
        values, norms = self._scaled(taken.data.astype(np.float64, copy=False), rows)
        return taken.replaced(values / np.repeat(norms, taken.lengths))


def row_maxima(rows: SparseRows) -> NDArray[np.float64]:
    """Return the largest magnitude in each row, 0 for rows of zeros: ndarray of shape (n_rows,)."""
    maxima = np.zeros(len(rows))
    some = np.flatnonzero(rows.lengths)
    for where in slices_of(rows.lengths[some], _CHUNK_VALUES):
        part = some[where]
        start, stop = rows.indptr[part[0]], rows.indptr[part[-1] + 1]
        sizes = np.abs(rows.data[start:stop])
        maxima[part] = np.maximum.reduceat(sizes, rows.indptr[part] - start)
    return maxima


def scaled_rows(rows: SparseRows) -> tuple[SparseRows, NDArray[np.int64]]:
    """Return rows scaled by powers of two as `summation.scale` does, and the exponents."""
    rows = rows.compact()
    exponents = np.frexp(row_maxima(rows))[1].astype(np.int64)
    values = np.ldexp(rows.data.astype(np.float64), -np.repeat(exponents, rows.lengths))
    return rows.replaced(values), exponents
