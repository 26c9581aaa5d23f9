"""Builds the index that was asked for, or the one that is fastest on the items at hand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyspark_knn.index.distances import check_algorithm
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.sklearn_index import BallTreeSearch, KDTreeSearch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyspark_knn.index.base import IndexSpec, NeighborIndex

_LOG = logging.getLogger(__name__)

_CLASSES: dict[str, type[NeighborIndex]] = {
    "brute": PairwiseSearch,
    "kd_tree": KDTreeSearch,
    "ball_tree": BallTreeSearch,
}


def build_index(matrix: NDArray[np.floating], spec: IndexSpec) -> tuple[NeighborIndex, str]:
    """Index the rows of `matrix`.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        C-contiguous and finite, at least one row. Kept, not copied.
    spec : IndexSpec

    Returns
    -------
    index : NeighborIndex
    reason : str
        Why it is this one, in a sentence.
    """
    spec.metric.check_dimension(matrix.shape[1])
    check_algorithm(spec.algorithm, spec.metric)
    algorithm = "brute" if spec.algorithm == "auto" else spec.algorithm
    index = _CLASSES[algorithm].build(matrix, spec)
    reason = f"{index.algorithm} was asked for"
    _LOG.info("indexed %d items of %d features: %s", *matrix.shape, reason)
    return index, reason
