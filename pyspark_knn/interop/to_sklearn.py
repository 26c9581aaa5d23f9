"""Conversion to fitted scikit-learn estimators.

scikit-learn and scipy are imported where they are used: importing them takes a second or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.params.checks import checked_limits, checked_metric

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

    from pyspark_knn.index.found import Rows
    from pyspark_knn.params.neighbors import _KNNParams


def to_sklearn(params: _KNNParams, matrix: Rows) -> NearestNeighbors:
    """Fit a scikit-learn index with the Params of a model.

    Parameters
    ----------
    params : _KNNParams
        The model.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        The vectors of the items.

    Returns
    -------
    NearestNeighbors
        The fitted index, with a radius in place of n_neighbors if k is None.

    Raises
    ------
    ValueError
        For metric "inner_product", for metric "haversine" with a radius, and for metrics that
        scikit-learn does not support on a sparse matrix.
    """
    from sklearn.neighbors import NearestNeighbors

    arguments = _arguments(params, matrix)
    return NearestNeighbors(**arguments).fit(_rows(params, matrix))


def to_sklearn_voter(
    kind: type, params: Any, items: Items, matrix: Rows, target: NDArray[Any], **settings: Any
) -> Any:
    """Fit a scikit-learn classifier or regressor with the Params of a model.

    Parameters
    ----------
    kind : type
        The class of scikit-learn to fit.
    params : _VotingParams
        The model.
    items : Items
        The items of the model.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        The vectors of the items.
    target : ndarray of shape (n_items,)
        The labels of the items, or the names of their classes.
    **settings : Any
        Further parameters of `kind`.

    Returns
    -------
    object
        The fitted estimator, of class `kind`.

    Raises
    ------
    ValueError
        As `to_sklearn`, and if the items have weights.
    """
    if "weight" in items.columns:
        raise ValueError(
            "weightCol is not supported by scikit-learn, which has no weights of items. Fit "
            "without weightCol."
        )
    arguments = _arguments(params, matrix) | settings
    return kind(**arguments, weights=params.getWeights()).fit(_rows(params, matrix), target)


def _rows(params: _KNNParams, matrix: Rows) -> Any:
    """Return a copy of the vectors, as booleans if the metric compares sets."""
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import VALID_METRICS_SPARSE

    if not isinstance(matrix, np.ndarray):
        name = checked_metric(params).name
        if name not in VALID_METRICS_SPARSE["brute"]:
            raise ValueError(
                f"metric {name!r} is not supported by scikit-learn on a sparse matrix. Fit with "
                "storage='dense' and call toSklearn again, or use metric 'euclidean' or 'cosine'."
            )
        return csr_matrix((matrix.data, matrix.indices, matrix.indptr), matrix.shape, copy=True)
    return matrix != 0 if checked_metric(params).compares_sets else np.array(matrix)


def _arguments(params: _KNNParams, matrix: Rows) -> dict[str, Any]:
    """Return the scikit-learn parameters that correspond to the Params, for the given items."""
    from sklearn.neighbors import VALID_METRICS

    metric = checked_metric(params)
    if metric.name == "inner_product":
        raise ValueError("metric 'inner_product' is not supported by scikit-learn")
    if metric.radius != 1.0:
        raise ValueError(
            "metricParams['radius'] is not supported by scikit-learn's haversine. Fit without "
            f"metricParams and multiply the distances by {metric.radius:g}."
        )
    if metric.allows_missing and "w" in metric.params:
        raise ValueError(
            "metricParams['w'] is not supported by scikit-learn's nan_euclidean. Fit without it on "
            "vectors whose features are multiplied by the roots of the weights."
        )
    name: Any = metric.name
    given = {key: metric.params[key] for key in ("w", "V", "VI") if key in metric.params}
    algorithm = params.getAlgorithm()
    if algorithm not in ("auto", "brute") and name not in VALID_METRICS.get(algorithm, ()):
        algorithm = "brute"
    if name == "chebyshev" and given:
        # scikit-learn's chebyshev does not support weights, but that of scipy, which scikit-learn
        # requires, does. There, as here, a weight matters only if it is 0.
        from scipy.spatial.distance import chebyshev

        name, algorithm = chebyshev, "brute"
    k, radius = checked_limits(params, matrix.shape[1])
    return {
        **({"radius": radius} if k is None else {"n_neighbors": min(k, len(matrix))}),
        "metric": name,
        "p": metric.p,
        "metric_params": given or None,
        "algorithm": algorithm,
        "leaf_size": params.getLeafSize(),
    }
