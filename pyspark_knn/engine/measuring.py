"""The recall of an approximate index, measured by searches on the executors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn.engine.search.answers import DISTANCE
from pyspark_knn.engine.search.batches import KNOB
from pyspark_knn.engine.search.searchable import EXACT
from pyspark_knn.engine.search.self_search import QUERY
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.spreading import int_array
from pyspark_knn.index.recall import N_QUERIES, Curve, Recall, recall

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST_SHARE, _FIRST_LEVELS = 1 / 8, 8
"""The share of the most thorough level up to which all levels are measured in the first job, and
the least number of them. Levels are spaced geometrically, so the job costs less than half of a
search that visits everything."""


_FEWEST_QUERIES, _DISTANCES = 128, 1 << 18
"""Fewer queries are searched if k is large, so that the distances at one level take 2 MiB, which
the driver fetches. A mean over as many neighbors is as reliable."""


def most_queries(k: int) -> int:
    """Return how many queries are searched to measure the recall for k neighbors."""
    return max(_FEWEST_QUERIES, min(N_QUERIES, _DISTANCES // k))


@dataclass(frozen=True)
class Calibration:
    """What to measure.

    Attributes
    ----------
    k : int
        Neighbors per query.
    target : float
        The recall to reach.
    knob : int or None
        The only level to measure; None for as many as reach the target.
    seed : int
        The seed of the queries that are drawn from the items.
    probes : int or None
        The number of cells to search, see `batches.Request`.
    """

    k: int
    target: float
    knob: int | None = None
    seed: int = 0
    probes: int | None = None


Distances = Mapping[int, "NDArray[np.float64]"]
"""Of each level: the distances of the neighbors, of shape (n_queries, k), in ascending order, inf
where there is no neighbor."""


def curve_of_levels(
    levels: Sequence[int], wanted: Calibration, search: Callable[[Sequence[int]], Distances]
) -> Curve:
    """Measure the recall at several levels, in one search or two.

    Parameters
    ----------
    levels : sequence of int
        The levels, in ascending order.
    wanted : Calibration
        What to measure.
    search : callable
        Searches at each of some levels, see `searching`. The level `EXACT` stands for the exact
        answer.

    Returns
    -------
    Curve
        The recall at each of the levels that were measured.
    """
    if wanted.knob is not None:
        first, rest = [wanted.knob], []
    else:
        few = max(_FIRST_LEVELS, sum(each <= _FIRST_SHARE * levels[-1] for each in levels))
        first, rest = list(levels[:few]), list(levels[few:])
    found = dict(search([EXACT, *first]))
    exact = found.pop(EXACT)
    measured = _recalls(found, exact, wanted.k)
    if rest and measured[-1].low < wanted.target:
        measured += _recalls(search(rest), exact, wanted.k)
    return Curve.of(measured)


def searching(
    search: Callable[[Sequence[int], int | None], DataFrame], wanted: Calibration
) -> Callable[[Sequence[int]], Distances]:
    """Return the search at several levels that `curve_of_levels` measures.

    Parameters
    ----------
    search : callable
        Searches at each of some levels, in so many cells (None: in all that may contain a
        neighbor), and returns the columns `QUERY`, `KNOB` and `DISTANCE`, an array.
    wanted : Calibration
        What to measure.
    """

    def distances(levels: Sequence[int]) -> Distances:
        found: dict[int, NDArray[np.float64]] = {}
        for some, probes in searches(levels, wanted.probes):
            found |= _distances_by_level(search(some, probes), wanted.k)
            if not found:
                raise ValueError("queries contains no valid vectors to measure the recall with")
        return found

    return distances


def _recalls(found: Distances, exact: NDArray[np.float64], k: int) -> list[Recall]:
    return [Recall.of(recall(found[knob], exact), k, knob) for knob in sorted(found)]


def searches(levels: Sequence[int], probes: int | None) -> list[tuple[Sequence[int], int | None]]:
    """Return the levels and the cells of each search: the exact answer is that of all cells."""
    if probes is None or EXACT not in levels:
        return [(levels, probes)]
    return [([EXACT], None), ([each for each in levels if each != EXACT], probes)]


def at_levels(queries: DataFrame, levels: Sequence[int]) -> DataFrame:
    """Return each query once for each level, which is in the column `KNOB`."""
    return queries.select("*", F.explode(int_array(levels)).alias(KNOB))


def _distances_by_level(found: DataFrame, k: int) -> dict[int, NDArray[np.float64]]:
    """Run a search at several levels, and return the distances of the neighbors at each of them.

    They are arrays of shape (n_queries, k), in ascending order, inf where there is no neighbor.
    """
    with compat.described(found.sparkSession, "pyspark_knn: measure the recall"):
        rows = found.select(QUERY, KNOB, DISTANCE).collect()
    levels = sorted({row[1] for row in rows})
    numbers = {query: i for i, query in enumerate(sorted({row[0] for row in rows}))}
    distances = {level: np.full((len(numbers), k), np.inf) for level in levels}
    for query, level, near in rows:
        distances[level][numbers[query], : len(near)] = near
    return distances
