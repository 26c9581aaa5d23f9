"""One choice of an algorithm for many similar sets of items, such as the shards of one fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pyspark_knn.index.auto import Trials, build_index
from pyspark_knn.index.block_search import BlockSearch

if TYPE_CHECKING:
    from pyspark_knn.index.base import IndexSpec, NeighborIndex
    from pyspark_knn.index.found import Rows

_ENOUGH = 2
"""So many trials in a row with the same result decide for the items that follow."""

_SIMILAR = 2
"""A trial holds for items that are at most so many times as many or as few."""


class _Trial(NamedTuple):
    """What a trial found, for how many items."""

    n_items: int
    algorithm: str
    tries_axes: bool


class SharedChoice:
    """Builds indexes of similar items, and tries out what is fastest for the first ones only.

    A trial takes about 0.1 s, however few items there are, so hundreds of small shards spend most
    of their fit on it. The choice changes the time of a search, never its result.

    Parameters
    ----------
    trials : Trials, optional
        How "auto" finds the fastest algorithm.
    """

    def __init__(self, trials: Trials | None = None) -> None:
        self._how = trials or Trials()
        self._trials: list[_Trial] = []

    def build(self, matrix: Rows, spec: IndexSpec) -> tuple[NeighborIndex, str]:
        """Index the rows of a matrix; see `auto.build_index`.

        Parameters
        ----------
        matrix : ndarray or SparseRows of shape (n_items, n_features), dtype float32 or float64
            The items.
        spec : IndexSpec
            The same for all items.

        Returns
        -------
        index : NeighborIndex
            The index.
        reason : str
            Why it has this algorithm, in one sentence.
        """
        known = self._known(len(matrix))
        if known is None:
            index, reason = build_index(matrix, spec, self._how)
            plain = isinstance(index, BlockSearch) and not index.detail
            self._trials.append(_Trial(len(matrix), index.algorithm, not plain))
            return index, reason
        chosen = replace(spec, algorithm=known.algorithm, tries_axes=known.tries_axes)
        index, reason = build_index(matrix, chosen)
        if spec.algorithm == "auto":
            reason = f"{known.algorithm} is the fastest for {known.n_items} similar items"
        return index, reason

    def _known(self, n_items: int) -> _Trial | None:
        """Return the last trial of about as many items, if those before it had the same result."""
        similar = [
            trial
            for trial in self._trials
            if trial.n_items <= _SIMILAR * n_items and n_items <= _SIMILAR * trial.n_items
        ][-_ENOUGH:]
        results = {(trial.algorithm, trial.tries_axes) for trial in similar}
        return similar[-1] if len(similar) == _ENOUGH and len(results) == 1 else None
