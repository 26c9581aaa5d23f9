"""Choose the placement of packed items, replicated or sharded, and build their index there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import types as T

from pyspark_knn.engine.fit.counted import CountedItems, Gathered
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.placement import REPLICATED, SHARDED, Placement
from pyspark_knn.engine.replicated import Replicated
from pyspark_knn.engine.saved_index import SavedIndex
from pyspark_knn.engine.search.indexing import index_items
from pyspark_knn.engine.search.searchable import Searchable
from pyspark_knn.engine.sharded import Sharded
from pyspark_knn.engine.shards.restoring import RESTORED
from pyspark_knn.engine.shards.sizing import added_bytes
from pyspark_knn.engine.ship import shipping
from pyspark_knn.engine.spark.memory import available_memory
from pyspark_knn.engine.storing import choose_storage
from pyspark_knn.index.found import DENSE, SPARSE

if TYPE_CHECKING:
    from pyspark_knn.index.base import IndexSpec

AUTO_BYTES = 2 << 30
"""Placement "auto" replicates vectors, with their index if it is approximate, up to this size, in
bytes."""


@dataclass(frozen=True)
class Placed:
    """An index in its placement, and the reasons for what was chosen.

    Attributes
    ----------
    index : Placement
        The index.
    placement_reason, storage_reason : str
        The reasons for the placement and for the storage, one sentence each.
    """

    index: Placement
    placement_reason: str
    storage_reason: str


def place(
    packed: CountedItems,
    spec: IndexSpec,
    *,
    storage: str,
    placement: str,
    num_shards: int | None,
    shard_by: str,
    saved: SavedIndex | None = None,
) -> Placed:
    """Index packed items in the requested placement or, with "auto", where they fit.

    Parameters
    ----------
    packed : CountedItems
        The items. Those that are in this process are replicated.
    spec : IndexSpec
        How to index them.
    storage : {"auto", "dense", "sparse"}
        How to store the vectors.
    placement : {"auto", "replicated", "sharded"}
        Where to put the index.
    num_shards : int or None
        The number of shards of a sharded index; None chooses it from the size and the cores.
    shard_by : {"hash", "kmeans"}
        How items are assigned to shards.
    saved : SavedIndex, optional
        Where the structure of the index is saved, of a model that is loaded.

    Returns
    -------
    Placed
        The index in its placement.

    Raises
    ------
    ValueError
        See `choose_storage` and `choose_placement`.
    """
    storage, why = choose_storage(storage, packed, spec, shard_by)
    reason = "the items were read without Spark"
    if isinstance(packed, PackedItems):
        name, reason = choose_placement(placement, packed, storage, spec)
        if name == SHARDED:
            shards = None if saved is None else saved.of_shards(spec)
            built = Sharded.build(packed, spec, storage, num_shards, shard_by, shards)
            return Placed(built, reason, why)
    gathered, source = packed.gather(storage), packed.source
    index = replicate(gathered, spec, source.id_type, source.key_types, saved)
    return Placed(index, reason, why)


def replicate(
    gathered: Gathered,
    spec: IndexSpec,
    id_type: T.DataType | None,
    key_types: dict[str, T.DataType] | None = None,
    saved: SavedIndex | None = None,
) -> Placement:
    """Index items on the driver, for the placement "replicated".

    Parameters
    ----------
    gathered : Gathered
        The items.
    spec : IndexSpec
        How to index them.
    id_type : DataType or None
        The Spark type of the ids; None if the positions are the ids.
    key_types : dict of str to DataType, optional
        The Spark types of the keys, by the names of their columns. Default: there are no keys.
    saved : SavedIndex, optional
        See `place`.
    """
    index = None if saved is None else saved.restored(gathered.matrix, spec)
    if index is not None:
        searchable, reason = Searchable(gathered.items, index), RESTORED
    else:
        searchable, reason = index_items(*gathered, spec)
    return Replicated(searchable, reason, id_type, key_types or {})


def append(index: Placement, packed: PackedItems, spec: IndexSpec) -> Placement:
    """Return an index of the items of another one and of new items.

    Parameters
    ----------
    index : Placement
        The index, which does not change.
    packed : PackedItems
        The new items, at least one.
    spec : IndexSpec
        How to index them.

    Returns
    -------
    Placement
        The index, in the same placement and storage.

    Raises
    ------
    ValueError
        If the driver has not enough memory for a replicated index of all items.
    """
    if isinstance(index, Replicated):
        _check_growth(index, packed)
    return index.append(packed, spec)


def _check_growth(index: Replicated, packed: PackedItems) -> None:
    """Raise a ValueError if the driver has not enough memory for a copy of all vectors."""
    matrix = index.searchable.index.matrix
    width = np.result_type(matrix.dtype, packed.dtype).itemsize
    needed = matrix.nbytes * width // matrix.dtype.itemsize + packed.nbytes(index.storage)
    free = available_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"placement 'replicated' needs too much memory: {index.num_items + packed.num_items:,} "
            f"items take {needed / 2**30:.2f} GiB, but only {free / 2**30:.2f} GiB are free on the "
            "driver. Fit all items with placement='sharded', use a driver with more memory, or "
            "append fewer items."
        )


def choose_placement(
    placement: str, packed: PackedItems, storage: str, spec: IndexSpec
) -> tuple[str, str]:
    """Choose the placement of items, and check that they fit there, before any of them is fetched.

    Parameters
    ----------
    placement : {"auto", "replicated", "sharded"}
        The Param ``placement``.
    packed : PackedItems
        The items.
    storage : {"dense", "sparse"}
        How their vectors will be stored.
    spec : IndexSpec
        How they will be indexed.

    Returns
    -------
    name : {"replicated", "sharded"}
        The placement.
    reason : str
        The size of the items in GiB and the reason for the placement, one sentence.

    Raises
    ------
    ValueError
        If the vectors and an approximate index of them are too large for `placement` "replicated".
    """
    vectors, free = packed.nbytes(storage), available_memory()
    added = added_bytes(packed, storage, spec)
    needed = vectors + added
    kind = "sparse " * (storage == SPARSE)
    size = (
        f"{packed.num_items:,} items of {packed.num_features:,} dimensions in "
        f"{kind}{packed.dtype.name} take {vectors / 2**30:.2f} GiB"
    )
    if added:
        size += f", and {needed / 2**30:.2f} GiB with an approximate index"
    driver = "" if free is None else f"only {free / 2**30:.2f} GiB are free on the driver"
    # Sparse vectors are copied once, since their places are known when all have been fetched.
    too_large = free is not None and needed * (1 + (storage == SPARSE)) > free
    if placement == SHARDED:
        return SHARDED, f"placement 'sharded' was requested; {size}"
    if not shipping.takes_files(packed.frame.sparkSession):
        return SHARDED, (
            f"{size}, but the Spark Connect server accepts no files, so the index is stored as rows"
        )
    if placement == "auto" and needed > AUTO_BYTES:
        limit = f"{AUTO_BYTES / 2**30:.0f} GiB"
        return SHARDED, f"{size}, more than the limit of {limit} for replication by 'auto'"
    if placement == "auto" and too_large:
        return SHARDED, f"{size}, but {driver}"
    if too_large:
        raise ValueError(
            f"placement 'replicated' needs too much memory: {size}, but {driver}. Use "
            "placement='sharded', a driver with more memory, fewer items, or "
            f"{_smaller(packed, storage)}."
        )
    return REPLICATED, f"{size}, small enough for a copy on every executor"


def _smaller(packed: PackedItems, storage: str) -> str:
    """Return how the vectors of items can be made smaller."""
    sparse = packed.nbytes(SPARSE)
    fewer = "vectors of fewer dimensions (pyspark.ml.feature.PCA)"
    if storage == SPARSE or 2 * sparse > packed.nbytes(DENSE):
        return fewer
    return f"storage='sparse' (about {sparse / 2**30:.2f} GiB), or {fewer}"
