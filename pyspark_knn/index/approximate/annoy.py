"""Annoy's forest of random hyperplanes, for those who know it; the other indexes are better."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.knobs import levels
from pyspark_knn.index.approximate.libraries import library_version, load_library
from pyspark_knn.index.approximate.space import Coordinates

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec

_TREES = 50
_FIRST_SEARCH_K = 1000
"""The nodes that a search visits unless `search_params` says otherwise."""

_NODES_OF_FEW = 1 << 13
"""The nodes that the most thorough search visits in few items. A search counts an item once for
each tree, so as many nodes as items are far from all of them."""

_NODE_BYTES, _NODES_PER_LEAF = 12, 2.8
"""The bytes of a node beside its vector, and the nodes of a tree for each full leaf, on average."""

_FOREST = "forest"
"""The handle of Annoy's object."""

_LOCAL_FOLDERS = "SPARK_LOCAL_DIRS"
"""The environment variable with the folders of an executor, which Spark deletes when it ends."""


class AnnoySearch(ApproximateIndex):
    """Search in random trees, by Annoy, one query at a time.

    `nTrees` is the number of trees, `searchK` the number of nodes that a search visits. Annoy can
    only map a file from its beginning, so the index contains its file as an array. The workers of
    an executor write it to a folder of the executor, once, and share its pages. A saved model does
    not contain it: the trees are built again on load, and also when items are added.

    Annoy is here so that pipelines that use it can move to this package. An IVF has a higher recall
    in less time and memory.
    """

    algorithm: ClassVar[str] = "annoy"
    library: ClassVar[str] = "annoy"
    index_names: ClassVar[Mapping[str, range | tuple[str, ...]]] = {
        "nTrees": range(1, (1 << 16) + 1)
    }
    search_name: ClassVar[str] = "searchK"
    worth_saving: ClassVar[bool] = False

    def __init__(
        self,
        matrix: NDArray[np.floating],
        spec: IndexSpec,
        space: Coordinates,
        file: NDArray[np.uint8],
    ) -> None:
        super().__init__(matrix, spec, space, _FIRST_SEARCH_K)
        self._file = file
        self._digest = hashlib.blake2b(file.data, digest_size=20).hexdigest()
        self._version = library_version("annoy")

    @classmethod
    def build(cls, matrix: NDArray[np.floating], spec: IndexSpec) -> Self:
        """See `ApproximateIndex.build`."""
        space = Coordinates.of(spec.metric, matrix)
        forest = load_library("annoy").AnnoyIndex(space.n_coordinates, "euclidean")
        forest.set_seed(spec.seed % (1 << 31))  # a signed integer of 32 bits
        for where in space.blocks(len(matrix)):
            for position, row in enumerate(space.coordinates(matrix[where]), where.start):
                forest.add_item(position, row)
        # With several threads, the trees depend on their number.
        forest.build(_n_trees(spec), n_jobs=1)
        with tempfile.TemporaryDirectory(prefix="pyspark_knn_") as folder:
            path = Path(folder, _FOREST)
            forest.save(str(path))
            file = np.fromfile(path, np.uint8)
            forest.unload()
        return cls(matrix, spec, space, file)

    @property
    def added_bytes(self) -> int:
        """See `NeighborIndex.added_bytes`."""
        return self._file.nbytes

    @classmethod
    def expected_bytes(
        cls, shape: tuple[int, int], dtype: np.dtype[np.floating], spec: IndexSpec
    ) -> int:
        """See `ApproximateIndex.expected_bytes`: nodes of one size, for items and in trees."""
        n_items, n_features = shape
        node = 4 * n_features + _NODE_BYTES
        # A leaf contains as many items as a node has room for; half of that on average.
        in_tree = _NODES_PER_LEAF * n_items / max(2, n_features)
        return int(node * (n_items + _n_trees(spec) * in_tree))

    def knob_levels(self) -> list[int]:
        """See `ApproximateIndex.knob_levels`."""
        trees, items = _n_trees(self._spec), len(self._matrix)
        return levels(trees, max(items, min(trees * items, _NODES_OF_FEW)))

    def candidates(self, queries: NDArray[np.float32], many: int, knob: int) -> NDArray[np.int64]:
        """See `ApproximateIndex.candidates`."""
        forest = self._opened()
        found = np.full((len(queries), many), -1, np.int64)
        for row, query in zip(found, queries.tolist(), strict=True):
            positions = forest.get_nns_by_vector(query, many, knob)
            row[: len(positions)] = positions
        return found

    def _with_added(
        self,
        matrix: NDArray[np.floating],
        old_positions: NDArray[np.int64],
        added: NDArray[np.bool_],
    ) -> Self:
        # Nothing can be added to a tree, so all are built.
        return self.build(matrix, self._spec)

    def structure(self) -> dict[str, NDArray[Any]]:
        """See `ApproximateIndex.structure`: nothing."""
        return {}

    @classmethod
    def restored(
        cls, matrix: NDArray[np.floating], spec: IndexSpec, structure: Mapping[str, NDArray[Any]]
    ) -> Self:
        """See `ApproximateIndex.restored`; builds the trees."""
        return cls.build(matrix, spec)

    def _opened(self) -> Any:
        if _FOREST not in self._handles:
            self._handles[_FOREST] = self._open()
        return self._handles[_FOREST]

    def _open(self) -> Any:
        """Map the file of the forest, shared with the other workers of an executor if possible."""
        annoy = load_library("annoy", self._version)
        forest = annoy.AnnoyIndex(self._space.n_coordinates, "euclidean")
        local = os.environ.get(_LOCAL_FOLDERS, "").split(",")[0]
        if local and os.path.isdir(local):
            forest.load(str(self._shared_file(Path(local))))
            return forest
        # The mapped pages remain when the file is deleted.
        with tempfile.TemporaryDirectory(
            prefix="pyspark_knn_", ignore_cleanup_errors=True
        ) as folder:
            path = Path(folder, _FOREST)
            self._file.tofile(path)
            forest.load(str(path))
        return forest

    def _shared_file(self, folder: Path) -> Path:
        """Return the file in a folder; the first process that needs it writes it."""
        path = folder / f"pyspark_knn_{self._digest}.annoy"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}")
            self._file.tofile(part)
            # The file appears as a whole, and the first one stays if several processes write it.
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
            part.unlink()
        return path


def _n_trees(spec: IndexSpec) -> int:
    return int(spec.index_params.get("nTrees", _TREES))
