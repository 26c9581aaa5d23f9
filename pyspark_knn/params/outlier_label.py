"""The Param outlierLabel: the class of queries that no neighbor votes for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from pyspark.ml.param import Param, Params
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import optional, whole

if TYPE_CHECKING:
    from pyspark_knn.engine.search.searchable import Searchable

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


def outlier_class(
    label: int | str | None, searchable: Searchable | None, known: int | None
) -> int | None:
    """Return the class that outlierLabel stands for.

    Parameters
    ----------
    label : int, str or None
        The value of outlierLabel.
    searchable : Searchable or None
        The items of the model, if they are on the driver.
    known : int or None
        The class of most items, if a fit has counted them.

    Returns
    -------
    int or None
        A class; None if there is none for queries that no neighbor votes for.

    Raises
    ------
    ValueError
        If the class of most items is not known.
    """
    if not isinstance(label, str):
        return label
    if searchable is not None:
        labels = searchable.items.numbers("label").astype(np.int64)
        return int(np.bincount(labels).argmax())
    if known is None:
        raise ValueError(
            f"outlierLabel {MOST_FREQUENT!r} can be set on a sharded model only if it was set when "
            "the model was fitted. Set it on the estimator and fit again, or set the number of the "
            "class."
        )
    return known


def most_frequent_class(items: DataFrame) -> int:
    """Return the class of most items, of several the smallest; runs a job."""
    counts = items.groupBy("label").count()
    return int(counts.orderBy(F.desc("count"), "label").collect()[0]["label"])


def outlier_label_of(fitted: Any, names: list[str] | None) -> int | Literal["most_frequent"] | None:
    """Return the outlierLabel that corresponds to the parameter of a fitted classifier.

    Parameters
    ----------
    fitted : KNeighborsClassifier or RadiusNeighborsClassifier
        The fitted classifier of scikit-learn.
    names : list of str or None
        The names of its classes; None if the classes are whole numbers >= 0.

    Returns
    -------
    int, str or None
        A class, "most_frequent", or None.

    Raises
    ------
    ValueError
        If the parameter is not one of the classes.
    """
    label = getattr(fitted, "outlier_label", None)
    if label is None:
        return None
    if isinstance(label, str) and label == MOST_FREQUENT:
        return "most_frequent"
    classes = fitted.classes_.tolist()
    value = np.ravel(label).tolist()[0]
    if value not in classes:
        raise ValueError(f"outlier_label must be one of the classes, got {label!r}")
    return classes.index(value) if names is not None else int(value)


class HasOutlierLabel(CheckedParams):
    """The Param outlierLabel of a classifier and its model."""

    outlierLabel: Param[int | Literal["most_frequent"] | None] = Param(
        Params._dummy(),
        "outlierLabel",
        "class that is predicted, with probability 1, for a query that no neighbor votes for: a "
        "class, or most_frequent (the class of most items); by default the prediction is NaN",
        optional(functools.partial(_outlier_label, "outlierLabel")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(outlierLabel=None)

    def getOutlierLabel(self) -> int | Literal["most_frequent"] | None:
        """Value of outlierLabel, None if it is unset."""
        return self.getOrDefault(self.outlierLabel)

    def setOutlierLabel(self: Self_, value: int | Literal["most_frequent"] | None) -> Self_:
        """Set outlierLabel; None unsets it."""
        return self._set(outlierLabel=value)
