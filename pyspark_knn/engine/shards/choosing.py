"""The algorithm of shards that may be approximate, chosen on a sample of the items."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.engine.shards.sampling import sample_items
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.index.auto import build_index

if TYPE_CHECKING:
    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.index.base import IndexSpec

_SAMPLED_ITEMS, _SAMPLED_NUMBERS = 1 << 16, 1 << 22
"""The size of the sample: items, and numbers in their vectors."""


def choose_algorithm(packed: PackedItems, spec: IndexSpec) -> tuple[IndexSpec, str]:
    """Choose one algorithm for all shards where "auto" may choose an approximate one.

    Shards that choose among exact algorithms may differ, since all give the same answers. But one
    value of the knob must suit all shards of an approximate index.

    Parameters
    ----------
    packed : PackedItems
        The items.
    spec : IndexSpec
        How to index them.

    Returns
    -------
    spec : IndexSpec
        The same, with the name of an approximate algorithm or without a target of the recall.
    reason : str
        Why that algorithm, or none, is approximate; "" if it was not a choice.
    """
    if spec.algorithm != "auto" or spec.target_recall is None:
        return spec, ""
    most = min(_SAMPLED_ITEMS, _SAMPLED_NUMBERS // packed.num_features)
    share = min(1.0, most / packed.num_items)
    sample = guarded(functools.partial(sample_items, packed.num_features, share))
    frame = packed.frame.mapInArrow(sample, "features array<double>")
    with compat.described(frame.sparkSession, "pyspark_knn: choose an algorithm"):
        rows = compat.collect(frame)
    matrix = np.array([row["features"] for row in rows], packed.dtype)
    index, reason = build_index(matrix, spec)
    reason += f", of a sample of {len(matrix):,} items"
    if index.exact:
        return replace(spec, target_recall=None), reason
    return replace(spec, algorithm=index.algorithm), reason
