"""SCAFFOLD: replaced by the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import Found, storage_of


class GroupedIndex:
    """Scaffold."""

    exact = True

    def __init__(self, matrix: Any, positions: Any, starts: Any, parts: Any) -> None:
        self.matrix, self.positions, self.starts, self.parts = matrix, positions, starts, parts
        self.storage = storage_of(matrix)
        self.n_features = matrix.shape[1]
        self.metric = parts[0].metric
        self.algorithm = parts[0].algorithm

    @property
    def n_groups(self) -> int:
        return len(self.parts)

    @property
    def sizes(self) -> Any:
        return np.diff(self.starts)

    @classmethod
    def build(cls, matrix: Any, positions: Any, starts: Any, spec: Any) -> Any:
        parts = []
        for a, b in zip(starts[:-1], starts[1:], strict=True):
            parts.append(build_index(matrix[a:b], spec)[0])
        return cls(matrix, positions, starts, parts), "scaffold"

    def vectors(self, positions: Any) -> Any:
        inverse = np.argsort(self.positions)
        return (
            self.matrix[inverse[positions]]
            if isinstance(self.matrix, np.ndarray)
            else self.matrix.take(inverse[positions])
        )

    def search(
        self,
        queries: Any,
        rows: Any,
        groups: Any,
        k: int,
        *,
        max_distance: Any = None,
        exclude: Any = None,
    ) -> Found:
        lists: list[Any] = [[] for _ in range(len(queries))]
        for r, g in zip(rows.tolist(), groups.tolist(), strict=True):
            part = self.parts[g]
            size = self.starts[g + 1] - self.starts[g]
            f = part.search(queries[r : r + 1], int(size), max_distance=max_distance)
            pos = self.positions[self.starts[g] + f.positions]
            bad = set()
            if exclude is not None:
                bad = set(exclude.positions[exclude.rows == r].tolist())
            lists[r] += [
                (d, p)
                for d, p in zip(f.distances.tolist(), pos.tolist(), strict=True)
                if p not in bad
            ]
        for each in lists:
            each.sort()
            del each[k:]
        flat = [pair for each in lists for pair in each]
        offsets = np.append(0, np.cumsum([len(each) for each in lists])).astype(np.int64)
        return Found(
            offsets, np.array([d for d, _ in flat], float), np.array([p for _, p in flat], np.int64)
        )
