"""The base classes of classification and regression by the votes of neighbors."""

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
    """An estimator whose items have labels, and weights if weightCol is set."""

    _LABEL_RULE: dict[str, bool]
    """The values that a label may have, as arguments of `NumberRule`."""

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
        # Equal ids are sorted by label, so that the result of a tie is deterministic.
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
    """Convert one vector, of MLlib or a sequence of numbers, to a matrix of one row."""
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


class VotingModel(NeighborModel, _VotingParams, PredictionModel[Vector]):
    """A model that predicts from the labels of the neighbors."""

    def _verdict(self) -> Verdict:
        """Return the rule that turns the labels of neighbors into a prediction."""
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
            # An invalid query that is kept has null, which MLlib's evaluators do not accept.
            value = F.coalesce(columns.column(name), F.lit(float("nan")))
            attributes = self._prediction_attributes()
            finished[name] = columns.with_attributes(name, value, attributes)
        return finished

    def _prediction_attributes(self) -> dict[str, Any]:
        """Return the ML attributes of the prediction column."""
        return {}

    def saved_columns(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of saved items with their types, see `saved.check_columns`."""
        keys = {"label": self.getLabelCol(), "weight": self.getWeightCol()}
        return super().saved_columns() | {name: ("double",) for name in keys if keys[name]}

    def _predict(self, value: Any, param: str) -> Any:
        """Return one output for one query, computed on the driver."""
        answer = self._answer({param: param})
        query = _one_row(value)
        if query.shape[1] != self.numFeatures:
            raise ValueError(
                f"value must have dimension {self.numFeatures}, got dimension {query.shape[1]}"
            )
        if not np.isfinite(query).all():
            raise ValueError(f"value contains NaN or infinity: {value}")
        checked_metric(self).check_values(query)
        limits = self.getK(), self.getMaxDistance()
        return self._fitted.answer(query, *limits, answer).field(0)[0].as_py()

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
