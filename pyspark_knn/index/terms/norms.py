"""The terms of the metrics that are norms of a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.terms.space import LARGEST_COORDINATE, Operand, Pairs, TermSpace
from pyspark_knn.index.tree_space import TreeSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SAMPLE_ITEMS = 1 << 14
"""Items of the sample whose center is subtracted."""


class NormSpace(TermSpace):
    """cityblock and minkowski of p >= 1: the p-norm of a difference, to the power of p.

    Coordinates are the values less a center, times the factors of the metric and a power of two, so
    that those of items are at most 1. The difference in float64 is rounded, and the coordinate is
    rounded again: each is off by less than ``u + 4 v`` of itself, or by the smallest number t. The
    p-norm of these errors is at most their 1-norm: with N the sum of the 1-norms of both vectors,
    it moves the distance by less than ``e = 1.1 (u + 4 v) N + 2 n t``. A difference of two
    coordinates is off by u, its power by ``(p + 8) u`` (by multiplications, or by `numpy.power`,
    which is right to some units in the last place) and by t, and the sum by ``n u``. So for the
    distance L, ``S' <= (L + e)**p (1 + 1.1 (n + 2 p + 16) u) + n t``.
    """

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        super().__init__(metric, matrix, dtype)
        self._power = metric.p if metric.name == "minkowski" else 1.0
        self._factor: NDArray[np.float64] | None = metric.params.get("factor")
        if "w" in metric.params and metric.name == "chebyshev":
            self._factor = (metric.params["w"] != 0) * 1.0
        self.scaling_exponent, self._center = 0, np.zeros(self._n_features)
        self.possible = 2.0**-400 < float(np.abs(matrix).max()) < 2.0**400
        if self.possible:
            sample = matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]
            self._center = self._middle(self._plain(sample))
            with np.errstate(over="ignore"):
                reach = max(float(np.abs(part).max()) for part in self._parts(matrix))
            self.scaling_exponent = int(np.frexp(reach)[1])
            self.possible = abs(self.scaling_exponent) < 500

    def _parts(self, matrix: NDArray[np.floating]) -> Any:
        step = max(1, (1 << 18) // self._n_features)
        for start in range(0, len(matrix), step):
            yield self._moved(matrix[start : start + step])

    def _middle(self, sample: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the center of a sample."""
        return np.asarray(sample.mean(axis=0, dtype=np.float64))

    def _plain(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the vectors from which the center is subtracted."""
        return rows

    def _moved(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = np.subtract(self._plain(rows), self._center, dtype=np.float64)
        if self._factor is not None:
            moved *= self._factor
        return moved

    def _coordinates(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            moved = self._moved(rows)
            moved *= 2.0**-self.scaling_exponent
        return moved

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`."""
        served: NDArray[np.bool_] = np.abs(self._coordinates(queries)).max(axis=1) < (
            LARGEST_COORDINATE
        )
        return served

    def operand(self, rows: NDArray[np.floating]) -> Operand:
        """See `TermSpace.operand`."""
        coordinates = self._coordinates(rows)
        norms = np.abs(coordinates).sum(axis=1)
        values = coordinates.astype(self.dtype)
        return Operand(values, values, norms, rows)

    def terms(self, pairs: Pairs, out: NDArray[Any], spare: NDArray[Any]) -> None:
        """See `TermSpace.terms`."""
        np.subtract(pairs.left, pairs.right, out=out)
        np.abs(out, out=out)
        power = self._power
        if power == 1:
            return
        if power == 2:
            np.multiply(out, out, out=out)
        elif power in (3.0, 4.0):
            np.multiply(out, out, out=spare)
            np.multiply(spare, out if power == 3 else spare, out=out)
        else:
            np.power(out, self.dtype(power), out=out)

    def limits(
        self, distances: NDArray[np.float64], queries: Operand, items: Operand
    ) -> NDArray[Any]:
        """See `TermSpace.limits`."""
        n = self._n_features
        norms = queries.norms + float(items.norms.max())
        distances = self._plain_distances(distances, queries)
        rounding = 1.1 * (self._unit + 2.0**-51) * norms + 2.0 * n * self._tiny
        # The last place of a distance below 2**-1022 is 2**-1074, however small the distance.
        scaled = np.ldexp(distances + 2.0**-1074, -self.scaling_exponent) * (
            1.0 + 2.0 * (n + 32) * 2.0**-53
        )
        return self._limits_of_sums(scaled + rounding)[:, None]

    def _limits_of_sums(self, norms: NDArray[np.float64]) -> NDArray[Any]:
        """Return limits of sums, given limits of the norms of differences of coordinates."""
        n, power = self._n_features, self._power
        with np.errstate(over="ignore"):
            sums = norms**power
            sums *= 1.0 + 1.1 * (n + 2 * power + 16) * self._unit
        return self._rounded_up(sums + n * self._tiny)

    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `TermSpace.figures`."""
        with np.errstate(over="ignore"):
            return np.ldexp(sums ** (1.0 / self._power), self.scaling_exponent)

    def _plain_distances(
        self, distances: NDArray[np.float64], queries: Operand
    ) -> NDArray[np.float64]:
        """Return the distances of the plain vectors that the final figures stand for."""
        return distances


class MaximumSpace(NormSpace):
    """chebyshev: the largest difference, which is off by as much as a sum at most."""

    combine: ClassVar[np.ufunc] = np.maximum


class MahalanobisSpace(NormSpace):
    """mahalanobis: the euclidean distance in coordinates as for a tree, see `TreeSpace.reach`."""

    def __init__(self, metric: Metric, matrix: NDArray[np.floating], dtype: type[Any]) -> None:
        self._tree = TreeSpace.of(metric, matrix)
        super().__init__(metric, matrix, dtype)
        self._power = 2.0

    def _plain(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return self._tree.coordinates(rows)

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """See `TermSpace.serves`."""
        return super().serves(queries) & self._tree.serves(queries)

    def figures(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `TermSpace.figures`."""
        with np.errstate(over="ignore"):
            return np.ldexp(super().figures(sums), self._tree.exponent)

    def _plain_distances(
        self, distances: NDArray[np.float64], queries: Operand
    ) -> NDArray[np.float64]:
        coordinates = self._tree.coordinates(queries.rows)
        with np.errstate(over="ignore"):
            return self._tree.reach(distances, queries.rows, coordinates)
