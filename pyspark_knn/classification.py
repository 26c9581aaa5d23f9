"""k-nearest-neighbor classification: the estimator and its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.classification import ProbabilisticClassificationModel, ProbabilisticClassifier
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector, Vector
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn.engine.fit.counted import CountedItems
from pyspark_knn.engine.fit.packed import PackedItems
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import ClassVote
from pyspark_knn.interop import from_sklearn, to_sklearn
from pyspark_knn.literals import (
    AlgorithmName,
    DtypeName,
    InvalidHandling,
    MetricName,
    PlacementName,
    ShardByName,
    StorageName,
    WeightsName,
)
from pyspark_knn.models.classes import (
    MOST_CLASSES,
    check_classes,
    check_declared,
    check_thresholds,
    check_undeclared,
    declared_classes,
)
from pyspark_knn.models.fit_summary import FitSummary
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.params.outlier_label import (
    MOST_FREQUENT,
    HasOutlierLabel,
    check_outlier_label,
    most_frequent_class,
    outlier_class,
    outlier_label_of,
)
from pyspark_knn.params.voting import CheckedThresholds
from pyspark_knn.voting import VotingEstimator, VotingModel

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier

    from pyspark_knn.engine.placement import Placement


class KNNClassificationModel(
    VotingModel, CheckedThresholds, HasOutlierLabel, ProbabilisticClassificationModel
):
    """A fitted classifier that predicts the class with the most votes among the nearest items.

    Create it with `KNNClassifier.fit`, `KNNClassificationModel.load` or
    `KNNClassificationModel.fromSklearn`. ``k``, ``weights``, ``thresholds``, ``maxDistance``,
    ``minSimilarity``, ``outlierLabel``, ``excludeIdCol``, ``handleInvalid``, ``targetRecall``,
    ``searchParams`` and the column names can be set on the model without another fit.

    The prediction is NaN, and all votes and probabilities are 0, for a query without neighbors and
    for a query whose neighbors all have weight 0, unless ``outlierLabel`` is set, and for an
    invalid query with handleInvalid="keep".

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Number of items, dimension of their vectors, and number of invalid items that were skipped.
    numClasses : int
        Number of classes, at least 2.
    labels : list of str or None
        Names of the classes, if the metadata of the label contain them.
    items : DataFrame
        The indexed items: position, id, features, label and weight.

    Examples
    --------
    >>> from pyspark_knn import KNNClassifier
    >>> items = spark.createDataFrame(
    ...     [([1.0, 1.0], 0), ([2.0, 1.0], 0), ([9.0, 7.0], 1)], ["features", "label"])
    >>> model = KNNClassifier(k=3).fit(items)
    >>> model.numClasses, model.numItems
    (2, 3)
    >>> from pyspark.ml.linalg import Vectors
    >>> model.predict(Vectors.dense(8.0, 8.0))
    0.0
    >>> model.setWeights("distance").predict(Vectors.dense(8.0, 8.0))
    1.0
    """

    _OUTPUTS = (
        "rawPredictionCol",
        "probabilityCol",
        "predictionCol",
        "neighborsCol",
        "distancesCol",
    )

    _labels_are_classes = True

    @property
    def numClasses(self) -> int:
        """Number of classes, at least 2."""
        self._fitted  # noqa: B018 - raises an error for a model without an index
        return cast("int", self._summary.numClasses)

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, None if the metadata of the label do not contain them."""
        return self._summary.classNames

    def _predicted(self) -> ClassVote:
        thresholds = self.getThresholds()
        check_thresholds(thresholds, self.numClasses)
        limits = None if thresholds is None else tuple(thresholds)
        return ClassVote(self.numClasses, self.getWeights(), limits, self._outlier())

    def _outlier(self) -> int | None:
        """Return the class of queries that no neighbor votes for."""
        label = self.getOutlierLabel()
        check_outlier_label(label, self.numClasses)
        return outlier_class(label, self._fitted.searchable, self._summary.mostFrequentClass)

    def _count_classes(self, session: SparkSession) -> None:
        """Remember the class of most items if it is needed, by a job if the index is sharded."""
        wanted = self.getOutlierLabel() == MOST_FREQUENT and self._fitted.searchable is None
        if wanted and self._summary.mostFrequentClass is None:
            most = most_frequent_class(self._fitted.items_frame(session))
            self._summary = replace(self._summary, mostFrequentClass=most)

    def _restore(self, packed: CountedItems, record: dict[str, Any]) -> None:
        super()._restore(packed, record)
        if isinstance(packed, PackedItems):
            self._count_classes(packed.frame.sparkSession)

    def _with_index(self, index: Placement, summary: FitSummary) -> KNNClassificationModel:
        model = super()._with_index(index, replace(summary, mostFrequentClass=None))
        if (session := SparkSession.getActiveSession()) is not None:
            model._count_classes(session)
        return model

    def _finished(self, outputs: dict[str, str]) -> dict[str, Column]:
        finished = super()._finished(outputs)
        nothing = F.array_repeat(F.lit(0.0), self.numClasses)
        size = {"num_attrs": self.numClasses}
        for param in ("rawPredictionCol", "probabilityCol"):
            if param in outputs:
                name = outputs[param]
                vector = array_to_vector(F.coalesce(columns.column(name), nothing))
                finished[name] = columns.with_attributes(name, vector, size)
        return finished

    def _prediction_attributes(self) -> dict[str, Any]:
        names = self._summary.classNames
        values = {"num_vals": self.numClasses} if names is None else {"vals": names}
        return {"type": "nominal", **values}

    def _fit_record(self) -> dict[str, Any]:
        record = super()._fit_record()
        check_classes(record["numClasses"], record["classNames"], MOST_CLASSES)
        return record

    def _check_summary(self, summary: FitSummary, packed: CountedItems) -> None:
        super()._check_summary(summary, packed)
        classes = check_classes(summary.numClasses, summary.classNames, MOST_CLASSES)
        if packed.largest_label is not None and packed.largest_label >= classes:
            raise ValueError(
                f"items column 'label' contains {packed.largest_label}, but numClasses is {classes}"
            )
        check_thresholds(self.getThresholds(), classes)
        check_outlier_label(self.getOutlierLabel(), classes)
        most = summary.mostFrequentClass
        if most is not None and most >= classes:
            raise ValueError(f"mostFrequentClass is {most}, but numClasses is {classes}")

    def _learn_from(self, items: DataFrame, packed: PackedItems, summary: FitSummary) -> FitSummary:
        name, largest = self.getLabelCol(), int(cast("float", packed.largest_label))
        declared, names = declared_classes(items, name)
        check_declared(name, largest, declared, "its metadata declares")
        known = summary.classNames
        if names is not None and known is not None and names != known:
            raise ValueError(
                f"labelCol {name!r} has other classes than the model: {names} instead of {known}. "
                "Index the labels with the StringIndexerModel that indexed those of the fit."
            )
        has_all = known is not None or summary.classesDeclared
        limit = self.numClasses if has_all else None
        check_declared(name, largest, limit, "the metadata at fit declared")
        check_undeclared(name, largest, limit)
        count = max(self.numClasses, largest + 1)
        check_thresholds(self.getThresholds(), count)
        return replace(summary, numClasses=count)

    def _learn_without(self, rest: Placement, summary: FitSummary) -> FitSummary:
        declared = summary.classNames is not None or summary.classesDeclared
        before, largest = self._fitted.largest_label, rest.largest_label
        # Models of earlier releases do not know whether the metadata declared more classes.
        if declared or self.numClasses != max(2, int(cast("float", before)) + 1):
            return summary
        count = max(2, int(cast("float", largest)) + 1)
        check_thresholds(self.getThresholds(), count)
        return replace(summary, numClasses=count)

    def predictRaw(self, value: Vector | Sequence[float] | NDArray[Any]) -> Vector:
        """Return the votes of each class for one vector, computed on the driver."""
        return DenseVector(self._predict(value, "rawPredictionCol"))

    def predictProbability(self, value: Vector | Sequence[float] | NDArray[Any]) -> Vector:
        """Return the probability of each class for one vector, computed on the driver."""
        return DenseVector(self._predict(value, "probabilityCol"))

    def toSklearn(self) -> KNeighborsClassifier | RadiusNeighborsClassifier:
        """Convert this model to a fitted scikit-learn classifier.

        The items of a sharded model are fetched to the driver by a Spark job.

        Returns
        -------
        sklearn.neighbors.KNeighborsClassifier or sklearn.neighbors.RadiusNeighborsClassifier
            The classifier, fitted on the driver with this model's Params and items: the latter if k
            is None. Its classes are `labels`, if there are any.

        Raises
        ------
        ValueError
            If scikit-learn does not support the metric ("inner_product", and "haversine" with a
            radius), if the items have weights, if thresholds are set, or if the driver cannot hold
            the items of a sharded model.
        """
        from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier

        if self.getThresholds() is not None:
            raise ValueError("thresholds are not supported by scikit-learn. Clear them first.")
        (items, matrix), names = self._fetched(), self.labels
        classes = items.numbers("label").astype(int)
        target = classes if names is None else np.array(names)[classes]
        if self.getK() is not None:
            return to_sklearn.to_sklearn_voter(KNeighborsClassifier, self, items, matrix, target)
        label: int | str | None = self.getOutlierLabel()
        if names is not None and isinstance(label, int):
            label = names[label]
        return to_sklearn.to_sklearn_voter(
            RadiusNeighborsClassifier, self, items, matrix, target, outlier_label=label
        )

    @classmethod
    def fromSklearn(
        cls,
        fitted: KNeighborsClassifier | RadiusNeighborsClassifier,
        ids: Sequence[Any] | None = None,
    ) -> KNNClassificationModel:
        """Create a model from a fitted scikit-learn classifier; see `KNNModel.fromSklearn`.

        Classes that are whole numbers >= 0 are kept. Other classes are numbered in their order, and
        their names are written to the metadata of the prediction, where ``IndexToString`` finds
        them.

        Parameters
        ----------
        fitted : sklearn.neighbors.KNeighborsClassifier or RadiusNeighborsClassifier
            A classifier that is fitted on one target. The latter gives a model with k=None.
        ids : sequence, optional
            The ids of the fitted rows, all of one type. By default the rows are identified by their
            positions.

        Returns
        -------
        KNNClassificationModel
            The model, with ``idCol`` "id" if `ids` are given.

        Raises
        ------
        TypeError, ValueError
            As in `KNNModel.fromSklearn`, and if `fitted` has several targets or if its weights are
            a function.
        """
        from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier

        kinds = KNeighborsClassifier, RadiusNeighborsClassifier
        converted = from_sklearn.from_sklearn(fitted, ids, kinds, from_sklearn.class_labels)
        names = from_sklearn.class_names(fitted)
        largest = int(fitted.classes_[-1]) if names is None else len(names) - 1
        model = converted.install(cls(), numClasses=max(2, largest + 1), classNames=names)
        return model.setOutlierLabel(outlier_label_of(fitted, names))


class KNNClassifier(
    VotingEstimator[KNNClassificationModel],
    CheckedThresholds,
    HasOutlierLabel,
    ProbabilisticClassifier,
):
    """Classification by the votes of the nearest items.

    `fit` reads the labeled items once, indexes them and returns a `KNNClassificationModel`, whose
    `transform` adds the votes, the probabilities and the prediction of each query.

    Parameters
    ----------
    featuresCol, labelCol : str, default="features", "label"
        Columns of the items: vectors or arrays of numbers, and the classes as numbers 0, 1, 2, ...
        ``StringIndexer`` converts names to such labels; the model then keeps the names.
    predictionCol, probabilityCol, rawPredictionCol : str
        Output columns, by default "prediction", "probability" and "rawPrediction": the class
        (double), and the classes' shares of the votes and their votes (vectors). A column with an
        empty name is omitted.
    k : int or None, default=5
        Number of neighbors (items) that vote, >= 1; None: all items within `maxDistance` (or
        `minSimilarity`).
    weights : {"uniform", "distance"}, default="uniform"
        Weight of a vote: 1, or the inverse of the distance ("distance" is not supported for metric
        "inner_product").
    weightCol : str, optional
        Column of the items with weights >= 0, which multiply their votes. By default 1.
    thresholds : list of float, optional
        One number >= 0 per class, at most one of them 0. As in MLlib's classifiers, the class with
        the largest probability / threshold is predicted.
    outlierLabel : int or "most_frequent", optional
        The class that is predicted, with probability 1, for a query that no neighbor votes for;
        "most_frequent" is the class of most items. By default the prediction is NaN.
    idCol : str, optional
        Column of the items with their ids. Of items at equal distances the smaller id is nearer.
    neighborsCol, distancesCol : str, default=""
        Output columns with the ids and the distances of the neighbors behind the prediction. They
        are omitted unless they have a name.
    metric, p, metricParams, algorithm, leafSize, dtype, storage
        The metric and the index, see `KNNEstimator`.
    placement, numShards, shardBy, numProbes, numReplicas
        The placement of the index, see `KNNEstimator`.
    targetRecall, indexParams, searchParams, seed
        An approximate index, see `KNNEstimator`.
    keyCols, queryKeyCols, excludeIdCol, maxDistance, minSimilarity, handleInvalid
        Limits of the search, see `KNNEstimator`. Excluded items do not vote.

    Raises
    ------
    TypeError, ValueError
        As in `KNNEstimator`. Also from `fit`, if a label is null, NaN, negative or fractional, or
        if a weight is null, NaN, infinite or negative.

    Examples
    --------
    >>> items = spark.createDataFrame(
    ...     [(1, [0.0, 0.0], 0), (2, [0.0, 1.0], 0), (3, [3.0, 4.0], 1), (4, [4.0, 4.0], 1)],
    ...     ["id", "features", "label"])
    >>> knn = KNNClassifier(k=3, idCol="id", neighborsCol="neighbors")
    >>> query = spark.createDataFrame([([3.0, 3.0],)], ["features"])
    >>> knn.fit(items).transform(query).select("rawPrediction", "prediction", "neighbors").show()
    +-------------+----------+---------+
    |rawPrediction|prediction|neighbors|
    +-------------+----------+---------+
    |    [1.0,2.0]|       1.0|[3, 4, 2]|
    +-------------+----------+---------+
    <BLANKLINE>
    """

    _labels_are_classes = True
    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        k: int | None = 5,
        weights: WeightsName = "uniform",
        weightCol: str | None = None,
        thresholds: list[float] | None = None,
        outlierLabel: int | Literal["most_frequent"] | None = None,
        idCol: str | None = None,
        neighborsCol: str = "",
        distancesCol: str = "",
        metric: MetricName = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: AlgorithmName = "auto",
        leafSize: int = 30,
        dtype: DtypeName = "auto",
        storage: StorageName = "auto",
        placement: PlacementName = "auto",
        numShards: int | None = None,
        shardBy: ShardByName = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        targetRecall: float | None = None,
        indexParams: dict[str, Any] | None = None,
        searchParams: dict[str, Any] | None = None,
        seed: int = 0,
        keyCols: str | Sequence[str] | None = None,
        queryKeyCols: str | Sequence[str] | None = None,
        excludeIdCol: str | None = None,
        maxDistance: float | None = None,
        minSimilarity: float | None = None,
        handleInvalid: InvalidHandling = "error",
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)

    @keyword_only
    def setParams(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        k: int | None = 5,
        weights: WeightsName = "uniform",
        weightCol: str | None = None,
        thresholds: list[float] | None = None,
        outlierLabel: int | Literal["most_frequent"] | None = None,
        idCol: str | None = None,
        neighborsCol: str = "",
        distancesCol: str = "",
        metric: MetricName = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: AlgorithmName = "auto",
        leafSize: int = 30,
        dtype: DtypeName = "auto",
        storage: StorageName = "auto",
        placement: PlacementName = "auto",
        numShards: int | None = None,
        shardBy: ShardByName = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        targetRecall: float | None = None,
        indexParams: dict[str, Any] | None = None,
        searchParams: dict[str, Any] | None = None,
        seed: int = 0,
        keyCols: str | Sequence[str] | None = None,
        queryKeyCols: str | Sequence[str] | None = None,
        excludeIdCol: str | None = None,
        maxDistance: float | None = None,
        minSimilarity: float | None = None,
        handleInvalid: InvalidHandling = "error",
    ) -> KNNClassifier:
        """Set any of the Params, which the docstring of the class describes."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNClassificationModel:
        return KNNClassificationModel()

    def _learn(self, dataset: DataFrame, packed: PackedItems, summary: FitSummary) -> FitSummary:
        name, largest = self.getLabelCol(), int(cast("float", packed.largest_label))
        declared, names = declared_classes(dataset, name)
        check_declared(name, largest, declared, "its metadata declares")
        check_undeclared(name, largest, declared)
        count = max(2, largest + 1 if declared is None else declared)
        check_thresholds(self.getThresholds(), count)
        check_outlier_label(self.getOutlierLabel(), count)
        known = declared is not None
        return replace(summary, numClasses=count, classNames=names, classesDeclared=known)

    def _reuse_index(self, first: KNNClassificationModel) -> KNNClassificationModel:
        """Return this estimator's model, given a model of an estimator that has the same index."""
        check_thresholds(self.getThresholds(), first.numClasses)
        check_outlier_label(self.getOutlierLabel(), first.numClasses)
        return super()._reuse_index(first)

    def _finish(self, model: KNNClassificationModel, dataset: DataFrame) -> None:
        super()._finish(model, dataset)
        model._count_classes(dataset.sparkSession)
