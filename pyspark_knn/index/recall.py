"""The recall of an approximate index, measured against the exact answers, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.found import Exclusion

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.approximate.base import ApproximateIndex

N_QUERIES = 2048
"""The number of items by which the recall is measured. At a recall of 0.99 the interval reaches
0.004 to either side with k of 1, and less with more neighbors."""

_Z = 1.959963984540054
"""The quantile of the normal distribution for an interval of 95 %."""

_FURTHER, _ENOUGH = 2, 0.999
"""How many levels above the target are measured, and the recall above which there are none."""

_CLOSE = 1.05
"""The search for the cheapest knob ends at two values whose ratio is at most this."""


@dataclass(frozen=True)
class Recall:
    """The recall with one value of the knob.

    Attributes
    ----------
    mean : float
        The mean over the queries, in [0, 1].
    low, high : float
        The 95 % interval of the mean over all queries of the same kind.
    queries : int
        The number of queries.
    k : int
        The number of neighbors.
    knob : int
        The value of the knob.

    Notes
    -----
    The interval is that of Wilson [1]_, which is right near 1 as well and is never empty, with the
    effective number of neighbors in place of the number of trials, as for samples in clusters [2]_:
    the k neighbors of a query are found or missed together, so they count for less than k trials,
    and for one at least. How much less is estimated with one more query, whose recall is 0: queries
    that miss all of their neighbors may be too rare to be in the sample.

    References
    ----------
    .. [1] L. D. Brown, T. T. Cai, A. DasGupta, "Interval estimation for a binomial proportion",
       Statistical Science 16 (2001).
    .. [2] N. Dean, M. Pagano, "Evaluating confidence interval methods for binomial proportions in
       clustered surveys", Journal of Survey Statistics and Methodology 3 (2015).
    """

    mean: float
    low: float
    high: float
    queries: int
    k: int
    knob: int

    @classmethod
    def of(cls, recalls: NDArray[np.float64], k: int, knob: int) -> Recall:
        """Compute the mean and its interval.

        Parameters
        ----------
        recalls : ndarray of shape (n_queries,), dtype float64
            The recall of each query, see `recall`; at least one.
        k : int
            The number of neighbors.
        knob : int
            The value of the knob.

        Returns
        -------
        Recall
            The recall.
        """
        n, mean = len(recalls), float(recalls.mean())
        with_failure = np.append(recalls, 0.0)
        center, spread = float(with_failure.mean()), float(with_failure.var())
        trials = float(n)
        if spread > 0:
            trials *= min(max(center * (1 - center) / spread, 1.0), float(k))
        middle = (mean + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
        half = _Z / (1 + _Z**2 / trials)
        half *= float(np.sqrt(mean * (1 - mean) / trials + _Z**2 / (4 * trials**2)))
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        return cls(mean, min(low, mean), max(high, mean), n, k, knob)


@dataclass(frozen=True)
class Curve:
    """The recall with several values of the knob.

    Attributes
    ----------
    levels : tuple of Recall
        In ascending order of the knob; at least one.
    """

    levels: tuple[Recall, ...]

    @classmethod
    def of(cls, levels: Iterable[Recall]) -> Curve:
        """Return the curve of levels in any order.

        Parameters
        ----------
        levels : iterable of Recall
            The levels.

        Returns
        -------
        Curve
            The curve.
        """
        return cls(tuple(sorted(levels, key=lambda level: level.knob)))

    def reaching(self, target: float) -> Recall:
        """Return the cheapest level whose interval is above a target.

        Parameters
        ----------
        target : float
            The least recall.

        Returns
        -------
        Recall
            The level, or the one of the highest recall if none reaches the target.
        """
        found = [level for level in self.levels if level.low >= target]
        return found[0] if found else max(self.levels, key=lambda level: level.mean)

    def at(self, knob: int) -> Recall:
        """Return the level of a value of the knob.

        Parameters
        ----------
        knob : int
            The value.

        Returns
        -------
        Recall
            The last level whose knob is not above it, or the first one.
        """
        below = [level for level in self.levels if level.knob <= knob]
        return below[-1] if below else self.levels[0]


def recall(found: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which part of the nearest items of each query an index found.

    Items at the distance of the k-th neighbor are equally good, so distances are compared.

    Parameters
    ----------
    found : ndarray of shape (n_queries, k), dtype float64
        The distances that the index found, in ascending order; inf where there is no neighbor.
    exact : ndarray of shape (n_queries, k), dtype float64
        Those of an exact index.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The recall of each query; 1 if it has no neighbors.
    """
    there = np.isfinite(exact)
    counts = there.sum(axis=1)
    limits = np.where(there, exact, -np.inf).max(axis=1)
    hits = (found <= limits[:, None]).sum(axis=1)
    return np.where(counts, np.minimum(hits, counts) / np.maximum(counts, 1), 1.0)


def held_out_positions(n_items: int, seed: int = 0, many: int = N_QUERIES) -> NDArray[np.int64]:
    """Draw the items by which the recall is measured.

    Parameters
    ----------
    n_items : int
        The number of items.
    seed : int, default=0
        The seed.
    many : int, default=N_QUERIES
        How many to draw, at most half of the items: the structure of an index that hides more of
        them would be another one. Fewer are some of those that more would be.

    Returns
    -------
    ndarray of shape (n_queries,), dtype int64
        Their positions, in ascending order.
    """
    # Not the sequence of numbers by which an index draws the items that it learns from.
    rng = np.random.default_rng([seed, 1])
    many = min(many, max(1, n_items // 2))
    return np.sort(rng.permutation(n_items)[:many]).astype(np.int64)


def calibrate(
    measured: Callable[[int], Recall], levels: Sequence[int], target: float | None = None
) -> Curve:
    """Measure the recall with as few values of the knob as possible.

    From the cheapest level upwards, the knob about doubles until the target is reached. Then the
    cheapest value that reaches it is found by bisection. Two further levels, unless the recall is
    0.999, show what a higher target would cost. More of them would take longer than all the others.

    Parameters
    ----------
    measured : callable
        Returns the recall with a value of the knob.
    levels : sequence of int
        Values of the knob, in ascending order.
    target : float, optional
        The least recall. Default: there is none, so nothing is bisected.

    Returns
    -------
    Curve
        What was measured.
    """
    found: list[Recall] = []
    further = 0
    for knob in [*levels[:-1:2], levels[-1]]:
        found.append(measured(knob))
        if target is not None and found[-1].low >= target:
            further += 1
        if further > _FURTHER or ((further or target is None) and found[-1].mean >= _ENOUGH):
            break
    if target is not None:
        above = next((i for i, each in enumerate(found) if each.low >= target), 0)
        if above:
            low, high = found[above - 1].knob, found[above].knob
            while high - low > 1 and high > _CLOSE * low:
                found.append(measured((low + high) // 2))
                if found[-1].low >= target:
                    high = found[-1].knob
                else:
                    low = found[-1].knob
    return Curve.of(found)


def measure(
    index: ApproximateIndex,
    positions: NDArray[np.int64] | None,
    k: int,
    levels: Sequence[int] | None = None,
    target: float | None = None,
    queries: NDArray[np.floating] | None = None,
) -> Curve:
    """Measure the recall of an index in this process.

    Parameters
    ----------
    index : ApproximateIndex
        The index.
    positions : ndarray of shape (n_queries,), dtype int64, or None
        The items that are the queries, see `held_out_positions`, in ascending order. Each is
        excluded from its own neighbors. None if `queries` are given.
    k : int
        The number of neighbors, at most the number of items.
    levels : sequence of int, optional
        The values of the knob. Default: those of the index, as far as `calibrate` needs them.
    target : float, optional
        The least recall, see `calibrate`.
    queries : ndarray of shape (n_queries, n_features), optional
        The queries. Default: the items at `positions`.

    Returns
    -------
    Curve
        The recall at each level.
    """
    measured = measuring(index, positions, k, queries)
    if levels is not None:
        return Curve.of(map(measured, levels))
    return calibrate(measured, index.knob_levels(), target)


def measuring(
    index: ApproximateIndex,
    positions: NDArray[np.int64] | None,
    k: int,
    queries: NDArray[np.floating] | None = None,
) -> Callable[[int], Recall]:
    """Search the exact answers, and return a function that measures the recall with a knob.

    Parameters
    ----------
    index, positions, k, queries
        See `measure`.

    Returns
    -------
    callable
        Returns the recall with a value of the knob.
    """
    exclude = None
    if queries is None:
        if positions is None:
            raise ValueError("either positions or queries must be given")
        queries = np.ascontiguousarray(index.matrix[positions])
        exclude = Exclusion(np.arange(len(positions)), positions)
        index = index.held_out(positions)
    asked = queries
    exact = index.exact_index.kneighbors(asked, k, exclude=exclude).distances

    def measured(knob: int) -> Recall:
        found = index.with_knob(knob).kneighbors(asked, k, exclude=exclude).distances
        return Recall.of(recall(found, exact), k, knob)

    return measured
