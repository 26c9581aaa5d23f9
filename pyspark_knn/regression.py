"""k-nearest-neighbour regression: the estimator and its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark import keyword_only
from pyspark.ml.linalg import Vector
from pyspark.ml.regression import RegressionModel, Regressor
from sklearn.neighbors import KNeighborsRegressor

from pyspark_knn import interop
from pyspark_knn.engine.search.answers import LabelMean
from pyspark_knn.voting import VotingEstimator, VotingModel


class KNNRegressionModel(VotingModel, RegressionModel[Vector]):
    """Labelled items whose nearest ones give each query the mean of their labels.

    It comes from `KNNRegressor.fit`, `KNNRegressionModel.load` or `KNNRegressionModel.fromSklearn`.
    ``k``, ``weights``, ``maxDistance``, ``excludeIdCol``, ``handleInvalid`` and the column names
    can be set on it without a refit.

    A query without any neighbour (or whose neighbours all weigh nothing), and an invalid one under
    handleInvalid "keep", gets prediction NaN.

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Items, the dimension of their vectors, and items left out as invalid at fit.
    items : DataFrame
        position, id, features, label, weight: the items as they are searched.

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

    def toSklearn(self) -> KNeighborsRegressor:
        """The same items as a fitted scikit-learn regressor.

        Returns
        -------
        sklearn.neighbors.KNeighborsRegressor
            Fitted on the driver.

        Raises
        ------
        ValueError
            For what scikit-learn has not: metric "inner_product", a radius of "haversine", weights
            of items.
        """
        items, matrix = self._fitted.fetch()
        return interop.to_sklearn_voter(
            KNeighborsRegressor, self, items, matrix, items.numbers("label")
        )

    @classmethod
    def fromSklearn(
        cls, fitted: KNeighborsRegressor, ids: Sequence[Any] | None = None
    ) -> KNNRegressionModel:
        """A model out of a fitted scikit-learn regressor.

        Parameters
        ----------
        fitted : sklearn.neighbors.KNeighborsRegressor
            Fitted on one target.
        ids : sequence, optional
            An id for each fitted row, all of one type. Unset: the rows' positions.

        Returns
        -------
        KNNRegressionModel
            With ``idCol`` "id" where `ids` are given.

        Raises
        ------
        TypeError, ValueError
            As `KNNModel.fromSklearn`, and for several targets and weights that are a function.
        """
        taken = interop.from_sklearn(fitted, ids, KNeighborsRegressor, interop.target_values)
        return taken.model(cls())


class KNNRegressor(VotingEstimator[KNNRegressionModel], Regressor[KNNRegressionModel]):
    """Regression by the mean of the nearest items' labels.

    `fit` reads the labelled items once, indexes them, and gives a `KNNRegressionModel`, whose
    `transform` adds the prediction of each query.

    Parameters
    ----------
    featuresCol, labelCol : str, default="features", "label"
        Columns of the items: vectors or arrays of numbers; the values to predict.
    predictionCol : str, default="prediction"
        Output, a double.
    k : int, default=5
        Neighbours whose mean is taken, >= 1; counts items.
    weights : {"uniform", "distance"}, default="uniform"
        What a neighbour counts: 1, or the inverse of its distance (not for metric "inner_product").
    weightCol : str, optional
        Column of the items with weights >= 0 that multiply what they count.
    idCol : str, optional
        Column that names an item; ties between items go to the smaller id.
    neighborsCol, distancesCol : str, default=""
        Outputs that tell which neighbours decided; left out unless they have a name.
    metric, p, metricParams, algorithm, leafSize, dtype
        As of `KNNEstimator`.
    placement, numShards, shardBy, numProbes, numReplicas
        As of `KNNEstimator`.
    excludeIdCol, maxDistance, handleInvalid
        As of `KNNEstimator`; what is left out does not count.

    Raises
    ------
    TypeError, ValueError
        As `KNNEstimator`; and from `fit` for labels that are null, NaN or infinite, for weights
        that are that or negative.

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
        k: int = 5,
        weights: str = "uniform",
        weightCol: str | None = None,
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
        k: int = 5,
        weights: str = "uniform",
        weightCol: str | None = None,
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
    ) -> KNNRegressor:
        """Set any of the Params; see the class for what they mean."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNRegressionModel:
        return KNNRegressionModel()
