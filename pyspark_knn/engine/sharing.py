"""Searches that models share: the widest one of the same queries is cached, each cuts its own."""

from __future__ import annotations

import functools
import itertools
import threading
import uuid
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine import columns, compat
from pyspark_knn.engine.caching import free_with, persist
from pyspark_knn.engine.evidence import Cut, Evidence, cut_all_batches, cut_batches
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


@dataclass(frozen=True)
class Prepared:
    """An answer that one of the models will be asked for, if its Params stay as they are.

    Attributes
    ----------
    limits : Limits
        Of the model.
    answer : Answer
        Makes the columns, under names that no other column has.
    finished : dict of str to Column
        Those of them that are not yet as the user sees them, as they shall be.
    """

    limits: Limits
    answer: Answer
    finished: dict[str, Column]

    def is_for(self, limits: Limits, answer: Answer) -> bool:
        """Whether `answer` asks for the same, whatever the names of its columns are."""
        nameless = [
            replace(cast("Any", each), result_type=T.StructType()) for each in (self.answer, answer)
        ]
        return self.limits == limits and nameless[0] == nameless[1]


class _Wide:
    """The widest search of some queries: a cached DataFrame, freed when this object is gone.

    Attributes
    ----------
    frame : DataFrame
        The queries, the lists of `Evidence`, and the prepared answers.
    names : list of str
        The columns of the lists.
    prepared : list of Prepared
        The answers that are there.
    """

    def __init__(
        self, frame: DataFrame, names: list[str], prepared: list[Prepared], tasks: int
    ) -> None:
        persisted = persist(frame)
        # A cut takes microseconds a query, and each of its tasks a tenth of a second.
        self.frame = persisted.coalesce(tasks)
        self.names = names
        self.prepared = prepared
        free_with(self, persisted)

    def own_columns(self, frame: DataFrame) -> DataFrame:
        """`frame` without the columns that are there for the answers alone."""
        answers = (each.answer.result_type.names for each in self.prepared)
        return frame.drop(*self.names, *itertools.chain.from_iterable(answers))


class SharedSearch:
    """What models with one index share: for queries that are cached anyway, their widest search.

    The search is kept as long as both the models and the DataFrame of queries are alive. It holds
    all columns of the queries, and for each the lists of `Evidence`. The answers of all models are
    made with it, so that an evaluation of one of them starts no Python.

    Parameters
    ----------
    widest : Limits
        As far as any of the models goes.
    tasks : int
        How many cut an answer out, at most: as many as run at a time.
    prepared : list of Prepared
        The answers of the models; others are cut out when they are asked for.
    """

    def __init__(self, widest: Limits, tasks: int, prepared: list[Prepared]) -> None:
        self._widest = widest
        self._tasks = tasks
        self._prepared = prepared
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
        finish: Callable[[DataFrame], DataFrame],
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
        finish : callable
            Turns the columns as they come out of Python into what the user sees.

        Returns
        -------
        DataFrame or None
            None where the model goes farther than all did when they were fitted.
        """
        if not limits.within(self._widest):
            return None
        facts = answer.needs
        with self._lock:
            made = self._made.setdefault(queries, {})
            if (key, facts) not in made:
                made[key, facts] = self._search(facts, id_type, search)
            wide = made[key, facts]
        names = answer.result_type.names
        for each in wide.prepared:
            if each.is_for(limits, answer):
                there = zip(each.answer.result_type.names, names, strict=True)
                found = [columns.column(ready).alias(name) for ready, name in there]
                return wide.own_columns(wide.frame.select("*", *found))
        run = functools.partial(cut_batches, Cut(*limits, facts, answer))
        cut = compat.batch_udf(run, _types(facts, id_type), T.ArrayType(answer.result_type))
        inline = F.inline(cut(*wide.names)).alias(*names)
        return finish(wide.own_columns(wide.frame.select("*", inline)))

    def _search(
        self,
        facts: tuple[str, ...],
        id_type: T.DataType,
        search: Callable[[Answer, int, float | None], DataFrame],
    ) -> _Wide:
        """The widest search, and all that is to be prepared of it."""
        unique = uuid.uuid4().hex
        names = [f"knn_{fact}_{unique}" for fact in ("distance", *facts)]
        types = _types(facts, id_type)
        result = T.StructType(list(map(T.StructField, names, types)))
        frame = search(Evidence(result, facts), *self._widest)
        prepared = [each for each in self._prepared if each.answer.needs == facts]
        if prepared:
            frame = _with_answers(frame, names, types, facts, prepared)
        return _Wide(frame, names, prepared, self._tasks)


def _types(facts: tuple[str, ...], id_type: T.DataType) -> list[T.DataType]:
    """The types of the lists of `Evidence`."""
    kinds = {"id": columns.wire_type(id_type)}
    return [T.ArrayType(kinds.get(fact, T.DoubleType())) for fact in ("distance", *facts)]


def _with_answers(
    frame: DataFrame,
    names: list[str],
    types: list[T.DataType],
    facts: tuple[str, ...],
    prepared: list[Prepared],
) -> DataFrame:
    """A search, and all prepared answers beside it."""
    cuts = [Cut(*each.limits, facts, each.answer) for each in prepared]
    result = T.StructType(
        [T.StructField(str(i), each.answer.result_type) for i, each in enumerate(prepared)]
    )
    cut = compat.batch_udf(functools.partial(cut_all_batches, cuts), types, T.ArrayType(result))
    marks = [f"{names[0]}_{i}" for i in range(len(prepared))]
    found = frame.select("*", F.inline(cut(*names)).alias(*marks))
    fields = [
        F.col(mark)[name].alias(name)
        for mark, each in zip(marks, prepared, strict=True)
        for name in each.answer.result_type.names
    ]
    finished = {name: value for each in prepared for name, value in each.finished.items()}
    return columns.replace_columns(found.select("*", *fields).drop(*marks), finished)
