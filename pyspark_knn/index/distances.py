"""The distance of a pair, in float64: the one place that the figures of an answer come from.

Whatever finds the candidates, `Metric.distances` has the last word on how far they are, so that
answers are equal to the bit across algorithms, batch sizes and placements of the data. The formulas
are in `pyspark_knn.index.kernels`; here are the names of the metrics and what they demand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyspark_knn.index.kernels import KERNELS, SET_METRICS, euclidean
from pyspark_knn.index.metric_params import checked_params, inverse_covariance, variances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.kernels import Kernel

# Components of gathered pairs that are worked on at a time: 512 KiB a buffer stay in the cache.
_CHUNK = 65_536

_ALIASES = {
    "infinity": "chebyshev",
    "l1": "cityblock",
    "l2": "euclidean",
    "manhattan": "cityblock",
    "p": "minkowski",
    "sokalmichener": "rogerstanimoto",
}

METRICS: tuple[str, ...] = tuple(sorted({*KERNELS, *_ALIASES}))

_REFUSED = {
    "precomputed": "there are no vectors to search in; compute neighbors from your distances",
    "nan_euclidean": "missing values are not supported yet; impute them, for example with "
    "pyspark.ml.feature.Imputer",
    "pyfunc": "a Python function cannot be saved with a model",
}

_LARGEST_ANGLES = {"latitude": math.pi / 2, "longitude": 2 * math.pi}

# Radians: pi / 2 and 2 pi rounded to float32 are larger than they should be, by less than this.
_ANGLE_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric with all that its formula needs. Made by `resolve_metric`.

    Attributes
    ----------
    name : str
        The canonical name, a key of `pyspark_knn.index.kernels.KERNELS`: aliases are resolved, and
        minkowski without weights at p of 1, 2 and infinity is cityblock, euclidean and chebyshev.
    p : float
        The exponent; only minkowski reads it.
    params : mapping of str to ndarray, dtype float64
        ``w`` (minkowski, chebyshev), ``V`` (seuclidean) or ``VI`` (mahalanobis), and ``factor``,
        by which differences are multiplied, derived from ``V`` or ``w``.
    radius : float
        Of the sphere; only haversine reads it.
    """

    name: str
    p: float = 2.0
    params: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    radius: float = 1.0

    @property
    def kernel(self) -> Kernel:
        """The formula."""
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
        """Distances of the pairs ``(queries[rows[i]], items[positions[i]])``.

        A figure depends on the values of its two rows only, to the last bit. It is within a few
        units in the last place of the true distance wherever the formula is free of cancellation,
        for all magnitudes: infinite only where the true distance is beyond float64. NaN never
        occurs for finite input.

        Parameters
        ----------
        queries, items : ndarrays of shape (any, n_features), dtype float32 or float64
            Finite.
        rows, positions : ndarrays of shape (n_pairs,), integer

        Returns
        -------
        ndarray of shape (n_pairs,), dtype float64
        """
        result = np.empty(len(rows))
        step = max(1, _CHUNK // queries.shape[1])
        for start in range(0, len(rows), step):
            chunk = slice(start, start + step)
            left = queries.take(rows[chunk], axis=0).astype(np.float64, copy=False)
            right = items.take(positions[chunk], axis=0).astype(np.float64, copy=False)
            result[chunk] = self.kernel(left, right, self)
        return result

    @property
    def compares_sets(self) -> bool:
        """Whether a row is the set of its features that are not 0."""
        return self.name in SET_METRICS

    def converts(self, rows: NDArray[np.floating]) -> bool:
        """Whether `rows` hold numbers that a metric of sets counts as 1, though they are not."""
        if not self.compares_sets:
            return False
        step = max(1, _CHUNK // rows.shape[1])
        parts = (rows[start : start + step] for start in range(0, len(rows), step))
        return any(bool(((part != 0) & (part != 1)).any()) for part in parts)

    def check_values(self, rows: NDArray[np.floating]) -> None:
        """Raise ValueError if `rows` are in another unit than this metric takes.

        Only haversine takes one: degrees in place of radians give answers that look right.
        """
        if self.name != "haversine" or not len(rows):
            return
        for column, (name, limit) in enumerate(_LARGEST_ANGLES.items()):
            sizes = np.abs(rows[:, column])
            if sizes.max() > limit + _ANGLE_ROUNDING:
                raise ValueError(
                    "featuresCol must hold latitude and longitude in radians for metric "
                    f"'haversine', but holds {name} {rows[sizes.argmax(), column]:.6g}: convert "
                    "degrees with radians(lat) and radians(lon) in Spark SQL, latitude first"
                )

    def check_dimension(self, n_features: int) -> None:
        """Raise ValueError unless rows of `n_features` numbers can be compared by this metric."""
        if self.name == "haversine" and n_features != 2:
            raise ValueError(
                f"metric 'haversine' takes 2 features, latitude and longitude in radians, "
                f"but there are {n_features}"
            )
        for name, array in self.params.items():
            if len(array) != n_features:
                raise ValueError(
                    f"metricParams[{name!r}] is for {len(array)} features, "
                    f"but there are {n_features}"
                )


def resolve_metric(name: str, p: float = 2.0, params: Mapping[str, Any] | None = None) -> Metric:
    """Check a metric's name and parameters, and make a `Metric` of them.

    Parameters
    ----------
    name : str
        One of `METRICS`: what scikit-learn's NearestNeighbors takes for brute, kd_tree and
        ball_tree, and "inner_product".
    p : float
        The exponent of minkowski, above 0; may be infinite. Other metrics do not read it.
    params : mapping, optional
        ``w`` for minkowski, ``V`` for seuclidean, ``V`` or ``VI`` for mahalanobis, as lists or
        arrays; ``radius`` for haversine, a number.

    Raises
    ------
    TypeError, ValueError
        Naming `metric`, `p` or `metricParams` and what was wrong with it.
    """
    canonical = _canonical_name(name)
    given = checked_params(name, canonical, params)
    if canonical == "minkowski":
        return _minkowski(_checked_p(p), given.get("w"))
    if canonical == "seuclidean":
        return Metric(canonical, params=variances(given))
    if canonical == "mahalanobis":
        return Metric(canonical, params={"VI": inverse_covariance(given)})
    return Metric(canonical, radius=given.get("radius", 1.0))


def _canonical_name(name: object) -> str:
    if callable(name):
        raise TypeError(f"metric must be a name, not a function: {_REFUSED['pyfunc']}")
    if not isinstance(name, str):
        raise TypeError(f"metric must be a string, got {name!r}")
    if name in _REFUSED:
        raise ValueError(f"metric {name!r} is not supported: {_REFUSED[name]}")
    canonical = _ALIASES.get(name, name)
    if canonical not in KERNELS:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}")
    return canonical


def _checked_p(p: object) -> float:
    if isinstance(p, (bool, np.bool_)) or not isinstance(p, (int, float, np.number)):
        raise TypeError(f"p must be a number, got {p!r}")
    value = float(p)
    if math.isnan(value) or value <= 0:
        raise ValueError(f"p must be above 0, got {p!r}")
    return value


def _minkowski(p: float, weights: NDArray[np.float64] | None) -> Metric:
    plain = {1.0: "cityblock", 2.0: "euclidean", math.inf: "chebyshev"}
    if weights is None:
        return Metric(plain[p]) if p in plain else Metric("minkowski", p)
    if (weights < 0).any():
        raise ValueError("metricParams['w'] must not be negative")
    if p == math.inf:
        return Metric("chebyshev", p, {"w": weights})
    with np.errstate(over="ignore"):
        factor = np.sqrt(weights) if p == 2 else weights ** (1.0 / p)
    if not np.isfinite(factor).all():
        raise ValueError(f"metricParams['w'] is too large for p={p:g}: w ** (1 / p) overflows")
    return Metric("minkowski", p, {"w": weights, "factor": factor})
