"""Models of one `fitMultiple`: one index for all whose Params agree on it, and one search.

Models that share an index also share their search of queries that are cached anyway, as those of a
fold are in MLlib's CrossValidator: it runs once, as wide as the widest of them needs, and each
model cuts its own answer out. The result is kept until the models or the queries are gone.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

from pyspark.ml.param import Param, Params
from pyspark.sql import DataFrame

from pyspark_knn.engine.shared_search import Limits, Prepared, SharedSearch
from pyspark_knn.engine.spark import compat
from pyspark_knn.fingerprint import fingerprint
from pyspark_knn.model import NeighborModel

M = TypeVar("M", bound=NeighborModel)
S = TypeVar("S", bound="Sibling[Any]")


class Sibling(Protocol[M]):
    """What is asked of an estimator here."""

    def fit(self, dataset: DataFrame) -> M:
        """Fit a model."""

    def _follow(self, first: M) -> M:
        """The model of this estimator, given one that differs in no Param of the index."""

    def _warn(self, model: M) -> None:
        """Warn of what works, but hardly as meant."""

    def copy(self: S, extra: dict[Param[Any], Any]) -> S:
        """The same with other Params."""

    def getK(self) -> int:
        """Neighbours per query."""

    def getMaxDistance(self) -> float | None:
        """Only those within."""


_SEARCH_PARAMS = frozenset(
    {
        "k",
        "maxDistance",
        "excludeIdCol",
        "numProbes",
        "numReplicas",
        "weights",
        "thresholds",
        "neighborsCol",
        "distancesCol",
        "predictionCol",
        "probabilityCol",
        "rawPredictionCol",
    }
)
"""What does not change the index. A Param that is not listed is taken to change it."""


_PREPARED_BYTES = 64 << 20
"""Answers are prepared up to this size, if there are as many queries as items. Of larger ones the
search takes most of the time, and the memory would be missed."""


class _Group(Generic[M]):
    """Estimators whose index is the same: the first that is asked for fits, the others follow."""

    def __init__(self) -> None:
        self.estimators: list[Sibling[M]] = []
        self._first: M | None = None
        self._shared: SharedSearch | None = None
        self._lock = threading.Lock()

    def fit(self, estimator: Sibling[M], dataset: DataFrame) -> M:
        """The model of one of the estimators."""
        with self._lock:
            if self._first is None:
                model = estimator.fit(dataset)
                # On Spark Connect it takes a job to learn this: not for a transform.
                tasks = compat.parallelism(dataset.sparkSession)
                self._shared = SharedSearch(
                    self._widest(), tasks, model._fitted.item_columns, self._prepared(model)
                )
                self._first = model
            else:
                model = estimator._follow(self._first)
                estimator._warn(model)
        model._share(self._shared)
        return model

    def _prepared(self, first: M) -> list[Prepared]:
        """The answers of all models, unless they would take much memory."""
        if len(self.estimators) == 1:
            return []
        prepared = []
        for each in self.estimators:
            # What is wrong with one of them is told when its own turn comes.
            with contextlib.suppress(TypeError, ValueError):
                prepared.append(each._follow(first)._prepared())
        figures = sum(2 * each.limits.k + each.answer.width for each in prepared)
        return prepared if 8 * figures * first.numItems <= _PREPARED_BYTES else []

    def _widest(self) -> Limits:
        reach = [
            math.inf if (limit := each.getMaxDistance()) is None else limit
            for each in self.estimators
        ]
        farthest = max(reach)
        k = max(each.getK() for each in self.estimators)
        return Limits(k, None if farthest == math.inf else farthest)


class SiblingFits(Generic[M]):
    """Fits the models of one `fitMultiple`, from several threads at once.

    Parameters
    ----------
    estimator : Sibling
        Has the Params that all share.
    dataset : DataFrame
        The items.
    paramMaps : sequence of dict
        Param -> value.
    """

    def __init__(
        self,
        estimator: Sibling[M],
        dataset: DataFrame,
        paramMaps: Sequence[dict[Param[Any], Any]],
    ) -> None:
        self._dataset = dataset
        self._estimators = [estimator.copy(each) for each in paramMaps]
        groups: dict[Hashable, _Group[M]] = {}
        self._groups = []
        for each in self._estimators:
            group = groups.setdefault(fingerprint(cast("Params", each), _SEARCH_PARAMS), _Group())
            group.estimators.append(each)
            self._groups.append(group)

    def model(self, index: int) -> M:
        """The model of one param map."""
        return self._groups[index].fit(self._estimators[index], self._dataset)
