"""Imputation of missing values by nearest neighbors: the estimator and its model."""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from pyspark_knn.display import only_items
from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.fit.source import ItemSource, item_source
from pyspark_knn.engine.fit.statistics import feature_statistics
from pyspark_knn.engine.placing import Placed, place
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.queries import check_attributes
from pyspark_knn.engine.search.batches import WANTED, Request
from pyspark_knn.engine.search.imputed import Imputed
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimators.base import PlacedEstimator
from pyspark_knn.imputer.columns import Imputation
from pyspark_knn.imputer.inputs import check_outputs, columns_of, named_columns, wanted
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.found import DENSE
from pyspark_knn.index.registry import entries
from pyspark_knn.literals import InvalidHandling, PlacementName, WeightsName
from pyspark_knn.models.fit_summary import FitSummary
from pyspark_knn.models.placed import PlacedModel
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.params.checks import warn_of_duplicates
from pyspark_knn.params.imputer import ImputerSetters, _ImputerParams

_METRIC = "nan_euclidean"

_USER_LEVEL = 4
"""The `stacklevel` of the user's line in a method that is called by `_fit`, `Estimator.fit` and the
user."""


class KNNImputerModel(PlacedModel, _ImputerParams):
    """A fitted imputer that fills in what a row lacks from the items that are nearest to it.

    Create it with `KNNImputer.fit` or `KNNImputerModel.load`. ``k``, ``weights``,
    ``handleInvalid`` and the names of the input and output columns can be set on the model without
    another fit.

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Number of items, of features, and of invalid items that were skipped.
    statistics : ndarray of shape (numFeatures,)
        The mean of each feature, which is imputed where a row has no donors.
    items : DataFrame
        The indexed items: position, id and features, with NaN for missing values.

    Examples
    --------
    >>> from pyspark_knn import KNNImputer
    >>> items = spark.createDataFrame(
    ...     [(1.0, 10.0), (2.0, None), (3.0, 40.0)], "size double, price double")
    >>> names = ["size", "price"]
    >>> model = KNNImputer(inputCols=names, outputCols=names, k=2).fit(items)
    >>> model.transform(items.where("price IS NULL")).first()
    Row(size=2.0, price=25.0)
    >>> model.statistics.tolist()
    [2.0, 25.0]
    """

    # --- the index ---

    def _metric(self, summary: FitSummary) -> Metric:
        """Return the metric of the index, in which each feature has its own unit."""
        if not self.getStandardization():
            return resolve_metric(_METRIC, 2.0, None)
        variances = np.array(summary.featureVariances)
        with np.errstate(divide="ignore", over="ignore"):
            weights = 1.0 / variances
        # A feature of one value tells no items apart, in whichever unit it is.
        weights[~np.isfinite(weights)] = 0.0
        return resolve_metric(_METRIC, 2.0, {"w": weights.tolist()})

    def _placed(self, packed: CountedItems, summary: FitSummary) -> Placed:
        return place(
            packed,
            IndexSpec(self._metric(summary), registered=entries()),
            storage=DENSE,
            placement=self.getPlacement(),
            num_shards=self.getNumShards(),
            shard_by="hash",
        )

    def _check_summary(self, summary: FitSummary, packed: CountedItems) -> None:
        super()._check_summary(summary, packed)
        for name in ("featureCounts", "featureMeans", "featureVariances"):
            values = getattr(summary, name)
            if values is None or len(values) != packed.num_features:
                raise ValueError(
                    f"{name} must have one number for each of the {packed.num_features} features"
                )
            if not np.isfinite(values).all() or (name != "featureMeans" and min(values) < 0):
                raise ValueError(f"{name} must contain finite numbers, and no negative ones")

    def _saved_storage(self) -> str:
        return DENSE

    def _allows_missing(self) -> bool:
        return True

    # --- public members ---

    @property
    def numSkipped(self) -> int:
        """The number of invalid items that were skipped (handleInvalid "skip" or "keep")."""
        return self._summary.numSkipped

    @property
    def statistics(self) -> NDArray[np.float64]:
        """The mean of each feature over the items that have it; NaN if no item has it."""
        self._fitted  # noqa: B018 - raises an error if there is no index
        means = np.array(self._summary.featureMeans)
        means[np.array(self._summary.featureCounts) == 0] = np.nan
        return means

    def _imputation(self) -> Imputation:
        counts = cast("list[int]", self._summary.featureCounts)
        return Imputation(
            empty=[count == 0 for count in counts],
            keeps_empty=self.getKeepEmptyFeatures(),
            indicated=[self.getAddIndicator() and count < self.numItems for count in counts],
        )

    def _transform(self, dataset: DataFrame) -> DataFrame:
        compat.session_of(dataset)
        index = self._fitted
        given = columns_of(self, dataset, self.numFeatures)
        imputation = self._imputation()
        check_outputs(self, dataset, given.indicators(imputation))
        features = given.features(imputation.empty)
        strict = self.getHandleInvalid() == "error"
        names = self._summary.featureNames
        check_attributes(given.name, features, self.numFeatures, names, strict=strict)
        imputed = f"knn_imputed_{uuid.uuid4().hex}"
        inputs = {**features.inputs, WANTED: wanted(features, self.numFeatures)}
        request = Request(
            k=self.getK(),
            max_distance=None,
            handle_invalid=self.getHandleInvalid(),
            features_col=given.name,
            features_param=given.param,
            inputs=tuple(inputs),
            answer=Imputed(
                columns.struct_type({imputed: T.ArrayType(T.DoubleType())}),
                self.getK(),
                self.getWeights(),
                tuple(cast("list[float]", self._summary.featureMeans)),
            ),
            replicas=self.getNumReplicas(),
        )
        return given.output(index.search(dataset, inputs, request), imputed, imputation)

    def _facts(self) -> dict[str, Any]:
        if self._index is None:
            return {}
        return {
            "placement": self.getPlacement(),
            "numItems": self.numItems,
            "numFeatures": self.numFeatures,
            "k": self.getK(),
        }


class KNNImputer(PlacedEstimator[KNNImputerModel], ImputerSetters):
    """Imputation of missing values from the nearest items, as scikit-learn's KNNImputer does it.

    A missing value is the mean of the values of its donors: the `k` nearest of the items that have
    the feature. Distances are euclidean over the features that both rows have, scaled up for those
    that are left out (metric "nan_euclidean").

    Parameters
    ----------
    inputCols, outputCols : list of str, optional
        Numeric columns to impute, one feature each, and the output columns, which have the same
        types. Equal names replace the columns.
    inputCol, featuresCol, outputCol : str, optional
        In place of `inputCols`, one numeric column, or one column of vectors or arrays of numbers;
        and its output column, of the same type.
    missingValue : float, default=NaN
        A number that stands for a missing value. Nulls and NaN always do.
    k : int, default=5
        Number of donors of a value, >= 1. If there are fewer, those are used; if there are none,
        the mean of the feature over all items.
    weights : {"uniform", "distance"}, default="uniform"
        Weight of a donor: 1, or the inverse of its distance. Donors at distance 0 decide alone.
    standardization : bool, default=True
        Whether distances are computed from features that are divided by their standard deviation
        over the items that have them, so that the units of the features do not matter. It is on by
        default, as in MLlib, because a column of vectors with missing values cannot be scaled
        before: StandardScaler turns all values of a feature into NaN if one is missing. With False,
        the imputed values are those of scikit-learn's KNNImputer, which does not scale. The outputs
        are in the original units either way.
    addIndicator : bool, default=False
        Whether to add, for each feature that some items lack, a number of type double: 1 where the
        value was missing, else 0. Vectors get further elements, and a column `x` gets a column
        `x_missing`.
    keepEmptyFeatures : bool, default=False
        Whether a feature that no item has is output as 0. Otherwise vectors lose the feature, and
        columns raise an error.
    handleInvalid : {"error", "skip", "keep"}, default="error"
        How to handle rows with an infinity, and vectors that are null or of a wrong dimension:
        raise an error, drop the rows, or keep invalid queries with null outputs (invalid items are
        dropped).
    idCol : str, optional
        Column of the items with unique ids. Of donors at equal distances, the one with the smaller
        id is nearer; by default the one that comes first, which depends on the order of the input.
    placement, numShards, numReplicas
        The placement of the index, see `KNNEstimator`.

    Raises
    ------
    TypeError, ValueError
        From the constructor and the setters, if a value is not allowed. From `fit`, if a column
        does not exist or is not numeric, if Params conflict with each other, if an item is invalid,
        or if no item has a column. The message names the Param.

    Examples
    --------
    >>> from pyspark.ml.linalg import Vectors
    >>> items = spark.createDataFrame(
    ...     [(Vectors.dense(1.0, 10.0),), (Vectors.dense(2.0, float("nan")),),
    ...      (Vectors.dense(3.0, 40.0),), (Vectors.dense(9.0, 90.0),)], ["features"])
    >>> imputer = KNNImputer(featuresCol="features", outputCol="filled", k=2)
    >>> imputer.fit(items).transform(items).select("filled").show()
    +----------+
    |    filled|
    +----------+
    |[1.0,10.0]|
    |[2.0,25.0]|
    |[3.0,40.0]|
    |[9.0,90.0]|
    +----------+
    <BLANKLINE>
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        inputCols: Sequence[str] | None = None,
        outputCols: Sequence[str] | None = None,
        inputCol: str | None = None,
        featuresCol: str | None = None,
        outputCol: str | None = None,
        missingValue: float = math.nan,
        k: int = 5,
        weights: WeightsName = "uniform",
        standardization: bool = True,
        addIndicator: bool = False,
        keepEmptyFeatures: bool = False,
        handleInvalid: InvalidHandling = "error",
        idCol: str | None = None,
        placement: PlacementName = "auto",
        numShards: int | None = None,
        numReplicas: int | None = None,
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)

    @keyword_only
    def setParams(
        self,
        *,
        inputCols: Sequence[str] | None = None,
        outputCols: Sequence[str] | None = None,
        inputCol: str | None = None,
        featuresCol: str | None = None,
        outputCol: str | None = None,
        missingValue: float = math.nan,
        k: int = 5,
        weights: WeightsName = "uniform",
        standardization: bool = True,
        addIndicator: bool = False,
        keepEmptyFeatures: bool = False,
        handleInvalid: InvalidHandling = "error",
        idCol: str | None = None,
        placement: PlacementName = "auto",
        numShards: int | None = None,
        numReplicas: int | None = None,
    ) -> KNNImputer:
        """Set any of the Params, which the docstring of the class describes."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNImputerModel:
        return KNNImputerModel()

    def _check_params(self) -> None:
        named_columns(self)

    def _source(self, dataset: DataFrame) -> ItemSource:
        given = columns_of(self, dataset)
        source = item_source(
            dataset,
            given.name,
            self._item_columns(),
            self.getHandleInvalid(),
            "auto",
            DENSE,
            missing=True,
            features=given.features(),
        )
        return replace(source, features_param=given.param)

    def _learn(self, dataset: DataFrame, packed: PackedItems, summary: FitSummary) -> FitSummary:
        counts, means, variances = feature_statistics(packed)
        empty = counts == 0
        self._check_empty(empty)
        return replace(
            summary,
            featureCounts=counts.tolist(),
            featureMeans=np.where(empty, 0.0, means).tolist(),
            featureVariances=np.where(empty, 0.0, variances).tolist(),
        )

    def _check_empty(self, empty: NDArray[np.bool_]) -> None:
        """Raise a ValueError, or warn, if no item has a feature that is to be output."""
        if self.getKeepEmptyFeatures() or not empty.any():
            return
        param, inputs, _ = named_columns(self)
        advice = "Set keepEmptyFeatures=True to output 0"
        if param != "featuresCol":
            names = [name for name, missing in zip(inputs, empty, strict=True) if missing]
            raise ValueError(
                f"{param} {names} contain only missing values. {advice}, or drop them."
            )
        which = np.flatnonzero(empty).tolist()
        if empty.all():
            raise ValueError(f"featuresCol {inputs[0]!r} contains only missing values. {advice}.")
        warnings.warn(
            f"featuresCol {inputs[0]!r} has only missing values in features {which[:10]}"
            f"{', ...' * (len(which) > 10)}, which are dropped from the output. {advice} in them.",
            stacklevel=_USER_LEVEL + 1,
        )

    def _warn(self, model: KNNImputerModel) -> None:
        warn_of_duplicates(self.getIdCol(), model._summary.numDuplicates, _USER_LEVEL + 1)
        if self.getK() > model.numItems:
            warnings.warn(
                f"k is {self.getK()}, but {only_items(model.numItems)}: each value has fewer than "
                "k donors.",
                stacklevel=_USER_LEVEL,
            )
