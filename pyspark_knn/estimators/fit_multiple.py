"""The models of one `fitMultiple`, which share their index and their search.

All param maps that agree on the Params of the index share one index. Models that share an index
also share the search of cached queries, such as the folds of MLlib's CrossValidator: the search
runs once, with limits wide enough for each of the models, and each model's answer is selected from
the result. The result is kept until the models or the queries are garbage collected.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pyspark.ml.param import Param
from pyspark.sql import DataFrame

from pyspark_knn.engine.shared_search import Limits, Prepared, SharedSearch
from pyspark_knn.engine.spark import compat
from pyspark_knn.estimators.fingerprint import fingerprint
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.models.placed import PlacedModel
from pyspark_knn.params.checks import checked_limits

if TYPE_CHECKING:
    from pyspark_knn.estimators.base import NeighborEstimator, PlacedEstimator

M = TypeVar("M", bound=PlacedModel)

_SEARCH_PARAMS = frozenset(
    {
        "k",
        "maxDistance",
        "minSimilarity",
        "excludeIdCol",
        "queryKeyCols",
        "numProbes",
        "numReplicas",
        "searchParams",
        "targetRecall",
        "weights",
        "thresholds",
        "outlierLabel",
        "neighborsCol",
        "distancesCol",
        "outputCol",
        "outputCols",
        "predictionCol",
        "scoreCol",
        "probabilityCol",
        "rawPredictionCol",
    }
)
"""Params that do not change the index. A Param that is not listed is assumed to change it."""

_PREPARED_BYTES = 64 << 20
"""Prepare the answers of all models up to this size in bytes, for as many queries as items. Beyond
it the search dominates the time, so that preparing would cost memory and save little."""


class _IndexGroup(Generic[M]):
    """Estimators that share an index: the first one fits it, the others reuse it."""

    def __init__(self) -> None:
        self.estimators: list[PlacedEstimator[M]] = []
        self._first: M | None = None
        self._shared: dict[Hashable, SharedSearch] = {}
        self._lock = threading.Lock()

    def fit(self, estimator: PlacedEstimator[M], dataset: DataFrame) -> M:
        """Return the model of one of the estimators."""
        with self._lock:
            if self._first is None:
                model = self._first = estimator.fit(dataset)
            else:
                model = estimator._reuse_index(self._first)
                estimator._finish(model, dataset)
                estimator._warn(model)
            if isinstance(model, NeighborModel):
                model._share(self._shared_by(model, dataset))
        return model

    def _shared_by(self, model: NeighborModel, dataset: DataFrame) -> SharedSearch:
        """Return the search that a model shares with those that agree on the search itself."""
        key = model._search_key()
        if key not in self._shared:
            estimators = cast("list[NeighborEstimator[Any]]", self.estimators)
            if key is not None:
                # Only models with these limits can have the same search.
                estimators = [each for each in estimators if _has_limits(each, model)]
            self._shared[key] = _shared_search(model, estimators, dataset, key)
        return self._shared[key]


def _has_limits(estimator: NeighborEstimator[Any], model: NeighborModel) -> bool:
    """Whether the model of an estimator has the limits of another model."""
    with contextlib.suppress(TypeError, ValueError):
        return checked_limits(estimator, model.numFeatures) == model._limits()
    return False


def _shared_search(
    first: NeighborModel,
    estimators: list[NeighborEstimator[Any]],
    dataset: DataFrame,
    key: Hashable,
) -> SharedSearch:
    """Return the search that the models of these estimators share, if they have the same `key`."""
    # On Spark Connect the parallelism requires a job, which a transform must not start.
    tasks = compat.parallelism(dataset.sparkSession)
    types, prepared = first._fitted.item_columns, _prepared(first, estimators, key)
    return SharedSearch(_widest(first, estimators), tasks, types, prepared)


def _prepared(
    first: NeighborModel, estimators: list[NeighborEstimator[Any]], key: Hashable
) -> list[Prepared]:
    """Return the answers of all models, or none if they would take too much memory."""
    if len(estimators) == 1:
        return []
    prepared = []
    for each in estimators:
        # The error of an estimator is raised when that estimator is fitted.
        with contextlib.suppress(TypeError, ValueError):
            model = each._reuse_index(first)
            if model._search_key() == key:
                prepared.append(model._prepared())
    numbers_per_query = sum(_numbers(each, first.numItems) for each in prepared)
    return prepared if 8 * numbers_per_query * first.numItems <= _PREPARED_BYTES else []


def _widest(first: NeighborModel, estimators: list[NeighborEstimator[Any]]) -> Limits:
    """Return the limits of a search that contains the search of each model."""
    limits = []
    for each in estimators:
        # The error of an estimator is raised when that estimator is fitted.
        with contextlib.suppress(TypeError, ValueError):
            limits.append(checked_limits(each, first.numFeatures))
    farthest = max(math.inf if far is None else far for _, far in limits)
    ks = [k for k, _ in limits if k is not None]
    everything = len(ks) < len(limits)
    return Limits(None if everything else max(ks), None if farthest == math.inf else farthest)


def _numbers(prepared: Prepared, n_items: int) -> int:
    """Return the largest number of values in the answer to a query."""
    k, answer = prepared.limits.k, prepared.answer
    if k is None:
        # There may be as many neighbors as items, but a prediction does not list them.
        k = 0 if answer.lists is None else n_items
    return 2 * k + answer.width


class MultipleFits(Generic[M]):
    """The fits of one `fitMultiple`; thread-safe.

    Parameters
    ----------
    estimator : PlacedEstimator
        The estimator, whose Params apply unless a param map sets them.
    dataset : DataFrame
        The items.
    paramMaps : sequence of dict
        The Params that each fit overrides: Param -> value.
    """

    def __init__(
        self,
        estimator: PlacedEstimator[M],
        dataset: DataFrame,
        paramMaps: Sequence[dict[Param[Any], Any]],
    ) -> None:
        self._dataset = dataset
        self._estimators = [estimator.copy(each) for each in paramMaps]
        groups: dict[Hashable, _IndexGroup[M]] = {}
        self._groups = []
        for each in self._estimators:
            # What all models of this kind fix at fit, such as k of outlier scores, may differ.
            shared = _SEARCH_PARAMS - each._new_model()._fit_params
            if each.hasParam("algorithm") and each.getOrDefault("algorithm") == "auto":
                shared -= {"targetRecall"}  # which algorithm is chosen depends on it
            group = groups.setdefault(fingerprint(each, shared), _IndexGroup())
            group.estimators.append(each)
            self._groups.append(group)

    def model(self, index: int) -> M:
        """Return the model of the param map at `index`."""
        return self._groups[index].fit(self._estimators[index], self._dataset)
