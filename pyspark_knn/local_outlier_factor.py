"""The local outlier factor: the estimator and its model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.fit.chunks import POSITION
from pyspark_knn.engine.fit.item_columns import NUMBER, ItemColumn
from pyspark_knn.engine.item_scores import find_threshold, score_items
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.outlier_answers import (
    DENSITY,
    K_DISTANCE,
    NEIGHBOR_COUNT,
    SCORE,
    OutlierScore,
)
from pyspark_knn.engine.shared_search import Limits
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import freed_on_error
from pyspark_knn.estimators.base import NeighborEstimator
from pyspark_knn.index.lof import AUTO_THRESHOLD, LOF
from pyspark_knn.literals import (
    DtypeName,
    ExactAlgorithmName,
    InvalidHandling,
    MetricName,
    PlacementName,
    ScoreName,
    ShardByName,
    StorageName,
)
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.params.fitted import FIT_PARAMS
from pyspark_knn.params.outlier_scores import AUTO, _OutlierParams, check_scores

Self_ = TypeVar("Self_", bound="LocalOutlierFactor")

_USER_LEVEL = 4
"""The `stacklevel` of the user's line in a method that is called by `_fit` or `_transform`, `fit`
or `transform`, and the user."""


class LocalOutlierFactorModel(NeighborModel, _OutlierParams):
    """A fitted outlier detector, which has the scores of its items and scores further rows.

    Create it with `LocalOutlierFactor.fit` or `LocalOutlierFactorModel.load`. ``excludeIdCol``,
    ``queryKeyCols``, ``handleInvalid`` and the column names can be set on the model without another
    fit.

    - `scores` has the outliers among the items themselves.
    - `transform` scores rows as if they were new: each is compared with the items, among which it
      does not count (scikit-learn's ``novelty=True``). An item that is scored in this way finds
      itself at distance 0. To score items as at fit, set ``excludeIdCol`` to their id column.

    A row without neighbors, such as one whose key no other item has, gets the score NaN and the
    prediction NaN, and so does an invalid query with handleInvalid="keep".

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Number of items, dimension of their vectors, and number of invalid items that were skipped.
    scores : DataFrame
        The items with their scores and predictions.
    threshold : float or None
        The largest score that is normal.
    items : DataFrame
        The indexed items: position, id, features, and what the scores are computed from.

    Examples
    --------
    >>> from pyspark_knn import LocalOutlierFactor
    >>> items = spark.createDataFrame(
    ...     [(i, [float(i % 5), float(i // 5)]) for i in range(25)], ["id", "features"])
    >>> model = LocalOutlierFactor(k=4, idCol="id").fit(items)
    >>> new = spark.createDataFrame([([2.2, 2.1],), ([9.0, 9.0],)], ["features"])
    >>> model.transform(new).selectExpr("round(outlierScore, 1) AS score", "prediction").show()
    +-----+----------+
    |score|prediction|
    +-----+----------+
    |  1.0|       0.0|
    |  5.5|       1.0|
    +-----+----------+
    <BLANKLINE>
    """

    _OUTPUTS = ("scoreCol", "predictionCol")
    _fit_params = FIT_PARAMS | {"k", "score", "contamination"}

    def __init__(self) -> None:
        super().__init__()
        self._items_hash: int | None = None

    @property
    def threshold(self) -> float | None:
        """The largest score that is normal: a row with a larger one is an outlier.

        None if contamination is "auto" and score is not "lof", or if no item has a score.
        """
        return self._summary.threshold

    @property
    def scores(self) -> DataFrame:
        """The items with their scores and predictions, as the fit has computed them.

        It has the column idCol (or position, if that is unset), the columns keyCols, scoreCol and,
        if there is a threshold, predictionCol.
        """
        session = compat.active_session("model.scores")
        found = self._fitted.selected(session, [SCORE])
        names = [self.getIdCol() or POSITION, *(self.getKeyCols() or [])]
        own = {name: F.col(each) for each, name in zip(found.columns, names, strict=False)}
        score = F.col(SCORE)
        values = {"scoreCol": score}
        if (limit := self._limit()) is not None:
            outlier = (score > limit).cast("double")
            values["predictionCol"] = F.when(F.isnan(score), score).otherwise(outlier)
        outputs = {each: name for each in values if (name := self.getOrDefault(each))}
        columns.refuse_existing(found.select(_named(own)), outputs)
        added = {name: values[each] for each, name in outputs.items()}
        if (prediction := outputs.get("predictionCol")) is not None:
            added[prediction] = _prediction(prediction, added[prediction])
        return found.select(_named(own | added))

    def _limit(self) -> float | None:
        """Return the threshold; NaN if no item has a score, so that predictions are NaN as well."""
        unknown = self.threshold is None and self.getContamination() != AUTO
        return math.nan if unknown else self.threshold

    def _number_columns(self) -> list[ItemColumn]:
        return [
            ItemColumn(name, "items column", name, NUMBER, finite=False)
            for name in _score_columns(self)
        ]

    def _answer(self, outputs: dict[str, str]) -> OutlierScore:
        limit = self._limit()
        if "predictionCol" in outputs and limit is None:
            raise ValueError(
                "predictionCol requires a threshold, which this model does not have: it was fitted "
                f"with score {self.getScore()!r} and contamination {self.getContamination()!r}. "
                "Set contamination to a share of outliers and fit again, or set predictionCol=''."
            )
        types = [T.StructField(name, T.DoubleType()) for name in outputs.values()]
        return OutlierScore(
            T.StructType(types),
            tuple(outputs),
            self.getScore(),
            limit,
            keyed=bool(self.getKeyCols()),
        )

    def _finished(self, outputs: dict[str, str]) -> dict[str, Column]:
        # An invalid query that is kept has nulls, which MLlib's evaluators do not accept.
        nan = F.lit(float("nan"))
        finished = {
            name: F.coalesce(columns.column(name), nan).alias(name) for name in outputs.values()
        }
        if (name := outputs.get("predictionCol")) is not None:
            finished[name] = _prediction(name, finished[name])
        return finished

    def _limits(self) -> Limits:
        # As in scikit-learn, also for new rows.
        return Limits(max(1, min(self.getK(), self.numItems - 1)), None)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self._warn_of_fitted_rows(dataset)
        return super()._transform(dataset)

    def _warn_of_fitted_rows(self, dataset: DataFrame) -> None:
        """Warn once if the items are scored as if they were new."""
        if self.getExcludeIdCol() or self._items_hash is None or "items" in self._warned:
            return
        if dataset.semanticHash() == self._items_hash:
            self._warned.add("items")
            warnings.warn(
                "transform scores the rows that the model was fitted on as if they were new: each "
                "finds itself among the items, so its score is too low. model.scores has the "
                "scores of the items. Or set excludeIdCol to the column of their ids.",
                stacklevel=_USER_LEVEL,
            )


def _score_columns(params: _OutlierParams) -> tuple[str, ...]:
    """Return the item columns that a fit adds."""
    of_lof = (K_DISTANCE, DENSITY) if params.getScore() == LOF else ()
    return (*of_lof, SCORE, *((NEIGHBOR_COUNT,) if params.getKeyCols() else ()))


def _named(values: dict[str, Column]) -> list[Column]:
    return [value.alias(name) for name, value in values.items()]


def _prediction(name: str, value: Column) -> Column:
    """Return a prediction with the ML attributes of two classes."""
    return columns.with_attributes(name, value, {"type": "nominal", "num_vals": 2})


class LocalOutlierFactor(NeighborEstimator[LocalOutlierFactorModel], _OutlierParams):
    """Outlier detection by the densities around a row and around its nearest items.

    `fit` reads the items once, indexes them and scores each among the others. It returns a
    `LocalOutlierFactorModel`, whose `scores` has the outliers among the items (scikit-learn's
    ``novelty=False``), and whose `transform` scores further rows (``novelty=True``).

    The scores are those of scikit-learn's LocalOutlierFactor with the opposite sign: the factor is
    about 1 inside a cluster, and larger for outliers.

    Parameters
    ----------
    featuresCol : str, default="features"
        Column of vectors, dense or sparse, or of arrays of numbers.
    k : int, default=20
        Number of neighbors (items) that each row is compared with, >= 1. Of fewer than k + 1 items,
        each is compared with all others.
    score : {"lof", "kth", "mean"}, default="lof"
        What `scoreCol` contains. "lof" is the local outlier factor, which finds outliers beside
        clusters of any density. "kth" is the distance of the k-th neighbor, and "mean" the mean
        distance of the k neighbors.
    contamination : "auto" or float, default="auto"
        The share of outliers among the items, in (0, 0.5], from which `fit` derives the threshold
        of `predictionCol`: the exact percentile of their scores (of more than 16 million items, an
        approximate one). "auto" is a threshold of 1.5, and requires score "lof".
    scoreCol : str, default="outlierScore"
        Output column of double with the score, larger for stronger outliers. It is omitted if the
        name is empty.
    predictionCol : str, default="prediction"
        Output column of double: 1.0 for an outlier, 0.0 for other rows. It is omitted if the name
        is empty.
    idCol : str, optional
        Column of the items with their ids, of any atomic type. By default items are identified by
        their positions.
    metric, p, metricParams, algorithm, leafSize, dtype, storage
        The metric and the index, see `KNNEstimator`. Score "lof" does not support metric
        "inner_product".
    placement, numShards, shardBy, numProbes, numReplicas
        The placement of the index, see `KNNEstimator`. `numProbes` applies to `transform` only.
    keyCols, queryKeyCols
        Columns of keys, see `KNNEstimator`: each row is compared with the items of its own key. The
        threshold is that of all items.
    excludeIdCol : str, optional
        Column of the rows to score with an item id, or an array of item ids, to exclude from the
        neighbors of that row. Set it to the column of ids to score items as `fit` does.
    handleInvalid : {"error", "skip", "keep"}, default="error"
        How to handle invalid rows, see `KNNEstimator`; "keep" gives them the score NaN.

    Raises
    ------
    TypeError, ValueError
        As in `KNNEstimator`. Also from `fit`, if contamination is "auto" and score is not "lof",
        unless predictionCol is empty.

    Examples
    --------
    >>> points = [[float(i % 5), float(i // 5)] for i in range(25)]
    >>> items = spark.createDataFrame(
    ...     [(i, point) for i, point in enumerate([*points, [9.0, 9.0]])], ["id", "features"])
    >>> model = LocalOutlierFactor(k=4, idCol="id").fit(items)
    >>> model.scores.where("prediction = 1").selectExpr("id", "round(outlierScore, 1)").first()
    Row(id=25, round(outlierScore, 1)=5.5)
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        k: int = 20,
        score: ScoreName = "lof",
        contamination: float | Literal["auto"] = "auto",
        scoreCol: str = "outlierScore",
        predictionCol: str = "prediction",
        idCol: str | None = None,
        metric: MetricName = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: ExactAlgorithmName = "auto",
        leafSize: int = 30,
        dtype: DtypeName = "auto",
        storage: StorageName = "auto",
        placement: PlacementName = "auto",
        numShards: int | None = None,
        shardBy: ShardByName = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        keyCols: str | Sequence[str] | None = None,
        queryKeyCols: str | Sequence[str] | None = None,
        excludeIdCol: str | None = None,
        handleInvalid: InvalidHandling = "error",
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)

    @keyword_only
    def setParams(
        self,
        *,
        featuresCol: str = "features",
        k: int = 20,
        score: ScoreName = "lof",
        contamination: float | Literal["auto"] = "auto",
        scoreCol: str = "outlierScore",
        predictionCol: str = "prediction",
        idCol: str | None = None,
        metric: MetricName = "euclidean",
        p: float = 2.0,
        metricParams: dict[str, Any] | None = None,
        algorithm: ExactAlgorithmName = "auto",
        leafSize: int = 30,
        dtype: DtypeName = "auto",
        storage: StorageName = "auto",
        placement: PlacementName = "auto",
        numShards: int | None = None,
        shardBy: ShardByName = "hash",
        numProbes: int | None = None,
        numReplicas: int | None = None,
        keyCols: str | Sequence[str] | None = None,
        queryKeyCols: str | Sequence[str] | None = None,
        excludeIdCol: str | None = None,
        handleInvalid: InvalidHandling = "error",
    ) -> LocalOutlierFactor:
        """Set any of the Params, which the docstring of the class describes."""
        return self._set(**self._input_kwargs)

    def setK(self: Self_, value: int) -> Self_:
        """Set k."""
        return self._set(k=value)

    def setScore(self: Self_, value: ScoreName) -> Self_:
        """Set score."""
        return self._set(score=value)

    def setContamination(self: Self_, value: str | float) -> Self_:
        """Set contamination."""
        return self._set(contamination=value)

    def _new_model(self) -> LocalOutlierFactorModel:
        return LocalOutlierFactorModel()

    def _check_params(self) -> None:
        super()._check_params()
        check_scores(self)

    def _finish(self, model: LocalOutlierFactorModel, dataset: DataFrame) -> None:
        if SCORE in model._fitted.item_columns:
            return  # the model of another param map, which scores items in the same way
        k, spec = model._limits().k or 1, model._spec()
        placed = model._fitted.in_one_order(spec)
        scores = score_items(placed, dataset.sparkSession, k, self.getScore())
        with freed_on_error(scores.values):
            threshold = self._threshold(scores.values, model.numItems)
            index = placed.with_numbers(scores.values, _score_columns(self), spec)
        model._index = index
        model._summary = replace(model._summary, threshold=threshold)
        model._items_hash = dataset.semanticHash()
        if scores.zeros:
            warnings.warn(
                f"{scores.zeros} items have {k} or more duplicates (items with an equal vector), "
                "so their densities are nearly infinite, and the factors of items near them about "
                "1e10. Drop duplicates, or set k to a larger number.",
                stacklevel=_USER_LEVEL,
            )

    def _threshold(self, values: DataFrame, n_items: int) -> float | None:
        """Return the largest score that is normal; None if it is not determined."""
        contamination = self.getContamination()
        if isinstance(contamination, float):
            return find_threshold(values, n_items, contamination)
        return AUTO_THRESHOLD if self.getScore() == LOF else None

    def _shows_ids(self) -> bool:
        return False

    def _warn_of_k(self, model: LocalOutlierFactorModel) -> None:
        if model.numItems == 1:
            warnings.warn(
                "there is only one item, which has nothing to be compared with: its score is NaN.",
                stacklevel=_USER_LEVEL + 1,
            )
        elif self.getK() >= model.numItems:
            warnings.warn(
                f"k is {self.getK()}, but there are only {model.numItems} items: k = "
                f"{model._limits().k} is used, as in scikit-learn.",
                stacklevel=_USER_LEVEL + 1,
            )
