"""An index that wraps another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import Neighbors


class WrappedIndex(NeighborIndex):
    """Searches with the wrapped index; subclasses do something before that."""

    def __init__(self, index: NeighborIndex, folder: Path) -> None:
        self._index = index
        self._folder = folder
        self.algorithm = index.algorithm  # type: ignore[misc]
        self.storage = index.storage  # type: ignore[misc]

    @classmethod
    def build(cls, matrix: Any, spec: Any) -> NeighborIndex:
        raise NotImplementedError

    @property
    def matrix(self) -> Any:
        return self._index.matrix

    @property
    def metric(self) -> Any:
        return self._index.metric

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        return self._index.kneighbors(queries, k, **options)


def wrap_index(model: Any, wrapper: Callable[[NeighborIndex], NeighborIndex]) -> None:
    """Put an index before that of a fitted, replicated model, before its first transform."""
    placed = model._fitted
    content = placed.searchable
    placed.searchable = replace(content, index=wrapper(content.index))
