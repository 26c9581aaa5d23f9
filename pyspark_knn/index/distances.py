"""Metrics, and the distance of a pair in float64: the only source of the distances of an answer.

However an index finds its candidates, `Metric.distances` computes how far they are. So answers are
equal to the last bit across algorithms, batch sizes and placements. The formulas are in
`pyspark_knn.index.kernels`; this module has the names of the metrics and their requirements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.angles import ANGLES, cosine_of_units
from pyspark_knn.index.kernels import KERNELS, SET_METRICS, SUBTRACTING, euclidean
from pyspark_knn.index.metric_params import checked_params, inverse_covariance, variances
from pyspark_knn.index.summation import take_parts
from pyspark_knn.suggestions import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.found import Rows
    from pyspark_knn.index.kernels import Kernel

_CHUNK_FLOATS = 65_536
"""Numbers in each buffer of gathered pairs: 512 KiB, which stay in the cache."""

_WIDE_FEATURES = 128
"""From so many features on, buffers of vectors in parts have twice as many numbers."""

_CHUNK_PAIRS = 2048
"""The largest number of pairs in a buffer: with few features, smaller buffers are faster."""

_UNIT_FLOATS = 1 << 21
"""Numbers in the queries, or in the items, that become unit vectors at once: 16 MiB."""

_ALIASES = {
    "infinity": "chebyshev",
    "l1": "cityblock",
    "l2": "euclidean",
    "manhattan": "cityblock",
    "p": "minkowski",
    "sokalmichener": "rogerstanimoto",
}
"""Alias -> canonical name."""

METRICS: tuple[str, ...] = tuple(sorted({*KERNELS, *_ALIASES}))
"""The values of the `metric` Param: canonical names and aliases."""

_UNSUPPORTED = {
    "precomputed": "a search needs vectors, not their distances",
    "pyfunc": "a Python function cannot be saved with a model",
}
"""Metrics of scikit-learn that are not supported -> why, and what to do instead."""

_LARGEST_ANGLES = {"latitude": math.pi / 2, "longitude": 2 * math.pi}
"""The largest absolute value of each coordinate of haversine, in radians, in their order."""

_ANGLE_ROUNDING = 1e-6
"""In radians. Rounded to float32, pi / 2 and 2 pi exceed the true values by less than this."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric and the parameters of its formula. Created by `resolve_metric`.

    Attributes
    ----------
    name : str
        The canonical name, a key of `pyspark_knn.index.kernels.KERNELS`: aliases are resolved, and
        minkowski without weights at p of 1, 2 and infinity is cityblock, euclidean and chebyshev.
    p : float, default=2.0
        The exponent; only minkowski reads it.
    params : mapping of str to ndarray, dtype float64
        ``w`` (minkowski, chebyshev, nan_euclidean), ``V`` (seuclidean) or ``VI`` (mahalanobis), and
        ``factor``, derived from ``V`` or ``w``, by which differences are multiplied.
    radius : float, default=1.0
        The radius of the sphere, in the unit of the distances; only haversine reads it.
    """

    name: str
    p: float = 2.0
    params: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    radius: float = 1.0

    @property
    def described(self) -> str:
        """The name of the metric for messages, with its power if it has one."""
        power = f" with p={self.p:g}" if self.name == "minkowski" else ""
        return f"{self.name!r}{power}"

    @property
    def kernel(self) -> Kernel:
        """The function that computes the distances."""
        if self.name == "minkowski" and self.p == 2:
            return euclidean
        return KERNELS[self.name]

    def distances(
        self,
        queries: NDArray[np.floating],
        items: NDArray[np.floating],
        rows: NDArray[np.integer],
        positions: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """Return the distances of the pairs ``(queries[rows[i]], items[positions[i]])``.

        A distance depends, to the last bit, on the values of its two vectors only. It is within a
        few units in the last place of the true distance wherever the formula is free of
        cancellation, for all magnitudes: it is infinite only where the true distance exceeds the
        range of float64. It is NaN only if the metric `allows_missing` and the vectors have no
        feature in common.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, n_features), dtype float32 or float64
            The queries, finite; with NaN for missing values if the metric `allows_missing`.
        items : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items, likewise.
        rows : ndarray of shape (n_pairs,), integer
            The row number of the query of each pair.
        positions : ndarray of shape (n_pairs,), integer
            The row number of the item of each pair.

        Returns
        -------
        ndarray of shape (n_pairs,), dtype float64
            The distance of each pair.
        """
        result = np.empty(len(rows))
        step = _chunk(queries.shape[1])
        if self.name in ANGLES and len(queries) <= len(rows) and queries.size <= _UNIT_FLOATS:
            self._angles(queries, items, rows, positions, result)
            return result
        kernel = self.kernel
        in_parts = kernel in SUBTRACTING and queries.flags.c_contiguous and items.flags.c_contiguous
        gather: Callable[..., Any] = take_parts if in_parts else _take
        if in_parts and queries.shape[1] >= _WIDE_FEATURES:
            step *= 2
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            left, right = gather(queries, rows[chunk]), gather(items, positions[chunk])
            result[chunk] = kernel(left, right, self)
        return result

    def _angles(
        self,
        queries: NDArray[np.floating],
        items: NDArray[np.floating],
        rows: NDArray[np.integer],
        positions: NDArray[np.integer],
        result: NDArray[np.float64],
    ) -> None:
        """Compute distances by an angle; a query becomes a unit vector once, not in each pair."""
        to_units, narrow_distances = ANGLES[self.name]
        left_units = to_units(queries)
        right_units = None
        if 2 * len(items) <= len(rows) and items.size <= _UNIT_FLOATS:
            right_units = to_units(items)
        step = _chunk(queries.shape[1])
        for start in range(0, len(rows), step):
            left, right = rows[start : start + step], positions[start : start + step]
            if right_units is None:
                second = to_units(items.take(right, axis=0))
            else:
                second = right_units.take(right, axis=0)
            distances, narrow = cosine_of_units(left_units.take(left, axis=0), second)
            if narrow.size:
                distances[narrow] = narrow_distances(
                    queries.take(left[narrow], axis=0).astype(np.float64, copy=False),
                    items.take(right[narrow], axis=0).astype(np.float64, copy=False),
                )
            result[start : start + step] = distances

    @property
    def allows_missing(self) -> bool:
        """Whether vectors may have missing values: NaN, or null elements of arrays."""
        return self.name == "nan_euclidean"

    @property
    def compares_sets(self) -> bool:
        """Whether the metric compares sets: a vector is the set of its features that are not 0."""
        return self.name in SET_METRICS

    def converts(self, rows: Rows) -> bool:
        """Whether this is a metric of sets and `rows` have values other than 0 and 1.

        Parameters
        ----------
        rows : ndarray or SparseRows of shape (n_rows, n_features), dtype float32 or float64
            Items or queries.

        Returns
        -------
        bool
            True if the metric counts some values as 1 that are not 1.
        """
        if not self.compares_sets:
            return False
        if not isinstance(rows, np.ndarray):
            return bool((rows.data != 1).any())
        step = max(1, _CHUNK_FLOATS // rows.shape[1])
        parts = (rows[start : start + step] for start in range(0, len(rows), step))
        return any(bool(((part != 0) & (part != 1)).any()) for part in parts)

    def check_values(self, rows: Rows) -> None:
        """Raise a ValueError if the values of `rows` are not in the unit that the metric requires.

        Only haversine needs a unit. Degrees in place of radians would give plausible answers.

        Parameters
        ----------
        rows : ndarray or SparseRows of shape (n_rows, n_features), dtype float32 or float64
            Items or queries.
        """
        if self.name != "haversine" or not len(rows) or not isinstance(rows, np.ndarray):
            return
        for column, (name, limit) in enumerate(_LARGEST_ANGLES.items()):
            sizes = np.abs(rows[:, column])
            if sizes.max() > limit + _ANGLE_ROUNDING:
                raise ValueError(
                    "featuresCol must contain latitude and longitude in radians for metric "
                    f"'haversine', got {name} {rows[sizes.argmax(), column]:.6g}. Convert degrees "
                    "with radians(lat) and radians(lon) in Spark SQL, latitude first."
                )

    def check_dimension(self, n_features: int) -> None:
        """Raise a ValueError if the metric does not support vectors of `n_features` dimensions.

        Parameters
        ----------
        n_features : int
            The dimension of the vectors.
        """
        if self.name == "haversine" and n_features != 2:
            raise ValueError(
                "metric 'haversine' requires 2 features, latitude and longitude in radians, got "
                f"{n_features}"
            )
        for name, array in self.params.items():
            if len(array) != n_features:
                raise ValueError(
                    f"metricParams[{name!r}] is for {len(array)} features, but the vectors have "
                    f"{n_features}"
                )


def _take(matrix: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    return matrix.take(rows, axis=0).astype(np.float64, copy=False)


def _chunk(n_features: int) -> int:
    return max(1, min(_CHUNK_PAIRS, _CHUNK_FLOATS // n_features))


def resolve_metric(name: str, p: float = 2.0, params: Mapping[str, Any] | None = None) -> Metric:
    """Check the name and the parameters of a metric, and create the `Metric`.

    Parameters
    ----------
    name : str
        One of `METRICS`: the metrics that scikit-learn's NearestNeighbors supports with brute,
        kd_tree or ball_tree, including "nan_euclidean", and "inner_product".
    p : float, default=2.0
        The exponent of minkowski, above 0; may be infinite. Other metrics do not read it.
    params : mapping, optional
        ``w`` for minkowski and nan_euclidean, ``V`` for seuclidean, ``V`` or ``VI`` for
        mahalanobis, as lists or arrays; ``radius`` for haversine, a number.

    Returns
    -------
    Metric
        The metric.

    Raises
    ------
    TypeError, ValueError
        If `metric`, `p` or `metricParams` is invalid. The message names the Param and the reason.
    """
    canonical = canonical_name(name)
    given = checked_params(name, canonical, params)
    if canonical == "minkowski":
        return _minkowski(_checked_p(p), given.get("w"))
    if canonical == "nan_euclidean" and "w" in given:
        return Metric(canonical, params=_weighted(2.0, given["w"]))
    if canonical == "seuclidean":
        return Metric(canonical, params=variances(given))
    if canonical == "mahalanobis":
        return Metric(canonical, params={"VI": inverse_covariance(given)})
    return Metric(canonical, radius=given.get("radius", 1.0))


def canonical_name(name: object) -> str:
    """Return the canonical name of a metric.

    Parameters
    ----------
    name : object
        One of `METRICS`; other values raise an error.

    Returns
    -------
    str
        A key of `kernels.KERNELS`.

    Raises
    ------
    TypeError, ValueError
        If there is no such metric.
    """
    if callable(name):
        raise TypeError(f"metric must be a name, not a function: {_UNSUPPORTED['pyfunc']}")
    if not isinstance(name, str):
        raise TypeError(f"metric must be a string, got {name!r}")
    if name in _UNSUPPORTED:
        raise ValueError(f"metric {name!r} is not supported: {_UNSUPPORTED[name]}")
    canonical = _ALIASES.get(name, name)
    if canonical not in KERNELS:
        suggestion = did_you_mean(name, METRICS)
        raise ValueError(f"unknown metric {name!r}. Supported: {', '.join(METRICS)}{suggestion}")
    return canonical


def _checked_p(p: object) -> float:
    if isinstance(p, (bool, np.bool_)) or not isinstance(p, (int, float, np.number)):
        raise TypeError(f"p must be a number, got {p!r}")
    value = float(p)
    if math.isnan(value) or value <= 0:
        raise ValueError(f"p must be > 0, got {p!r}")
    return value


def _minkowski(p: float, weights: NDArray[np.float64] | None) -> Metric:
    plain = {1.0: "cityblock", 2.0: "euclidean", math.inf: "chebyshev"}
    if weights is None:
        return Metric(plain[p]) if p in plain else Metric("minkowski", p)
    params = _weighted(p, weights)
    return Metric("chebyshev" if p == math.inf else "minkowski", p, params)


def _weighted(p: float, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the parameters of a formula with weights, and the power p of differences."""
    if (weights < 0).any():
        raise ValueError("metricParams['w'] must contain numbers >= 0")
    if p == math.inf:
        return {"w": weights}
    with np.errstate(over="ignore"):
        factor = np.sqrt(weights) if p == 2 else weights ** (1.0 / p)
    if not np.isfinite(factor).all():
        raise ValueError(f"metricParams['w'] is too large for p={p:g}: w ** (1 / p) overflows")
    return {"w": weights, "factor": factor}
