"""What classification and regression have in common: neighbours that vote with their labels."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.linalg import Vector
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasThresholds, HasWeightCol
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.checks import checked_metric
from pyspark_knn.converters import Converter, choice, is_not_negative, optional, real, text
from pyspark_knn.engine.fit.packing import NumberRule
from pyspark_knn.engine.fit.source import ItemColumn
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import Predicted, Prediction
from pyspark_knn.engine.spark import hints
from pyspark_knn.estimator import NeighborEstimator
from pyspark_knn.index.votes import WEIGHTS
from pyspark_knn.model import NeighborModel
from pyspark_knn.params import CheckedParams, HasNeighborColumns, HasNeighbors

M = TypeVar("M", bound="VotingModel")
Self_ = TypeVar("Self_", bound="HasVotes")


# --- Params ---------------------------------------------------------------------------------------


def _weighing(name: str) -> Converter:
    """A converter for the way that votes are weighed, which many take for the items' weights."""
    return functools.partial(_weighed, choice(name, WEIGHTS))


def _weighed(known: Converter, value: Any) -> str:
    try:
        return str(known(value))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}; a column of weights is named by weightCol") from None


def _thresholds(name: str) -> Converter:
    """A converter to a list of thresholds, by MLlib's rule."""
    return functools.partial(_threshold_list, name)


def _threshold_list(name: str, value: Any) -> list[float]:
    allowed = "numbers >= 0, at most one of them 0"
    listed = value.toArray() if isinstance(value, Vector) else value
    if isinstance(listed, str) or not isinstance(listed, (Sequence, np.ndarray, array)):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    single = real(name, allowed, is_not_negative)
    found = [single(each) for each in listed]
    if found.count(0.0) > 1:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return found


class HasVotes(HasNeighborColumns, HasNeighbors, HasWeightCol):
    """What classification and regression have beyond a search."""

    weights: Param[str] = Param(
        Params._dummy(),
        "weights",
        "what a neighbour counts: uniform (all the same) or distance (the inverse of the distance)",
        _weighing("weights"),
    )
    # The type of the base; None stands for "unset", as everywhere.
    weightCol: Param[str] = Param(
        Params._dummy(),
        "weightCol",
        "item column of weights >= 0, by which an item's vote is multiplied; unset: 1",
        optional(text("weightCol")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(weights="uniform", weightCol=None, neighborsCol="", distancesCol="")

    _labels_are_classes: ClassVar[bool] = False
    """Whether labels must be whole numbers >= 0."""

    def _item_columns(self) -> list[ItemColumn]:
        label = NumberRule(
            "label",
            "labelCol",
            self.getOrDefault("labelCol"),  # of Predictor and PredictionModel
            negative=not self._labels_are_classes,
            fractional=not self._labels_are_classes,
        )
        rules = [label]
        if self.getWeightCol():
            rules.append(NumberRule("weight", "weightCol", self.getWeightCol(), negative=False))
        numbers = [ItemColumn(each.name, each.param, each.column, each) for each in rules]
        return [*super()._item_columns(), *numbers]

    def getWeights(self) -> str:
        """Value of weights."""
        return self.getOrDefault(self.weights)

    def setWeights(self: Self_, value: str) -> Self_:
        """Set weights."""
        return self._set(weights=value)


class CheckedThresholds(CheckedParams, HasThresholds):
    """MLlib's thresholds, checked where they are set."""

    # The type of the base; None stands for "unset", as everywhere.
    thresholds: Param[list[float]] = Param(
        Params._dummy(),
        "thresholds",
        "a number >= 0 for each class, at most one of them 0: the class with the largest "
        "probability / threshold is predicted; unset: the one with the most votes",
        optional(_thresholds("thresholds")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(thresholds=None)


def _check_weights(params: Any) -> None:
    """Refuse weights that need distances >= 0 where there are none."""
    if params.getWeights() == "distance" and params.getMetric() == "inner_product":
        raise ValueError(
            "weights must be 'uniform' for metric 'inner_product', got 'distance': its distances "
            "are negative, so that their inverses are no weights"
        )


# --- fit ------------------------------------------------------------------------------------------


class VotingEstimator(NeighborEstimator[M], HasVotes, Predictor[M]):
    """A fit that takes labels and weights of the items along."""

    def setWeightCol(self: Self_, value: str | None) -> Self_:
        """Set weightCol; None unsets it."""
        return self._set(weightCol=value)

    def _check_params(self) -> None:
        super()._check_params()
        _check_weights(self)

    def _shows_ids(self) -> bool:
        return bool(self.getNeighborsCol())


def _one_row(value: Any) -> NDArray[np.float64]:
    """One vector, of MLlib or plain numbers, as a matrix of one row."""
    plain = value.toArray() if isinstance(value, Vector) else value
    if isinstance(plain, (Sequence, np.ndarray, array)) and not isinstance(plain, (str, bytes)):
        try:
            numbers = np.array(plain, dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(())
        if numbers.ndim == 1:
            return numbers[None, :]
    raise TypeError(
        "predict takes one vector: a pyspark.ml.linalg Vector or a sequence of numbers, got "
        f"{hints.described(value)}; for several rows use transform on a DataFrame"
    )


# --- models ---------------------------------------------------------------------------------------


class VotingModel(NeighborModel, HasVotes, PredictionModel[Vector]):
    """A search whose answer is a prediction."""

    def _predicted(self) -> Predicted:
        """Return how neighbors become a prediction."""
        raise NotImplementedError

    def _answer(self, outputs: dict[str, str]) -> Prediction:
        _check_weights(self)
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
            # A query that is invalid but kept has nulls, which MLlib's evaluators cannot take.
            value = F.coalesce(columns.column(name), F.lit(float("nan")))
            attributes = self._prediction_attributes()
            finished[name] = columns.with_attributes(name, value, attributes)
        return finished

    def _prediction_attributes(self) -> dict[str, Any]:
        """What the ML attributes of the prediction tell."""
        return {}

    def _predict(self, value: Any, param: str) -> Any:
        """One output for one query, on the driver."""
        answer = self._answer({param: param})
        query = _one_row(value)
        if query.shape[1] != self.numFeatures:
            raise ValueError(
                f"the vector has dimension {query.shape[1]} where {self.numFeatures} is needed"
            )
        if not np.isfinite(query).all():
            raise ValueError(f"the vector holds a NaN or an infinity: {value}")
        checked_metric(self).check_values(query)
        searchable = self._fitted.searchable
        if searchable is None:
            raise ValueError(
                "the index of a sharded model is on the executors, not here: use transform on a "
                "DataFrame of the vectors"
            )
        k = min(self.getK(), self.numItems)
        found = searchable.index.search(query, k, max_distance=self.getMaxDistance())
        return answer.rows(found, searchable.items).field(0)[0].as_py()

    def predict(self, value: Vector | Sequence[float] | NDArray[Any]) -> float:
        """The prediction for one vector, on the driver; NaN where it has no neighbour."""
        return float(self._predict(value, "predictionCol"))
