"""Nearest-neighbor search: the estimator and its model."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.ids import collation_hint
from pyspark_knn.engine.search.answers import RANKS_BEFORE, FoundLists
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimators.base import NeighborEstimator
from pyspark_knn.interop import from_sklearn, to_sklearn
from pyspark_knn.literals import (
    AlgorithmName,
    DtypeName,
    InvalidHandling,
    JoinType,
    MetricName,
    PlacementName,
    ShardByName,
    StorageName,
)
from pyspark_knn.models.graph import HasGraph
from pyspark_knn.models.on_driver import HasDriverSearch
from pyspark_knn.models.pairs import HasPairs
from pyspark_knn.models.updates import UpdatableModel
from pyspark_knn.params.approximate import ApproximateParams, ApproximateSetters
from pyspark_knn.params.arguments import keyword_only
from pyspark_knn.params.checks import warn_of_limits
from pyspark_knn.params.neighbors import _KNNParams
from pyspark_knn.params.output_columns import HasNeighborColumns
from pyspark_knn.suggestions import did_you_mean

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

JOIN_TYPES: tuple[str, ...] = get_args(JoinType)
"""Values of `how` in `KNNModel.kneighborsJoin`."""


class _SearchParams(HasNeighborColumns, _KNNParams, ApproximateParams):
    """Output columns with their default names."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(neighborsCol="neighbors", distancesCol="distances")


class KNNModel(UpdatableModel, HasPairs, HasGraph, HasDriverSearch, _SearchParams):
    """A fitted nearest-neighbor index, whose `transform` adds the neighbors of each query.

    Create it with `KNNEstimator.fit`, `KNNModel.load` or `KNNModel.fromSklearn`. ``k``,
    ``maxDistance``, ``minSimilarity``, ``excludeIdCol``, ``queryKeyCols``, ``handleInvalid``,
    ``targetRecall``, ``searchParams`` and the column names can be set on the model without another
    fit.

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Number of items, dimension of their vectors, and number of items that were skipped: invalid
        ones, and those with a null in keyCols.
    ids : ndarray of shape (numItems,)
        The items' ids in the order of their positions.
    items : DataFrame
        The indexed items: position, id, features, and the columns of keyCols as key0 and so on.
    algorithmReason, placementReason, storageReason : str
        Why the algorithm, the placement and the storage of this model were chosen.
    exact : bool
        Whether every search returns the true nearest items.
    recall : MeasuredRecall or None
        The measured recall of an approximate search.

    Examples
    --------
    >>> from pyspark_knn import KNNEstimator
    >>> items = spark.createDataFrame(
    ...     [("plum", [1.0, 1.0]), ("pear", [2.0, 1.0]), ("leek", [9.0, 7.0])],
    ...     ["name", "features"])
    >>> model = KNNEstimator(k=2, idCol="name").fit(items)
    >>> model.numItems, model.numFeatures, model.getAlgorithm()
    (3, 2, 'brute')
    >>> query = spark.createDataFrame([([1.0, 1.0],)], ["features"])
    >>> model.transform(query).select("neighbors", "distances").first()
    Row(neighbors=['plum', 'pear'], distances=[0.0, 1.0])
    >>> model.setK(1).transform(query).first()["neighbors"]
    ['plum']
    """

    _OUTPUTS = ("neighborsCol", "distancesCol")

    def _answer(self, outputs: dict[str, str]) -> FoundLists:
        return self._found_lists(outputs)

    def kneighborsJoin(
        self,
        queries: DataFrame,
        items: DataFrame | None = None,
        *,
        how: JoinType = "inner",
        neighborCol: str = "neighbor",
        rankCol: str = "rank",
        distanceCol: str = "distance",
        itemCol: str = "item",
    ) -> DataFrame:
        """Join each query with its neighbors, one row per pair; lazy.

        Parameters
        ----------
        queries : DataFrame
            The queries, with the features column. All their columns are kept.
        items : DataFrame, optional
            Columns of the items to join, with the id column (the estimator's ``idCol``). Each row
            is joined by its id and added as a struct. A neighbor whose id does not occur here gets
            null, and one whose id occurs twice gets two rows.
        how : {"inner", "left"}, default="inner"
            How to treat a query without neighbors: "inner" drops it, "left" keeps it in one row
            with nulls in the new columns.
        neighborCol, rankCol, distanceCol, itemCol : str
            Names of the new columns, by default "neighbor", "rank", "distance" and "item". A column
            with an empty name is omitted.

        Returns
        -------
        DataFrame
            The columns of `queries`, then the neighbor's id (of the type of ``idCol``), its rank
            (int, starting at 1 for the nearest), its distance (double, in the unit of the metric)
            and, if `items` is given, the item (struct).

        Raises
        ------
        TypeError
            If `queries` or `items` is not a DataFrame.
        ValueError
            If an output column already exists, if `how` is not one of the values above, if `items`
            is given but ``idCol`` is unset, or if `items` does not have the id column.
        """
        compat.session_of(queries, "queries")
        if items is not None:
            compat.session_of(items, "items")
        if how not in JOIN_TYPES:
            suggestion = did_you_mean(how, JOIN_TYPES)
            raise ValueError(f"how must be one of {', '.join(JOIN_TYPES)}, got {how!r}{suggestion}")
        names = {"neighborCol": neighborCol, "rankCol": rankCol, "distanceCol": distanceCol}
        if items is not None:
            names["itemCol"] = itemCol
        columns.refuse_existing(queries, {param: name for param, name in names.items() if name})
        # Unique names, so that they cannot collide with columns of the user.
        ids, distances, rank, pair, key, before = (
            f"{each}_{uuid.uuid4().hex}" for each in "ndrpkb"
        )
        lists = self._lists(queries, ids, distances, before)
        explode = F.posexplode if how == "inner" else F.posexplode_outer
        pairs = lists.select("*", explode(F.arrays_zip(ids, distances)).alias(rank, pair))
        added = {
            neighborCol: F.col(pair)[ids],
            rankCol: F.col(rank) + F.col(before) + 1,
            distanceCol: F.col(pair)[distances],
        }
        joined = pairs.select("*", *(value.alias(name) for name, value in added.items() if name))
        if items is not None and itemCol:
            lookup = self._lookup(items, key, itemCol)
            joined = joined.join(lookup, F.col(pair)[ids] == F.col(key), "left")
        return joined.drop(ids, distances, rank, pair, key, before)

    def _lists(self, queries: DataFrame, ids: str, distances: str, before: str) -> DataFrame:
        """Search the rows of `queries` for a join.

        Adds the lists of neighbors, and the number of those that are in rows before: a query with
        very many neighbors has several rows.
        """
        outputs = {"neighborsCol": ids, "distancesCol": distances}
        if self.getK() is not None:
            plain = self.copy()._set(**outputs)
            return plain.transform(queries).withColumn(before, F.lit(0))
        limits = self._limits()
        warn_of_limits(self, self._warned)
        found = self._found_lists(outputs)
        result = T.StructType([*found.result_type.fields, T.StructField(before, T.IntegerType())])
        answer = FoundLists(result, (*found.names, RANKS_BEFORE))
        frame = self._run(queries, answer, limits)
        return columns.replace_columns(frame, self._finished(outputs))

    def _lookup(self, items: DataFrame, key: str, item_col: str) -> DataFrame:
        """Return the ids of `items` in column `key`, and their rows as structs in `item_col`."""
        name = self.getIdCol()
        if name is None:
            raise ValueError("idCol is unset, but items are joined by id. Set idCol and fit again.")
        field = columns.field_of(items, "idCol", name)
        if collated := collation_hint(field.dataType):
            raise TypeError(f"idCol {field.name!r} of items {collated}")
        return items.select(columns.column(field.name).alias(key), F.struct("*").alias(item_col))

    def toSklearn(self) -> NearestNeighbors:
        """Convert this model to a fitted scikit-learn index.

        The items of a sharded model are fetched to the driver by a Spark job.

        Returns
        -------
        sklearn.neighbors.NearestNeighbors
            The index, fitted on the driver with this model's k, metric, algorithm and leaf size.
            Its row indices are positions in `ids`.

        Raises
        ------
        ValueError
            If scikit-learn does not support the metric ("inner_product", and "haversine" with a
            radius) or ``keyCols``, or if the driver cannot hold the items of a sharded model.
        """
        return to_sklearn.to_sklearn(self, self._fetched()[1])

    @classmethod
    def fromSklearn(cls, fitted: NearestNeighbors, ids: Sequence[Any] | None = None) -> KNNModel:
        """Create a model from a fitted scikit-learn index.

        The model has the metric, n_neighbors and algorithm of `fitted`, except that a ball_tree is
        replaced by brute force for metrics for which that tree is not exact. If `fitted` has
        feature names, queries whose ML attributes declare other names raise an error.

        Parameters
        ----------
        fitted : sklearn.neighbors.NearestNeighbors
            An index that is fitted on a dense or sparse matrix.
        ids : sequence, optional
            The ids of the fitted rows, all of one type. By default the rows are identified by their
            positions.

        Returns
        -------
        KNNModel
            The model, with ``idCol`` "id" if `ids` are given.

        Raises
        ------
        TypeError
            If `fitted` is not a NearestNeighbors, for example a Pipeline.
        ValueError
            If `fitted` is not fitted, if the number of `ids` is wrong, or if the metric is not
            supported.
        """
        from sklearn.neighbors import NearestNeighbors

        return from_sklearn.from_sklearn(fitted, ids, (NearestNeighbors,)).install(cls())


class KNNEstimator(NeighborEstimator[KNNModel], ApproximateSetters, _SearchParams):
    """k-nearest-neighbor search over the vectors of a DataFrame, exact unless set otherwise.

    `fit` reads the items once, indexes them and returns a `KNNModel`, whose `transform` adds the
    neighbors of each query.

    Parameters
    ----------
    featuresCol : str, default="features"
        Column of vectors, dense or sparse, or of arrays of numbers.
    k : int or None, default=5
        Number of neighbors (items) per query, >= 1. None returns all items within `maxDistance`
        (or `minSimilarity`), which must be set then.
    idCol : str, optional
        Column of the items with their ids, of any atomic type. By default items are identified by
        their positions, of type bigint.
    neighborsCol : str, default="neighbors"
        Output column of arrays with the ids of the neighbors, nearest first. It is omitted if the
        name is empty.
    distancesCol : str, default="distances"
        Output column of arrays of double with the distances of the neighbors in the unit of the
        metric, in the same order (non-decreasing). It is omitted if the name is empty.
    metric : str, default="euclidean"
        Any metric name of scikit-learn's NearestNeighbors except "precomputed", or
        "inner_product", whose distance is the negated inner product. "nan_euclidean" allows missing
        values: NaN in vectors and arrays, and null elements of arrays.
    p : float, default=2.0
        Power of metric "minkowski", > 0.
    metricParams : dict, optional
        Additional parameters of the metric. Lists or arrays: ``V`` (variances) of "seuclidean",
        ``V`` (covariance matrix) or ``VI`` (its inverse) of "mahalanobis", ``w`` (weights) of
        "minkowski" and "nan_euclidean". A number > 0: ``radius`` of "haversine", which multiplies
        distances, for example 6371.0088 for kilometers.
    algorithm : {"auto", "brute", "kd_tree", "ball_tree", "ivf", "hnsw", "annoy"}, default="auto"
        Search algorithm. The first four return the same neighbors and distances. The others are
        approximate: faster, but they miss some neighbors. "ivf" and "hnsw" need the extra
        ``pyspark_knn[faiss]``, "annoy" the extra ``pyspark_knn[annoy]``.
    leafSize : int, default=30
        Number of items in a leaf of a tree, >= 1.
    dtype : {"auto", "float32"}, default="auto"
        Data type of the items. "auto" keeps the values exactly; "float32" rounds the items once, at
        fit.
    storage : {"auto", "dense", "sparse"}, default="auto"
        How the vectors of the items are stored. "sparse" stores their nonzero values only, so that
        text and one-hot vectors of any dimension can be searched; it supports the metrics
        "euclidean" (also as "minkowski" with p=2, "seuclidean" and "sqeuclidean"), "cosine",
        "inner_product", "jaccard" and "dice", and the algorithm "brute". "auto" chooses by the
        number of nonzero values. The neighbors and distances are the same.
    placement : {"auto", "replicated", "sharded"}, default="auto"
        Placement of the index. "replicated" builds it on the driver and copies it to every
        executor. "sharded" partitions it over the executors, so that no machine holds all of it.
    numShards : int, optional
        Number of shards of a sharded index, >= 1. By default it is chosen from the size of the
        index and the number of cores.
    shardBy : {"hash", "kmeans"}, default="hash"
        How items are assigned to shards. "hash" distributes them evenly. "kmeans" forms cells of
        nearby items, most of which a search can skip; it requires a metric with the triangle
        inequality, such as "euclidean".
    numProbes : int, optional
        Number of cells to search per query, >= 1, which makes the search approximate. It applies to
        shardBy="kmeans" only. By default all cells that may contain a neighbor are searched.
    numReplicas : int, optional
        Number of tasks that share the queries of one shard, >= 1. More replicas make tasks shorter,
        but transfer the index more often. By default there are as many as keep all cores busy.
    targetRecall : float, optional
        Smallest mean recall of an approximate search, in (0, 1]: the share of the true neighbors
        that it finds. `fit` measures the recall and searches as thoroughly as this requires. With
        algorithm "auto", the fastest algorithm that reaches it is chosen, which may be an exact
        one. By default the search is exact with "auto", and 0.95 with an approximate algorithm.
    indexParams : dict, optional
        Parameters of the structure of an approximate index: ``nlist`` and ``encoding`` ("flat" or
        "sq8") of "ivf", ``M`` and ``efConstruction`` of "hnsw", ``nTrees`` of "annoy". By default
        they are chosen from the number of items.
    searchParams : dict, optional
        Parameter of the search of an approximate index, in place of `targetRecall`: ``nprobe`` of
        "ivf", ``efSearch`` of "hnsw", ``searchK`` of "annoy".
    seed : int, default=0
        Random seed of an approximate index. The same items and seed give the same index.
    keyCols : str or list of str, optional
        Columns of the items and of the queries, of any atomic types but float and double. The
        neighbors of a query are the nearest of the items that have the same values in these
        columns. By default all items are searched.
    queryKeyCols : str or list of str, optional
        Columns of the queries with the values of keyCols, if they have other names there. A column
        may contain arrays of such values: then the items of each of them are searched. By default
        the columns keyCols.
    excludeIdCol : str, optional
        Column of the queries with an item id, or an array of item ids, to exclude from the
        neighbors of that query.
    maxDistance : float, optional
        Largest distance of a neighbor (inclusive), in the unit of the metric. By default it is
        unlimited.
    minSimilarity : float, optional
        Smallest similarity of a neighbor (inclusive), in place of `maxDistance`: 1 minus the
        distance for the metrics "cosine", "jaccard" and "dice", the product for "inner_product".
    handleInvalid : {"error", "skip", "keep"}, default="error"
        How to handle rows whose vectors are null, contain null, NaN or infinity, or have a wrong
        dimension: raise an error, drop the rows, or keep invalid queries with null outputs (invalid
        items are dropped).

    Raises
    ------
    TypeError, ValueError
        From the constructor and the setters, if a value is not allowed. From `fit`, if a column
        does not exist or has a wrong type, if Params conflict with each other, if an item is
        invalid, or if there are no items or more than fit in memory. The message names the Param.

    Examples
    --------
    >>> from pyspark.ml.linalg import Vectors
    >>> items = spark.createDataFrame(
    ...     [(1, Vectors.dense(0.0, -1.0)), (2, Vectors.dense(3.0, 4.0)),
    ...      (3, Vectors.sparse(2, {}))], ["id", "features"])
    >>> knn = KNNEstimator(k=2, idCol="id")
    >>> model = knn.fit(items)
    >>> model.transform(items).orderBy("id").select("id", "neighbors", "distances").show()
    +---+---------+----------+
    | id|neighbors| distances|
    +---+---------+----------+
    |  1|   [1, 3]|[0.0, 1.0]|
    |  2|   [2, 3]|[0.0, 5.0]|
    |  3|   [3, 1]|[0.0, 1.0]|
    +---+---------+----------+
    <BLANKLINE>

    A self-join that excludes each item from its own neighbors:

    >>> near = model.setK(1).setExcludeIdCol("id").kneighborsJoin(items.select("id", "features"))
    >>> near.select("id", "neighbor", "rank", "distance").orderBy("id").show()
    +---+--------+----+--------+
    | id|neighbor|rank|distance|
    +---+--------+----+--------+
    |  1|       3|   1|     1.0|
    |  2|       3|   1|     5.0|
    |  3|       1|   1|     1.0|
    +---+--------+----+--------+
    <BLANKLINE>
    """

    _input_kwargs: dict[str, Any]

    @keyword_only
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        k: int | None = 5,
        idCol: str | None = None,
        neighborsCol: str = "neighbors",
        distancesCol: str = "distances",
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
        k: int | None = 5,
        idCol: str | None = None,
        neighborsCol: str = "neighbors",
        distancesCol: str = "distances",
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
    ) -> KNNEstimator:
        """Set any of the Params, which the docstring of the class describes."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNModel:
        return KNNModel()
