"""The coordinates in which a tree searches, and how far its figures can be from ours.

A tree of scikit-learn takes float64 coordinates and a metric. Where our metric has parameters, or
the magnitudes would overflow when raised to a power, the tree gets transformed coordinates in which
the metric is a plain one. Transforming rounds, and so do the tree's figures and its pruning
bounds; `TreeSpace.reach` turns one of our distances into a radius that covers all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.kernels import SET_METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_EPS = 2.0**-52
_BLOCK = 65_536

# Radians, of a query's and an item's angle together. The difference of larger ones is rounded by
# more than `TreeSpace.reach` allows for.
_LARGEST_ANGLE = 16.0

# The largest power that a metric's formula raises a coordinate to; minkowski has its own.
_POWERS = {"chebyshev": 1.0, "cityblock": 1.0, "euclidean": 2.0}


@dataclass(frozen=True, eq=False)
class TreeSpace:
    """How rows become coordinates of a tree.

    Attributes
    ----------
    source : Metric
        The metric of the answers.
    metric, arguments : str, dict
        What the tree is built with.
    power : float
        The largest power that the tree raises a coordinate to.
    exponent : int
        Rows are multiplied by ``2**-exponent`` first.
    linear : ndarray of shape (n_features,) or (n_features, n_features), or None
        Then by these factors, or this matrix, which makes euclidean distance of mahalanobis.
    form_error : float
        Bound of the rounding of mahalanobis' quadratic form, as a multiple of the squared
        euclidean distance of the (scaled) rows.
    origin : ndarray of shape (n_coordinates,)
        An item, from which spans are measured.
    spread, size, norm : float
        Largest 1-norm of the items' coordinates from `origin`, from zero, and of the scaled rows
        before `linear`. For haversine `size` is the largest angle and `norm` the largest latitude.
    """

    source: Metric
    metric: str
    arguments: dict[str, Any]
    power: float = 1.0
    exponent: int = 0
    linear: NDArray[np.float64] | None = None
    form_error: float = 0.0
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    spread: float = 0.0
    size: float = 0.0
    norm: float = 0.0

    @classmethod
    def of(cls, metric: Metric, matrix: NDArray[np.floating]) -> TreeSpace:
        """Choose the space for a metric and the magnitudes of the items, and measure the items."""
        if metric.name in SET_METRICS or metric.name in ("hamming", "canberra"):
            return cls(metric, metric.name, {})._measured(matrix)
        if metric.name == "haversine":
            return cls(metric, "euclidean", {}, 2.0)._measured(matrix)
        plain = metric.name if metric.name in (*_POWERS, "minkowski") else "euclidean"
        power = _POWERS.get(plain, metric.p)
        linear, form_error = _linear_map(metric)
        largest = float(np.abs(matrix).max())
        exponent = int(np.frexp(largest)[1])
        if abs(exponent) * power < 400 and linear is None:
            # Squares and the like are safe as they are, and the tree can use the matrix itself.
            exponent = 0
        arguments = {"p": metric.p} if plain == "minkowski" else {}
        space = cls(metric, plain, arguments, power, exponent, linear, form_error)
        return space._measured(matrix)

    def coordinates(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Transform rows; float64 rows that need no change are returned as they are."""
        rows = rows.astype(np.float64, order="C", copy=False)
        if self.source.name == "haversine":
            around = np.cos(rows[:, 0])
            sphere = (around * np.cos(rows[:, 1]), around * np.sin(rows[:, 1]), np.sin(rows[:, 0]))
            return np.stack(sphere, axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = self._scaled(rows)
            if self.linear is not None:
                rows = rows * self.linear if self.linear.ndim == 1 else rows @ self.linear
        return rows

    def serves(self, queries: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tell for which queries nothing overflows or loses its digits on the way of the tree."""
        if self.source.name == "haversine":
            turns: NDArray[np.bool_] = np.abs(queries).max(axis=1) + self.size < _LARGEST_ANGLE
            return turns
        coordinates = self.coordinates(queries)
        with np.errstate(over="ignore", invalid="ignore"):
            safe: NDArray[np.bool_] = np.abs(coordinates).sum(axis=1) + self.size < 2.0 ** (
                900.0 / max(1.0, self.power)
            )
            if self.form_error:
                safe &= np.abs(self._scaled(queries)).sum(axis=1) + self.norm < 2.0**400
        return safe

    def reach(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """A radius within which the tree sees every item whose final figure is within the limit.

        Let ``D`` be the distance of a pair in the tree's coordinates, before any rounding.

        * Our figure is right to a few units in the last place, so ``D <= T (1 + 4 d eps)`` for the
          limit ``T`` in the tree's scale. For mahalanobis and haversine see `_scaled_limits`.
        * The tree's figure is a sum of d terms, each right to some units in the last place, and a
          root: off by less than ``2 (d + 32) eps`` relative. Terms that underflow hide
          ``(d 2**-1074) ** (1 / power)`` at most.
        * A ball's lower bound is ``|q - centre| - radius``, two such figures, both at most the
          query's distance from an item plus the diameter of the items: absolute.
        * A rounded transform moves a coordinate by ``(d + 32) eps`` of its terms: absolute as well.

        Distances in p-norms (p >= 1) are bounded by 1-norms; the bounded metrics by d.
        """
        coordinates = self.coordinates(queries)
        limits = np.maximum(limits, 0.0)
        d = self.origin.size + 32
        spans = np.abs(coordinates - self.origin).sum(axis=1) + 2.0 * self.spread
        if not self.arguments and self.metric not in _POWERS:
            spans = np.full(len(spans), float(d))
        absolute = 4.0 * d * _EPS * spans
        if self.power > 1:
            absolute += 2.0 * (d * 2.0**-1074) ** (1.0 / self.power)
        if self.source.name == "haversine":
            absolute += 2.0 * _LARGEST_ANGLE * _EPS
        elif self.linear is not None:
            largest = float(np.abs(self.linear).max())
            norms = np.abs(self._scaled(queries)).sum(axis=1) + self.norm
            absolute += 4.0 * d * _EPS * self.origin.size * largest * norms
        radii: NDArray[np.float64] = self._scaled_limits(limits, queries) * (1.0 + 8.0 * d * _EPS)
        radii += absolute
        return radii

    def _scaled_limits(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """The limits in the tree's scale, with what our own figures may be off beyond some ulps."""
        if self.source.name == "haversine":
            return self._chords(limits, queries)
        if self.source.name == "sqeuclidean":
            # A sum of squares that underflowed may be short by half the smallest float64 a term.
            limits = np.sqrt(limits + self.origin.size * 2.0**-1073)
        # The last place of a figure below 2**-1022 is worth 2**-1074, however small the figure.
        scaled: NDArray[np.float64] = np.ldexp(limits + 2.0**-1074, -self.exponent)
        if self.form_error:
            gaps = np.abs(self._scaled(queries)).sum(axis=1) + self.norm
            scaled = np.hypot(scaled, np.sqrt(self.form_error) * gaps)
        return scaled

    def _chords(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Distances as chords of the unit sphere.

        A distance is an angle times the radius, rounded: below 2**-1022 to a multiple of 2**-1074.
        The sine squared that our figure is made of is right to some units in the last place, since
        it is a sum of terms that are not negative. Beyond the poles (latitudes that are no
        latitudes) a cosine is negative, and it is off by some units of 1.
        """
        with np.errstate(over="ignore"):
            angles = limits
            if self.source.radius != 1.0:
                angles = (limits + 2.0**-1074) / self.source.radius * (1.0 + 4.0 * _EPS)
        half = np.sin(np.clip(angles, 0.0, np.pi) / 2.0)
        beyond = np.maximum(np.abs(queries[:, 0]), self.norm) > np.pi / 2
        squares = half * half * (1.0 + 64.0 * _EPS) + np.where(beyond, 64.0 * _EPS, 0.0)
        return 2.0 * np.sqrt(squares)

    def _scaled(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        wide = rows.astype(np.float64, copy=False)
        return np.ldexp(wide, -self.exponent) if self.exponent else wide

    def _measured(self, matrix: NDArray[np.floating]) -> TreeSpace:
        """The same space, knowing how far its items reach."""
        origin = self.coordinates(matrix[:1])[0].copy()
        spread = size = norm = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(matrix), _BLOCK):
                rows = matrix[start : start + _BLOCK]
                block = self.coordinates(rows)
                spread = max(spread, float(np.abs(block - origin).sum(axis=1).max()))
                size = max(size, float(np.abs(block).sum(axis=1).max()))
                if self.source.name == "haversine":
                    size = max(size, float(np.abs(rows).max()))
                    norm = max(norm, float(np.abs(rows[:, 0]).max()))
                elif self.linear is not None:
                    norm = max(norm, float(np.abs(self._scaled(rows)).sum(axis=1).max()))
        return replace(self, origin=origin, spread=spread, size=size, norm=norm)


def _linear_map(metric: Metric) -> tuple[NDArray[np.float64] | None, float]:
    """Factors or a matrix that make the metric a plain one, and mahalanobis' `form_error`.

    Differences times ``factor``; for a chebyshev with weights the features that count. Of VI the
    square root of its eigendecomposition, computed with an error of some ``d eps |VI|`` (Higham,
    section 19: orthogonal transformations are backward stable); eigenvalues that rounding has made
    negative are dropped and counted as error. The quadratic form itself is a sum of d**2 products.
    """
    if "VI" in metric.params:
        inverse = metric.params["VI"]
        values, vectors = np.linalg.eigh(inverse)
        rounding = 64.0 * (len(values) + 8) * _EPS * float(np.sqrt((inverse**2).sum()))
        return vectors * np.sqrt(np.maximum(values, 0.0)), rounding + max(0.0, -float(values[0]))
    if "factor" in metric.params:
        return metric.params["factor"], 0.0
    if "w" in metric.params:
        return (metric.params["w"] != 0) * 1.0, 0.0
    return None, 0.0
