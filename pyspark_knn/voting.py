"""The base classes of classification and regression by the votes of neighbors."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.linalg import SparseVector, Vector
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.approximate_params import ApproximateSetters
from pyspark_knn.checks import check_weights, checked_metric
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.invalid import invalid_rows
from pyspark_knn.engine.search.answers import Predicted, Prediction
from pyspark_knn.engine.spark import hints
from pyspark_knn.estimator import NeighborEstimator
from pyspark_knn.index.base import SPARSE
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.updates import UpdatableModel
from pyspark_knn.voting_params import _VotingParams

if TYPE_CHECKING:
    from pyspark_knn.index.base import Rows

M = TypeVar("M", bound="VotingModel")
Self_ = TypeVar("Self_", bound="_VotingParams")


# --- fit ------------------------------------------------------------------------------------------


class VotingEstimator(NeighborEstimator[M], ApproximateSetters, _VotingParams, Predictor[M]):
    """An estimator whose items have labels, and weights if weightCol is set."""

    def setWeightCol(self: Self_, value: str | None) -> Self_:
        """Set weightCol; None unsets it."""
        return self._set(weightCol=value)

    def _check_params(self) -> None:
        super()._check_params()
        check_weights(self)

    def _shows_ids(self) -> bool:
        return bool(self.getNeighborsCol())


def _one_row(value: Any, storage: str) -> Rows:
    """Convert one vector, of MLlib or a sequence of numbers, to a matrix of one row."""
    if storage == SPARSE and isinstance(value, SparseVector):
        rows = np.zeros(len(value.indices), np.int64)
        return SparseRows.from_entries(rows, value.indices, value.values, (1, value.size))
    row = _dense_row(value)
    return SparseRows.from_dense(row) if storage == SPARSE else row


def _dense_row(value: Any) -> NDArray[np.float64]:
    plain = value.toArray() if isinstance(value, Vector) else value
    if isinstance(plain, (Sequence, np.ndarray, array)) and not isinstance(plain, (str, bytes)):
        try:
            numbers = np.array(plain, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(())
        if numbers.ndim == 1:
            return numbers[None, :]
    raise TypeError(
        "value must be one vector, a pyspark.ml.linalg Vector or a sequence of numbers, got "
        f"{hints.described(value)}. For several rows, call transform with a DataFrame."
    )


# --- models ---------------------------------------------------------------------------------------


class VotingModel(UpdatableModel, _VotingParams, PredictionModel[Vector]):
    """A model that predicts from the labels of the neighbors."""

    def _predicted(self) -> Predicted:
        """Return the rule that turns the labels of neighbors into a prediction."""
        raise NotImplementedError

    def _answer(self, outputs: dict[str, str]) -> Prediction:
        check_weights(self)
        params = ("neighborsCol", "distancesCol")
        lists = self._found_lists({param: param for param in outputs if param in params})
        types: dict[str, T.DataType] = {each.name: each.dataType for each in lists.result_type}
        types |= dict.fromkeys(("rawPredictionCol", "probabilityCol"), T.ArrayType(T.DoubleType()))
        types["predictionCol"] = T.DoubleType()
        fields = [T.StructField(name, types[param]) for param, name in outputs.items()]
        return Prediction(
            T.StructType(fields),
            tuple(outputs),
            self._predicted(),
            lists if lists.names else None,
            weighted=bool(self.getWeightCol()),
        )

    def _finished(self, outputs: dict[str, str]) -> dict[str, Column]:
        finished = super()._finished(outputs)
        if "predictionCol" in outputs:
            name = outputs["predictionCol"]
            # An invalid query that is kept has null, which MLlib's evaluators do not accept.
            value = F.coalesce(columns.column(name), F.lit(float("nan")))
            attributes = self._prediction_attributes()
            finished[name] = columns.with_attributes(name, value, attributes)
        return finished

    def _prediction_attributes(self) -> dict[str, Any]:
        """Return the ML attributes of the prediction column."""
        return {}

    def _predict(self, value: Any, param: str) -> Any:
        """Return one output for one query, computed on the driver."""
        answer = self._answer({param: param})
        query = _one_row(value, self.getStorage())
        if query.shape[1] != self.numFeatures:
            raise ValueError(
                f"value must have dimension {self.numFeatures}, got dimension {query.shape[1]}"
            )
        metric = checked_metric(self)
        if invalid_rows(query, missing=metric.allows_missing).any():
            what = "infinity" if metric.allows_missing else "NaN or infinity"
            raise ValueError(f"value contains {what}: {value}")
        metric.check_values(query)
        searchable = self._fitted.searchable
        if searchable is None:
            raise ValueError(
                "the index of a sharded model is on the executors, not on the driver. Call "
                "transform with a DataFrame of the vectors."
            )
        searchable = searchable.tuned(self._knob())
        if isinstance(searchable.index, GroupedIndex):
            raise ValueError(
                f"keyCols is {self.getKeyCols()!r}, but one vector has no key. Call transform with "
                "a DataFrame that has these columns."
            )
        found = self._limits().found(searchable.index, query)
        return answer.rows(found, searchable.items).field(0)[0].as_py()

    def predict(self, value: Vector | Sequence[float] | NDArray[Any]) -> float:
        """Predict the label of one vector, on the driver.

        Parameters
        ----------
        value : Vector, sequence of float or ndarray of shape (numFeatures,)
            The query.

        Returns
        -------
        float
            The prediction, NaN if no neighbor votes.
        """
        return float(self._predict(value, "predictionCol"))
