"""The recall that a fit measured, and its form in a saved model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark_knn.index.recall import Curve, Recall

if TYPE_CHECKING:
    from pyspark_knn.engine.measuring import Calibration

_MOST_LEVELS = 1000
"""More levels than any fit measures."""


class MeasuredRecall(NamedTuple):
    """The measured recall of an approximate search.

    Attributes
    ----------
    mean : float
        The mean recall of the queries: the share of the k true neighbors that the search finds.
    low, high : float
        The ends of the 95 % confidence interval of the mean.
    numQueries : int
        The number of queries.
    k : int
        The number of neighbors per query.
    searchParams : dict
        How thorough the search was: the name of the parameter and its value.
    """

    mean: float
    low: float
    high: float
    numQueries: int
    k: int
    searchParams: dict[str, int]

    def __str__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.searchParams.items())
        queries = "query" if self.numQueries == 1 else "queries"
        return (
            f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f}), measured with "
            f"{self.numQueries:,} {queries} for k={self.k} and {params}"
        )


@dataclass(frozen=True)
class Measurement:
    """The recall at several levels of thoroughness.

    Attributes
    ----------
    curve : Curve
        The recalls.
    k : int
        The number of neighbors per query.
    numProbes : int or None
        The number of cells that each query was searched in, if it was limited.
    complete : bool
        Whether levels were measured until a target was reached; if not, only a given one was.
    """

    curve: Curve
    k: int
    numProbes: int | None = None
    complete: bool = True

    def covers(self, target: float, last: int) -> bool:
        """Whether a target is reached, or out of reach of an index whose last level is `last`."""
        return self.curve.reaching(target).low >= target or self.curve.levels[-1].knob >= last

    def answers(self, wanted: Calibration, last: int) -> bool:
        """Whether this is a measurement of what is wanted; for `last` see `covers`."""
        if (self.k, self.numProbes) != (wanted.k, wanted.probes):
            return False
        if wanted.knob is None:
            return self.complete and self.covers(wanted.target, last)
        return wanted.knob in {each.knob for each in self.curve.levels}

    def record(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        levels = [[r.knob, r.mean, r.low, r.high, r.queries] for r in self.curve.levels]
        marks = {"k": self.k, "numProbes": self.numProbes, "complete": self.complete}
        return {**marks, "levels": levels}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Measurement:
        """Return the measurement of a saved model.

        Raises
        ------
        ValueError
            If the record is damaged.
        """
        problem = f"recall must contain measured levels, got {str(record)[:80]!r}"
        k, probes, levels = (record.get(name) for name in ("k", "numProbes", "levels"))
        counts = [k, *([] if probes is None else [probes])]
        if not all(_is_count(each) for each in counts) or not isinstance(levels, list):
            raise ValueError(problem)
        if not 1 <= len(levels) <= _MOST_LEVELS or not all(map(_is_level, levels)):
            raise ValueError(problem)
        knobs = [each[0] for each in levels]
        if knobs != sorted(set(knobs)):
            raise ValueError(problem)
        found = (Recall(m, low, high, n, int(k or 0), knob) for knob, m, low, high, n in levels)
        return cls(Curve.of(found), int(k or 0), probes, record.get("complete") is True)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**62


def _is_level(level: Any) -> bool:
    if not isinstance(level, list) or len(level) != 5:
        return False
    knob, mean, low, high, queries = level
    shares = [low, mean, high]
    numbers = all(isinstance(each, (int, float)) and math.isfinite(each) for each in shares)
    return _is_count(knob) and _is_count(queries) and numbers and 0 <= low <= mean <= high <= 1
