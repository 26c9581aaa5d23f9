"""Counts the queries that are searched, with a wrapper around the index of a model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyspark_knn.index import choices
from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import Neighbors
from tests.support.wrapped import WrappedIndex, wrap_index


class CountingIndex(WrappedIndex):
    """Writes the number of queries of each search to a file, and then searches."""

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        # O_APPEND, so that lines of concurrent workers do not mix.
        line = f"{len(queries)}\n".encode()
        note = os.open(self._folder / "searched", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(note, line)
        finally:
            os.close(note)
        return super().kneighbors(queries, k, **options)


class _Notes:
    """Reads the counts in a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "searched"

    def take(self) -> int:
        """How many queries were searched since the last call."""
        if not self._file.exists():
            return 0
        total = sum(int(line) for line in self._file.read_text().split())
        self._file.unlink()
        return total


class SearchCounter(_Notes):
    """Wraps the index of a fitted model (before its first transform) and reads the notes."""

    def __init__(self, model: Any, folder: Path) -> None:
        super().__init__(folder)
        wrap_index(model, lambda index: CountingIndex(index, folder))


class AllSearches(_Notes):
    """Wraps all indexes that fits build while `monkeypatch` is in force.

    Attributes
    ----------
    built : int
        How many indexes that were.
    """

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        super().__init__(folder)
        self.built = 0
        build = choices.build_index

        def build_counting(*arguments: Any) -> tuple[NeighborIndex, str]:
            index, reason = build(*arguments)
            self.built += 1
            return CountingIndex(index, folder), reason

        monkeypatch.setattr(choices, "build_index", build_counting)


def counted_shards(monkeypatch: Any, folder: Path) -> Callable[[], int]:
    """Count the queries that any sharded model searches, one for each shard it is searched in."""
    from pyspark_knn.engine.shards import block_plan
    from pyspark_knn.engine.shards import plan as shard_plan

    path = str(folder / "searched")
    count = functools.partial(_search_and_note, path, _one, shard_plan.search_shards)
    monkeypatch.setattr(shard_plan, "search_shards", count)
    count = functools.partial(_search_and_note, path, _all_of, block_plan.search_blocks)
    monkeypatch.setattr(block_plan, "search_blocks", count)

    def take() -> int:
        notes = folder / "searched"
        total = sum(int(line) for line in notes.read_text().split())
        notes.unlink()
        return total

    return take


def _one(_: Any) -> int:
    return 1


def _all_of(block: Any) -> int:
    return int(pa.ipc.open_stream(block.as_buffer()).read_all().num_rows)


def _search_and_note(path: str, counted: Callable[[Any], int], search: Any, *given: Any) -> Any:
    """In a worker: queries are in a row of a shard that has no bytes (see `SHARD_COLUMNS`)."""
    *fixed, batches = given

    def noted() -> Any:
        for arrays in batches:
            shards, sizes = arrays[0].to_pylist(), arrays[2].to_pylist()
            queries = sum(
                counted(last)
                for shard, size, last in zip(shards, sizes, arrays[-1], strict=True)
                if size is None and shard >= 0
            )
            note = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(note, f"{queries}\n".encode())
            os.close(note)
            yield arrays

    return search(*fixed, noted())
