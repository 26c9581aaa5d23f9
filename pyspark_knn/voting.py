"""What classification and regression have in common: neighbours that vote with their labels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.base import PredictionModel, Predictor
from pyspark.ml.linalg import Vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.checks import check_weights, checked_metric
from pyspark_knn.engine import columns, hints
from pyspark_knn.engine.answers import Prediction, Verdict
from pyspark_knn.engine.packed import ItemSource
from pyspark_knn.engine.packing import NumberRule
from pyspark_knn.engine.worker import NeighborLists
from pyspark_knn.estimator import NeighborEstimator
from pyspark_knn.model import NeighborModel
from pyspark_knn.voting_params import (
    _threshold_list,  # noqa: F401 - estimators that were pickled before it moved name it here
    _VotingParams,
    _weighed,  # noqa: F401 - likewise
)

M = TypeVar("M", bound="VotingModel")
Self_ = TypeVar("Self_", bound="_VotingParams")


# --- fit ------------------------------------------------------------------------------------------


class VotingEstimator(NeighborEstimator[M], _VotingParams, Predictor[M]):
    """A fit that takes labels and weights of the items along."""

    _LABEL_RULE: dict[str, bool]
    """What labels must be, see `NumberRule`."""

    def setWeightCol(self: Self_, value: str | None) -> Self_:
        """Set weightCol; None unsets it."""
        return self._set(weightCol=value)

    def _check_params(self) -> None:
        super()._check_params()
        check_weights(self)

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


class VotingModel(NeighborModel, _VotingParams, PredictionModel[Vector]):
    """A search whose answer is a prediction."""

    def _verdict(self) -> Verdict:
        """How neighbours become a prediction."""
        raise NotImplementedError

    def _answer(self, outputs: dict[str, str]) -> Prediction:
        check_weights(self)
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
