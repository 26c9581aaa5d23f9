"""An index that has an accident once, in the middle of a search, and searches well after that."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from pyspark_knn.index.base import NeighborIndex, Neighbors


class AccidentIndex(NeighborIndex):
    """Kills its own Python worker, or the executor's JVM, at its first search anywhere."""

    def __init__(self, index: NeighborIndex, victim: str, folder: Path) -> None:
        self._index = index
        self._victim = victim
        self._folder = folder
        self.algorithm = index.algorithm  # type: ignore[misc]

    @classmethod
    def build(cls, matrix: Any, spec: Any) -> NeighborIndex:
        raise NotImplementedError

    @property
    def matrix(self) -> Any:
        return self._index.matrix

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        try:
            (self._folder / "happened").touch(exist_ok=False)
        except FileExistsError:
            return self._index.kneighbors(queries, k, **options)
        daemon = os.getppid()
        victim = os.getpid() if self._victim == "worker" else _parent(daemon)
        os.kill(victim, signal.SIGKILL)
        raise RuntimeError(f"the {self._victim} is gone")


def _parent(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


class MapWitness(NeighborIndex):
    """Notes where the items lie in the worker's memory: the file that is mapped there, and how."""

    def __init__(self, index: NeighborIndex, folder: Path) -> None:
        self._index = index
        self._folder = folder
        self.algorithm = index.algorithm  # type: ignore[misc]

    @classmethod
    def build(cls, matrix: Any, spec: Any) -> NeighborIndex:
        raise NotImplementedError

    @property
    def matrix(self) -> Any:
        return self._index.matrix

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        address = self.matrix.__array_interface__["data"][0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            extent, mode, _, _, _, *path = line.split()
            first, last = (int(end, 16) for end in extent.split("-"))
            if first <= address < last:
                aligned = address % 64 == 0 and not self.matrix.flags.writeable
                text = f"{mode} {aligned} {path[0] if path else ''}"
                (self._folder / str(os.getpid())).write_text(text)
        return self._index.kneighbors(queries, k, **options)
