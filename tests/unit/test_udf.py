"""Columns are exact after conversion to and from pandas, which Spark before 4.1 requires."""

from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pyspark_knn.engine.ship import udf


@pytest.mark.parametrize(
    ("series", "kind", "expected"),
    [
        (pd.Series([1.0, np.nan]), pa.int32(), [1, None]),
        (pd.Series([1, 2**62]), pa.int64(), [1, 2**62]),
        (pd.Series([], dtype=object), pa.list_(pa.float64()), []),
        (pd.Series([np.array([0.5, 1.0]), None]), pa.list_(pa.float64()), [[0.5, 1.0], None]),
        (pd.Series([np.array([], np.float32)]), pa.list_(pa.float32()), [[]]),
        (pd.Series([np.array([3, 9], np.int32), None]), pa.list_(pa.int32()), [[3, 9], None]),
        (pd.Series([np.array([2**62 + 1])]), pa.list_(pa.int64()), [[2**62 + 1]]),
        (pd.Series([np.array(["é", "b"], object)]), pa.list_(pa.string()), [["é", "b"]]),
        (pd.Series([np.array([b"\xff\x00"], object)]), pa.list_(pa.binary()), [[b"\xff\x00"]]),
        (
            pd.Series([np.array([Decimal("12345678901234567890.25")], object)]),
            pa.list_(pa.decimal128(38, 2)),
            [[Decimal("12345678901234567890.25")]],
        ),
    ],
)
def test_columns_into_arrow(series, kind, expected):
    found = udf._to_arrow(series, kind)
    assert found.type == kind
    assert found.to_pylist() == expected


def test_a_nan_in_a_vector_stays_nan():
    found = udf._to_arrow(pd.Series([np.array([np.nan, 1.0])]), pa.list_(pa.float64()))
    assert np.isnan(found.values.to_numpy(zero_copy_only=False)[0])


def test_answers_into_pandas():
    answers = [
        [{"ids": [2**62 + 1, -1], "distances": [0.1, float("inf")]}],
        [],
        [None],
        [{"ids": [], "distances": []}],
    ]
    kind = pa.list_(
        pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
    )
    series = udf._to_series(pa.array(answers, kind))
    assert series.dtype == object
    assert series.tolist() == answers


@pytest.mark.parametrize("value", [date(9999, 12, 31), Decimal("0.10"), b"\x00", "é", True])
def test_ids_into_pandas(value):
    series = udf._to_series(pa.array([[{"ids": [value]}]]))
    assert series[0][0]["ids"] == [value]
    assert type(series[0][0]["ids"][0]) is type(value)


def test_a_single_column_is_not_wrapped():
    assert udf._as_tuple(pa.array([1])) == (pa.array([1]),)
    assert udf._as_tuple((1, 2)) == (1, 2)
