"""The Params that classification and regression have in addition to those of a search."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from pyspark.ml.linalg import Vector
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasThresholds, HasWeightCol

from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.index.votes import WEIGHTS
from pyspark_knn.literals import WeightsName
from pyspark_knn.params.approximate import ApproximateParams
from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import Converter, choice, is_not_negative, optional, real, text
from pyspark_knn.params.neighbors import _KNNParams
from pyspark_knn.params.output_columns import HasNeighborColumns

Self_ = TypeVar("Self_", bound="_VotingParams")


def _weighing(name: str) -> Converter:
    """Return a converter for weights, whose errors point to weightCol, a common confusion."""
    return functools.partial(_weighed, choice(name, WEIGHTS))


def _weighed(known: Converter, value: Any) -> str:
    try:
        return str(known(value))
    except (TypeError, ValueError) as error:
        problem = str(error)
        end = "" if problem.endswith("?") else "."
        raise type(error)(f"{problem}{end} For a column of weights, set weightCol.") from None


def _thresholds(name: str) -> Converter:
    """Return a converter to a list of thresholds, which follows MLlib's rule."""
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


class _VotingParams(HasNeighborColumns, _KNNParams, ApproximateParams, HasWeightCol):
    """Params of classification and regression."""

    weights: Param[WeightsName] = Param(
        Params._dummy(),
        "weights",
        "weight of a neighbor's vote: uniform (1) or distance (the inverse of its distance)",
        _weighing("weights"),
    )
    # The type is that of the base class, although the value may be None.
    weightCol: Param[str] = Param(
        Params._dummy(),
        "weightCol",
        "column of the items with weights >= 0 that multiply their votes; by default 1",
        optional(text("weightCol")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(weights="uniform", weightCol=None, neighborsCol="", distancesCol="")

    _labels_are_classes: ClassVar[bool] = False
    """Whether labels must be whole numbers >= 0."""

    def _number_columns(self) -> list[ItemColumn]:
        label = ItemColumn(
            "label",
            "labelCol",
            self.getOrDefault("labelCol"),  # of Predictor and PredictionModel
            negative=not self._labels_are_classes,
            fractional=not self._labels_are_classes,
        )
        if weight := self.getWeightCol():
            return [label, ItemColumn("weight", "weightCol", weight, negative=False)]
        return [label]

    def getWeights(self) -> WeightsName:
        """Value of weights."""
        return self.getOrDefault(self.weights)

    def setWeights(self: Self_, value: WeightsName) -> Self_:
        """Set weights."""
        return self._set(weights=value)


class CheckedThresholds(CheckedParams, HasThresholds):
    """MLlib's thresholds, checked when they are set."""

    # The type is that of the base class, although the value may be None.
    thresholds: Param[list[float]] = Param(
        Params._dummy(),
        "thresholds",
        "one number >= 0 per class, at most one of them 0: the class with the largest probability "
        "/ threshold is predicted; by default the class with the most votes",
        optional(_thresholds("thresholds")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(thresholds=None)
