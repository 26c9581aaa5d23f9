"""The recall that a fit measured: the levels that are searched, and its form in a saved model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyspark_knn.engine.measuring import Calibration, curve_of_levels, searches
from pyspark_knn.engine.search.searchable import EXACT
from pyspark_knn.index.recall import Curve, Recall
from pyspark_knn.models.measured_recall import Measurement

LEVELS = [2**i for i in range(12)]


class Searches:
    """A search that finds `level / full` of ten neighbors of each of 500 queries."""

    def __init__(self, full: int) -> None:
        self.full = full
        self.asked: list[list[int]] = []

    def __call__(self, levels: Sequence[int]) -> dict[int, NDArray[np.float64]]:
        self.asked.append(list(levels))
        exact = np.tile(np.arange(10.0), (500, 1))
        found = {EXACT: exact}
        for level in set(levels) - {EXACT}:
            found[level] = exact.copy()
            found[level][:, min(10, 10 * level // self.full) :] = 99.0
        return {level: found[level] for level in levels}


def test_one_search_is_enough_where_cheap_levels_reach_the_target() -> None:
    search = Searches(full=4)
    curve = curve_of_levels(LEVELS, Calibration(10, 0.9), search)
    assert search.asked == [[EXACT, *LEVELS[:9]]]
    assert [round(each.mean, 6) for each in curve.levels] == [0.2, 0.5, *[1.0] * 7]
    assert curve.reaching(0.9).knob == 4


def test_a_second_search_has_the_other_levels() -> None:
    search = Searches(full=1024)
    curve = curve_of_levels(LEVELS, Calibration(10, 0.9), search)
    assert search.asked == [[EXACT, *LEVELS[:9]], LEVELS[9:]]
    assert curve.reaching(0.9).knob == 1024


def test_a_given_level_is_the_only_one() -> None:
    search = Searches(full=32)
    curve = curve_of_levels(LEVELS, Calibration(10, 0.9, knob=16), search)
    assert search.asked == [[EXACT, 16]]
    assert [each.knob for each in curve.levels] == [16]


def test_the_exact_answer_is_that_of_all_cells() -> None:
    assert searches([EXACT, 1, 2], None) == [([EXACT, 1, 2], None)]
    assert searches([4, 8], 3) == [([4, 8], 3)]
    assert searches([EXACT, 1, 2], 3) == [([EXACT], None), ([1, 2], 3)]


MEASURED = Measurement(
    Curve((Recall(0.5, 0.4, 0.6, 100, 3, 1), Recall(1.0, 0.98, 1.0, 100, 3, 7))), 3, 2
)


def test_a_record_is_json() -> None:
    record = json.loads(json.dumps(MEASURED.record()))
    assert Measurement.from_record(record) == MEASURED
    assert MEASURED.answers(Calibration(3, 0.7, probes=2), 16)
    assert MEASURED.answers(Calibration(3, 0.7, knob=7, probes=2), 16)
    assert not MEASURED.answers(Calibration(3, 0.7, knob=2, probes=2), 16)
    assert not MEASURED.answers(Calibration(4, 0.7, probes=2), 16)
    assert not MEASURED.answers(Calibration(3, 0.7), 16)
    # Out of reach, or not measured.
    assert MEASURED.answers(Calibration(3, 0.99, probes=2), 7)
    assert not MEASURED.answers(Calibration(3, 0.99, probes=2), 16)


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 0},
        {"k": True},
        {"k": "3"},
        {"numProbes": 0},
        {"levels": []},
        {"levels": None},
        {"levels": [[1, 0.5, 0.4, 0.6]]},
        {"levels": [[1, 0.5, 0.6, 0.4, 100]]},
        {"levels": [[1, 0.5, 0.4, 1.5, 100]]},
        {"levels": [[1, "0.5", 0.4, 0.6, 100]]},
        {"levels": [[1, float("nan"), 0.4, 0.6, 100]]},
        {"levels": [[0, 0.5, 0.4, 0.6, 100]]},
        {"levels": [[2, 0.5, 0.4, 0.6, 100], [1, 0.5, 0.4, 0.6, 100]]},
        {"levels": [[1, 0.5, 0.4, 0.6, 100]] * 2},
    ],
)
def test_a_damaged_record(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="recall must contain measured levels"):
        Measurement.from_record({**MEASURED.record(), **changed})
