"""Hypothesis strategies for the index: metrics, and items that are hard to search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pyspark_knn.index.distances import METRICS, Metric, resolve_metric
from pyspark_knn.index.found import Exclusion


def _variances(dim: int) -> NDArray[np.float64]:
    return 0.3 + np.arange(dim)


def _inverse(dim: int) -> NDArray[np.float64]:
    half = np.eye(dim) + np.tri(dim, k=-1) / 3
    return half @ half.T


def _weights(dim: int) -> NDArray[np.float64]:
    return np.arange(dim) % 3 * 0.7  # every third is zero


_NEEDED = {"seuclidean": {"V": _variances}, "mahalanobis": {"VI": _inverse}}

# Only one name of each metric is drawn: aliases have their own test.
METRIC_CASES: dict[str, Callable[[int], Metric]] = {
    **{
        name: lambda dim, name=name: resolve_metric(
            name, params={key: make(dim) for key, make in _NEEDED.get(name, {}).items()}
        )
        for name in METRICS
        if name not in ("minkowski", "p", "l1", "l2", "manhattan", "infinity", "sokalmichener")
    },
    **{
        f"minkowski p={p}": lambda dim, p=p: resolve_metric("minkowski", p)
        for p in (0.5, 1.5, 3.0, 7.25, 300.0)
    },
    **{
        f"weighted minkowski p={p}": lambda dim, p=p: resolve_metric(
            "minkowski", p, {"w": _weights(dim)}
        )
        for p in (0.5, 1.0, 2.0, 3.0, np.inf)
    },
    "weighted nan_euclidean": lambda dim: resolve_metric(
        "nan_euclidean", params={"w": _weights(dim)}
    ),
    **{
        f"haversine of radius {radius}": lambda dim, radius=radius: resolve_metric(
            "haversine", params={"radius": radius}
        )
        for radius in (6371.0088, 1e-320, 1e308)
    },
    "singular mahalanobis": lambda dim: resolve_metric(
        "mahalanobis", params={"VI": np.ones((dim, dim))}
    ),
}

MAGNITUDES = (1.0, 1.0, 1e300, 1e-300, 1e155, 1e-155, 2.0**-1060)
_FLOAT32_MAGNITUDES = (1.0, 1.0, 1e30, 1e-30, 2.0**-140)

_LATTICE = st.integers(-2, 2).map(float)
_ANY = st.floats(-4.0, 4.0, width=32)


def dims(metric_case: str, largest: int = 6) -> st.SearchStrategy[int]:
    """The numbers of features that the metric supports."""
    return st.just(2) if metric_case.startswith("haversine") else st.integers(1, largest)


@st.composite
def rows(
    draw: st.DrawFn, count: int, dim: int, *, single: bool = False
) -> NDArray[np.float64 | np.float32]:
    """Finite vectors: a lattice with many ties, or any values, at all magnitudes."""
    elements = draw(st.sampled_from([_LATTICE, _LATTICE, _ANY]))
    matrix = draw(hnp.arrays(np.float64, (count, dim), elements=elements))
    magnitude = draw(st.sampled_from(_FLOAT32_MAGNITUDES if single else MAGNITUDES))
    per_row = draw(st.booleans())
    if per_row:
        spread = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
        matrix = matrix * np.where(spread, magnitude, 1.0)[:, None]
    else:
        matrix = matrix * magnitude
    return matrix.astype(np.float32) if single else matrix


@dataclass(frozen=True)
class Search:
    """The arguments of a search."""

    metric: Metric
    items: NDArray[np.floating]
    queries: NDArray[np.floating]
    k: int
    max_distance: float | None
    exclude: Exclusion | None
    leaf_size: int


@st.composite
def searches(draw: st.DrawFn, metric_case: str) -> Search:
    """A search for a metric: ties, hundreds of duplicates, limits that equal a distance."""
    dim = draw(dims(metric_case))
    metric = METRIC_CASES[metric_case](dim)
    single = draw(st.booleans())
    items = draw(rows(draw(st.integers(1, 12)), dim, single=single))
    if draw(st.booleans()):
        # Few distinct items, each repeated many times, in any order.
        order = np.random.default_rng(draw(st.integers(0, 9))).integers(0, len(items), 250)
        items = np.ascontiguousarray(items[order])
    n_queries = draw(st.integers(0, 5))
    queries = draw(rows(n_queries, dim, single=single))
    if n_queries and draw(st.booleans()):
        queries[0] = items[-1]
    k = draw(st.one_of(st.integers(1, min(4, len(items))), st.integers(1, len(items))))
    exclude = draw(st.none() | exclusions(n_queries, len(items)))
    max_distance = draw(st.none() | limits(metric, queries, items))
    leaf_size = draw(st.sampled_from([1, 3, 30]))
    return Search(metric, items, queries, k, max_distance, exclude, leaf_size)


@st.composite
def exclusions(draw: st.DrawFn, n_queries: int, n_items: int) -> Exclusion:
    """Some pairs, some twice; or all pairs of the first query."""
    pairs = st.tuples(st.integers(0, max(0, n_queries - 1)), st.integers(0, n_items - 1))
    drawn = draw(st.lists(pairs, max_size=8)) if n_queries else []
    if n_queries and draw(st.booleans()):
        drawn += [(0, position) for position in range(n_items)]
    drawn.sort(key=lambda pair: pair[1])
    found = np.array(drawn, dtype=np.int64).reshape(-1, 2)
    return Exclusion(found[:, 0].copy(), found[:, 1].copy())


@st.composite
def limits(
    draw: st.DrawFn, metric: Metric, queries: NDArray[np.floating], items: NDArray[np.floating]
) -> float:
    """A limit that equals the distance of a pair, or any other number."""
    if not len(queries) or draw(st.booleans()):
        return draw(st.floats(-2.0, 8.0))
    pair = draw(st.integers(0, len(queries) - 1)), draw(st.integers(0, len(items) - 1))
    return float(metric.distances(queries, items, *(np.array([each]) for each in pair))[0])
