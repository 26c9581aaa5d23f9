"""Searches that models share: the widest one is cached, and answers the narrower ones."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import uuid
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.search.answers import DISTANCE, Answer, FoundLists
from pyspark_knn.engine.search.narrower import (
    NarrowerSearch,
    all_narrower_batches,
    narrower_batches,
)
from pyspark_knn.engine.ship.batch_udf import batch_udf
from pyspark_knn.engine.spark.caching import free_with, persist

if TYPE_CHECKING:
    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.found import Found, Rows

_derived: weakref.WeakSet[DataFrame] = weakref.WeakSet()


def is_cached(dataset: DataFrame) -> bool:
    """Whether `dataset` is cached, or derived from one that is (`mark_derived`); runs no job."""
    return dataset in _derived or _is_persisted(dataset)


def mark_derived(dataset: DataFrame, source: DataFrame) -> None:
    """Treat `dataset`, which is computed from `source` alone, as cached while `source` is."""
    if is_cached(source):
        _derived.add(dataset)
    else:
        _derived.discard(dataset)


def _is_persisted(dataset: DataFrame) -> bool:
    level = dataset.storageLevel
    return level.useMemory or level.useDisk


class Limits(NamedTuple):
    """The limits of a search.

    Attributes
    ----------
    k : int or None
        Neighbors per query; None: all within `max_distance`.
    max_distance : float or None
        The largest distance of a neighbor, inclusive, in the unit of the metric.
    """

    k: int | None
    max_distance: float | None

    def within(self, widest: Limits) -> bool:
        """Whether a search with the limits `widest` finds all that one with these limits finds."""
        near = widest.max_distance is None or (
            self.max_distance is not None and self.max_distance <= widest.max_distance
        )
        few = widest.k is None or (self.k is not None and self.k <= widest.k)
        return few and near

    def found(self, index: NeighborIndex, query: Rows) -> Found:
        """Search one query in an index on the driver."""
        if self.k is not None:
            k = min(self.k, len(index.matrix))
            return index.search(query, k, max_distance=self.max_distance)
        found = index.within(query, math.inf if self.max_distance is None else self.max_distance)
        return cast("Found", found)


@dataclass(frozen=True)
class Prepared:
    """The answer that one of the models will return, unless its Params change.

    Attributes
    ----------
    limits : Limits
        The limits of the model.
    answer : Answer
        Makes the columns, under names that no other column has.
    finished : dict of str to Column
        Those columns that differ from what comes from Python, by their names.
    """

    limits: Limits
    answer: Answer
    finished: dict[str, Column]

    def is_for(self, limits: Limits, answer: Answer) -> bool:
        """Whether `answer` returns the same values, regardless of the names of its columns."""
        nameless = [
            replace(cast("Any", each), result_type=T.StructType()) for each in (self.answer, answer)
        ]
        return self.limits == limits and nameless[0] == nameless[1]


class _WidestSearch:
    """The widest search of some queries: a cached DataFrame, freed when this object is gone.

    Parameters
    ----------
    frame : DataFrame
        The queries, the lists of `FoundLists`, and the prepared answers; not yet cached.
    lists : list of str
        The columns that contain the lists.
    prepared : list of Prepared
        The output columns in `frame`.
    tasks : int
        The number of tasks that read it, at most.
    """

    def __init__(
        self, frame: DataFrame, lists: list[str], prepared: list[Prepared], tasks: int
    ) -> None:
        persisted = persist(frame)
        # A narrower search takes microseconds a query, and each of its tasks a tenth of a second.
        self.frame = persisted.coalesce(tasks)
        self.lists = lists
        self.prepared = prepared
        free_with(self, persisted)

    def own_columns(self, frame: DataFrame) -> DataFrame:
        """Return `frame` without the columns that only the answers need."""
        answers = (each.answer.result_type.names for each in self.prepared)
        return frame.drop(*self.lists, *itertools.chain.from_iterable(answers))


class SharedSearch:
    """The searches of cached queries that the models of one index share.

    The widest search of a DataFrame of queries is kept as long as both the models and that
    DataFrame are alive. It contains all columns of the queries, and for each the lists of
    `FoundLists`. The answers of all models are computed with it, so that the evaluation of one of
    them starts no Python.

    Parameters
    ----------
    widest : Limits
        The widest limits of the models.
    tasks : int
        The number of tasks that answer a narrower search, at most: as many as run at a time.
    types : dict of str to DataType
        The types of the item columns, see `Placement.item_columns`.
    prepared : list of Prepared
        The answers of the models, under names that no other column has; other answers are computed
        when they are requested.
    """

    def __init__(
        self,
        widest: Limits,
        tasks: int,
        types: dict[str, T.DataType],
        prepared: list[Prepared],
    ) -> None:
        self._widest = widest
        self._tasks = tasks
        self._types = {DISTANCE: T.DoubleType(), **types}
        self._prepared = prepared
        self._lock = threading.Lock()
        self._searches: weakref.WeakKeyDictionary[DataFrame, dict[Hashable, _WidestSearch]] = (
            weakref.WeakKeyDictionary()
        )

    def answer(
        self,
        queries: DataFrame,
        key: Hashable,
        limits: Limits,
        answer: Answer,
        search: Callable[[Answer, Limits], DataFrame],
    ) -> tuple[DataFrame, bool] | None:
        """Add the columns of `answer` to the rows of `queries`; lazy.

        None is returned where the limits are wider than those of all models when they were fitted.

        Parameters
        ----------
        queries : DataFrame
            A DataFrame that is cached, see `is_cached`.
        key : hashable
            All that the neighbors depend on, besides the index and the limits.
        limits : Limits
            The limits of this model.
        answer : Answer
            Makes the columns.
        search : callable
            Searches `queries` for an answer within limits.

        Returns
        -------
        frame : DataFrame
            The queries with the columns.
        finished : bool
            Whether the columns are finished. If not, they are as they come from Python.
        """
        if not limits.within(self._widest):
            return None
        lists = (DISTANCE, *answer.needs)
        with self._lock:
            known = self._searches.setdefault(queries, {})
            if (key, lists) not in known:
                known[key, lists] = self._search(lists, search)
            widest = known[key, lists]
        result = answer.result_type
        for each in widest.prepared:
            if each.is_for(limits, answer):
                both = zip(each.answer.result_type.names, result.names, strict=True)
                found = [columns.column(ready).alias(name) for ready, name in both]
                return widest.own_columns(widest.frame.select("*", *found)), True
        run = functools.partial(narrower_batches, NarrowerSearch(*limits, lists, answer))
        answers = batch_udf(run, self._list_types(lists), T.ArrayType(result))(*widest.lists)
        frame = widest.frame.select("*", F.inline(answers).alias(*result.names))
        return widest.own_columns(frame), False

    def _search(
        self, lists: tuple[str, ...], search: Callable[[Answer, Limits], DataFrame]
    ) -> _WidestSearch:
        """Return the widest search, with all answers that can be prepared from it."""
        unique = uuid.uuid4().hex
        names = [f"knn_{name}_{unique}" for name in lists]
        types = self._list_types(lists)
        result = columns.struct_type(dict(zip(names, types, strict=True)))
        frame = search(FoundLists(result, lists), self._widest)
        prepared = [each for each in self._prepared if (DISTANCE, *each.answer.needs) == lists]
        if prepared:
            frame = _with_answers(frame, lists, names, types, prepared)
        return _WidestSearch(frame, names, prepared, self._tasks)

    def _list_types(self, lists: tuple[str, ...]) -> list[T.DataType]:
        return [T.ArrayType(self._types[name]) for name in lists]


def _with_answers(
    frame: DataFrame,
    lists: tuple[str, ...],
    names: list[str],
    types: list[T.DataType],
    prepared: list[Prepared],
) -> DataFrame:
    """Return a search to which the columns of all prepared answers are added."""
    searches = [NarrowerSearch(*each.limits, lists, each.answer) for each in prepared]
    result = T.StructType(
        [T.StructField(str(i), each.answer.result_type) for i, each in enumerate(prepared)]
    )
    run = functools.partial(all_narrower_batches, searches)
    narrower = batch_udf(run, types, T.ArrayType(result))
    structs = [f"{names[0]}_{i}" for i in range(len(prepared))]
    found = frame.select("*", F.inline(narrower(*names)).alias(*structs))
    fields = [
        F.col(struct)[name].alias(name)
        for struct, each in zip(structs, prepared, strict=True)
        for name in each.answer.result_type.names
    ]
    finished = {name: value for each in prepared for name, value in each.finished.items()}
    return columns.replace_columns(found.select("*", *fields).drop(*structs), finished)
