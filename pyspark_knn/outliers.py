"""The Param outlierLabel: the class of queries that no neighbor votes for."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from pyspark_knn.converters import optional, whole
from pyspark_knn.params import CheckedParams

MOST_FREQUENT = "most_frequent"
"""The value of outlierLabel that stands for the class that most items have."""

Self_ = TypeVar("Self_", bound="HasOutlierLabel")


def _outlier_label(name: str, value: Any) -> int | str:
    if isinstance(value, str):
        if value == MOST_FREQUENT:
            return MOST_FREQUENT
        raise ValueError(
            f"{name} must be a class (an integer >= 0) or {MOST_FREQUENT!r}, got {value!r}"
        )
    number: int = whole(name, 0)(value)
    return number


def check_outlier_label(label: int | str | None, classes: int) -> None:
    """Raise a ValueError if outlierLabel is not one of the classes.

    Parameters
    ----------
    label : int, str or None
        The value of outlierLabel.
    classes : int
        The number of classes.
    """
    if isinstance(label, int) and label >= classes:
        raise ValueError(
            f"outlierLabel must be one of the {classes} classes, 0 to {classes - 1}, got {label}"
        )


class HasOutlierLabel(CheckedParams):
    """The Param outlierLabel of a classifier and its model."""

    outlierLabel: Param[int | str | None] = Param(
        Params._dummy(),
        "outlierLabel",
        "class that is predicted, with probability 1, for a query that no neighbor votes for: a "
        "class, or most_frequent (the class of most items); by default the prediction is NaN",
        optional(functools.partial(_outlier_label, "outlierLabel")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(outlierLabel=None)

    def getOutlierLabel(self) -> int | str | None:
        """Value of outlierLabel, None if it is unset."""
        return self.getOrDefault(self.outlierLabel)

    def setOutlierLabel(self: Self_, value: int | str | None) -> Self_:
        """Set outlierLabel; None unsets it."""
        return self._set(outlierLabel=value)
