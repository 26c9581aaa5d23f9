"""Conversion from fitted scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from pyspark_knn.engine.fit.counted import Gathered
from pyspark_knn.engine.placing import replicate
from pyspark_knn.engine.rows.ids import changes_on_wire, check_id_type
from pyspark_knn.engine.rows.invalid import invalid_rows
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.storing import GROWN_BYTES
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import SPARSE, storage_of
from pyspark_knn.index.registry import classes_for, sparse_metrics
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.models.fit_summary import FitSummary
from pyspark_knn.models.neighbors import NeighborModel

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    from pyspark_knn.index.distances import Metric
    from pyspark_knn.index.found import Rows

Model = TypeVar("Model", bound=NeighborModel)

_PIPELINE_RECIPE = (
    "a scikit-learn Pipeline cannot run on Spark. Transform the items with all steps but the last, "
    "fit NearestNeighbors on the result and pass that to fromSklearn. Transform the queries with "
    "the same steps, or use MLlib's equivalents in a pyspark.ml Pipeline."
)


@dataclass(frozen=True)
class FromSklearn:
    """The content of a fitted scikit-learn estimator, from which a model is created.

    Attributes
    ----------
    settings : dict
        Names and values of the model's Params.
    items : Items
        Ids and labels of the items, sorted by id.
    matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
        Vectors of the items, in the same order.
    id_type : DataType or None
        Spark type of the ids, None if items are identified by their positions.
    names : list of str or None
        Names of the features, None if it was fitted without names.
    reason : str
        Why the algorithm differs from that of scikit-learn, empty if it does not.
    """

    settings: dict[str, Any]
    items: Items
    matrix: Rows
    id_type: T.DataType | None
    names: list[str] | None
    reason: str = ""

    def install(self, model: Model, **fields: Any) -> Model:
        """Install these items in a new model.

        Parameters
        ----------
        model : NeighborModel
            A model without an index.
        **fields : Any
            Further fields of the model's `FitSummary`.

        Returns
        -------
        NeighborModel
            The same model.
        """
        model._set(**self.settings)
        known = FitSummary(
            placementReason="the index was created from scikit-learn on the driver",
            storageReason=f"scikit-learn was fitted on a {storage_of(self.matrix)} matrix",
            featureNames=self.names,
            algorithmReason=self.reason,
            **fields,
        )
        gathered = Gathered(self.items, self.matrix)
        model._hold(replicate(gathered, model._spec(), self.id_type), known)
        return model


def from_sklearn(
    fitted: Any,
    ids: Sequence[Any] | None,
    kinds: tuple[type, ...],
    labels: Callable[[Any], NDArray[np.float64]] | None = None,
) -> FromSklearn:
    """Read the items and the settings of a fitted scikit-learn estimator.

    Parameters
    ----------
    fitted : object
        A fitted estimator of one of `kinds`.
    ids : sequence or None
        The ids of the fitted rows. None identifies them by their positions.
    kinds : tuple of type
        The classes of scikit-learn that are expected.
    labels : callable, optional
        A function that returns the labels of the fitted rows, an ndarray of shape (n_items,), dtype
        float64.

    Returns
    -------
    FromSklearn
        The items and the settings.

    Raises
    ------
    TypeError, ValueError
        If `fitted` has another class, is not fitted, or has settings that are not supported.
    """
    if hasattr(fitted, "steps"):
        raise TypeError(_PIPELINE_RECIPE)
    if not isinstance(fitted, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"fitted must be a fitted {expected}, got a {type(fitted).__name__}")
    if not hasattr(fitted, "_fit_X"):
        raise ValueError(
            f"fitted is a {type(fitted).__name__} that is not fitted: call its fit() first"
        )
    settings = _settings(fitted)
    matrix = _matrix(fitted, settings)
    settings["storage"] = storage_of(matrix)
    values = None if labels is None else labels(fitted)
    id_type, sorted_ids = None, None
    if ids is not None:
        order, sorted_ids, id_type = _sorted_ids(ids, len(matrix))
        matrix = matrix[order]
        values = None if values is None else values[order]
        settings["idCol"] = "id"
    beside = {} if sorted_ids is None else {"id": sorted_ids}
    if values is not None:
        beside["label"] = pa.array(values)
    names = getattr(fitted, "feature_names_in_", None)
    reason = _exact_algorithm(settings)
    return FromSklearn(
        settings,
        Items(len(matrix), beside),
        matrix,
        id_type,
        None if names is None else [str(name) for name in names],
        reason,
    )


def _exact_algorithm(settings: dict[str, Any]) -> str:
    """Replace a tree that is not exact by brute force in `settings`; return the reason or ''."""
    metric = resolve_metric(settings["metric"], settings["p"], settings["metricParams"])
    requested = settings["algorithm"]
    if requested == "auto" or requested in classes_for(metric, storage=settings["storage"]):
        return ""
    settings["algorithm"] = "brute"
    if settings["storage"] == SPARSE:
        return f"scikit-learn's {requested} does not support sparse matrices, so brute replaces it"
    return (
        f"scikit-learn's {requested} can miss neighbors with metric {metric.name!r}, so it was "
        "replaced by brute"
    )


def class_labels(fitted: KNeighborsClassifier) -> NDArray[np.float64]:
    """Return the labels of the fitted rows: their class, or its index if classes have names."""
    if fitted.outputs_2d_:
        raise ValueError(
            "a classifier with several targets is not supported. Fit one classifier per target."
        )
    numbers = np.asarray(fitted._y, dtype=np.float64).ravel()
    if class_names(fitted) is not None:
        return numbers
    labels: NDArray[np.float64] = fitted.classes_[fitted._y.ravel()].astype(np.float64)
    return labels


def class_names(fitted: KNeighborsClassifier) -> list[str] | None:
    """Return the names of a fitted classifier's classes, None if they are whole numbers >= 0."""
    classes = fitted.classes_
    numeric = np.issubdtype(classes.dtype, np.number)
    if numeric and (classes >= 0).all() and (classes == np.floor(classes)).all():
        return None
    return [str(each) for each in classes.tolist()]


def target_values(fitted: KNeighborsRegressor) -> NDArray[np.float64]:
    """Return the targets of the fitted rows."""
    values = np.asarray(fitted._y, dtype=np.float64)
    if values.ndim > 1 and values.shape[1] > 1:
        raise ValueError(
            "a regressor with several targets is not supported. Fit one regressor per target."
        )
    if not np.isfinite(values).all():
        raise ValueError("the fitted targets contain NaN or infinity")
    return values.ravel()


def _matrix(fitted: Any, settings: dict[str, Any]) -> Rows:
    given = fitted._fit_X
    if fitted.metric == "precomputed":
        raise ValueError(
            "metric 'precomputed' is not supported: a search needs vectors, not their distances. "
            "Fit NearestNeighbors on the vectors."
        )
    dtype: type[np.floating] = np.float32 if given.dtype == np.float32 else np.float64
    metric = resolve_metric(settings["metric"], settings["p"], settings["metricParams"])
    matrix: Rows
    if hasattr(given, "tocsr"):
        matrix = _sparse_matrix(given, metric, dtype)
    else:
        matrix = np.ascontiguousarray(given, dtype=dtype)
    if invalid_rows(matrix, missing=metric.allows_missing).any():
        what = "infinity" if metric.allows_missing else "NaN or infinity"
        raise ValueError(f"the fitted matrix contains {what}")
    return matrix


def _sparse_matrix(given: Any, metric: Metric, dtype: type[np.floating]) -> Rows:
    """Return a matrix of scipy.sparse: as it is if the metric supports that, otherwise dense."""
    if not classes_for(metric, storage=SPARSE):
        size = given.shape[0] * given.shape[1] * np.dtype(dtype).itemsize
        if size > GROWN_BYTES:
            raise ValueError(
                f"metric {metric.name!r} requires dense vectors, but the fitted sparse matrix "
                f"would take {size / 2**30:.2f} GiB as a dense one. Fit with one of the metrics of "
                f"sparse vectors: {', '.join(sparse_metrics())}."
            )
        dense: NDArray[np.floating] = np.ascontiguousarray(given.toarray(), dtype=dtype)
        return dense
    rows = given.tocsr(copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return SparseRows(
        rows.data.astype(dtype, copy=False),
        rows.indices.astype(np.int32, copy=False),
        rows.indptr.astype(np.int64),
        rows.shape[1],
    )


def _settings(fitted: Any) -> dict[str, Any]:
    """Return the Params that correspond to the parameters of a scikit-learn estimator."""
    if not isinstance(fitted.metric, str):
        raise ValueError(
            "metric must be a string, got a function, which cannot be saved. Use a named metric."
        )
    params = dict(fitted.metric_params or {})
    p = params.pop("p", fitted.p)
    weights = getattr(fitted, "weights", None)
    if callable(weights):
        raise ValueError(
            "weights must be 'uniform' or 'distance', got a function, which cannot be saved."
        )
    voting = {"weights": weights or "uniform"} if hasattr(fitted, "weights") else {}
    return {
        **voting,
        **_limits(fitted),
        "metric": fitted.metric,
        "p": p,
        "metricParams": params or None,
        "algorithm": fitted.algorithm,
        "leafSize": fitted.leaf_size,
    }


def _limits(fitted: Any) -> dict[str, Any]:
    """Return k or, of an estimator that has a radius only, the radius."""
    if fitted.n_neighbors is not None:
        return {"k": fitted.n_neighbors}
    return {"k": None, "maxDistance": float(fitted.radius)}


def _sorted_ids(ids: Sequence[Any], count: int) -> tuple[NDArray[np.int64], pa.Array, T.DataType]:
    """Return the order that sorts the ids, the sorted ids for Arrow, and their Spark type."""
    if len(ids) != count:
        raise ValueError(
            f"ids must have one id for each of the {count} fitted rows, got {len(ids)}"
        )
    given = pa.array(ids)
    if given.null_count:
        raise ValueError("ids contains a null. Every item needs an id.")
    if pa.types.is_large_string(given.type):
        given = given.cast(pa.string())
    if pa.types.is_timestamp(given.type):
        given = given.cast(pa.timestamp("us", given.type.tz))
    id_type = from_arrow_type(given.type, prefer_timestamp_ntz=True)
    check_id_type("ids", T.StructField("ids", id_type))
    if changes_on_wire(id_type):
        given = given.cast(pa.int32() if pa.types.is_date(given.type) else pa.int64())
    if pa.types.is_floating(given.type):
        # -0.0 and 0.0 are the same id, as in Spark.
        given = pc.add(given, pa.scalar(0.0, given.type))
    order = pc.sort_indices(given)
    return order.to_numpy(), given.take(order), id_type
