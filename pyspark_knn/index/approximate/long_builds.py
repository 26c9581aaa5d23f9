"""Builds that may take long: their time is estimated from a sample, logged, and shown."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.approximate.progress import progress_line

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


def build_and_tell(
    kind: type[ApproximateIndex], matrix: NDArray[np.floating], spec: IndexSpec
) -> ApproximateIndex:
    """Build an index; if that takes long, log how long beforehand, and show how far it is.

    Parameters
    ----------
    kind : type
        The class of the index.
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    spec : IndexSpec
        How to index them.

    Returns
    -------
    ApproximateIndex
        The index.
    """
    seconds = _estimated(kind, matrix, spec)
    if seconds <= _LONG_SECONDS:
        return kind.build(matrix, spec)
    what = f"building the {kind.algorithm} index of {len(matrix)} items"
    # A warning, since a log does not show lower levels by default.
    logger.warning("%s takes about %.0f seconds", what, seconds)
    with progress_line(what, seconds):
        return kind.build(matrix, spec)


def _estimated(
    kind: type[ApproximateIndex], matrix: NDArray[np.floating], spec: IndexSpec
) -> float:
    """Return about how many seconds a build takes; 0 if there are few items."""
    if len(matrix) < _TIMES * _TIMED_ITEMS:
        return 0.0
    sample = np.ascontiguousarray(matrix[:: len(matrix) // _TIMED_ITEMS])
    # As many lists as the items have would be too many for the sample.
    params = {name: each for name, each in spec.index_params.items() if name != "nlist"}
    smaller = replace(spec, index_params=params)
    start = time.perf_counter()
    kind.build(sample, smaller)
    ratio = kind.build_work(len(matrix), spec) / kind.build_work(len(sample), smaller)
    return (time.perf_counter() - start) * ratio
