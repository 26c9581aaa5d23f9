"""The outlier scores of all items of an index, computed on the executors.

    index -each item among the others-> lists of neighbors -to one task-> scores, persisted

If one task cannot hold all lists, these are persisted, and each step is a shuffle:

    lists -> k-distances -to all tasks-> densities -to all tasks-> factors, persisted

Nothing of it goes through the driver.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.search.outlier_answers import SCORE
from pyspark_knn.engine.search.scoring import (
    VALUE_SCHEMA,
    find_densities,
    find_factors,
    numbers_of,
    score_alone,
    score_distances,
    unpack_scores,
    values_of,
)
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persisted, unpersist
from pyspark_knn.engine.spark.spreading import int_array, repartition_evenly
from pyspark_knn.index.lof import LOF, threshold_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pyspark_knn.engine.placement import Placement

    Step = Callable[[int, Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

_VALUE_TYPES = from_arrow_schema(VALUE_SCHEMA)

_TASK_NEIGHBORS = 1 << 23
"""The neighbors that one task looks up, in about a second; as lists they take 128 MiB."""

_FETCHED_TOGETHER = 1 << 22
"""Up to so many items have their columns fetched in one job."""

_FETCHED_SCORES = 1 << 24
"""Up to so many scores are fetched to the driver, where their percentile is exact."""

_RANK_ERROR = 1e-4
"""The largest error of the share of outliers if there are more scores."""


class ItemScores(NamedTuple):
    """What was computed for the items.

    Attributes
    ----------
    values : DataFrame
        Persisted rows of `scoring.VALUE_SCHEMA`.
    zeros : int
        The number of items whose k-distance is 0, if the score is "lof".
    """

    values: DataFrame
    zeros: int


def score_items(index: Placement, session: SparkSession, k: int, score: str) -> ItemScores:
    """Compute the outlier score of each item among the other items, and what it is made of.

    Parameters
    ----------
    index : Placement
        The index of the items.
    session : SparkSession
        The session of the result.
    k : int
        Neighbors per item.
    score : {"lof", "kth", "mean"}
        What to compute.

    Returns
    -------
    ItemScores
        The scores.
    """
    found = index.neighbor_lists(session, k)
    tasks = -(-index.num_items * k // _TASK_NEIGHBORS)
    with compat.described(session, "pyspark_knn: score the items"):
        if tasks == 1:
            run = guarded(functools.partial(score_alone, index.num_items, score))
            return _persisted(found.repartition(1).mapInArrow(run, _VALUE_TYPES))
        with persisted(found) as lists:
            result = _persisted(_in_steps(lists, score, index.num_items, tasks))
        unpersist(lists)
        return result


def _persisted(values: DataFrame) -> ItemScores:
    with persisted(values) as result:
        return ItemScores(result, sum(row.zeros for row in result.select("zeros").collect()))


def _in_steps(lists: DataFrame, score: str, n_items: int, tasks: int) -> DataFrame:
    """Return rows of `scoring.VALUE_SCHEMA`, computed in several tasks."""
    run = guarded(functools.partial(score_distances, score))
    values = lists.mapInArrow(run, _VALUE_TYPES)
    if score == LOF:
        for step in (find_densities, find_factors):
            values = _looked_up(values, lists, step, n_items, tasks)
    return values


def _looked_up(
    values: DataFrame, lists: DataFrame, step: Step, n_items: int, tasks: int
) -> DataFrame:
    """Run a step that needs the values of all items beside the neighbors of some of them."""
    every = values.select("*", F.explode(int_array(range(tasks))).alias("target"))
    target = F.pmod(F.xxhash64("numbers"), F.lit(tasks)).cast("int")
    both = every.unionByName(lists.withColumn("target", target), allowMissingColumns=True)
    rows = repartition_evenly(both, tasks, "target")
    rows = rows.sortWithinPartitions(F.col("neighbors").isNotNull()).drop("target")
    run = guarded(functools.partial(step, n_items))
    return rows.mapInArrow(run, _VALUE_TYPES)


def fetch_values(
    values: DataFrame, names: Sequence[str], n_items: int
) -> dict[str, NDArray[np.float64]]:
    """Fetch columns of rows of `scoring.VALUE_SCHEMA`, in the order of the items' numbers."""
    result = {name: np.full(n_items, np.nan) for name in names}
    # Of very many items one column at a time, since Spark limits the size of a result.
    together = [names] if n_items <= _FETCHED_TOGETHER else [[name] for name in names]
    for part in together:
        for row in compat.collect(values.select("numbers", *part)):
            for name in part:
                result[name][numbers_of(row["numbers"])] = values_of(row[name])
    return result


def find_threshold(values: DataFrame, n_items: int, contamination: float) -> float | None:
    """Return the score that a share of the items is above.

    Parameters
    ----------
    values : DataFrame
        Rows of `scoring.VALUE_SCHEMA`.
    n_items : int
        The number of items.
    contamination : float
        The share.

    Returns
    -------
    float or None
        The exact percentile or, of more than 16 million items, one whose rank is exact to 0.01 %
        of the items; None if no item has a score.
    """
    scores = values.select(SCORE)
    if n_items <= _FETCHED_SCORES:
        known = np.concatenate([values_of(row[SCORE]) for row in compat.collect(scores)])
        threshold = threshold_of(known, contamination)
        return None if np.isnan(threshold) else threshold
    single = scores.mapInArrow(guarded(unpack_scores), f"{SCORE} double")
    found = single.approxQuantile(SCORE, [1.0 - contamination], _RANK_ERROR)
    return float(found[0]) if found else None
