"""The formulas of `pyspark_knn.index.kernels` for pairs of sparse vectors, to the last bit.

A formula gets the values of both vectors at the features where at least one of them is stored, and
adds its terms in the order of the dense formula, see `pyspark_knn.index.sparse.sums`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.narrow_angles import NARROW, distances_of, gaps
from pyspark_knn.index.sparse.keyed import KeyedRows, scaled_rows
from pyspark_knn.index.sparse.merged import MergedPairs
from pyspark_knn.index.sparse.rows import slices_of
from pyspark_knn.index.sparse.sums import Terms, features_of
from pyspark_knn.index.summation import unsafe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.sparse.rows import SparseRows

_CHUNK_VALUES = 1 << 17
"""Stored values of the pairs whose distances are computed at a time. Each takes about 100 bytes."""


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
        return MergedPairs.of((one, key, left), (other, more, right)).differences()

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
        with np.errstate(over="ignore", invalid="ignore"):
            left, right = self._vectors.take(rows), self._items.rows.take(positions)
            sums = self._sums_of_products(left, right)
        redo = np.flatnonzero(~np.isfinite(sums))
        if redo.size:
            left, exponents = scaled_rows(self._queries.rows.take(rows[redo]))
            right, more = scaled_rows(self._items.rows.take(positions[redo]))
            scaled = self._sums_of_products(self._numbered(left), right)
            with np.errstate(over="ignore"):
                sums[redo] = np.ldexp(scaled, exponents + more)
        # Subtracting from zero, not negating, so that no distance is -0.0.
        return 0.0 - sums

    def _cosine(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        left, right = self._units.take(rows), self._items.unit_rows(positions)
        cosines = self._sums_of_products(left, right)
        distances = np.minimum(1.0 - cosines, 2.0)
        near = np.flatnonzero(cosines > 0.5)
        if near.size:
            pairs = MergedPairs.of(
                self._queries.units(rows[near]), self._items.units(positions[near])
            )
            gap = pairs.differences()
            squares = Terms(gap.places, gap.values * gap.values).fold(len(near))
            distances[near] = 0.5 * squares
            near = near[squares < NARROW]
        if near.size:
            distances[near] = self._narrow_cosine(rows[near], positions[near])
        return distances

    @functools.cached_property
    def _vectors(self) -> SparseRows:
        """The queries, with the columns of the items."""
        return self._numbered(self._queries.rows)

    @functools.cached_property
    def _units(self) -> SparseRows:
        """The unit vectors of the queries, with the columns of the items."""
        return self._numbered(self._queries.unit_rows(np.arange(len(self._queries.rows))))

    def _numbered(self, queries: SparseRows) -> SparseRows:
        numbering = self._items.numbering
        return queries if numbering is None else numbering.numbered(queries)

    def _sums_of_products(self, left: SparseRows, right: SparseRows) -> NDArray[np.float64]:
        """Return the inner product of each pair of rows, with the columns of the items.

        Only features that both have are put in order: of the values of a pair, these are few.
        """
        products = left.matrix().multiply(right.matrix())
        sums = np.repeat(np.arange(len(left)), np.diff(products.indptr))
        keys = self._items.keys[products.indices].astype(np.int64)
        return Terms.of(sums, keys, products.data).fold(len(left))

    def _narrow_cosine(
        self, rows: NDArray[np.integer], positions: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """See `narrow_angles.narrow_cosines`."""
        (left, one), (right, other) = self._queries.scaled(rows), self._items.scaled(positions)
        first, second = MergedPairs.of(left, right).aligned()
        swapped = (one < other)[first.sums]
        values = np.where(swapped, second.values, first.values)
        others = np.where(swapped, first.values, second.values)
        norms = np.maximum(one, other)
        differences = gaps(values, others, (norms / np.minimum(one, other))[first.sums])
        squares = Terms(first.places, differences * differences).fold(len(rows))
        along = Terms(first.places, differences * values).fold(len(rows))
        return distances_of(squares, along, norms)
