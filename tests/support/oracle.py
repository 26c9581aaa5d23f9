"""Plain nearest-neighbor search: the reference that answers are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def euclidean(query: Sequence[float], item: Sequence[float]) -> float:
    """Correctly rounded except for the root: exact sums, one pair at a time."""
    return math.sqrt(
        math.fsum((float(a) - float(b)) ** 2 for a, b in zip(query, item, strict=True))
    )


def cosine(query: Sequence[float], item: Sequence[float]) -> float:
    """1 - cos; 1 where a vector is zero."""
    dot = math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True))
    norms = math.sqrt(math.fsum(float(a) ** 2 for a in query))
    norms *= math.sqrt(math.fsum(float(b) ** 2 for b in item))
    return 1.0 if norms == 0 else 1.0 - dot / norms


def nan_euclidean(
    left: NDArray[np.floating], right: NDArray[np.floating], *, missing_values: float = math.nan
) -> float:
    """scikit-learn's distance with missing values, by differences; a metric of its imputer."""
    both = ~(np.isnan(left) | np.isnan(right))
    if not both.any():
        return math.nan
    squares = ((left[both] - right[both]) ** 2).sum()
    return float(np.sqrt(len(left) / both.sum() * squares))


def inner_product(query: Sequence[float], item: Sequence[float]) -> float:
    """The negated product."""
    return -math.fsum(float(a) * float(b) for a, b in zip(query, item, strict=True))


def direct_distances(
    queries: NDArray[np.floating], items: NDArray[np.floating], metric: str = "euclidean"
) -> NDArray[np.float64]:
    """All distances in float64, shape (n_queries, n_items); euclidean by direct differences."""
    left = np.asarray(queries, dtype=np.float64)[:, None, :]
    right = np.asarray(items, dtype=np.float64)[None, :, :]
    if metric == "euclidean":
        return np.sqrt(((left - right) ** 2).sum(axis=2))
    if metric == "inner_product":
        return -(left * right).sum(axis=2)
    if metric == "cosine":
        norms = np.linalg.norm(left, axis=2) * np.linalg.norm(right, axis=2)
        cosines = (left * right).sum(axis=2) / np.where(norms == 0, 1.0, norms)
        return np.where(norms == 0, 1.0, 1.0 - cosines)
    raise ValueError(metric)


def nearest(
    distances: NDArray[np.float64],
    ids: Sequence[Any],
    k: int,
    *,
    max_distance: float = math.inf,
    excluded: Sequence[Sequence[Any]] | None = None,
) -> list[list[tuple[Any, float]]]:
    """For each query its k nearest (id, distance), ties to the smaller id."""
    answers = []
    for i, row in enumerate(distances.tolist()):
        banned = set() if excluded is None else set(excluded[i])
        pairs = [
            (distance, name)
            for distance, name in zip(row, ids, strict=True)
            if distance <= max_distance and name not in banned
        ]
        answers.append([(name, distance) for distance, name in sorted(pairs)[:k]])
    return answers


def votes(
    found: list[tuple[Any, float]],
    labels: dict[Any, float],
    classes: int,
    *,
    by_distance: bool = False,
    weights: dict[Any, float] | None = None,
) -> list[float]:
    """The votes for each class, of the neighbors of one query as `nearest` returns them."""
    cast = [0.0] * classes
    for (name, _), count in zip(found, _counts(found, by_distance=by_distance), strict=True):
        cast[int(labels[name])] += count * (1.0 if weights is None else weights[name])
    return cast


def mean(
    found: list[tuple[Any, float]],
    labels: dict[Any, float],
    *,
    by_distance: bool = False,
    weights: dict[Any, float] | None = None,
) -> float:
    """The weighted mean of the labels of the neighbors of one query; NaN without neighbors."""
    counts = _counts(found, by_distance=by_distance)
    if weights is not None:
        counts = [count * weights[name] for count, (name, _) in zip(counts, found, strict=True)]
    if not any(counts):
        return math.nan
    terms = [count * labels[name] for count, (name, _) in zip(counts, found, strict=True)]
    return math.fsum(terms) / math.fsum(counts)


def _counts(found: list[tuple[Any, float]], *, by_distance: bool) -> list[float]:
    """1 for each; or the inverse of the distance, and where there are zeros only they count."""
    if not by_distance:
        return [1.0] * len(found)
    if any(distance == 0 for _, distance in found):
        return [float(distance == 0) for _, distance in found]
    return [1 / distance for _, distance in found]
