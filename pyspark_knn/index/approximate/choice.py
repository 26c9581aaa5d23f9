"""The choice of "auto" between an exact index and one that reaches a recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from pyspark_knn.index.approximate.base import ApproximateIndex
from pyspark_knn.index.approximate.libraries import is_installed
from pyspark_knn.index.approximate.long_builds import build_and_tell
from pyspark_knn.index.found import SPARSE, storage_of
from pyspark_knn.index.recall import held_out_positions, measure
from pyspark_knn.index.registry import TRIED, classes_for

if TYPE_CHECKING:
    from pyspark_knn.index.base import IndexSpec, NeighborIndex

_QUERIES = 512
"""Items by which the recall is measured for the choice."""

_K = 10
"""Neighbors of a query in a trial."""


def within_recall(
    exact: NeighborIndex,
    reason: str,
    spec: IndexSpec,
    timer: Callable[[NeighborIndex], float],
    min_items: int,
) -> tuple[NeighborIndex, str]:
    """Return the fastest index that reaches the target recall of a spec.

    Parameters
    ----------
    exact : NeighborIndex
        The fastest exact index.
    reason : str
        Why it is the fastest exact one.
    spec : IndexSpec
        The metric and the options, with a target recall.
    timer : callable
        Returns the seconds per query of a search in an index.
    min_items : int
        With fewer items, a search takes tens of microseconds, so the exact index is chosen without
        a trial.

    Returns
    -------
    index : NeighborIndex
        The exact index, or an approximate one that reaches the target and takes less time.
    reason : str
        Why, in one sentence.
    """
    target, n_items = spec.target_recall, len(exact.matrix)
    if target is None or target >= 1:
        return exact, reason
    if n_items < min_items:
        return exact, f"{reason}; exact search is fast enough for {n_items} items"
    supported = classes_for(spec.metric, spec.registered, storage_of(exact.matrix))
    with threadpool_limits(limits=1):
        for name in TRIED:
            found = supported.get(name)
            if storage_of(exact.matrix) == SPARSE:
                reason += f"; {name} does not support storage 'sparse'"
            elif found is None or not issubclass(found, ApproximateIndex):
                reason += f"; {name} does not support metric {spec.metric.name!r}"
            elif not is_installed(found.library):
                reason += f"; {name} was not tried, since {found.library} is not installed"
            else:
                index, reached = _calibrated(found, exact, spec, target)
                if reached < target:
                    reason += f"; {name} reaches a recall of {reached:.3f} only"
                    continue
                before, after = 1e6 * timer(exact), 1e6 * timer(index)
                times = f"{name} {after:.0f} us per query, {exact.algorithm} {before:.0f}"
                if after < before:
                    return index, f"{name} is the fastest at recall {target:g}: {times}"
                reason += f"; {name} is not faster at recall {target:g}: {times}"
    return exact, reason


def _calibrated(
    found: type[ApproximateIndex], exact: NeighborIndex, spec: IndexSpec, target: float
) -> tuple[ApproximateIndex, float]:
    """Build an index; return it with the cheapest knob that reaches the target, and its recall."""
    params = {name: each for name, each in spec.index_params.items() if name in found.index_names}
    own = replace(spec, algorithm=found.algorithm, index_params=params)
    index = build_and_tell(found, exact.matrix, own)
    positions = held_out_positions(len(exact.matrix), spec.seed, _QUERIES)
    # The mean: the interval of these few queries may not reach a target that is close to 1.
    levels = measure(index, positions, _K, target=target).levels
    best = next((each for each in levels if each.mean >= target), levels[-1])
    return index.with_knob(best.knob), best.mean
