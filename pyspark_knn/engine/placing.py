"""Choose the placement of packed items, replicated or sharded, and build their index there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import types as T

from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.placement import REPLICATED, SHARDED, Placement
from pyspark_knn.engine.replicated import Replicated
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.sharded import Sharded
from pyspark_knn.engine.ship import shipping
from pyspark_knn.engine.spark.memory import available_memory
from pyspark_knn.index.auto import build_index
from pyspark_knn.index.base import IndexSpec

AUTO_BYTES = 2 << 30
"""Placement "auto" replicates vectors up to this size, in bytes."""

GROWN_BYTES = 2 << 30
"""Sparse vectors are refused if they would be larger than this as dense ones, in bytes ..."""

MAX_GROWTH = 100
"""... and would grow by more than this factor. The vectors that VectorAssembler makes of numbers
and one-hot vectors grow by far less."""


def place(
    packed: PackedItems,
    spec: IndexSpec,
    *,
    placement: str,
    num_shards: int | None,
    shard_by: str,
) -> tuple[Placement, str]:
    """Index packed items in the requested placement or, with "auto", where they fit.

    Parameters
    ----------
    packed : PackedItems
        The items.
    spec : IndexSpec
        How to index them.
    placement : {"auto", "replicated", "sharded"}
        Where to put the index.
    num_shards : int or None
        The number of shards of a sharded index; None chooses it from the size and the cores.
    shard_by : {"hash", "kmeans"}
        How items are assigned to shards.

    Returns
    -------
    index : Placement
        The index in its placement.
    reason : str
        The reason for the placement, one sentence.

    Raises
    ------
    ValueError
        See `choose_placement`.
    """
    name, reason = choose_placement(placement, packed)
    if name == SHARDED:
        return Sharded.build(packed, spec, num_shards, shard_by), reason
    return replicate(*packed.gather(), spec, packed.source.id_type), reason


def replicate(
    items: Items, matrix: NDArray[np.floating], spec: IndexSpec, id_type: T.DataType | None
) -> Placement:
    """Index items on the driver, for the placement "replicated".

    Parameters
    ----------
    items : Items
        The items without their vectors.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        Their vectors, in the same order.
    spec : IndexSpec
        How to index them.
    id_type : DataType or None
        The Spark type of the ids; None if the positions are the ids.
    """
    return Replicated(items, *build_index(matrix, spec), id_type)


def choose_placement(placement: str, packed: PackedItems) -> tuple[str, str]:
    """Choose the placement of items, and check that they fit there, before any of them is fetched.

    Parameters
    ----------
    placement : {"auto", "replicated", "sharded"}
        The Param ``placement``.
    packed : PackedItems
        The items.

    Returns
    -------
    name : {"replicated", "sharded"}
        The placement.
    reason : str
        The size of the items in GiB and the reason for the placement, one sentence.

    Raises
    ------
    ValueError
        If sparse vectors would grow too much as dense ones, or if the item matrix is too large for
        `placement` "replicated".
    """
    _check_growth(packed)
    needed, free = packed.nbytes, available_memory()
    size = (
        f"{packed.num_items:,} items of {packed.num_features:,} dimensions in "
        f"{packed.dtype.name} take {needed / 2**30:.2f} GiB"
    )
    driver = "" if free is None else f"only {free / 2**30:.2f} GiB are free on the driver"
    too_large = free is not None and needed > free
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
        dense = ", since sparse vectors are stored dense" * bool(packed.sparse_size()[1])
        raise ValueError(
            f"placement 'replicated' needs too much memory: {size}{dense}, but {driver}. Use "
            "placement='sharded', a driver with more memory, fewer items, or vectors of fewer "
            "dimensions (pyspark.ml.feature.PCA)."
        )
    return REPLICATED, f"{size}, small enough for a copy on every executor"


def _check_growth(packed: PackedItems) -> None:
    """Raise a ValueError for sparse vectors that would be too large as dense ones."""
    sparse, dense = packed.sparse_size()
    if dense <= GROWN_BYTES or dense < MAX_GROWTH * sparse:
        return
    raise ValueError(
        f"featuresCol {packed.source.features_col!r} contains sparse vectors, which the index "
        f"stores dense: {packed.num_items:,} items of {packed.num_features:,} dimensions would "
        f"grow from {sparse / 2**20:.1f} MiB to {packed.nbytes / 2**30:.2f} GiB. Use vectors of "
        "fewer dimensions: a smaller numFeatures of HashingTF or vocabSize of CountVectorizer, or "
        "pyspark.ml.feature.PCA. To store them dense on purpose, convert the column with "
        "pyspark.ml.functions.vector_to_array before fit."
    )
