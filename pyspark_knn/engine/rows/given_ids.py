"""Ids that the user gives, in a DataFrame or in a list, in the form that ids have in Python."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.ids import INTEGER_BITS, collation_hint, to_wire, wire_type

_CLASSES: dict[type[T.DataType], tuple[type, ...]] = {
    **dict.fromkeys(INTEGER_BITS, (int,)),
    T.FloatType: (float, int),
    T.DoubleType: (float, int),
    T.DecimalType: (Decimal, int),
    T.StringType: (str,),
    T.BinaryType: (bytes, bytearray),
    T.BooleanType: (bool,),
    T.DateType: (dt.date,),
    T.TimestampType: (dt.datetime,),
    T.TimestampNTZType: (dt.datetime,),
}
"""The Python classes of ids of each Spark type."""


def ids_of_frame(frame: DataFrame, id_col: str, id_type: T.DataType) -> pa.Array:
    """Fetch the ids in a DataFrame.

    Parameters
    ----------
    frame : DataFrame
        Has a column with the name `id_col`, or a single column.
    id_col : str
        The Param idCol.
    id_type : DataType
        The Spark type of the items' ids.

    Returns
    -------
    pyarrow.Array
        Distinct ids in the type `wire_type(id_type)`, without nulls.

    Raises
    ------
    ValueError
        If there is no such column.
    TypeError
        If it has another type. For integer ids any integer type is allowed.
    """
    only = frame.columns[0] if len(frame.columns) == 1 else id_col
    field = columns.field_of(frame, "idCol", only)
    given, value = field.dataType, columns.column(field.name)
    if given != id_type:
        if type(given) not in INTEGER_BITS or type(id_type) not in INTEGER_BITS:
            raise TypeError(_wrong_type(f"column {field.name!r} of ids", id_type, given))
        limit = 1 << (INTEGER_BITS[type(id_type)] - 1)
        value = F.when(value.cast("long").between(-limit, limit - 1), value).cast(id_type)
    rows = frame.select(to_wire(value, id_type).alias("id")).dropna().collect()
    return pc.unique(pa.array([row[0] for row in rows], to_arrow_type(wire_type(id_type))))


def ids_of_values(values: Any, id_type: T.DataType) -> pa.Array:
    """Convert the ids in a list or an array.

    Parameters
    ----------
    values : list, tuple, set, ndarray or pandas.Series
        Ids as Python or numpy represent them, as in `model.ids` or in collected rows.
    id_type : DataType
        The Spark type of the items' ids.

    Returns
    -------
    pyarrow.Array
        Distinct ids in the type `wire_type(id_type)`, without nulls, and without values that this
        type does not contain.

    Raises
    ------
    TypeError
        If `values` or one of them has another type.
    """
    if isinstance(values, (str, bytes, bytearray, dict)) or not isinstance(values, Iterable):
        raise TypeError(
            "ids must be a DataFrame with a column of ids, or a list or array of ids, got "
            f"{values!r:.80}"
        )
    plain = _plain(values, id_type)
    wire = to_arrow_type(wire_type(id_type))
    known = [_converted(each, id_type) for each in plain if not _is_missing(each)]
    return pc.unique(pa.array([each for each in known if each is not None], wire))


def _plain(values: Any, id_type: T.DataType) -> list[Any]:
    """Return the values as a list of Python objects."""
    array = values.to_numpy() if hasattr(values, "to_numpy") else values
    if not isinstance(array, np.ndarray):
        return [each.item() if isinstance(each, np.generic) else each for each in array]
    if array.dtype.kind == "M":
        if not isinstance(id_type, (T.DateType, T.TimestampType, T.TimestampNTZType)):
            raise TypeError(_wrong_type("ids", id_type, array.dtype))
        days = isinstance(id_type, T.DateType)
        there = array[~np.isnat(array)].astype("datetime64[D]" if days else "datetime64[us]")
        # As `model.ids` returns them: days, or microseconds in UTC.
        return [_Wire(each) for each in there.astype(np.int64).tolist()]
    return list(array.ravel().tolist())


class _Wire(int):
    """An id that is in the form of Python already."""


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _converted(value: Any, id_type: T.DataType) -> Any:
    """Return an id in the form of Python; None if the type does not contain the value."""
    if isinstance(value, _Wire):
        return int(value)
    classes: Any = _CLASSES[type(id_type)]
    is_other = isinstance(value, bool) and bool not in classes
    is_time = isinstance(value, dt.datetime) and dt.datetime not in classes
    if is_other or is_time or not isinstance(value, classes):
        raise TypeError(_wrong_type("ids", id_type, repr(value)))
    if type(id_type) in INTEGER_BITS:
        limit = 1 << (INTEGER_BITS[type(id_type)] - 1)
        return value if -limit <= value < limit else None
    if isinstance(id_type, T.DecimalType):
        return _decimal(Decimal(value), id_type)
    if isinstance(id_type, (T.FloatType, T.DoubleType)):
        return float(value) + 0.0
    if isinstance(id_type, (T.DateType, T.TimestampType, T.TimestampNTZType)):
        return id_type.toInternal(value)
    return bytes(value) if isinstance(value, bytearray) else value


def _decimal(value: Decimal, id_type: T.DecimalType) -> Decimal | None:
    shifted = value.scaleb(id_type.scale)
    is_exact = value.is_finite() and shifted == shifted.to_integral_value()
    return value if is_exact and abs(shifted) < 10**id_type.precision else None


def _wrong_type(what: str, id_type: T.DataType, given: Any) -> str:
    if isinstance(given, T.DataType):
        if collated := collation_hint(given):
            return f"{what} {collated}"
        given = given.simpleString()
    integer = " or another integer" if isinstance(id_type, T.IntegralType) else ""
    return (
        f"{what} must be of the type of the model's ids, {id_type.simpleString()}{integer}, got "
        f"{given}"
    )
