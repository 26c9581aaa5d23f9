"""A stand-in of the measured recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyspark_knn.index.base import Exclusion


@dataclass(frozen=True)
class Recall:
    mean: float
    low: float
    high: float
    queries: int
    k: int
    knob: int

    @classmethod
    def of(cls, per_query: Any, k: int, knob: int) -> Recall:
        n, mean = len(per_query), float(np.mean(per_query))
        half = 1.96 * (float(np.std(per_query)) + 0.5 / n) / n**0.5
        return cls(mean, max(0.0, mean - half), min(1.0, mean + half), n, k, knob)


@dataclass(frozen=True)
class Curve:
    recalls: tuple[Recall, ...]

    def reaching(self, target: float) -> Recall:
        return next((each for each in self.recalls if each.low >= target), self.recalls[-1])

    def at(self, knob: int) -> Recall | None:
        return next((each for each in reversed(self.recalls) if each.knob <= knob), None)


def recall(found: Any, exact: Any) -> Any:
    there = np.isfinite(exact)
    worst = np.where(there, exact, -np.inf).max(axis=1)
    return (found <= worst[:, None]).sum(axis=1) / np.maximum(1, there.sum(axis=1))


def measure(
    index: Any,
    positions: Any,
    k: int,
    levels: Any = None,
    target: float | None = None,
    queries: Any = None,
) -> Curve:
    rows = np.arange(len(positions))
    exclude = Exclusion(rows, positions)
    queries = index.matrix[positions]
    exact = index.exact_index.kneighbors(queries, k, exclude=exclude).distances
    found = []
    for knob in levels or index.knob_levels():
        near = index.with_knob(knob).kneighbors(queries, k, exclude=exclude).distances
        found.append(Recall.of(recall(near, exact), k, knob))
        if found[-1].low >= 0.999:
            break
    return Curve(tuple(found))
