"""An index that kills its process once, during a search, and searches normally after that."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from pyspark_knn.index.base import NeighborIndex
from pyspark_knn.index.found import Neighbors
from tests.support.wrapped import WrappedIndex


class AccidentIndex(WrappedIndex):
    """Kills its Python worker, or the JVM of its executor, in the first search of any worker."""

    def __init__(self, index: NeighborIndex, victim: str, folder: Path) -> None:
        super().__init__(index, folder)
        self._victim = victim

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        try:
            (self._folder / "happened").touch(exist_ok=False)
        except FileExistsError:
            return super().kneighbors(queries, k, **options)
        daemon = os.getppid()
        victim = os.getpid() if self._victim == "worker" else _parent(daemon)
        os.kill(victim, signal.SIGKILL)
        raise RuntimeError(f"the {self._victim} is gone")


def _parent(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


class MapWitness(WrappedIndex):
    """Records which file is mapped at the address of the items in a worker, and how."""

    def kneighbors(self, queries: Any, k: int, **options: Any) -> Neighbors:
        address = self.matrix.__array_interface__["data"][0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            extent, mode, _, _, _, *path = line.split()
            first, last = (int(end, 16) for end in extent.split("-"))
            if first <= address < last:
                aligned = address % 64 == 0 and not self.matrix.flags.writeable
                text = f"{mode} {aligned} {path[0] if path else ''}"
                (self._folder / str(os.getpid())).write_text(text)
        return super().kneighbors(queries, k, **options)
