"""The base classes of classification and regression by the votes of neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from numpy.typing import NDArray
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.linalg import Vector
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import Predicted, Prediction
from pyspark_knn.estimators.base import NeighborEstimator
from pyspark_knn.models.local import LoadsWithoutSpark
from pyspark_knn.models.on_driver import one_row, searchable_on_driver
from pyspark_knn.models.updates import UpdatableModel
from pyspark_knn.params.approximate import ApproximateSetters
from pyspark_knn.params.checks import check_weights
from pyspark_knn.params.voting import _VotingParams

if TYPE_CHECKING:
    from pyspark_knn.index.base import NeighborIndex

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


# --- models ---------------------------------------------------------------------------------------


class VotingModel(LoadsWithoutSpark, UpdatableModel, _VotingParams, PredictionModel[Vector]):
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
        query = one_row(value, self.getStorage())
        searchable = searchable_on_driver(self, query, "value")
        found = self._limits().found(cast("NeighborIndex", searchable.index), query)
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
