"""The time of a build, estimated from a sample before it starts, and logged if it is long."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.approximate.base import ApproximateIndex
    from pyspark_knn.index.base import IndexSpec

logger = logging.getLogger(__name__)

_TIMED_ITEMS, _TIMES = 2048, 16
"""The items of the sample, and how many times more there must be: the sample takes a few percent of
the build at most, and the build of fewer items is not long."""

_LONG_SECONDS = 10.0
"""A build that is estimated to take longer is logged."""


def log_long_build(
    kind: type[ApproximateIndex], matrix: NDArray[np.floating], spec: IndexSpec
) -> None:
    """Log how long the build of an index will take, if it takes long.

    Parameters
    ----------
    kind : type
        The class of the index.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    spec : IndexSpec
        How to index them.
    """
    if len(matrix) < _TIMES * _TIMED_ITEMS:
        return
    sample = np.ascontiguousarray(matrix[:: len(matrix) // _TIMED_ITEMS])
    # As many lists as the items have would be too many for the sample.
    params = {name: each for name, each in spec.index_params.items() if name != "nlist"}
    smaller = replace(spec, index_params=params)
    start = time.perf_counter()
    kind.build(sample, smaller)
    ratio = kind.build_work(len(matrix), spec) / kind.build_work(len(sample), smaller)
    seconds = (time.perf_counter() - start) * ratio
    if seconds > _LONG_SECONDS:
        # A warning, since a log does not show lower levels by default.
        logger.warning(
            "building the %s index of %d items takes about %.0f seconds",
            kind.algorithm,
            len(matrix),
            seconds,
        )
