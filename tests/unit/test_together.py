"""The table "What goes with what" of docs/semantics.md, walked pair by pair."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from pyspark_knn import KNNEstimator

SECTION = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text("utf-8")
SECTION = SECTION.split("## What goes with what")[1]
SETTING = re.compile(r"`(\w+=[^`]+)`")


def refused_pairs() -> set[frozenset[str]]:
    """The pairs of the table."""
    pairs = set()
    for line in SECTION.splitlines():
        first, *others = (SETTING.findall(line) if line.startswith("|") else []) or [""]
        pairs |= {frozenset((first, other)) for other in others}
    return pairs


REFUSED = refused_pairs()
NAMES = SETTING.findall(SECTION.split("|")[0])
PAIRS = [
    pair for pair in itertools.combinations(NAMES, 2) if len({x.split("=")[0] for x in pair}) > 1
]


def estimator(*settings: str) -> KNNEstimator:
    values: dict[str, Any] = {"idCol": "id"}
    for setting in settings:
        values |= eval(f"dict({setting})")
    if "k" in values:
        values.setdefault("maxDistance", 2.0)
    if values.get("shardBy") == "kmeans":
        values.setdefault("placement", "sharded")
    return KNNEstimator(**values)


def test_the_table_has_known_settings_only():
    assert len(REFUSED) > 10
    assert {name for pair in REFUSED for name in pair} <= set(NAMES)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_pair_goes_together_unless_the_table_says_otherwise(pair):
    if 'algorithm="annoy"' in pair:
        pytest.importorskip("annoy")
    knn = estimator(*pair)
    if frozenset(pair) not in REFUSED:
        knn._check_params()
        return
    with pytest.raises(ValueError, match="does not support") as raised:
        knn._check_params()
    for name, _, value in (setting.partition("=") for setting in pair):
        assert name in str(raised.value)
        assert name == "keyCols" or value.strip('"') in str(raised.value)
