"""k-nearest-neighbor regression: the estimator and its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.ml.linalg import Vector
from pyspark.ml.regression import RegressionModel, Regressor

from pyspark_knn.engine.search.answers import LabelMean
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
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.voting import VotingEstimator, VotingModel

if TYPE_CHECKING:
    from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor


class KNNRegressionModel(VotingModel, RegressionModel[Vector]):
    """A fitted regressor that predicts the mean label of the nearest items of each query.

    Create it with `KNNRegressor.fit`, `KNNRegressionModel.load` or
    `KNNRegressionModel.fromSklearn`. ``k``, ``weights``, ``maxDistance``, ``minSimilarity``,
    ``excludeIdCol``, ``handleInvalid``, ``targetRecall``, ``searchParams`` and the column names can
    be set on the model without another fit.

    The prediction is NaN for a query without neighbors, for a query whose neighbors all have weight
    0, and for an invalid query with handleInvalid="keep".

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Number of items, dimension of their vectors, and number of invalid items that were skipped.
    items : DataFrame
        The indexed items: position, id, features, label and weight.

    Examples
    --------
    >>> from pyspark_knn import KNNRegressor
    >>> items = spark.createDataFrame(
    ...     [([0.0], 10.0), ([1.0], 20.0), ([9.0], 90.0)], ["features", "label"])
    >>> model = KNNRegressor(k=2).fit(items)
    >>> from pyspark.ml.linalg import Vectors
    >>> model.predict(Vectors.dense(0.75)), model.setK(1).predict(Vectors.dense(0.75))
    (15.0, 20.0)
    """

    _OUTPUTS = ("predictionCol", "neighborsCol", "distancesCol")

    def _predicted(self) -> LabelMean:
        return LabelMean(self.getWeights())

    def toSklearn(self) -> KNeighborsRegressor | RadiusNeighborsRegressor:
        """Convert this model to a fitted scikit-learn regressor.

        The items of a sharded model are fetched to the driver by a Spark job.

        Returns
        -------
        sklearn.neighbors.KNeighborsRegressor or sklearn.neighbors.RadiusNeighborsRegressor
            The regressor, fitted on the driver with this model's Params and items: the latter if k
            is None.

        Raises
        ------
        ValueError
            If scikit-learn does not support the metric ("inner_product", and "haversine" with a
            radius), if the items have weights, or if the driver cannot hold the items of a sharded
            model.
        """
        from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor

        items, matrix = self._fetched()
        kind = RadiusNeighborsRegressor if self.getK() is None else KNeighborsRegressor
        return to_sklearn.to_sklearn_voter(kind, self, items, matrix, items.numbers("label"))

    @classmethod
    def fromSklearn(
        cls,
        fitted: KNeighborsRegressor | RadiusNeighborsRegressor,
        ids: Sequence[Any] | None = None,
    ) -> KNNRegressionModel:
        """Create a model from a fitted scikit-learn regressor; see `KNNModel.fromSklearn`.

        Parameters
        ----------
        fitted : sklearn.neighbors.KNeighborsRegressor or RadiusNeighborsRegressor
            A regressor that is fitted on one target. The latter gives a model with k=None.
        ids : sequence, optional
            The ids of the fitted rows, all of one type. By default the rows are identified by their
            positions.

        Returns
        -------
        KNNRegressionModel
            The model, with ``idCol`` "id" if `ids` are given.

        Raises
        ------
        TypeError, ValueError
            As in `KNNModel.fromSklearn`, and if `fitted` has several targets or if its weights are
            a function.
        """
        from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor

        kinds = KNeighborsRegressor, RadiusNeighborsRegressor
        converted = from_sklearn.from_sklearn(fitted, ids, kinds, from_sklearn.target_values)
        return converted.install(cls())


class KNNRegressor(VotingEstimator[KNNRegressionModel], Regressor[KNNRegressionModel]):
    """Regression by the mean label of the nearest items.

    `fit` reads the labeled items once, indexes them and returns a `KNNRegressionModel`, whose
    `transform` adds the prediction of each query.

    Parameters
    ----------
    featuresCol, labelCol : str, default="features", "label"
        Columns of the items: vectors or arrays of numbers, and the numbers to predict.
    predictionCol : str, default="prediction"
        Output column of type double.
    k : int or None, default=5
        Number of neighbors (items) whose labels are averaged, >= 1; None: all items within
        `maxDistance` (or `minSimilarity`).
    weights : {"uniform", "distance"}, default="uniform"
        Weight of a neighbor in the mean: 1, or the inverse of its distance ("distance" is not
        supported for metric "inner_product").
    weightCol : str, optional
        Column of the items with weights >= 0, which multiply the weights of the neighbors. By
        default 1.
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
        Limits of the search, see `KNNEstimator`. Excluded items are ignored.

    Raises
    ------
    TypeError, ValueError
        As in `KNNEstimator`. Also from `fit`, if a label is null, NaN or infinite, or if a weight
        is null, NaN, infinite or negative.

    Examples
    --------
    >>> items = spark.createDataFrame(
    ...     [(1, [0.0], 10.0), (2, [1.0], 20.0), (3, [9.0], 90.0)], ["id", "features", "label"])
    >>> knn = KNNRegressor(k=2, weights="distance", idCol="id", distancesCol="distances")
    >>> query = spark.createDataFrame([([0.75],)], ["features"])
    >>> knn.fit(items).transform(query).select("prediction", "distances").first()
    Row(prediction=17.5, distances=[0.25, 0.75])
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        k: int | None = 5,
        weights: WeightsName = "uniform",
        weightCol: str | None = None,
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
        k: int | None = 5,
        weights: WeightsName = "uniform",
        weightCol: str | None = None,
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
    ) -> KNNRegressor:
        """Set any of the Params, which the docstring of the class describes."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNRegressionModel:
        return KNNRegressionModel()
