"""Choose the storage of packed items: dense or sparse vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark_knn.index.found import DENSE, SPARSE
from pyspark_knn.index.registry import classes_for, sparse_metrics

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.counted import CountedItems
    from pyspark_knn.index.base import IndexSpec

MIN_FEATURES = 256
"""Storage "auto" stores vectors of fewer dimensions dense, which takes little memory and time."""

SPARSE_SHARE = 16
"""Storage "auto" stores vectors sparse if at most one of so many values is stored on average. From
there on, a search of sparse vectors was faster on all data that was tried, see docs/benchmarks.md;
at twice this share both took about equally long."""

LARGE_BYTES, SAVING = 2 << 30, 4
"""Dense vectors of more than so many bytes are stored sparse even if more values are stored, where
they then take at most a fourth: a search of them is about as fast, and may fit in memory."""

GROWN_BYTES = 2 << 30
"""Sparse vectors are refused if they would be larger than this as dense ones, in bytes ..."""

MAX_GROWTH = 100
"""... and would grow by more than this factor. The vectors that VectorAssembler makes of numbers
and one-hot vectors grow by far less."""


def choose_storage(
    requested: str, packed: CountedItems, spec: IndexSpec, shard_by: str
) -> tuple[str, str]:
    """Choose how the vectors of an index are stored.

    Parameters
    ----------
    requested : {"auto", "dense", "sparse"}
        The Param `storage`.
    packed : CountedItems
        The items.
    spec : IndexSpec
        How to index them.
    shard_by : {"hash", "kmeans"}
        How items are assigned to shards.

    Returns
    -------
    storage : {"dense", "sparse"}
        The storage.
    reason : str
        The reason, one sentence.

    Raises
    ------
    ValueError
        If sparse vectors would grow too much as dense ones, but cannot be stored sparse or were
        requested to be dense.
    """
    if requested == SPARSE:
        return SPARSE, f"storage 'sparse' was requested; {_counts(packed)}"
    obstacle = _obstacle(spec, shard_by)
    if requested == DENSE or obstacle:
        _check_growth(packed, spec, obstacle)
        why = "storage 'dense' was requested" if requested == DENSE else obstacle
        return DENSE, f"{why}; {_counts(packed)}"
    if packed.num_features < MIN_FEATURES:
        return DENSE, f"{_counts(packed)}: with fewer than {MIN_FEATURES} features dense is as fast"
    if packed.stored * SPARSE_SHARE <= packed.num_items * packed.num_features:
        return SPARSE, f"{_counts(packed)}, at most 1 in {SPARSE_SHARE}"
    dense, sparse = packed.nbytes(DENSE), packed.nbytes(SPARSE)
    if dense > LARGE_BYTES and dense >= SAVING * sparse:
        sizes = f"{sparse / 2**30:.2f} GiB instead of {dense / 2**30:.2f} GiB"
        return SPARSE, f"{_counts(packed)}, which takes {sizes}"
    return DENSE, f"{_counts(packed)}, more than 1 in {SPARSE_SHARE}"


def _counts(packed: CountedItems) -> str:
    stored = packed.stored / packed.num_items
    return f"items store {stored:,.1f} of {packed.num_features:,} values on average"


def _obstacle(spec: IndexSpec, shard_by: str) -> str:
    """Return why vectors cannot be stored sparse; "" if they can."""
    classes = classes_for(spec.metric, spec.registered, SPARSE)
    if not classes:
        return (
            f"metric {spec.metric.name!r} requires dense vectors (storage 'sparse' supports "
            f"{', '.join(sparse_metrics())})"
        )
    if spec.algorithm != "auto" and spec.algorithm not in classes:
        return f"algorithm {spec.algorithm!r} requires dense vectors"
    return "shardBy 'kmeans' requires dense vectors" if shard_by == "kmeans" else ""


def _check_growth(packed: CountedItems, spec: IndexSpec, obstacle: str) -> None:
    """Raise a ValueError for sparse vectors that would be too large as dense ones."""
    sparse, dense = packed.sparse_size()
    if dense <= GROWN_BYTES or dense < MAX_GROWTH * sparse:
        return
    remedy = (
        f"{obstacle[0].upper()}{obstacle[1:]}. Change that, or use"
        if obstacle
        else "Use storage='sparse' (or 'auto'), or"
    )
    raise ValueError(
        f"featuresCol {packed.source.features_col!r} contains sparse vectors that would grow from "
        f"{sparse / 2**20:.1f} MiB to {packed.nbytes(DENSE) / 2**30:.2f} GiB if they were stored "
        f"dense: {packed.num_items:,} items of {packed.num_features:,} dimensions. {remedy} "
        "vectors of fewer dimensions: a smaller numFeatures of HashingTF or vocabSize of "
        "CountVectorizer, or pyspark.ml.feature.PCA. To store them dense on purpose, convert the "
        "column with pyspark.ml.functions.vector_to_array before fit."
    )
