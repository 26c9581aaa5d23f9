"""The ranges of ids: their order is that of the ids, and no shard with a wanted id is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pyspark_knn.engine.shards.frames import ShardSource
from pyspark_knn.engine.shards.id_ranges import may_overlap, range_of
from pyspark_knn.engine.ship.shard_rows import Shard

WORDS = ["", "Z", "a", "aa", "b", "\x7f", "é", "￿", "𝄞"]
ORDERED: dict[str, tuple[list[Any], pa.DataType]] = {
    "long": ([-(2**63), -257, -256, -1, 0, 1, 255, 256, 2**63 - 1], pa.int64()),
    "byte": ([-128, -1, 0, 1, 127], pa.int8()),
    "string": (WORDS, pa.string()),
    "large string": (WORDS, pa.large_string()),
    "binary": ([b"", b"\x00", b"\x00\x00", b"\x7f", b"\x80", b"\xff"], pa.binary()),
}
UNKNOWN = {
    "float": pa.array([1.0, np.nan]),
    "decimal": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
    "boolean": pa.array([True, False]),
    "very long": pa.array(["a", 2000 * "b"]),
}


@pytest.mark.parametrize("kind", ORDERED)
def test_bytes_have_the_order_of_the_ids(kind: str) -> None:
    ids, arrow = ORDERED[kind]
    ends = [range_of(pa.array([each], arrow)) for each in ids]
    assert all(each is not None and each[0] == each[1] for each in ends)
    firsts = [each[0] for each in ends if each is not None]
    assert firsts == sorted(set(firsts))
    for order in (ids, ids[::-1], ids[2:] + ids[:2]):
        assert range_of(pa.array(order, arrow)) == [firsts[0], firsts[-1]]


def test_the_width_of_integers_does_not_matter() -> None:
    assert range_of(pa.array([-3, 100], pa.int8())) == range_of(pa.array([100, -3], pa.int64()))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_ids_without_a_range_may_be_in_any_shard(kind: str) -> None:
    assert range_of(UNKNOWN[kind]) is None


def test_bytes_that_are_not_utf8_are_compared_too() -> None:
    odd = pa.array([b"\xff", b"a"]).view(pa.string())
    assert range_of(odd) == [b"a", b"\xff"]


def shard(number: int, ids: list[bytes] | None) -> Shard:
    return Shard(number, 1, 0, 1, 1, "", "brute", "", None, None, False, ids=ids)


def source(*ranges: list[bytes] | None, first: int = 0) -> ShardSource:
    shards = tuple(shard(first + i, each) for i, each in enumerate(ranges))
    return ShardSource(None, shards)  # type: ignore[arg-type]


def numbers(sources: list[ShardSource]) -> list[int]:
    return [each.shard for source in sources for each in source.shards]


def test_shards_that_share_no_id_are_left_out() -> None:
    sources = [source([b"a", b"c"], [b"b", b"d"]), source([b"f", b"h"], None, first=2)]
    for wanted, kept in {
        (b"d", b"e"): [1, 3],
        (b"h", b"z"): [2, 3],
        (b"e", b"e"): [3],
        (b"", b"a"): [0, 3],
        (b"B", b"Z"): [3],
        (b"b", b"b"): [0, 1, 3],
        (b"0", b"z"): [0, 1, 2, 3],
    }.items():
        assert numbers(may_overlap(sources, [list(wanted)])) == kept, wanted
    assert numbers(may_overlap(sources, [None])) == [0, 1, 2, 3]
    assert numbers(may_overlap(sources, [[b"a", b"a"], [b"f", b"f"]])) == [0, 2, 3]
    whole = may_overlap(sources[:1], [[b"a", b"z"]])[0]
    part = may_overlap(sources[:1], [[b"a", b"a"]])[0]
    assert (whole.whole, part.whole) == (True, False)
    assert may_overlap(sources[:1], [[b"x", b"z"]]) == []


def test_random_ranges() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        held = [rng.integers(-20, 20, rng.integers(1, 4)).tolist() for _ in range(5)]
        ids = rng.integers(-20, 20, rng.integers(1, 4)).tolist()
        sources = [source(*(range_of(pa.array(each)) for each in held))]
        kept = numbers(may_overlap(sources, [range_of(pa.array(ids))]))
        for number, each in enumerate(held):
            overlap = min(each) <= max(ids) and min(ids) <= max(each)
            assert (number in kept) == overlap
