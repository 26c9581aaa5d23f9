"""Searches that models share: the widest one of the same queries is cached, each cuts its own."""

from __future__ import annotations

import functools
import threading
import uuid
import weakref
from collections.abc import Callable, Hashable
from typing import NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine import columns, compat
from pyspark_knn.engine.evidence import Cut, Evidence, cut_batches
from pyspark_knn.engine.persisting import free_with, persist
from pyspark_knn.engine.worker import Answer

_derived: weakref.WeakSet[DataFrame] = weakref.WeakSet()


def is_cached(dataset: DataFrame) -> bool:
    """Whether `dataset` is cached, or derived from what is (see `tell_derived`); no job."""
    return dataset in _derived or _is_persisted(dataset)


def tell_derived(dataset: DataFrame, source: DataFrame) -> None:
    """Let `dataset`, made of `source` alone, count as cached as long as `source` is."""
    if is_cached(source):
        _derived.add(dataset)
    else:
        _derived.discard(dataset)


def _is_persisted(dataset: DataFrame) -> bool:
    level = dataset.storageLevel
    return level.useMemory or level.useDisk


class Limits(NamedTuple):
    """How far a search goes.

    Attributes
    ----------
    k : int
        Neighbours per query.
    max_distance : float or None
        Only those within.
    """

    k: int
    max_distance: float | None

    def within(self, widest: Limits) -> bool:
        """Whether the answer can be cut out of a search with the limits `widest`."""
        near = widest.max_distance is None or (
            self.max_distance is not None and self.max_distance <= widest.max_distance
        )
        return self.k <= widest.k and near


class _Wide:
    """The widest search of some queries: a cached DataFrame, freed when this object is gone."""

    def __init__(self, frame: DataFrame, names: list[str], tasks: int) -> None:
        persisted = persist(frame)
        # A cut takes microseconds a query, and each of its tasks a tenth of a second.
        self.frame = persisted.coalesce(tasks)
        self.names = names
        free_with(self, persisted)


class SharedSearch:
    """What models with one index share: for queries that are cached anyway, their widest search.

    The search is kept as long as both the models and the DataFrame of queries are alive. It holds
    all columns of the queries, and for each the lists of `Evidence`.

    Parameters
    ----------
    widest : Limits
        As far as any of the models goes.
    tasks : int
        How many cut an answer out, at most: as many as run at a time.
    """

    def __init__(self, widest: Limits, tasks: int) -> None:
        self._widest = widest
        self._tasks = tasks
        self._lock = threading.Lock()
        self._made: weakref.WeakKeyDictionary[DataFrame, dict[Hashable, _Wide]] = (
            weakref.WeakKeyDictionary()
        )

    def answer(
        self,
        queries: DataFrame,
        key: Hashable,
        limits: Limits,
        answer: Answer,
        id_type: T.DataType,
        search: Callable[[Answer, int, float | None], DataFrame],
    ) -> DataFrame | None:
        """Add the columns of `answer` to the rows of `queries`; lazy.

        Parameters
        ----------
        queries : DataFrame
            For which `is_cached` holds.
        key : hashable
            All that the neighbours depend on, besides the index and the limits.
        limits : Limits
            Of this model.
        answer : Answer
            Makes the columns.
        id_type : DataType
            The Spark type of ids.
        search : callable
            Searches `queries` for an answer, k and a largest distance.

        Returns
        -------
        DataFrame or None
            None where the model goes farther than all did when they were fitted.
        """
        if not limits.within(self._widest):
            return None
        facts = answer.needs
        kinds = {"id": columns.wire_type(id_type)}
        types = [T.ArrayType(kinds.get(fact, T.DoubleType())) for fact in ("distance", *facts)]
        with self._lock:
            made = self._made.setdefault(queries, {})
            if (key, facts) not in made:
                unique = uuid.uuid4().hex
                names = [f"knn_{fact}_{unique}" for fact in ("distance", *facts)]
                result = T.StructType(list(map(T.StructField, names, types)))
                frame = search(Evidence(result, facts), *self._widest)
                made[key, facts] = _Wide(frame, names, self._tasks)
            wide = made[key, facts]
        run = functools.partial(cut_batches, Cut(*limits, facts, answer))
        cut = compat.batch_udf(run, list(types), T.ArrayType(answer.result_type))
        found = F.inline(cut(*wide.names)).alias(*answer.result_type.names)
        return wide.frame.select("*", found).drop(*wide.names)
