"""The terms of the metrics that are ratios, or sums of ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.terms.space import LARGEST_COORDINATE, Operand, Pairs, TermSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric


class _RatioSpace(TermSpace):
    """Coordinates of the metrics that are ratios: the values times a power of two."""

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, dtype)
        self.scaling_exponent = int(np.frexp(float(np.abs(matrix).max()))[1])
        self.possible = abs(self.scaling_exponent) < 900

    def _scaled(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            scaled: NDArray[np.float64] = np.ldexp(rows.astype(np.float64), -self.scaling_exponent)
        return scaled

    def _sizes_within(self, rows: NDArray[np.floating], low: float) -> NDArray[np.bool_]:
        sizes = np.abs(self._scaled(rows))
        within: NDArray[np.bool_] = (
            (sizes < LARGEST_COORDINATE) & ((sizes > low) | (rows == 0))
        ).all(axis=1)
        return within

    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `TermSpace.figures`."""
        return sums

    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """See `TermSpace.operand`."""
        scaled = self._scaled(rows)
        values = scaled.astype(self.dtype)
        return Operand(values, np.abs(values), np.abs(scaled).sum(axis=1), rows)


class CanberraSpace(_RatioSpace):
    """canberra: the terms ``|a - b| / (|a| + |b|)``, where 0/0 counts as 0.

    Coordinates are off by u of themselves, so the numerator is off by ``u (|a| + |b|)``, and by u
    of itself by the subtraction; the denominator by 2 u, with the smallest number t that is added
    so that it is not 0; the quotient by u. Since terms are at most 1, each is off by less than 5 u,
    and the sum is off by less than ``S' - S <= 1.1 (n u S + 5 n u)``. This holds where no value
    other than 0 is near t.
    """

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, dtype)
        self._low = 2.0**-90 if dtype is np.float32 else 2.0**-900
        step = max(1, (1 << 18) // self._n_features)
        self.possible = self.possible and all(
            bool(self._sizes_within(matrix[start : start + step], self._low).all())
            for start in range(0, len(matrix), step)
        )

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`."""
        return self._sizes_within(queries, self._low)

    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """See `TermSpace.operand`."""
        found = super().operand(rows)
        return found._replace(sizes=found.sizes + self.dtype(self._tiny))

    def terms(self, pairs: Pairs, out: NDArray[Any], spare: NDArray[Any]) -> None:
        """See `TermSpace.terms`."""
        np.subtract(pairs.left, pairs.right, out=out)
        np.abs(out, out=out)
        np.add(pairs.left_sizes, pairs.right_sizes, out=spare)
        np.divide(out, spare, out=out)

    def limits(
        self, distances: NDArray[np.float64], queries: Operand, items: Operand
    ) -> NDArray[Any]:
        """See `TermSpace.limits`."""
        n, unit = self._n_features, self._unit
        sums = distances * (1.0 + 1.1 * (n + 8) * unit + 2.0 * (n + 32) * 2.0**-53)
        return self._rounded_up(sums + 1.1 * 6.0 * n * unit)[:, None]


class BrayCurtisSpace(_RatioSpace):
    """braycurtis: the sum of ``|a - b|``, which is compared with a share of that of ``|a + b|``.

    Let N be the sum of the 1-norms of both vectors. Both sums are at most N. Coordinates are off by
    u of themselves or by t, differences by u, and a sum by ``(n - 1) u`` of itself, so each sum is
    off by less than ``e = 1.1 (n + 2) u N + 2 n t``. Within the distance L, ``S <= L N`` and so
    ``S' <= L N + e``. Where the second sum D' is known, ``S' <= L D' + (1 + L) e``. Where no value
    is negative, the second sum is N. Computed in float64, rounded and added, it is off by less
    than ``2 u + n v`` of itself and by t, which is below e.
    """

    has_second: ClassVar[bool] = True

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, dtype)
        self._unsigned = bool(matrix.min() >= 0)

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`."""
        return self._sizes_within(queries, -1.0)

    def terms(self, pairs: Pairs, out: NDArray[Any], spare: NDArray[Any]) -> None:
        """See `TermSpace.terms`."""
        np.subtract(pairs.left, pairs.right, out=out)
        np.abs(out, out=out)

    def second_of_norms(self, queries: Operand, items: Operand) -> NDArray[Any] | None:
        """See `TermSpace.second_of_norms`."""
        if not (self._unsigned and (queries.rows >= 0).all()):
            return None
        left, right = (each.norms.astype(self.dtype) for each in (queries, items))
        sums: NDArray[Any] = np.add(left[:, None], right)
        return sums

    def second_terms(self, pairs: Pairs, out: NDArray[Any]) -> None:
        """See `TermSpace.second_terms`."""
        np.add(pairs.left, pairs.right, out=out)
        np.abs(out, out=out)

    def _errors(self, norms: NDArray[np.float64]) -> NDArray[np.float64]:
        # The limits below are computed with some roundings more.
        n = self._n_features
        errors: NDArray[np.float64] = 1.1 * (n + 10) * self._unit * norms + 2.0 * n * self._tiny
        return errors

    def limits(
        self, distances: NDArray[np.float64], queries: Operand, items: Operand
    ) -> NDArray[Any]:
        """See `TermSpace.limits`."""
        left, right, share = (
            each.astype(self.dtype)
            for each in (queries.norms, items.norms, np.minimum(distances, 1.0))
        )
        found: NDArray[Any] = np.add(left[:, None], right)
        found *= share[:, None]
        found += self._rounded_up(self._errors(queries.norms + float(items.norms.max())))[:, None]
        return found

    def second_limits(
        self,
        distances: NDArray[np.float64],
        sums: NDArray[Any],
        norms: NDArray[np.float64],
    ) -> NDArray[Any]:
        """See `TermSpace.second_limits`."""
        share = np.minimum(distances, 2.0**20)
        limits: NDArray[Any] = sums * share.astype(self.dtype)
        errors = np.where(distances > 2.0**20, np.inf, self._errors(norms) * (2.0 + share))
        limits += self._rounded_up(errors)
        return limits
