"""A stand-in of IVF."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.base import Exclusion, IndexSpec, NeighborIndex, Neighbors
from pyspark_knn.index.block_search import BlockSearch
from pyspark_knn.index.selection import NearestSoFar


class IVFSearch(ApproximateIndex):
    algorithm: ClassVar[str] = "ivf"
    metrics: ClassVar[frozenset[str]] = frozenset(
        {"euclidean", "sqeuclidean", "cosine", "inner_product"}
    )
    options = frozenset({"index_params", "search_params", "seed"})
    index_names: ClassVar[dict[str, Any]] = {"nlist": None, "encoding": None}
    search_name: ClassVar[str] = "nprobe"

    def __init__(self, matrix: Any, metric: Any, centers: Any, cells: Any, knob: int) -> None:
        self._matrix, self._metric, self.centers, self.cells = matrix, metric, centers, cells
        self._knob = knob
        self._exact: dict[str, NeighborIndex] = {}

    def __reduce__(self) -> Any:
        return IVFSearch, (self._matrix, self._metric, self.centers, self.cells, self._knob)

    @classmethod
    def build(cls, matrix: Any, spec: IndexSpec) -> IVFSearch:
        n = len(matrix)
        nlist = min(n, int(spec.index_params.get("nlist") or 4 * n**0.5))
        rng = np.random.default_rng(spec.seed)
        centers = np.ascontiguousarray(matrix[np.sort(rng.choice(n, nlist, replace=False))])
        near = BlockSearch.build(centers, IndexSpec(spec.metric, "brute"))
        cells = near.kneighbors(matrix, 1).positions[:, 0]
        knob = int((spec.search_params or {}).get("nprobe", 1))
        return cls(matrix, spec.metric, centers, cells, knob)

    @property
    def matrix(self) -> Any:
        return self._matrix

    @property
    def metric(self) -> Any:
        return self._metric

    @property
    def exact_index(self) -> NeighborIndex:
        if "e" not in self._exact:
            self._exact["e"] = BlockSearch.build(self._matrix, IndexSpec(self._metric, "brute"))
        return self._exact["e"]

    def with_knob(self, value: int) -> IVFSearch:
        other = IVFSearch(self._matrix, self._metric, self.centers, self.cells, value)
        other._exact = self._exact
        return other

    @property
    def knob(self) -> int:
        return self._knob

    def knob_levels(self) -> list[int]:
        levels, at = [], 1.0
        while at < len(self.centers):
            levels.append(int(at))
            at = max(at + 1, at * 1.4)
        return [*levels, len(self.centers)]

    def extended(self, matrix: Any, old_positions: Any) -> IVFSearch:
        near = BlockSearch.build(self.centers, IndexSpec(self._metric, "brute"))
        cells = near.kneighbors(matrix, 1).positions[:, 0]
        return IVFSearch(matrix, self._metric, self.centers, cells, self._knob)

    def structure(self) -> dict[str, Any]:
        return {"centers": self.centers, "cells": self.cells.astype(np.int32)}

    @classmethod
    def restored(cls, matrix: Any, spec: IndexSpec, structure: dict[str, Any]) -> IVFSearch:
        if set(structure) != {"centers", "cells"}:
            raise ValueError("parts")
        cells = structure["cells"]
        if cells.shape != (len(matrix),) or cells.max() >= len(structure["centers"]):
            raise ValueError("cells is damaged")
        knob = int((spec.search_params or {}).get("nprobe", 1))
        return cls(matrix, spec.metric, structure["centers"], cells.astype(np.int64), knob)

    def _find_within(self, queries: Any, exclude: Any, hits: Any) -> None:
        self.exact_index._find_within(queries, exclude, hits)

    def kneighbors(
        self,
        queries: Any,
        k: int,
        *,
        max_distance: float | None = None,
        exclude: Exclusion | None = None,
    ) -> Neighbors:
        near = BlockSearch.build(self.centers, IndexSpec(self._metric, "brute"))
        probed = near.kneighbors(queries, min(self._knob, len(self.centers))).positions
        best = NearestSoFar(len(queries), k, max_distance)
        for row in range(len(queries)):
            positions = np.flatnonzero(np.isin(self.cells, probed[row]))
            if exclude is not None:
                positions = np.setdiff1d(positions, exclude.positions[exclude.rows == row])
            rows = np.full(len(positions), row)
            best.offer(
                rows, positions, self._metric.distances(queries, self._matrix, rows, positions)
            )
        return best.neighbors()
