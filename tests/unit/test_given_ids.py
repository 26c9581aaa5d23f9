"""Ids in a list or an array: their form in Python, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import types as T

from pyspark_knn.engine.rows.given_ids import ids_of_values

DAY = dt.date(1969, 12, 31)
UTC = dt.datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=dt.timezone.utc)
MICROS = 1_714_979_289_000_010


@pytest.mark.parametrize(
    ("values", "id_type", "expected"),
    [
        ([3, None, 3, 5], T.LongType(), [3, 5]),
        ({7}, T.ShortType(), [7]),
        ((1, 2**31, -(2**40)), T.IntegerType(), [1]),
        (np.array([4, 4, 2], np.int16), T.LongType(), [4, 2]),
        ([np.int64(4), 1], T.ByteType(), [4, 1]),
        (pd.Series([1.5, np.nan, 2.0]), T.DoubleType(), [1.5, 2.0]),
        ([1, 0.0, -0.0], T.DoubleType(), [1.0, 0.0]),
        (np.array([0.1], np.float32), T.FloatType(), [np.float32(0.1)]),
        (["b", "a", "b"], T.StringType(), ["b", "a"]),
        (np.array(["x", "y"]), T.StringType(), ["x", "y"]),
        ([b"\xff", bytearray(b"a")], T.BinaryType(), [b"\xff", b"a"]),
        ([True], T.BooleanType(), [True]),
        ([Decimal("1.50"), 2, Decimal("1.234")], T.DecimalType(5, 2), [Decimal("1.50"), 2]),
        ([Decimal(10**9)], T.DecimalType(5, 2), []),
        ([DAY], T.DateType(), [-1]),
        (np.array(["1969-12-31", "NaT"], "datetime64[D]"), T.DateType(), [-1]),
        ([UTC], T.TimestampType(), [MICROS]),
        (np.array([MICROS], "datetime64[us]"), T.TimestampType(), [MICROS]),
        ([UTC.replace(tzinfo=None)], T.TimestampNTZType(), [MICROS]),
        ([], T.StringType(), []),
    ],
    ids=repr,
)
def test_values(values: Any, id_type: T.DataType, expected: list[Any]) -> None:
    assert ids_of_values(values, id_type).to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "id_type"),
    [
        (["1"], T.LongType()),
        ([1.0], T.LongType()),
        ([True], T.LongType()),
        ([1], T.StringType()),
        ([b"a"], T.StringType()),
        ([1], T.BooleanType()),
        ([UTC], T.DateType()),
        ([DAY], T.TimestampType()),
        (["2024-05-06"], T.DateType()),
        (np.array([MICROS], "datetime64[us]"), T.LongType()),
    ],
    ids=repr,
)
def test_other_types_are_refused(values: Any, id_type: T.DataType) -> None:
    with pytest.raises(TypeError, match="ids must be of the type of the model's ids"):
        ids_of_values(values, id_type)


@pytest.mark.parametrize("values", ["abc", b"abc", {"a": 1}, 7, None], ids=repr)
def test_a_single_value_is_refused(values: Any) -> None:
    with pytest.raises(TypeError, match="ids must be a DataFrame with a column of ids, or a list"):
        ids_of_values(values, T.StringType())
