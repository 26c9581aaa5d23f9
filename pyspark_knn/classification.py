"""k-nearest-neighbour classification: the estimator and its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pyspark import keyword_only
from pyspark.ml.classification import ProbabilisticClassificationModel, ProbabilisticClassifier
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import DenseVector, Vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from sklearn.neighbors import KNeighborsClassifier

from pyspark_knn import interop
from pyspark_knn.engine import columns
from pyspark_knn.engine.answers import ClassVerdict
from pyspark_knn.engine.packed import ItemSource, PackedItems
from pyspark_knn.fit_summary import FitSummary, check_classes
from pyspark_knn.voting import VotingEstimator, VotingModel
from pyspark_knn.voting_params import CheckedThresholds

_MAX_CLASSES = 10_000
"""More than that are taken from metadata alone: labels such as ids of users are a mistake."""


def _check_thresholds(thresholds: list[float] | None, classes: int) -> None:
    if thresholds is not None and len(thresholds) != classes:
        raise ValueError(
            f"thresholds must be one for each of the {classes} classes, got {len(thresholds)}"
        )


class KNNClassificationModel(VotingModel, CheckedThresholds, ProbabilisticClassificationModel):
    """Labelled items whose nearest ones vote on the class of each query.

    It comes from `KNNClassifier.fit`, `KNNClassificationModel.load` or
    `KNNClassificationModel.fromSklearn`. ``k``, ``weights``, ``thresholds``, ``maxDistance``,
    ``excludeIdCol``, ``handleInvalid`` and the column names can be set on it without a refit.

    A query without any neighbour (or whose neighbours all weigh nothing), and an invalid one under
    handleInvalid "keep", gets prediction NaN, and votes and probabilities of zero.

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Items, the dimension of their vectors, and items left out as invalid at fit.
    numClasses : int
        Classes; at least 2.
    labels : list of str or None
        The names of the classes, where the label's metadata told them.
    items : DataFrame
        position, id, features, label, weight: the items as they are searched.

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

    @property
    def numClasses(self) -> int:
        """How many classes there are; at least 2."""
        self._fitted  # noqa: B018 - refuses an empty model
        return cast("int", self._facts.numClasses)

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes, where the label's metadata told them."""
        return self._facts.classNames

    def _verdict(self) -> ClassVerdict:
        thresholds = self.getThresholds()
        _check_thresholds(thresholds, self.numClasses)
        limits = None if thresholds is None else tuple(thresholds)
        return ClassVerdict(self.numClasses, self.getWeights(), limits)

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
        names = self._facts.classNames
        values = {"num_vals": self.numClasses} if names is None else {"vals": names}
        return {"type": "nominal", **values}

    def fit_record(self) -> dict[str, Any]:
        """What is to be known of the fit when this model is loaded."""
        record = super().fit_record()
        check_classes(record["numClasses"], record["classNames"], _MAX_CLASSES)
        return record

    def read_as(self, source: ItemSource) -> ItemSource:
        """How to read saved items, given how anybody's are read."""
        source = super().read_as(source)
        rules = [
            replace(rule, negative=False, fractional=rule.key != "label") for rule in source.rules
        ]
        return replace(source, rules=tuple(rules))

    def _check_facts(self, facts: FitSummary, packed: PackedItems) -> None:
        super()._check_facts(facts, packed)
        classes = check_classes(facts.numClasses, facts.classNames, _MAX_CLASSES)
        if packed.largest_label is not None and packed.largest_label >= classes:
            raise ValueError(f"its items have a label {packed.largest_label} of {classes} classes")
        _check_thresholds(self.getThresholds(), classes)

    def predictRaw(self, value: Vector | Sequence[float] | NDArray[Any]) -> Vector:
        """The votes of each class for one vector, on the driver."""
        return DenseVector(self._predict(value, "rawPredictionCol"))

    def predictProbability(self, value: Vector | Sequence[float] | NDArray[Any]) -> Vector:
        """The probability of each class for one vector, on the driver."""
        return DenseVector(self._predict(value, "probabilityCol"))

    def toSklearn(self) -> KNeighborsClassifier:
        """The same items as a fitted scikit-learn classifier.

        Returns
        -------
        sklearn.neighbors.KNeighborsClassifier
            Fitted on the driver; its classes are the names, where there are any.

        Raises
        ------
        ValueError
            For what scikit-learn has not: metric "inner_product", a radius of "haversine", weights
            of items, thresholds.
        """
        if self.getThresholds() is not None:
            raise ValueError("scikit-learn has no thresholds: unset them first")
        (items, matrix), names = self._fitted.fetch(), self.labels
        classes = items.known_labels().astype(int)
        target = classes if names is None else np.array(names)[classes]
        return interop.to_sklearn_voter(KNeighborsClassifier, self, items, matrix, target)

    @classmethod
    def fromSklearn(
        cls, fitted: KNeighborsClassifier, ids: Sequence[Any] | None = None
    ) -> KNNClassificationModel:
        """A model out of a fitted scikit-learn classifier.

        Parameters
        ----------
        fitted : sklearn.neighbors.KNeighborsClassifier
            Fitted on one target. Classes that are whole numbers >= 0 stay as they are; others are
            numbered in their order, and their names go to the prediction's metadata, where
            ``IndexToString`` finds them.
        ids : sequence, optional
            An id for each fitted row, all of one type. Unset: the rows' positions.

        Returns
        -------
        KNNClassificationModel
            With ``idCol`` "id" where `ids` are given.

        Raises
        ------
        TypeError, ValueError
            As `KNNModel.fromSklearn`, and for several targets and weights that are a function.
        """
        taken = interop.from_sklearn(fitted, ids, KNeighborsClassifier, interop.class_labels)
        names = interop.class_names(fitted)
        largest = int(fitted.classes_[-1]) if names is None else len(names) - 1
        return taken.install(cls(), numClasses=max(2, largest + 1), classNames=names)


class KNNClassifier(
    VotingEstimator[KNNClassificationModel],
    CheckedThresholds,
    ProbabilisticClassifier,
):
    """Classification by the vote of the nearest items.

    `fit` reads the labelled items once, indexes them, and gives a `KNNClassificationModel`, whose
    `transform` adds the votes, the probabilities and the prediction of each query.

    Parameters
    ----------
    featuresCol, labelCol : str, default="features", "label"
        Columns of the items: vectors or arrays of numbers; classes 0, 1, 2, ... as numbers.
        ``StringIndexer`` makes such labels of names, which then stay with the model.
    predictionCol, probabilityCol, rawPredictionCol : str
        Outputs, by default "prediction", "probability" and "rawPrediction": the class (double), its
        share of the votes and the votes (vectors). An empty name leaves the column out.
    k : int, default=5
        Neighbours that vote, >= 1; counts items.
    weights : {"uniform", "distance"}, default="uniform"
        What a vote counts: 1, or the inverse of the distance (not for metric "inner_product").
    weightCol : str, optional
        Column of the items with weights >= 0 that their votes are multiplied by.
    thresholds : list of float, optional
        One for each class; see MLlib's classifiers.
    idCol : str, optional
        Column that names an item; ties between items go to the smaller id.
    neighborsCol, distancesCol : str, default=""
        Outputs that tell which neighbours decided; left out unless they have a name.
    metric, p, metricParams, algorithm, leafSize, dtype
        As of `KNNEstimator`.
    placement, numShards, shardBy, numProbes, numReplicas
        As of `KNNEstimator`.
    excludeIdCol, maxDistance, handleInvalid
        As of `KNNEstimator`; what is left out does not vote.

    Raises
    ------
    TypeError, ValueError
        As `KNNEstimator`; and from `fit` for labels that are null, NaN, negative or fractional, for
        weights that are null, NaN, infinite or negative.

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

    _LABEL_RULE = {"negative": False, "fractional": False}  # noqa: RUF012
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
        k: int = 5,
        weights: str = "uniform",
        weightCol: str | None = None,
        thresholds: list[float] | None = None,
        idCol: str | None = None,
        neighborsCol: str = "",
        distancesCol: str = "",
        metric: str = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: str = "auto",
        leafSize: int = 30,
        dtype: str = "auto",
        placement: str = "auto",
        numShards: int | None = None,
        shardBy: str = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        excludeIdCol: str | None = None,
        maxDistance: float | None = None,
        handleInvalid: str = "error",
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
        k: int = 5,
        weights: str = "uniform",
        weightCol: str | None = None,
        thresholds: list[float] | None = None,
        idCol: str | None = None,
        neighborsCol: str = "",
        distancesCol: str = "",
        metric: str = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: str = "auto",
        leafSize: int = 30,
        dtype: str = "auto",
        placement: str = "auto",
        numShards: int | None = None,
        shardBy: str = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        excludeIdCol: str | None = None,
        maxDistance: float | None = None,
        handleInvalid: str = "error",
    ) -> KNNClassifier:
        """Set any of the Params; see the class for what they mean."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNClassificationModel:
        return KNNClassificationModel()

    def _learn(self, dataset: DataFrame, packed: PackedItems, facts: FitSummary) -> FitSummary:
        count, names = self._classes(dataset, int(cast("float", packed.largest_label)))
        _check_thresholds(self.getThresholds(), count)
        return replace(facts, numClasses=count, classNames=names)

    def _classes(self, dataset: DataFrame, largest: int) -> tuple[int, list[str] | None]:
        """How many classes there are, and their names: by the label's metadata, or its values."""
        name = self.getLabelCol()
        attribute = columns.field_of(dataset, "labelCol", name).metadata.get("ml_attr", {})
        values = attribute.get("vals")
        names = None if values is None else [str(value) for value in values]
        told = attribute.get("num_vals") if names is None else len(names)
        if told is None and largest >= _MAX_CLASSES:
            raise ValueError(
                f"labelCol {name!r} holds {largest}, which would make {largest + 1} classes; more "
                f"than {_MAX_CLASSES} must be told by its metadata "
                "(pyspark.ml.feature.StringIndexer)"
            )
        if told is not None and largest >= told:
            raise ValueError(
                f"labelCol {name!r} holds {largest}, but its metadata tells of {told} classes"
            )
        return max(2, largest + 1 if told is None else told), names

    def _reuse_index(self, first: KNNClassificationModel) -> KNNClassificationModel:
        """The model of this estimator, given one that differs in no Param of the index."""
        _check_thresholds(self.getThresholds(), first.numClasses)
        return super()._reuse_index(first)
