"""The groups of items with equal keys, and their shards."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.keys import Groups, Keys
from pyspark_knn.engine.shards.key_shards import KeyShards, assigned

VALUES = {
    "byte": (pa.int8(), [-128, 0, 127]),
    "int": (pa.int32(), [-(2**31), 0, 2**31 - 1]),
    "long": (pa.int64(), [-(2**63), 0, 2**63 - 1]),
    "string": (pa.string(), ["", "a", "A", "\u00e9", "a\x00"]),
    "binary": (pa.binary(), [b"", b"\x00", b"\xff"]),
    "boolean": (pa.bool_(), [True, False]),
    "decimal": (pa.decimal128(10, 2), [Decimal("1.10"), Decimal("-1.10"), Decimal("0.00")]),
}


@pytest.mark.parametrize("kind", VALUES)
def test_keys_of_every_type_are_found(kind: str) -> None:
    arrow, values = VALUES[kind]
    keys, groups = Keys.of([pa.array([*values, *reversed(values)], arrow)])
    assert groups.tolist() == groups.tolist()[::-1]
    assert sorted(set(groups.tolist())) == list(range(len(values)))
    asked = pa.array([values[-1], None, values[0]], arrow)
    assert keys.groups_of([asked]).tolist() == [groups[len(values) - 1], -1, groups[0]]
    assert [keys.key(group) for group in groups[: len(values)]] == [(each,) for each in values]


def test_unknown_keys_have_no_group() -> None:
    keys, _ = Keys.of([pa.array([5, 3, 9]), pa.array(["x", "y", "x"])])
    asked = [pa.array([5, 5, 4, 9, 10]), pa.array(["x", "y", "x", "z", "x"])]
    assert (
        keys.groups_of(asked).tolist()
        == [keys.groups_of([pa.array([5]), pa.array(["x"])])[0]] + [-1] * 4
    )


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
@pytest.mark.parametrize(
    "items", [[3, 4, 5, 6], [3, 4, 6], [-128, -127], [126, 127], [-128, 127], [*range(-128, 128)]]
)
def test_integers_with_and_without_gaps(kind: pa.DataType, items: list[int]) -> None:
    bits = kind.bit_width - 1
    keys, _ = Keys.of([pa.array(items[::-1], kind)])
    asked = [-(2**bits), 2**bits - 1, 0, -128, -127, None, *range(2, 8), 126, 127]
    expected = [items.index(each) if each in items else -1 for each in asked]
    found = keys.groups_of([pa.array(asked, kind)])
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_two_columns_of_integers_without_gaps() -> None:
    # Of the combinations, only the last one does not occur.
    items = [(1, 1), (1, 2), (2, 1)]
    keys, _ = Keys.of([pa.array(column) for column in zip(*items, strict=True)])
    asked = [*items, (2, 2), (1, 3), (0, 2), (3, 1), (2, 0)]
    found = keys.groups_of([pa.array(column) for column in zip(*asked, strict=True)])
    assert found.tolist() == [0, 1, 2, -1, -1, -1, -1, -1]


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abc")), min_size=1, max_size=40),
    st.lists(
        st.tuples(st.none() | st.integers(-3, 3), st.none() | st.sampled_from("abcd")), max_size=20
    ),
)
def test_groups_are_those_of_a_dict(
    items: list[tuple[int, str]], queries: list[tuple[int | None, str | None]]
) -> None:
    columns = {
        "key0": pa.array([number for number, _ in items]),
        "key1": pa.array([name for _, name in items]),
    }
    groups = Groups.of(Items(len(items), columns), ["key0", "key1"])
    members: dict[object, list[int]] = {}
    for position, key in enumerate(items):
        members.setdefault(key, []).append(position)
    assert len(groups.starts) == len(members) + 1
    in_order = sorted(members)
    assert [groups.keys.key(group) for group in range(len(members))] == in_order
    assert groups.rows[groups.positions].tolist() == list(range(len(items)))
    asked = [
        pa.array([number for number, _ in queries], pa.int64()),
        pa.array([name for _, name in queries], pa.string()),
    ]
    for key, group in zip(queries, groups.keys.groups_of(asked).tolist(), strict=True):
        start, stop = groups.starts[group], groups.starts[group + 1] if group >= 0 else 0
        found = groups.positions[start:stop].tolist() if group >= 0 else []
        assert found == members.get(key, [])


def test_lists_of_keys_are_pairs_of_query_and_group() -> None:
    keys, _ = Keys.of([pa.array([1, 2, 2, 7])])
    rows, groups = keys.of_queries([pa.array([[2, 1], None, [], [2, 2, 5, None], [7]])])
    assert rows.tolist() == [0, 0, 3, 4]
    assert groups.tolist() == [0, 1, 1, 2]


def test_single_keys_are_pairs_too() -> None:
    keys, _ = Keys.of([pa.array(["a", "b"])])
    rows, groups = keys.of_queries([pa.array(["b", None, "z", "a"])])
    assert (rows.tolist(), groups.tolist()) == ([0, 3], [1, 0])


def test_many_columns_of_many_values_do_not_overflow() -> None:
    # The product of the numbers of distinct values is 2**80.
    column = pa.array(np.random.default_rng(0).permutation(1 << 16).astype(np.int64))
    keys, groups = Keys.of([column] * 5)
    assert len(np.unique(groups)) == 1 << 16
    assert (keys.groups_of([column.slice(0, 9)] * 5) == groups[:9]).all()


def test_dates_are_sent_as_integers() -> None:
    days = [datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]
    numbers = pa.array(days).cast(pa.int32())
    keys, _ = Keys.of([numbers])
    assert keys.groups_of([numbers]).tolist() == [0, 1]


class TestKeyShards:
    def test_a_key_has_one_shard(self) -> None:
        hashes = np.array([-7, 12, -7, 2**63 - 1, -(2**63)])
        shards = KeyShards((3, 0, 1, 4, 2), {}).of_items(hashes, np.arange(5, dtype=np.uint64))
        assert shards.tolist() == [[3, 0, 1, 4, 2][h % 5] for h in hashes.tolist()]

    def test_a_large_key_is_divided_by_its_ids(self) -> None:
        hashes = np.full(900, 8)
        ids = np.random.default_rng(0).integers(0, 1 << 62, 900).astype(np.uint64)
        shards = KeyShards((1, 1, 1, 1, 1), {8: (0, 3, 4)}).of_items(hashes, ids)
        assert sorted(set(shards.tolist())) == [0, 3, 4]
        assert np.bincount(shards).max() < 400

    @given(
        st.integers(1, 9),
        st.lists(st.integers(0, 60), min_size=1, max_size=40),
        st.lists(st.integers(1, 900), max_size=4),
    )
    def test_shards_are_about_equal(
        self, num_shards: int, buckets: list[int], many: list[int]
    ) -> None:
        fair = -(-(sum(buckets) + sum(many)) // num_shards)
        large = {key: rows for key, rows in enumerate(many) if rows > fair}
        found = assigned(num_shards, buckets, large)
        loads = np.bincount(found.buckets, buckets, num_shards)
        for key, own in found.large.items():
            np.add.at(loads, list(own), large[key] / len(own))
        assert loads.sum() == pytest.approx(sum(buckets) + sum(large.values()))
        # Greedy assignment: the last one goes to the emptiest shard, which is below the mean.
        assert loads.max() <= loads.sum() / num_shards + max([fair, *buckets])
