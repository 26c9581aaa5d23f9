"""The Params of nearest-neighbor search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasFeaturesCol

from pyspark_knn.engine.fit.item_columns import ID, KEY, ItemColumn, key_name
from pyspark_knn.engine.spark import hints
from pyspark_knn.index.distances import canonical_name
from pyspark_knn.index.registry import algorithm_choices
from pyspark_knn.literals import (
    DtypeName,
    InvalidHandling,
    MetricName,
    ShardByName,
    StorageName,
)
from pyspark_knn.params.checked import CheckedParams
from pyspark_knn.params.converters import (
    choice,
    is_number,
    is_positive,
    json_dict,
    names,
    optional,
    real,
    text,
    whole,
)
from pyspark_knn.params.placement import HasPlacement

DTYPES: tuple[str, ...] = get_args(DtypeName)
"""The values of the Param dtype."""

STORAGES: tuple[str, ...] = get_args(StorageName)
"""The values of the Param storage."""

SHARD_BY: tuple[str, ...] = get_args(ShardByName)
"""The values of the Param shardBy."""

INVALID: tuple[str, ...] = get_args(InvalidHandling)
"""The values of the Param handleInvalid."""

Self_ = TypeVar("Self_", bound=CheckedParams)


def _one_column(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        raise TypeError(
            f"idCol must be a string, the name of one column, got {value!r}. Combine several "
            "columns into one with pyspark.sql.functions.concat_ws."
        )
    name: str = text("idCol")(value)
    return name


def _features_name(value: Any) -> str:
    """Convert to the name of the features column; explain how to combine several columns."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        raise TypeError(
            f"featuresCol must be a string, got {value!r}. Combine several columns into one "
            f"vector with {hints.assembler(value)}"
        )
    return str(text("featuresCol")(value))


def _metric_name(value: Any) -> MetricName:
    """Convert to the name of a metric; unknown names raise an error when they are set."""
    name: MetricName = text("metric")(value)
    canonical_name(name)
    return name


class _NeighborParams(HasPlacement, HasFeaturesCol):
    """Params of all estimators and models that search for neighbors."""

    # The converter of pyspark does not name the Param in its error.
    featuresCol: Param[str] = Param(
        Params._dummy(),
        "featuresCol",
        "column of vectors, dense or sparse, or of arrays of numbers",
        _features_name,
    )
    k: Param[int | None] = Param(
        Params._dummy(),
        "k",
        "number of neighbors (items) per query, >= 1; None for all items within maxDistance",
        optional(whole("k", 1)),
    )
    excludeIdCol: Param[str | None] = Param(
        Params._dummy(),
        "excludeIdCol",
        "column of the queries with an item id, or an array of item ids, to exclude from the "
        "neighbors of that query",
        optional(text("excludeIdCol")),
    )
    handleInvalid: Param[InvalidHandling] = Param(
        Params._dummy(),
        "handleInvalid",
        "how to handle invalid rows (vectors that are null or contain null, NaN or infinity, or "
        "that have a wrong dimension): error (raise an error), skip (drop the rows), or keep (keep "
        "invalid queries with null outputs, drop invalid items)",
        choice("handleInvalid", INVALID),
    )
    idCol: Param[str | None] = Param(
        Params._dummy(),
        "idCol",
        "column of the items with their ids, of any atomic type; by default items are identified "
        "by their positions, of type bigint",
        optional(_one_column),
    )
    keyCols: Param[list[str] | None] = Param(
        Params._dummy(),
        "keyCols",
        "columns of the items and of the queries, of any atomic types but float and double: the "
        "neighbors of a query are the nearest of the items that have the same values in them; by "
        "default all items are searched",
        optional(names("keyCols")),
    )
    queryKeyCols: Param[list[str] | None] = Param(
        Params._dummy(),
        "queryKeyCols",
        "columns of the queries with the values of keyCols, or arrays of them; by default keyCols",
        optional(names("queryKeyCols")),
    )
    metric: Param[MetricName] = Param(
        Params._dummy(),
        "metric",
        "distance metric: the name of a metric of scikit-learn's brute, kd_tree or ball_tree, or "
        "inner_product",
        _metric_name,
    )
    p: Param[float] = Param(
        Params._dummy(),
        "p",
        "power of metric minkowski, > 0",
        real("p", "a number > 0", is_positive),
    )
    metricParams: Param[dict[str, Any] | None] = Param(
        Params._dummy(),
        "metricParams",
        "additional parameters of the metric: V of seuclidean, V or VI of mahalanobis, w of "
        "minkowski and nan_euclidean, radius of haversine",
        optional(json_dict("metricParams")),
    )
    algorithm: Param[str] = Param(
        Params._dummy(),
        "algorithm",
        f"search algorithm: {', '.join(algorithm_choices())}; on a model, the chosen algorithm",
        choice("algorithm", algorithm_choices),
    )
    leafSize: Param[int] = Param(
        Params._dummy(),
        "leafSize",
        "number of items in a leaf of a tree, >= 1",
        whole("leafSize", 1),
    )
    dtype: Param[DtypeName] = Param(
        Params._dummy(),
        "dtype",
        "data type of the items: auto (values are kept exactly) or float32 (values are rounded "
        "once, at fit)",
        choice("dtype", DTYPES),
    )
    storage: Param[StorageName] = Param(
        Params._dummy(),
        "storage",
        "how the vectors of the items are stored: auto, dense or sparse (only their nonzero "
        "values); on a model, the chosen storage",
        choice("storage", STORAGES),
    )
    shardBy: Param[ShardByName] = Param(
        Params._dummy(),
        "shardBy",
        "how items are assigned to shards: hash (by a hash of their ids) or kmeans (by cells of "
        "nearby items, most of which a search can skip)",
        choice("shardBy", SHARD_BY),
    )
    numProbes: Param[int | None] = Param(
        Params._dummy(),
        "numProbes",
        "number of cells to search per query, >= 1, for shardBy kmeans only; makes the search "
        "approximate; by default all cells that may contain a neighbor are searched",
        optional(whole("numProbes", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            k=5,
            excludeIdCol=None,
            handleInvalid="error",
            idCol=None,
            keyCols=None,
            queryKeyCols=None,
            metric="euclidean",
            p=2.0,
            metricParams=None,
            algorithm="auto",
            leafSize=30,
            dtype="auto",
            storage="auto",
            shardBy="hash",
            numProbes=None,
        )

    def _item_columns(self) -> list[ItemColumn]:
        """Return the columns that every item has in addition to its vector.

        Ids come first, and keys last: the order breaks ties, and keys must not break any.
        """
        name = self.getIdCol()
        ids = [] if name is None else [ItemColumn("id", "idCol", name, ID)]
        keys = enumerate(self.getKeyCols() or [])
        numbered = [ItemColumn(key_name(i), "keyCols", column, KEY) for i, column in keys]
        return [*ids, *self._number_columns(), *numbered]

    def _number_columns(self) -> list[ItemColumn]:
        """Return the columns of numbers that every item has, such as labels."""
        return []

    def _distance_limits(self) -> tuple[float | None, float | None]:
        """Return maxDistance and minSimilarity, each None if it is unset or does not exist."""
        return None, None

    def getK(self) -> int | None:
        """Value of k, None for all items within maxDistance."""
        return self.getOrDefault(self.k)

    def getExcludeIdCol(self) -> str | None:
        """Value of excludeIdCol, None if it is unset."""
        return self.getOrDefault(self.excludeIdCol)

    def getHandleInvalid(self) -> InvalidHandling:
        """Value of handleInvalid."""
        return self.getOrDefault(self.handleInvalid)

    def getIdCol(self) -> str | None:
        """Value of idCol, None if it is unset."""
        return self.getOrDefault(self.idCol)

    def getKeyCols(self) -> list[str] | None:
        """Value of keyCols, None if it is unset."""
        return self.getOrDefault(self.keyCols)

    def getQueryKeyCols(self) -> list[str] | None:
        """Value of queryKeyCols, None if it is unset."""
        return self.getOrDefault(self.queryKeyCols)

    def getMetric(self) -> MetricName:
        """Value of metric."""
        return self.getOrDefault(self.metric)

    def getP(self) -> float:
        """Value of p."""
        return self.getOrDefault(self.p)

    def getMetricParams(self) -> dict[str, Any] | None:
        """Value of metricParams, None if it is unset."""
        return self.getOrDefault(self.metricParams)

    def getAlgorithm(self) -> str:
        """Value of algorithm; on a model, the chosen algorithm."""
        return self.getOrDefault(self.algorithm)

    def getLeafSize(self) -> int:
        """Value of leafSize."""
        return self.getOrDefault(self.leafSize)

    def getDtype(self) -> DtypeName:
        """Value of dtype."""
        return self.getOrDefault(self.dtype)

    def getStorage(self) -> StorageName:
        """Value of storage; on a model, the chosen storage."""
        return self.getOrDefault(self.storage)

    def getShardBy(self) -> ShardByName:
        """Value of shardBy."""
        return self.getOrDefault(self.shardBy)

    def getNumProbes(self) -> int | None:
        """Value of numProbes, None if it is unset."""
        return self.getOrDefault(self.numProbes)

    # The Params below can be set on a model without another fit.

    def setFeaturesCol(self: Self_, value: str) -> Self_:
        """Set featuresCol."""
        return self._set(featuresCol=value)

    def setExcludeIdCol(self: Self_, value: str | None) -> Self_:
        """Set excludeIdCol; None unsets it."""
        return self._set(excludeIdCol=value)

    def setQueryKeyCols(self: Self_, value: str | Sequence[str] | None) -> Self_:
        """Set queryKeyCols; None unsets it."""
        return self._set(queryKeyCols=value)

    def setHandleInvalid(self: Self_, value: InvalidHandling) -> Self_:
        """Set handleInvalid."""
        return self._set(handleInvalid=value)

    def setNumProbes(self: Self_, value: int | None) -> Self_:
        """Set numProbes; None unsets it."""
        return self._set(numProbes=value)


class _KNNParams(_NeighborParams):
    """Params of searches whose limits can be set on a model: k and the distance."""

    maxDistance: Param[float | None] = Param(
        Params._dummy(),
        "maxDistance",
        "largest distance of a neighbor (inclusive), >= 0 (any number for metric inner_product); "
        "by default unlimited",
        optional(real("maxDistance", "a number (not NaN)", is_number)),
    )
    minSimilarity: Param[float | None] = Param(
        Params._dummy(),
        "minSimilarity",
        "smallest similarity of a neighbor (inclusive), in place of maxDistance, for metrics "
        "cosine, jaccard and dice (1 - distance) and inner_product (the product); by default "
        "unlimited",
        optional(real("minSimilarity", "a number (not NaN)", is_number)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(maxDistance=None, minSimilarity=None)

    def _distance_limits(self) -> tuple[float | None, float | None]:
        return self.getMaxDistance(), self.getMinSimilarity()

    def getMaxDistance(self) -> float | None:
        """Value of maxDistance, None if it is unset."""
        return self.getOrDefault(self.maxDistance)

    def getMinSimilarity(self) -> float | None:
        """Value of minSimilarity, None if it is unset."""
        return self.getOrDefault(self.minSimilarity)

    def setK(self: Self_, value: int | None) -> Self_:
        """Set k; None searches for all items within maxDistance."""
        return self._set(k=value)

    def setMaxDistance(self: Self_, value: float | None) -> Self_:
        """Set maxDistance; None unsets it."""
        return self._set(maxDistance=value)

    def setMinSimilarity(self: Self_, value: float | None) -> Self_:
        """Set minSimilarity; None unsets it."""
        return self._set(minSimilarity=value)
