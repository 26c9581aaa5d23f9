"""An inverted file (IVF): items in lists around centroids, of which the nearest are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from pyspark_knn.index.angles import ANGLES
from pyspark_knn.index.approximate import ivf_lists
from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.faiss_files import open_file
from pyspark_knn.index.approximate.ivf_lists import Quantizers
from pyspark_knn.index.approximate.ivf_search import ListSearch
from pyspark_knn.index.approximate.knobs import levels
from pyspark_knn.index.approximate.libraries import library_version, load_library
from pyspark_knn.index.approximate.space import Coordinates
from pyspark_knn.index.approximate.structures import check_range, check_structure, damaged

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pyspark_knn.index.approximate.search import Certain
    from pyspark_knn.index.base import IndexSpec

_ITEMS_PER_LIST = 40
"""The least mean number of items in a list that is chosen by default."""

_QUERIES_PER_LIST = 128
"""With twice as many queries of each list at a time, a query takes 7 % less time. On Spark, that is
lost again, since the next queries are not prepared in the meantime."""

_SIMD_BYTES = 16
"""With other numbers of coordinates in bytes than multiples of this, FAISS takes four times as
long."""

_FIRST_NPROBE = 8
"""The lists that are searched unless `search_params` says otherwise."""


class IVFSearch(ApproximateIndex):
    """Search in the lists of the nearest centroids, by FAISS.

    `nlist` is the number of lists, by default four times the square root of the number of items,
    and at most a fortieth of it. `encoding` is how the lists contain the vectors: "flat", in
    float32, or "sq8", in one byte for each feature. That takes a quarter of the memory, and more
    candidates are ranked. Lists are stored in addition to the items.
    """

    algorithm: ClassVar[str] = "ivf"
    library: ClassVar[str] = "faiss"
    index_names: ClassVar[Mapping[str, range | tuple[str, ...]]] = {
        "nlist": range(1, 1 << 31),
        "encoding": ("flat", "sq8"),
    }
    search_name: ClassVar[str] = "nprobe"

    def __init__(
        self,
        matrix: NDArray[np.floating],
        spec: IndexSpec,
        space: Coordinates,
        quantizers: Quantizers,
        cells: NDArray[np.int32],
    ) -> None:
        super().__init__(matrix, spec, space, _FIRST_NPROBE)
        self._n_lists = len(quantizers.centroids)
        self._has_ranges = quantizers.ranges is not None
        self._version = library_version("faiss")
        self._file = ivf_lists.file_of_lists(quantizers, space, matrix, cells)

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> Self:
        """See `ApproximateIndex.build`."""
        load_library("faiss")
        n_lists = _n_lists(len(matrix), spec)
        space = _padded(Coordinates.of(spec.metric, matrix), spec)
        # Sums over several threads have other rounding errors, and would lead to other centroids.
        with threadpool_limits(limits=1):
            quantizers = ivf_lists.trained(
                space, matrix, n_lists, _encoding(spec) == "sq8", spec.seed
            )
            cells = ivf_lists.cells_of(quantizers.centroids, space, matrix)
        return cls(matrix, spec, space, quantizers, cells)

    @property
    def detail(self) -> str:
        """See `NeighborIndex.detail`."""
        return f"in {self._n_lists} lists"

    @property
    def added_bytes(self) -> int:
        """See `NeighborIndex.added_bytes`."""
        return self._file.nbytes

    @property
    def queries_at_once(self) -> int:
        """See `NeighborIndex.queries_at_once`: products read each list once for all its queries."""
        if self._has_ranges:
            return 1
        return _QUERIES_PER_LIST * self._n_lists // min(self._knob, self._n_lists)

    @classmethod
    def expected_bytes(
        cls, shape: tuple[int, int], dtype: np.dtype[np.floating], spec: IndexSpec
    ) -> int:
        """See `ApproximateIndex.expected_bytes`: the lists with their positions, the centroids."""
        n_items, n_features = shape
        n_lists = _n_lists(n_items, spec)
        in_bytes = _encoding(spec) == "sq8"
        width = n_features + -n_features % _SIMD_BYTES if in_bytes else 4 * n_features
        return n_items * (width + 8) + 4 * n_lists * n_features

    @classmethod
    def build_work(cls, n_items: int, spec: IndexSpec) -> float:
        """See `ApproximateIndex.build_work`: the comparisons of items with centroids."""
        n_lists = _n_lists(n_items, spec)
        return float(n_lists * (n_items + ivf_lists.training_comparisons(n_items, n_lists)))

    def knob_levels(self) -> list[int]:
        """See `ApproximateIndex.knob_levels`."""
        return levels(1, self._n_lists)

    def spare(self, k: int) -> int:
        """See `ApproximateIndex.spare`; with one byte for each feature, the order is uncertain."""
        return k + 8 if self._has_ranges else super().spare(k)

    def candidates(self, queries: NDArray[np.float32], many: int, knob: int) -> NDArray[np.int64]:
        """See `ApproximateIndex.candidates`."""
        # The norms of unit vectors may have other last bits if other rows are computed with them.
        same = not self._space.norm and self.metric.name not in ANGLES
        items = self._coordinates if same else None
        return self._opened().candidates(queries, many, min(knob, self._n_lists), items)

    def certain(
        self, queries: NDArray[np.float32], many: int, spare: int, knob: int
    ) -> list[Certain]:
        """See `ApproximateIndex.certain`; if the lists contain the items as they are."""
        if self._has_ranges or not self._space.changes_nothing or self._matrix.dtype != np.float32:
            return []
        nprobe = min(knob, self._n_lists)
        return self._opened().certain(queries, many, nprobe, self._coordinates, spare)

    def _coordinates(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._space.coordinates(self._matrix[positions])

    def _with_added(
        self,
        matrix: NDArray[np.floating],
        old_positions: NDArray[np.int64],
        added: NDArray[np.bool_],
    ) -> Self:
        # The centroids remain, and the others join their lists.
        quantizers, old_cells = ivf_lists.content(self._opened().lists)
        cells = np.empty(len(matrix), np.int32)
        cells[old_positions] = old_cells
        with threadpool_limits(limits=1):
            cells[added] = ivf_lists.cells_of(quantizers.centroids, self._space, matrix[added])
        return type(self)(matrix, self._spec, self._space, quantizers, cells)

    def structure(self) -> dict[str, NDArray[Any]]:
        """See `ApproximateIndex.structure`: the centroids, and the list of each item."""
        (centroids, ranges), cells = ivf_lists.content(self._opened().lists)
        parts = {"centroids": centroids, "cells": cells, **self._space.structure()}
        return parts if ranges is None else {**parts, "ranges": ranges}

    @classmethod
    def restored(
        cls, matrix: NDArray[np.floating], spec: IndexSpec, structure: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `ApproximateIndex.restored`."""
        n_items, n_features = matrix.shape
        space = _padded(Coordinates.restored(spec.metric, n_features, structure), spec)
        n_coordinates = space.n_coordinates
        expected: dict[str, Any] = {
            **Coordinates.expected(n_features),
            "centroids": (np.float32, (None, n_coordinates)),
            "cells": (np.int32, (n_items,)),
        }
        if _encoding(spec) == "sq8":
            expected["ranges"] = (np.float32, (2, n_coordinates))
        check_structure(structure, expected)
        centroids, ranges = structure["centroids"], structure.get("ranges")
        if len(centroids) > n_items:
            raise damaged("centroids", f"has {len(centroids)} rows for {n_items} items")
        check_range("cells", structure["cells"], 0, len(centroids))
        if ranges is not None and (ranges[1] < 0).any():
            raise damaged("ranges", "has a negative width")
        load_library("faiss")
        return cls(matrix, spec, space, Quantizers(centroids, ranges), structure["cells"])

    def _opened(self) -> ListSearch:
        if "lists" not in self._handles:
            self._handles["lists"] = ListSearch(open_file(self._file, self._version))
        found: ListSearch = self._handles["lists"]
        return found


def _n_lists(n_items: int, spec: IndexSpec) -> int:
    """Return the number of lists of so many items, which is at most the number of items."""
    return min(n_items, int(spec.index_params.get("nlist", default_nlist(n_items))))


def default_nlist(n_items: int) -> int:
    """Return the number of lists that is chosen for a number of items.

    Parameters
    ----------
    n_items : int
        The number of items.

    Returns
    -------
    int
        The number, at least 1.
    """
    return max(1, min(int(4 * n_items**0.5), n_items // _ITEMS_PER_LIST))


def _padded(space: Coordinates, spec: IndexSpec) -> Coordinates:
    """Return coordinates of which FAISS compares several at a time, if they are in bytes."""
    lacking = -space.n_coordinates % _SIMD_BYTES if _encoding(spec) == "sq8" else 0
    return replace(space, padding=lacking)


def _encoding(spec: IndexSpec) -> str:
    return str(spec.index_params.get("encoding", "flat"))
