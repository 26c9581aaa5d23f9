"""Fitted scikit-learn indexes, in and out."""

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
from sklearn.neighbors import VALID_METRICS, NearestNeighbors

from pyspark_knn.checks import checked_metric
from pyspark_knn.engine import columns
from pyspark_knn.engine.items import Items
from pyspark_knn.fit_summary import FitSummary
from pyspark_knn.index.distances import algorithms_for, resolve_metric
from pyspark_knn.model import NeighborModel

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    from pyspark_knn.params import _KNNParams

Model = TypeVar("Model", bound=NeighborModel)

_PIPELINE_RECIPE = (
    "a scikit-learn Pipeline cannot run on Spark: transform the items with all its steps but the "
    "last, fit NearestNeighbors on what comes out, and give fromSklearn that; queries must go "
    "through the same steps (or MLlib's equals in a pyspark.ml Pipeline)"
)


@dataclass(frozen=True)
class FromSklearn:
    """A fitted index, taken apart.

    Attributes
    ----------
    settings : dict
        Params of the model.
    items, matrix : Items, ndarray of shape (n_items, n_features)
        Sorted by id.
    id_type : DataType or None
        The Spark type of the ids.
    names : list of str or None
        The features' names that it was fitted with.
    reason : str
        Why the algorithm is not the one that it was fitted with, if so.
    """

    settings: dict[str, Any]
    items: Items
    matrix: NDArray[np.floating]
    id_type: T.DataType | None
    names: list[str] | None
    reason: str = ""

    def install(self, model: Model, **facts: Any) -> Model:
        """Make `model`, an empty one, the model of these items; `facts` go to its `FitSummary`."""
        model._set(**self.settings)
        known = FitSummary(
            numDuplicates=self.items.duplicates(),
            placementReason="it came from scikit-learn on the driver",
            featureNames=self.names,
            algorithmReason=self.reason,
            **facts,
        )
        model.install(self.items, self.matrix, self.id_type, known)
        return model


def from_sklearn(
    fitted: Any,
    ids: Sequence[Any] | None,
    kind: type = NearestNeighbors,
    labels: Callable[[Any], NDArray[np.float64]] | None = None,
) -> FromSklearn:
    """Take a fitted index apart.

    Parameters
    ----------
    fitted : object
        Fitted, of class `kind`.
    ids : sequence or None
        An id for each row.
    kind : type
        scikit-learn's class.
    labels : callable, optional
        Gives the labels of what is fitted, one for each row.

    Raises
    ------
    TypeError, ValueError
        If it is something else, not fitted, or nothing that the library can do.
    """
    if hasattr(fitted, "steps"):
        raise TypeError(_PIPELINE_RECIPE)
    if not isinstance(fitted, kind):
        raise TypeError(f"a fitted {kind.__name__} is needed, got a {type(fitted).__name__}")
    if not hasattr(fitted, "_fit_X"):
        raise ValueError(f"this {kind.__name__} is not fitted")
    matrix = _matrix(fitted)
    settings = _settings(fitted)
    values = None if labels is None else labels(fitted)
    id_type, sorted_ids = None, None
    if ids is not None:
        order, sorted_ids, id_type = _sorted_ids(ids, len(matrix))
        matrix = matrix[order]
        values = None if values is None else values[order]
        settings["idCol"] = "id"
    names = getattr(fitted, "feature_names_in_", None)
    reason = _exact_algorithm(settings)
    return FromSklearn(
        settings,
        Items(len(matrix), sorted_ids, values),
        matrix,
        id_type,
        None if names is None else [str(name) for name in names],
        reason,
    )


def _exact_algorithm(settings: dict[str, Any]) -> str:
    """Take brute in `settings` for a tree that is not exact; the reason, where that was done."""
    metric = resolve_metric(settings["metric"], settings["p"], settings["metricParams"])
    asked = settings["algorithm"]
    if asked == "auto" or asked in algorithms_for(metric):
        return ""
    settings["algorithm"] = "brute"
    return (
        f"scikit-learn's {asked} can miss neighbors by metric {metric.name!r}, so it was replaced "
        "by brute"
    )


def class_labels(fitted: KNeighborsClassifier) -> NDArray[np.float64]:
    """The labels of a fitted classifier's rows: classes that are numbers, or their order."""
    if fitted.outputs_2d_:
        raise ValueError("a classifier of several targets is not supported: fit one for each")
    numbers = np.asarray(fitted._y, dtype=np.float64).ravel()
    if class_names(fitted) is not None:
        return numbers
    labels: NDArray[np.float64] = fitted.classes_[fitted._y.ravel()].astype(np.float64)
    return labels


def class_names(fitted: KNeighborsClassifier) -> list[str] | None:
    """The names of a fitted classifier's classes; None where they are whole numbers >= 0."""
    classes = fitted.classes_
    numeric = np.issubdtype(classes.dtype, np.number)
    if numeric and (classes >= 0).all() and (classes == np.floor(classes)).all():
        return None
    return [str(each) for each in classes.tolist()]


def target_values(fitted: KNeighborsRegressor) -> NDArray[np.float64]:
    """The targets of a fitted regressor's rows."""
    values = np.asarray(fitted._y, dtype=np.float64)
    if values.ndim > 1 and values.shape[1] > 1:
        raise ValueError("a regressor of several targets is not supported: fit one for each")
    if not np.isfinite(values).all():
        raise ValueError("the fitted targets hold NaN or infinity")
    return values.ravel()


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
    weights = getattr(fitted, "weights", None)
    if callable(weights):
        raise ValueError("weights that are a function cannot be saved: use uniform or distance")
    voting = {"weights": weights or "uniform"} if hasattr(fitted, "weights") else {}
    return {
        **voting,
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
    if pa.types.is_floating(given.type):
        given = pc.add(given, pa.scalar(0.0, given.type))  # -0.0 and 0.0 are one id, as in Spark
    order = pc.sort_indices(given)
    return order.to_numpy(), given.take(order), id_type


def to_sklearn(params: _KNNParams, matrix: NDArray[np.floating]) -> NearestNeighbors:
    """Fit scikit-learn's index on `matrix` as the Params of a model say.

    Raises
    ------
    ValueError
        For metric "inner_product", and for a radius of "haversine".
    """
    arguments = _arguments(params, len(matrix))
    return NearestNeighbors(**arguments).fit(_rows(params, matrix))


def to_sklearn_voter(
    kind: type, params: Any, items: Items, matrix: NDArray[np.floating], target: NDArray[Any]
) -> Any:
    """Fit scikit-learn's classifier or regressor as the Params of a model say.

    Parameters
    ----------
    kind : type
        scikit-learn's class.
    params : _VotingParams
        The model's Params.
    items, matrix : Items, ndarray of shape (n_items, n_features)
        What the model was fitted on.
    target : ndarray of shape (n_items,)
        Labels, or their names.

    Raises
    ------
    ValueError
        For metric "inner_product", for a radius of "haversine", and where the items have weights.
    """
    if items.weights is not None:
        raise ValueError("scikit-learn has no weights of items: fit without weightCol")
    arguments = _arguments(params, len(matrix))
    return kind(**arguments, weights=params.getWeights()).fit(_rows(params, matrix), target)


def _rows(params: _KNNParams, matrix: NDArray[np.floating]) -> NDArray[Any]:
    """The items as scikit-learn wants them: a copy, of booleans where the metric compares sets."""
    return matrix != 0 if checked_metric(params).compares_sets else np.array(matrix)


def _arguments(params: _KNNParams, count: int) -> dict[str, Any]:
    """The scikit-learn parameters that mean what the Params do, for `count` items."""
    metric = checked_metric(params)
    if metric.name == "inner_product":
        raise ValueError("scikit-learn has no metric 'inner_product'")
    if metric.radius != 1.0:
        raise ValueError(
            "scikit-learn's haversine has no radius: fit without metricParams and multiply the "
            f"distances by {metric.radius:g}"
        )
    name: Any = metric.name
    given = {key: metric.params[key] for key in ("w", "V", "VI") if key in metric.params}
    algorithm = params.getAlgorithm()
    if algorithm not in ("auto", "brute") and name not in VALID_METRICS[algorithm]:
        algorithm = "brute"
    if name == "chebyshev" and given:
        # scikit-learn's takes no weights. scipy is there because scikit-learn needs it; of its
        # weights, as of ours, only a 0 counts.
        from scipy.spatial.distance import chebyshev

        name, algorithm = chebyshev, "brute"
    return {
        "n_neighbors": min(params.getK(), count),
        "metric": name,
        "p": metric.p,
        "metric_params": given or None,
        "algorithm": algorithm,
        "leaf_size": params.getLeafSize(),
    }
