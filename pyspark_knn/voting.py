"""What classification and regression have in common: neighbours that vote with their labels."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.linalg import Vector
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasThresholds, HasWeightCol
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.checks import checked_metric
from pyspark_knn.converters import Converter, choice, is_not_negative, optional, real, text
from pyspark_knn.engine.fit.packed import ItemSource
from pyspark_knn.engine.fit.packing import NumberRule
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import Prediction, Verdict
from pyspark_knn.engine.search.batches import NeighborLists
from pyspark_knn.engine.spark import hints
from pyspark_knn.estimator import NeighborEstimator
from pyspark_knn.index.votes import WEIGHTS
from pyspark_knn.model import NeighborModel
from pyspark_knn.params import CheckedParams, HasNeighborColumns

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


class HasVotes(HasNeighborColumns, HasWeightCol):
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

    _LABEL_RULE: dict[str, bool]
    """What labels must be, see `NumberRule`."""

    def setWeightCol(self: Self_, value: str | None) -> Self_:
        """Set weightCol; None unsets it."""
        return self._set(weightCol=value)

    def _check_params(self) -> None:
        super()._check_params()
        _check_weights(self)

    def _source(self, dataset: DataFrame, id_type: T.DataType | None) -> ItemSource:
        source = super()._source(dataset, id_type)
        rules = [NumberRule("label", "labelCol", self.getLabelCol(), **self._LABEL_RULE)]
        if self.getWeightCol():
            rules.append(NumberRule("weight", "weightCol", self.getWeightCol(), negative=False))
        classes = not self._LABEL_RULE.get("fractional", True)
        keys = {
            rule.key: _number(dataset, rule, classes=classes and rule.key == "label")
            for rule in rules
        }
        # Among equal ids the smaller label comes first, so that ties have one answer.
        order = (*source.sort_by, *keys) if source.sort_by else ()
        return replace(source, keys=source.keys | keys, rules=tuple(rules), sort_by=order)

    def _shows_ids(self) -> bool:
        return bool(self.getNeighborsCol())


def _number(dataset: DataFrame, rule: NumberRule, *, classes: bool) -> Column:
    field = columns.field_of(dataset, rule.param, rule.name)
    if not isinstance(field.dataType, T.NumericType):
        raise TypeError(
            f"{rule.param} {rule.name!r} must be numeric but was actually "
            f"{field.dataType.simpleString()}; "
            + hints.number(field.name, field.dataType, classes=classes)
        )
    return columns.column(field.name).cast("double")


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

    def _verdict(self) -> Verdict:
        """How neighbours become a prediction."""
        raise NotImplementedError

    def _answer(self, outputs: dict[str, str]) -> Prediction:
        _check_weights(self)
        shown = {param: param for param in outputs if param in ("neighborsCol", "distancesCol")}
        lists_type = self._lists_type(shown)
        kinds: dict[str, T.DataType] = {each.name: each.dataType for each in lists_type}
        kinds |= dict.fromkeys(("rawPredictionCol", "probabilityCol"), T.ArrayType(T.DoubleType()))
        kinds["predictionCol"] = T.DoubleType()
        fields = [T.StructField(name, kinds[param]) for param, name in outputs.items()]
        lists = NeighborLists(
            lists_type, neighbors="neighborsCol" in shown, distances="distancesCol" in shown
        )
        return Prediction(
            T.StructType(fields),
            tuple(outputs),
            self._verdict(),
            lists if shown else None,
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

    def saved_columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that saved items must have, and their types; of ids any type."""
        keys = {"label": self.getLabelCol(), "weight": self.getWeightCol()}
        return super().saved_columns() | {name: ("double",) for name in keys if keys[name]}

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
        limits = self.getK(), self.getMaxDistance()
        return self._fitted.answer(query, *limits, answer).field(0)[0].as_py()

    def predict(self, value: Vector | Sequence[float] | NDArray[Any]) -> float:
        """The prediction for one vector, on the driver; NaN where it has no neighbour."""
        return float(self._predict(value, "predictionCol"))
