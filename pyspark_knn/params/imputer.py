"""The Params of imputation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params

from pyspark_knn.engine.fit.item_columns import ID, ItemColumn
from pyspark_knn.index.votes import WEIGHTS
from pyspark_knn.literals import InvalidHandling, WeightsName
from pyspark_knn.params.converters import choice, flag, names, optional, real, text, whole
from pyspark_knn.params.neighbors import INVALID
from pyspark_knn.params.placement import HasPlacement, PlacementSetters

Self_ = TypeVar("Self_", bound="_ImputerParams")


def _is_finite_or_nan(value: float) -> bool:
    return not math.isinf(value)


def _missing_value(value: Any) -> float:
    number: float = real("missingValue", "a finite number or NaN", _is_finite_or_nan)(value)
    # One NaN, which equals itself where Python compares by identity first.
    return math.nan if math.isnan(number) else number


class _ImputerParams(HasPlacement):
    """Params of the imputer and its model."""

    inputCols: Param[list[str] | None] = Param(
        Params._dummy(),
        "inputCols",
        "numeric columns to impute, one feature each",
        optional(names("inputCols")),
    )
    outputCols: Param[list[str] | None] = Param(
        Params._dummy(),
        "outputCols",
        "output columns, one for each of inputCols; may be the same names, which replaces them",
        optional(names("outputCols")),
    )
    inputCol: Param[str | None] = Param(
        Params._dummy(),
        "inputCol",
        "numeric column to impute, in place of inputCols",
        optional(text("inputCol")),
    )
    featuresCol: Param[str | None] = Param(
        Params._dummy(),
        "featuresCol",
        "column of vectors, or of arrays of numbers, to impute, in place of inputCols",
        optional(text("featuresCol")),
    )
    outputCol: Param[str | None] = Param(
        Params._dummy(),
        "outputCol",
        "output column for inputCol or featuresCol; may be the same name, which replaces it",
        optional(text("outputCol")),
    )
    missingValue: Param[float] = Param(
        Params._dummy(),
        "missingValue",
        "number that stands for a missing value; nulls and NaN always do",
        _missing_value,
    )
    k: Param[int] = Param(
        Params._dummy(),
        "k",
        "number of donors (the nearest items that have the feature) per missing value, >= 1",
        whole("k", 1),
    )
    weights: Param[WeightsName] = Param(
        Params._dummy(),
        "weights",
        "weight of a donor's value: uniform (1) or distance (the inverse of its distance)",
        choice("weights", WEIGHTS),
    )
    standardization: Param[bool] = Param(
        Params._dummy(),
        "standardization",
        "whether distances are computed from features that are divided by their standard deviation",
        flag("standardization"),
    )
    addIndicator: Param[bool] = Param(
        Params._dummy(),
        "addIndicator",
        "whether to add, for each feature that some items lack, a number that is 1 where the value "
        "was missing and 0 elsewhere",
        flag("addIndicator"),
    )
    keepEmptyFeatures: Param[bool] = Param(
        Params._dummy(),
        "keepEmptyFeatures",
        "whether a feature that no item has is output as 0; otherwise vectors lose it, and columns "
        "raise an error",
        flag("keepEmptyFeatures"),
    )
    handleInvalid: Param[InvalidHandling] = Param(
        Params._dummy(),
        "handleInvalid",
        "how to handle invalid rows (with an infinity, null vectors, vectors of a wrong "
        "dimension): error (raise an error), skip (drop the rows), or keep (keep invalid queries "
        "with null outputs, drop invalid items)",
        choice("handleInvalid", INVALID),
    )
    idCol: Param[str | None] = Param(
        Params._dummy(),
        "idCol",
        "column of the items with unique ids, of any atomic type: of donors at equal distances the "
        "one with the smaller id is nearer; by default the one that comes first",
        optional(text("idCol")),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            inputCols=None,
            outputCols=None,
            inputCol=None,
            featuresCol=None,
            outputCol=None,
            missingValue=math.nan,
            k=5,
            weights="uniform",
            standardization=True,
            addIndicator=False,
            keepEmptyFeatures=False,
            handleInvalid="error",
            idCol=None,
        )

    def _item_columns(self) -> list[ItemColumn]:
        """Return the columns that every item has in addition to its features."""
        name = self.getIdCol()
        return [] if name is None else [ItemColumn("id", "idCol", name, ID)]

    def getInputCols(self) -> list[str] | None:
        """Value of inputCols, None if it is unset."""
        return self.getOrDefault(self.inputCols)

    def getOutputCols(self) -> list[str] | None:
        """Value of outputCols, None if it is unset."""
        return self.getOrDefault(self.outputCols)

    def getInputCol(self) -> str | None:
        """Value of inputCol, None if it is unset."""
        return self.getOrDefault(self.inputCol)

    def getFeaturesCol(self) -> str | None:
        """Value of featuresCol, None if it is unset."""
        return self.getOrDefault(self.featuresCol)

    def getOutputCol(self) -> str | None:
        """Value of outputCol, None if it is unset."""
        return self.getOrDefault(self.outputCol)

    def getMissingValue(self) -> float:
        """Value of missingValue."""
        return self.getOrDefault(self.missingValue)

    def getK(self) -> int:
        """Value of k."""
        return self.getOrDefault(self.k)

    def getWeights(self) -> WeightsName:
        """Value of weights."""
        return self.getOrDefault(self.weights)

    def getStandardization(self) -> bool:
        """Value of standardization."""
        return self.getOrDefault(self.standardization)

    def getAddIndicator(self) -> bool:
        """Value of addIndicator."""
        return self.getOrDefault(self.addIndicator)

    def getKeepEmptyFeatures(self) -> bool:
        """Value of keepEmptyFeatures."""
        return self.getOrDefault(self.keepEmptyFeatures)

    def getHandleInvalid(self) -> InvalidHandling:
        """Value of handleInvalid."""
        return self.getOrDefault(self.handleInvalid)

    def getIdCol(self) -> str | None:
        """Value of idCol, None if it is unset."""
        return self.getOrDefault(self.idCol)

    # The Params below can be set on a model without another fit.

    def setInputCols(self: Self_, value: str | Sequence[str] | None) -> Self_:
        """Set inputCols; None unsets it."""
        return self._set(inputCols=value)

    def setOutputCols(self: Self_, value: str | Sequence[str] | None) -> Self_:
        """Set outputCols; None unsets it."""
        return self._set(outputCols=value)

    def setInputCol(self: Self_, value: str | None) -> Self_:
        """Set inputCol; None unsets it."""
        return self._set(inputCol=value)

    def setFeaturesCol(self: Self_, value: str | None) -> Self_:
        """Set featuresCol; None unsets it."""
        return self._set(featuresCol=value)

    def setOutputCol(self: Self_, value: str | None) -> Self_:
        """Set outputCol; None unsets it."""
        return self._set(outputCol=value)

    def setK(self: Self_, value: int) -> Self_:
        """Set k."""
        return self._set(k=value)

    def setWeights(self: Self_, value: WeightsName) -> Self_:
        """Set weights."""
        return self._set(weights=value)

    def setHandleInvalid(self: Self_, value: InvalidHandling) -> Self_:
        """Set handleInvalid."""
        return self._set(handleInvalid=value)


class ImputerSetters(PlacementSetters, _ImputerParams):
    """Setters of the Params that only `fit` reads."""

    def setMissingValue(self: Self_, value: float) -> Self_:
        """Set missingValue."""
        return self._set(missingValue=value)

    def setStandardization(self: Self_, value: bool) -> Self_:
        """Set standardization."""
        return self._set(standardization=value)

    def setAddIndicator(self: Self_, value: bool) -> Self_:
        """Set addIndicator."""
        return self._set(addIndicator=value)

    def setKeepEmptyFeatures(self: Self_, value: bool) -> Self_:
        """Set keepEmptyFeatures."""
        return self._set(keepEmptyFeatures=value)

    def setIdCol(self: Self_, value: str | None) -> Self_:
        """Set idCol; None unsets it."""
        return self._set(idCol=value)
