"""Fitted scikit-learn indexes, in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type
from sklearn.neighbors import NearestNeighbors

from pyspark_knn.engine import columns
from pyspark_knn.engine.items import Items

if TYPE_CHECKING:
    from pyspark_knn.params import HasNeighbors

_PIPELINE_RECIPE = (
    "a scikit-learn Pipeline cannot run on Spark: transform the items with all its steps but the "
    "last, fit NearestNeighbors on what comes out, and give fromSklearn that; queries must go "
    "through the same steps (or MLlib's equals in a pyspark.ml Pipeline)"
)


def from_sklearn(
    fitted: Any, ids: Sequence[Any] | None
) -> tuple[dict[str, Any], Items, NDArray[np.floating], T.DataType | None, list[str] | None]:
    """Take a fitted index apart.

    Parameters
    ----------
    fitted : sklearn.neighbors.NearestNeighbors
        Fitted.
    ids : sequence or None
        An id for each row.

    Returns
    -------
    settings : dict
        Params of the model.
    items, matrix : Items, ndarray of shape (n_items, n_features)
        Sorted by id.
    id_type : DataType or None
        The Spark type of the ids.
    names : list of str or None
        The features' names that it was fitted with.
    """
    if hasattr(fitted, "steps"):
        raise TypeError(_PIPELINE_RECIPE)
    if not isinstance(fitted, NearestNeighbors):
        raise TypeError(f"a fitted NearestNeighbors is needed, got a {type(fitted).__name__}")
    if not hasattr(fitted, "_fit_X"):
        raise ValueError("this NearestNeighbors is not fitted")
    matrix = _matrix(fitted)
    settings = _settings(fitted)
    items, id_type = Items(len(matrix), None), None
    if ids is not None:
        order, sorted_ids, id_type = _sorted_ids(ids, len(matrix))
        matrix = matrix[order]
        items = Items(len(matrix), sorted_ids)
        settings["idCol"] = "id"
    names = getattr(fitted, "feature_names_in_", None)
    return settings, items, matrix, id_type, None if names is None else [str(n) for n in names]


def _matrix(fitted: Any) -> NDArray[np.floating]:
    given = fitted._fit_X
    if fitted.metric == "precomputed":
        raise ValueError("metric 'precomputed' holds no vectors: fit on the vectors themselves")
    if hasattr(given, "toarray"):
        given = given.toarray()
    dtype: type[np.floating] = np.float32 if given.dtype == np.float32 else np.float64
    matrix: NDArray[np.floating] = np.ascontiguousarray(given, dtype=dtype)
    if not np.isfinite(matrix).all():
        raise ValueError("the fitted matrix holds NaN or infinity")
    return matrix


def _settings(fitted: Any) -> dict[str, Any]:
    """The Params that mean what the scikit-learn parameters do."""
    if not isinstance(fitted.metric, str):
        raise ValueError("a metric that is a function cannot be saved: use one that has a name")
    params = dict(fitted.metric_params or {})
    p = params.pop("p", fitted.p)
    return {
        "k": fitted.n_neighbors,
        "metric": fitted.metric,
        "p": p,
        "metricParams": params or None,
        "algorithm": fitted.algorithm,
        "leafSize": fitted.leaf_size,
    }


def _sorted_ids(ids: Sequence[Any], count: int) -> tuple[NDArray[np.int64], pa.Array, T.DataType]:
    """Where each id goes in ascending order, the ids as they travel, and their Spark type."""
    if len(ids) != count:
        raise ValueError(f"ids must be one for each of the {count} fitted rows, got {len(ids)}")
    given = pa.array(ids)
    if given.null_count:
        raise ValueError("ids holds a null: every item needs an id")
    if pa.types.is_large_string(given.type):
        given = given.cast(pa.string())
    if pa.types.is_timestamp(given.type):
        given = given.cast(pa.timestamp("us", given.type.tz))
    id_type = from_arrow_type(given.type, prefer_timestamp_ntz=True)
    columns.check_id_type("ids", T.StructField("ids", id_type))
    if columns.changes_on_wire(id_type):
        given = given.cast(pa.int32() if pa.types.is_date(given.type) else pa.int64())
    order = pc.sort_indices(given)
    return order.to_numpy(), given.take(order), id_type


def to_sklearn(params: HasNeighbors, matrix: NDArray[np.floating]) -> NearestNeighbors:
    """Fit scikit-learn's index on `matrix` as the Params of a model say.

    Raises
    ------
    ValueError
        For metric "inner_product".
    """
    if params.getMetric() == "inner_product":
        raise ValueError("scikit-learn has no metric 'inner_product'")
    return NearestNeighbors(
        n_neighbors=min(params.getK(), len(matrix)),
        metric=params.getMetric(),
        p=params.getP(),
        metric_params={
            name: np.asarray(value) if isinstance(value, list) else value
            for name, value in (params.getMetricParams() or {}).items()
        }
        or None,
        algorithm=params.getAlgorithm(),
        leaf_size=params.getLeafSize(),
    ).fit(np.array(matrix))
