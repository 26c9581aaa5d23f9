"""The coordinates in which a tree searches, and how much its distances can differ from ours.

A tree of scikit-learn needs float64 coordinates and a metric. Where our metric has parameters, or
the magnitudes would overflow when raised to a power, the tree gets transformed coordinates in which
the metric has no parameters. The transform has rounding errors, and so do the distances of the tree
and its pruning bounds. `TreeSpace.reach` converts a distance of ours to a radius that covers all of
these errors.
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
"""The distance from 1 to the next float64."""

_BLOCK_ITEMS = 65_536
"""Items that are transformed at a time."""

_LARGEST_ANGLE = 16.0
"""In radians: the largest sum of an angle of a query and an angle of an item. The difference of
larger angles has a larger rounding error than `TreeSpace.reach` covers."""

_SHORT_ROW = 8
"""Features up to which columns are added one by one: numpy takes several times as long to reduce
short rows."""

_PLAIN = {"braycurtis": "cityblock", "chebyshev": "chebyshev", "cityblock": "cityblock"}
"""Metric -> the metric of its tree, unless that is euclidean or minkowski."""

_POWERS = {"chebyshev": 1.0, "cityblock": 1.0, "euclidean": 2.0}
"""Metric -> the largest power to which its formula raises a coordinate. That of minkowski is p."""


@dataclass(frozen=True, eq=False)
class TreeSpace:
    """The transform of vectors to coordinates of a tree.

    Attributes
    ----------
    source : Metric
        The metric of the search.
    metric : str
        The metric of the tree.
    arguments : dict
        The parameters of the tree's metric.
    power : float
        The largest power to which the tree raises a coordinate.
    exponent : int
        Vectors are multiplied by ``2**-exponent`` first.
    linear : ndarray of shape (n_features,) or (n_features, n_features), dtype float64, or None
        Then they are multiplied by these factors, or by this matrix, which converts mahalanobis to
        euclidean distance.
    form_error : float
        A bound of the rounding error of the quadratic form of mahalanobis, as a multiple of the
        squared euclidean distance of the scaled vectors.
    origin : ndarray of shape (n_coordinates,), dtype float64
        The coordinates of an item, from which `spread` is measured.
    spread : float
        The largest 1-norm of the coordinates of an item less `origin`.
    size : float
        The largest 1-norm of the coordinates of an item. For haversine, at least the largest
        angle of an item, in radians.
    norm : float
        The largest 1-norm of a scaled vector before `linear`. For haversine, the largest latitude
        of an item, in radians.
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
        """Choose the transform for a metric and the magnitudes of the items.

        Parameters
        ----------
        metric : Metric
            The metric of the search.
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.

        Returns
        -------
        TreeSpace
            The transform, with the norms of these items.
        """
        if metric.name in SET_METRICS or metric.name in ("hamming", "canberra"):
            return cls(metric, metric.name, {})._measured(matrix)
        if metric.name == "haversine":
            return cls(metric, "euclidean", {}, 2.0)._measured(matrix)
        plain = _PLAIN.get(metric.name, "euclidean")
        if metric.name == "minkowski":
            plain = "minkowski"
        power = _POWERS.get(plain, metric.p)
        linear, form_error = _linear_map(metric)
        largest = float(np.abs(matrix).max())
        exponent = int(np.frexp(largest)[1])
        if abs(exponent) * power < 400 and linear is None:
            # Powers neither overflow nor underflow, so the tree can use the matrix itself.
            exponent = 0
        arguments = {"p": metric.p} if plain == "minkowski" else {}
        space = cls(metric, plain, arguments, power, exponent, linear, form_error)
        return space._measured(matrix)

    def coordinates(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Transform vectors.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
            Items or queries.

        Returns
        -------
        ndarray of shape (n_rows, n_coordinates), dtype float64
            Their coordinates; `rows` itself if it is float64 and needs no change.
        """
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
        """Return for which queries a search in the tree neither overflows nor loses digits.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.

        Returns
        -------
        ndarray of shape (n_queries,), dtype bool
            True where the tree can be used.
        """
        if self.source.name == "haversine":
            turns: NDArray[np.bool_] = np.abs(queries).max(axis=1) + self.size < _LARGEST_ANGLE
            return turns
        coordinates = self.coordinates(queries)
        with np.errstate(over="ignore", invalid="ignore"):
            safe: NDArray[np.bool_] = sums_of_sizes(coordinates) + self.size < 2.0 ** (
                900.0 / max(1.0, self.power)
            )
            if self.form_error:
                safe &= sums_of_sizes(self._scaled(queries)) + self.norm < 2.0**400
        return safe

    def radii(
        self,
        limits: NDArray[np.float64],
        queries: NDArray[np.floating],
        coordinates: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return radii for which the tree, with its pruning, returns every item within the limits.

        Parameters
        ----------
        limits, queries, coordinates
            See `reach`.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The radii, inclusive; inf if a limit overflows.
        """
        # A limit that overflows in the coordinates of the tree rules out nothing. A bound by which
        # the tree prunes can be too large by the reach of zero.
        absolute = self._absolute_error(queries, coordinates)
        with np.errstate(over="ignore"):
            radii = self._relative_reach(limits, queries) + absolute
            radii += self._relative_reach(np.zeros(len(limits)), queries) + absolute
        return radii

    def reach(
        self,
        limits: NDArray[np.float64],
        queries: NDArray[np.floating],
        coordinates: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return radii within which the tree finds every item within the limits.

        Parameters
        ----------
        limits : ndarray of shape (n_queries,), dtype float64
            Distances by the metric of the search, as `Metric.distances` computes them.
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries.
        coordinates : ndarray of shape (n_queries, n_coordinates), dtype float64
            The coordinates of the queries.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            Distances by the metric of the tree.

        Notes
        -----
        Let ``D`` be the distance of a pair in the tree's coordinates, before any rounding.

        * Our figure is right to a few units in the last place, so ``D <= T (1 + 4 d eps)`` for the
          limit ``T`` in the tree's scale. For mahalanobis and haversine see `_scaled_limits`, for
          braycurtis `_differences`.
        * The tree's figure is a sum of d terms, each right to some units in the last place, and a
          root: off by less than ``2 (d + 32) eps`` relative. Terms that underflow hide
          ``(d 2**-1074) ** (1 / power)`` at most.
        * A ball's lower bound is ``|q - center| - radius``, two such figures, both at most the
          query's distance from an item plus the diameter of the items: absolute.
        * A rounded transform moves a coordinate by ``(d + 32) eps`` of its terms: absolute as well.

        Distances in p-norms (p >= 1) are bounded by 1-norms; the bounded metrics by d.
        """
        return self._relative_reach(limits, queries) + self._absolute_error(queries, coordinates)

    def _relative_reach(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return the limits in the coordinates of the tree, with the errors relative to them."""
        d = self.origin.size + 32
        scaled = self._scaled_limits(np.maximum(limits, 0.0), queries)
        return scaled * (1.0 + 8.0 * d * _EPS)

    def _absolute_error(
        self, queries: NDArray[np.floating], coordinates: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the errors that do not depend on a distance."""
        d = self.origin.size + 32
        spans = sums_of_sizes(coordinates, self.origin) + 2.0 * self.spread
        if not self.arguments and self.metric not in _POWERS:
            spans = np.full(len(spans), float(d))
        absolute: NDArray[np.float64] = 4.0 * d * _EPS * spans
        if self.power > 1:
            absolute += 2.0 * (d * 2.0**-1074) ** (1.0 / self.power)
        if self.source.name == "haversine":
            absolute += 2.0 * _LARGEST_ANGLE * _EPS
        elif self.linear is not None:
            largest = float(np.abs(self.linear).max())
            norms = sums_of_sizes(self._scaled(queries)) + self.norm
            absolute += 4.0 * d * _EPS * self.origin.size * largest * norms
        return absolute

    def _scaled_limits(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Scale the limits, and add the larger errors that our own distances may have."""
        if self.source.name == "haversine":
            return self._chords(limits, queries)
        if self.source.name == "braycurtis":
            return self._differences(limits, queries)
        if self.source.name == "sqeuclidean":
            # A sum of squares that underflows may be too small by half the smallest float64 for
            # each term.
            limits = np.sqrt(limits + self.origin.size * 2.0**-1073)
        # The last place of a distance below 2**-1022 is 2**-1074, however small the distance.
        scaled: NDArray[np.float64] = np.ldexp(limits + 2.0**-1074, -self.exponent)
        if self.form_error:
            gaps = sums_of_sizes(self._scaled(queries)) + self.norm
            scaled = np.hypot(scaled, np.sqrt(self.form_error) * gaps)
        return scaled

    def _chords(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Convert distances to chords of the unit sphere.

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

    def _differences(
        self, limits: NDArray[np.float64], queries: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Convert distances of braycurtis to sums of absolute differences.

        ``|a + b| <= 2 |a| + |a - b|``, so for the sum N of the differences, and Q of the absolute
        values of the query, a distance of at most L means that ``N <= L (2 Q + N)``.
        """
        shares = np.minimum(limits * (1.0 + 8.0 * (self.origin.size + 32) * _EPS), 1.0)
        sizes = sums_of_sizes(self._scaled(queries))
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = 2.0 * shares * sizes / (1.0 - shares)
        # A sum of this size may lose as much to underflow as each of its terms.
        return np.where(shares < 1.0, sums + self.origin.size * 2.0**-1073, np.inf)

    def _scaled(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        wide = rows.astype(np.float64, copy=False)
        return np.ldexp(wide, -self.exponent) if self.exponent else wide

    def _measured(self, matrix: NDArray[np.floating]) -> TreeSpace:
        """Return the same transform with the norms of the items."""
        origin = self.coordinates(matrix[:1])[0].copy()
        spread = size = norm = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(matrix), _BLOCK_ITEMS):
                rows = matrix[start : start + _BLOCK_ITEMS]
                block = self.coordinates(rows)
                spread = max(spread, float(sums_of_sizes(block, origin).max()))
                size = max(size, float(sums_of_sizes(block).max()))
                if self.source.name == "haversine":
                    size = max(size, float(np.abs(rows).max()))
                    norm = max(norm, float(np.abs(rows[:, 0]).max()))
                elif self.linear is not None:
                    norm = max(norm, float(sums_of_sizes(self._scaled(rows)).max()))
        return replace(self, origin=origin, spread=spread, size=size, norm=norm)


def sums_of_sizes(
    rows: NDArray[np.float64], origin: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the 1-norms of rows, or of their differences from a vector."""
    if rows.shape[1] > _SHORT_ROW:
        return np.asarray(np.abs(rows if origin is None else rows - origin).sum(axis=1))
    sums = np.zeros(len(rows))
    for column in range(rows.shape[1]):
        values = rows[:, column]
        sums += np.abs(values if origin is None else values - origin[column])
    return sums


def _linear_map(metric: Metric) -> tuple[NDArray[np.float64] | None, float]:
    """Return the factors or the matrix that remove the parameters of a metric, and `form_error`.

    For metrics with a ``factor``, it is the factor; for chebyshev with weights, 1 for the features
    that count and 0 for the others. For mahalanobis it is a square root of VI, from its
    eigendecomposition, which has an error of some ``d eps |VI|`` (Higham, section 19: orthogonal
    transformations are backward stable). Eigenvalues that rounding has made negative are dropped
    and counted as error. The quadratic form itself is a sum of d**2 products.
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
