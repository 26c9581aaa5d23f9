"""Ids of items and their positions, for every type of id."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.spark.heap import bytes_of

TYPES = {
    "byte": pa.int8(),
    "int": pa.int32(),
    "long": pa.int64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "decimal": pa.decimal128(38, 2),
    "double": pa.float64(),
}


def id_of(kind: str, number: int) -> object:
    """Ids in the order of the numbers that they are made from."""
    return {
        "string": f"é{number:03d}",
        "binary": bytes([0, 200, number]),
        "decimal": Decimal(number) * 10**30 + Decimal("0.25"),
        "double": number / 8,
    }.get(kind, number)


@pytest.mark.parametrize("kind", TYPES)
@given(
    known=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    wanted=st.lists(st.integers(0, 11), max_size=40),
)
def test_positions_of_ids_with_duplicates_and_unknown_ones(kind, known, wanted):
    known.sort()
    items = Items(len(known), {"id": pa.array([id_of(kind, n) for n in known], TYPES[kind])})
    which, positions = items.positions_of(pa.array([id_of(kind, n) for n in wanted], TYPES[kind]))
    assert which.dtype == positions.dtype == np.int64
    found = list(zip(which.tolist(), positions.tolist(), strict=True))
    assert found == [
        (i, position)
        for i, number in enumerate(wanted)
        for position, item in enumerate(known)
        if item == number
    ]
    assert items.duplicates() == len(known) - len(set(known))
    assert items.take("id", positions).to_pylist() == [id_of(kind, wanted[i]) for i in which]


@pytest.mark.parametrize("known", [[False], [True], [False, False, True]])
def test_booleans(known):
    items = Items(len(known), {"id": pa.array(known)})
    which, positions = items.positions_of(pa.array([True, False, True]))
    expected = [
        (i, j)
        for i, wanted in enumerate([True, False, True])
        for j, each in enumerate(known)
        if each == wanted
    ]
    assert list(zip(which.tolist(), positions.tolist(), strict=True)) == expected


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_floats_are_equal_as_they_are_in_spark(kind):
    items = Items(6, {"id": pa.array([-1.0, -0.0, 0.0, np.inf, np.nan, np.nan], kind)})
    wanted = pa.array([0.0, np.nan, -0.0, -np.inf], kind)
    which, positions = items.positions_of(wanted)
    assert which.tolist() == [0, 0, 1, 1, 2, 2]
    assert positions.tolist() == [1, 2, 4, 5, 1, 2]
    assert items.duplicates() == 2


def test_without_ids_positions_are_the_ids():
    items = Items(3, {})
    assert items.take("id", np.array([2, 0])).to_pylist() == [2, 0]
    assert items.take("id", np.array([2, 0])).type == pa.int64()
    which, positions = items.positions_of(pa.array([-1, 2, 3, 0, 2**62]))
    assert which.tolist() == [1, 3]
    assert positions.tolist() == [2, 0]
    assert items.duplicates() == 0


def test_a_slice_of_wanted_ids():
    items = Items(3, {"id": pa.array([5, 7, 9])})
    which, positions = items.positions_of(pa.array([1, 9, 5, 8])[1:3])
    assert (which.tolist(), positions.tolist()) == ([0, 1], [2, 0])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("1g", 1 << 30),
        ("64m", 64 << 20),
        ("512k", 512 << 10),
        ("2t", 2 << 40),
        ("1p", 1 << 50),
        (" 64MB ", 64 << 20),
        ("10b", 10),
        ("0", 0),
    ],
)
def test_sizes_as_spark_writes_them(text, size):
    assert bytes_of(text) == size
