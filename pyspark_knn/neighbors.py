"""Nearest-neighbour search: the estimator and its model."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark import keyword_only
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn import interop
from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import FoundLists
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimator import NeighborEstimator
from pyspark_knn.model import NeighborModel
from pyspark_knn.params import HasNeighborColumns

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

JOIN_TYPES = ("inner", "left")
"""What `KNNModel.kneighborsJoin` can do with a query without neighbours."""


class _SearchParams(HasNeighborColumns):
    """The output columns with the names that they have unless told otherwise."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(neighborsCol="neighbors", distancesCol="distances")


class KNNModel(NeighborModel, _SearchParams):
    """A fitted nearest-neighbour index that adds the neighbours of each query to its row.

    It comes from `KNNEstimator.fit`, `KNNModel.load` or `KNNModel.fromSklearn`. ``k``,
    ``maxDistance``, ``excludeIdCol``, ``handleInvalid`` and the column names can be set on it
    without a refit.

    Attributes
    ----------
    numItems, numFeatures, numSkipped : int
        Items, the dimension of their vectors, and items left out as invalid at fit.
    ids : ndarray of shape (numItems,)
        The items' ids in the order of their positions.
    items : DataFrame
        position, id, features: the items as they are searched.
    algorithmReason, placementReason : str
        Why ``getAlgorithm()`` and ``getPlacement()`` are what they are.

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
        how: str = "inner",
        neighborCol: str = "neighbor",
        rankCol: str = "rank",
        distanceCol: str = "distance",
        itemCol: str = "item",
    ) -> DataFrame:
        """Join each query with its neighbours, one row for each pair; lazy.

        Parameters
        ----------
        queries : DataFrame
            Has the features column. All its columns are kept.
        items : DataFrame, optional
            Has the id column (the estimator's ``idCol``). Its rows are joined by id, as a struct.
            An id that it lacks gets a null, and one that it has twice gets two rows.
        how : {"inner", "left"}, default="inner"
            What happens to a query without neighbours: "inner" drops it, "left" keeps one row of
            it, with nulls in the new columns.
        neighborCol, rankCol, distanceCol, itemCol : str
            Names of the new columns, by default "neighbor", "rank", "distance" and "item". An empty
            name leaves the column out.

        Returns
        -------
        DataFrame
            The columns of `queries`, then the neighbour's id (of the type of ``idCol``), its rank
            (int, from 1, nearest first), its distance (double, in the unit of the metric) and, with
            `items`, the item (struct).

        Raises
        ------
        TypeError
            If `queries` or `items` is not a DataFrame.
        ValueError
            If an output column exists already, if `how` is something else, if `items` is given but
            ``idCol`` is unset, or if `items` lacks the id column.
        """
        compat.session_of(queries, "queries")
        if items is not None:
            compat.session_of(items, "items")
        if how not in JOIN_TYPES:
            raise ValueError(f"how must be one of {', '.join(JOIN_TYPES)}, got {how!r}")
        names = {"neighborCol": neighborCol, "rankCol": rankCol, "distanceCol": distanceCol}
        if items is not None:
            names["itemCol"] = itemCol
        columns.refuse_existing(queries, {param: name for param, name in names.items() if name})
        # Names that no user has, so that they cannot collide.
        ids, distances, rank, pair, key = (f"{each}_{uuid.uuid4().hex}" for each in "ndrpk")
        plain = self.copy()._set(neighborsCol=ids, distancesCol=distances)
        explode = F.posexplode if how == "inner" else F.posexplode_outer
        pairs = plain.transform(queries).select(
            "*", explode(F.arrays_zip(ids, distances)).alias(rank, pair)
        )
        added = {
            neighborCol: F.col(pair)[ids],
            rankCol: F.col(rank) + 1,
            distanceCol: F.col(pair)[distances],
        }
        joined = pairs.select("*", *(value.alias(name) for name, value in added.items() if name))
        if items is not None and itemCol:
            lookup = self._lookup(items, key, itemCol)
            joined = joined.join(lookup, F.col(pair)[ids] == F.col(key), "left")
        return joined.drop(ids, distances, rank, pair, key)

    def _lookup(self, items: DataFrame, key: str, item_col: str) -> DataFrame:
        """The ids of `items` in the column `key`, and their rows as structs in `item_col`."""
        name = self.getIdCol()
        if name is None:
            raise ValueError("items are joined by id, but idCol is unset: set idCol and fit again")
        field = columns.field_of(items, "idCol", name)
        if collated := columns.collation_hint(field.dataType):
            raise TypeError(f"idCol {field.name!r} of items {collated}")
        return items.select(columns.column(field.name).alias(key), F.struct("*").alias(item_col))

    def toSklearn(self) -> NearestNeighbors:
        """The same items as a fitted scikit-learn index; its positions are those of `ids`.

        Returns
        -------
        sklearn.neighbors.NearestNeighbors
            Fitted on the driver, with this model's k, metric, algorithm and leaf size.

        Raises
        ------
        ValueError
            For metric "inner_product" and for a radius of "haversine", which scikit-learn has not;
            for a sharded model whose items the driver cannot hold (others are fetched, by a job).
        """
        return interop.to_sklearn(self, self._fitted.fetch()[1])

    @classmethod
    def fromSklearn(cls, fitted: NearestNeighbors, ids: Sequence[Any] | None = None) -> KNNModel:
        """A model out of a fitted scikit-learn index.

        Parameters
        ----------
        fitted : sklearn.neighbors.NearestNeighbors
            Fitted on a dense or sparse matrix; its metric, its n_neighbors and its algorithm are
            taken over, but for a ball_tree whose metric needs brute force to be exact. Where it was
            fitted with feature names, queries whose ML attributes tell other names are refused.
        ids : sequence, optional
            An id for each fitted row, all of one type. Unset: the rows' positions.

        Returns
        -------
        KNNModel
            With ``idCol`` "id" where `ids` are given.

        Raises
        ------
        TypeError
            If `fitted` is a Pipeline or something else.
        ValueError
            If it is not fitted, if the number of `ids` is wrong, or if the metric is not supported.
        """
        return interop.from_sklearn(fitted, ids).model(cls())


class KNNEstimator(NeighborEstimator[KNNModel], _SearchParams):
    """Exact k-nearest-neighbour search over the vectors of a DataFrame.

    `fit` reads the items once, indexes them, and gives a `KNNModel`, whose `transform` adds the
    neighbours of each query.

    Parameters
    ----------
    featuresCol : str, default="features"
        Column of vectors (dense or sparse), or of arrays of numbers.
    k : int, default=5
        Neighbours per query, >= 1; counts items.
    idCol : str, optional
        Column that names a neighbour, of any atomic type. Unset: the item's position, a long.
    neighborsCol : str, default="neighbors"
        Output, an array of ids, nearest first. An empty name leaves the column out.
    distancesCol : str, default="distances"
        Output, an array of double in the unit of the metric, in the same order, never descending.
        An empty name leaves the column out.
    metric : str, default="euclidean"
        Any name that scikit-learn's NearestNeighbors takes (not "precomputed" or
        "nan_euclidean"), or "inner_product", whose distance is the negated inner product.
    p : float, default=2.0
        Power of the minkowski metric, > 0.
    metricParams : dict, optional
        ``V`` of seuclidean (variances), ``V`` (covariance) or ``VI`` (its inverse) of mahalanobis,
        ``w`` of minkowski: lists or arrays. ``radius`` of haversine: a number > 0 that multiplies
        distances, for example 6371.0088 for kilometres.
    algorithm : {"auto", "brute", "kd_tree", "ball_tree"}, default="auto"
        How to search. All give the same answer.
    leafSize : int, default=30
        Items in a leaf of a tree, >= 1.
    dtype : {"auto", "float32"}, default="auto"
        "auto" keeps the values exactly; "float32" rounds the items once, at fit.
    placement : {"auto", "replicated", "sharded"}, default="auto"
        Where the index is. Replicated: one copy on every executor, made on the driver. Sharded: cut
        up over the executors, so that no machine holds all of it.
    numShards : int, optional
        Shards of a sharded index, >= 1. Unset: by size and cores.
    shardBy : {"hash", "kmeans"}, default="hash"
        What makes a shard. "hash" deals the items out; "kmeans" makes cells of near items, most of
        which a search passes over. It needs a metric with the triangle inequality, such as
        "euclidean".
    numProbes : int, optional
        Cells of "kmeans" that are searched for a query, >= 1: the answer is approximate then.
        Unset: all that may hold a neighbour. It counts for kmeans shards only.
    numReplicas : int, optional
        Tasks that share the queries of one shard, >= 1. Unset: as many as keep all cores busy. More
        of them make shorter tasks, and move the index more often.
    excludeIdCol : str, optional
        Column of the queries with an item id, or an array of item ids, never returned to that
        query.
    maxDistance : float, optional
        Neighbours farther than this, in the unit of the metric, are left out; inclusive.
    handleInvalid : {"error", "skip", "keep"}, default="error"
        What to do with nulls, wrong dimensions, NaN and infinity: fail, drop the row, or keep a
        query with null outputs (an invalid item is dropped).

    Raises
    ------
    TypeError, ValueError
        From the constructor and the setters for a value out of range; from `fit` for a missing
        column, one of a wrong type, Params that do not go together, invalid items, no items, or
        more items than memory holds. The Param is named.

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

    A self-join, each item without itself:

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
        k: int = 5,
        idCol: str | None = None,
        neighborsCol: str = "neighbors",
        distancesCol: str = "distances",
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
        k: int = 5,
        idCol: str | None = None,
        neighborsCol: str = "neighbors",
        distancesCol: str = "distances",
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
    ) -> KNNEstimator:
        """Set any of the Params; see the class for what they mean."""
        return self._set(**self._input_kwargs)

    def _new_model(self) -> KNNModel:
        return KNNModel()
