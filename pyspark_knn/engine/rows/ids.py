"""Columns of ids: their types, and their form in Python."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

_ID_TYPES = (
    T.NumericType,
    T.StringType,
    T.BinaryType,
    T.BooleanType,
    T.DateType,
    T.TimestampType,
    T.TimestampNTZType,
)
"""The types that an id may have."""

INTEGER_BITS: dict[type[T.DataType], int] = {
    T.ByteType: 8,
    T.ShortType: 16,
    T.IntegerType: 32,
    T.LongType: 64,
}
"""The types of integers, and their numbers of bits."""


def check_id_type(param: str, field: T.StructField) -> T.DataType:
    """Return the type of an id column, after checking it.

    Raises
    ------
    TypeError
        If the type is not atomic, or is a string with a collation other than UTF8_BINARY.
    """
    given = field.dataType
    if not isinstance(given, _ID_TYPES):
        raise TypeError(
            f"{param} {field.name!r} must be of an atomic type (a number, string, binary, boolean, "
            f"date or timestamp) but was actually {given.simpleString()}{_atomic_hint(given)}"
        )
    if collated := collation_hint(given):
        raise TypeError(f"{param} {field.name!r} {collated}")
    return given


def _atomic_hint(given: T.DataType) -> str:
    """Return the end of the error message: how to combine several values into one id."""
    if not isinstance(given, (T.StructType, T.ArrayType, T.MapType)):
        return ""
    return (
        ". Combine the values into one column with pyspark.sql.functions.concat_ws, to_json or "
        "xxhash64 (short, but not guaranteed to be unique)"
    )


def collation_hint(given: T.DataType) -> str | None:
    """Return why strings with a collation cannot be ids, or None for all other types.

    Spark compares such strings by their collation in joins and groups, the search by their bytes.
    The result is the end of an error message, which follows the name of the column.
    """
    collation = getattr(given, "collation", "UTF8_BINARY")  # StringType has it since Spark 4.0
    if collation == "UTF8_BINARY":
        return None
    return (
        f"has collation {collation}, which can treat different strings as equal, but ids are "
        "compared by their bytes. Cast the column to string or add COLLATE UTF8_BINARY; for "
        "case-insensitive ids, apply lower() first."
    )


def is_narrower_integer(given: T.DataType, wanted: T.DataType) -> bool:
    """Whether both are types of integers, and every value of `given` is one of `wanted`."""
    widths = INTEGER_BITS.get(type(given)), INTEGER_BITS.get(type(wanted))
    return widths[0] is not None and widths[1] is not None and widths[0] <= widths[1]


def wire_type(id_type: T.DataType) -> T.DataType:
    """Return the type in which ids are sent between Spark and Python.

    Dates and timestamps are converted to integers. pandas cannot represent those before 1677 or
    after 2262, nor distinguish the two hours at the end of daylight-saving time.
    """
    if isinstance(id_type, T.DateType):
        return T.IntegerType()
    if isinstance(id_type, (T.TimestampType, T.TimestampNTZType)):
        return T.LongType()
    return id_type


def to_wire(ids: Column, id_type: T.DataType) -> Column:
    """Convert ids of type `id_type` to `wire_type(id_type)`."""
    if isinstance(id_type, T.DateType):
        return F.unix_date(ids)
    if isinstance(id_type, T.TimestampType):
        return F.unix_micros(ids)
    if isinstance(id_type, T.TimestampNTZType):
        # A cast would use the session's time zone, in which some hours occur twice.
        minutes = (F.unix_date(F.to_date(ids)).cast("long") * 24 + F.hour(ids)) * 60 + F.minute(ids)
        seconds = F.date_part(F.lit("SECOND"), ids).cast("decimal(8,6)") * 1_000_000
        return minutes * 60_000_000 + seconds.cast("long")
    if isinstance(id_type, (T.FloatType, T.DoubleType)):
        # Spark's joins and groups treat -0.0 and 0.0 as equal, so both become the id 0.0.
        return ids + F.lit(0.0).cast(id_type)
    return ids


def from_wire(ids: Column, id_type: T.DataType) -> Column:
    """Convert ids of type `wire_type(id_type)` back to `id_type`."""
    if isinstance(id_type, T.DateType):
        return F.date_from_unix_date(ids)
    if isinstance(id_type, T.TimestampType):
        return F.timestamp_micros(ids)
    if isinstance(id_type, T.TimestampNTZType):
        seconds = ids.cast("decimal(20,0)") / F.lit(1_000_000).cast("decimal(7,0)")
        zero = F.lit("1970-01-01").cast("timestamp_ntz")
        return zero + F.make_dt_interval(secs=seconds.cast("decimal(18,6)"))
    return ids


def changes_on_wire(id_type: T.DataType) -> bool:
    """Whether `to_wire` converts ids of this type to another type."""
    return wire_type(id_type) != id_type
