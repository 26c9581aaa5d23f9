"""The key columns of items and of queries: their types, and the form in which Python gets them."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.ids import (
    INTEGER_BITS,
    check_id_type,
    collation_hint,
    to_wire,
    wire_type,
)


def check_key_type(param: str, field: T.StructField) -> T.DataType:
    """Return the type of a key column, after checking it.

    Raises
    ------
    TypeError
        If the type is not atomic, is a string with a collation other than UTF8_BINARY, or is float
        or double.
    """
    given = check_id_type(param, field)
    if isinstance(given, (T.FloatType, T.DoubleType)):
        raise TypeError(
            f"{param} {field.name!r} must not be {given.simpleString()}: rounding makes numbers "
            "unequal that should be equal, and NaN has no equal in SQL. Cast the column to an "
            "integer, a decimal or a string."
        )
    return given


def key_hash(keys: Sequence[Column]) -> Column:
    """Return the hash of a key, by which items and queries are sent to the same shard.

    Parameters
    ----------
    keys : sequence of Column
        The columns of the key in the form of Python, see `ids.to_wire`.

    Returns
    -------
    Column
        A long.
    """
    return F.xxhash64(*keys)


def key_inputs(
    queries: DataFrame, param: str, names: Sequence[str], types: dict[str, T.DataType]
) -> dict[str, Input]:
    """Return the keys of each query: one key, or arrays of keys if any column contains arrays.

    If several columns contain arrays, each combination of their elements is a key.

    Parameters
    ----------
    queries : DataFrame
        The queries.
    param : str
        The Param that names the columns.
    names : sequence of str
        The columns, in the order of `types`.
    types : dict of str to DataType
        The Spark types of the items' keys, by the names of the inputs.

    Returns
    -------
    dict of str to Input
        The inputs. A null matches no item.

    Raises
    ------
    ValueError
        If there is no such column.
    TypeError
        If a column has neither the type of the items' keys nor arrays of it. For integer keys any
        integer type is allowed.
    """
    fields = [columns.field_of(queries, param, name) for name in names]
    wanted = list(types.values())
    for field, kind in zip(fields, wanted, strict=True):
        _check_type(param, field, kind)
    if not any(isinstance(field.dataType, T.ArrayType) for field in fields):
        return {
            name: Input(_as_key(columns.column(field.name), field.dataType, kind), wire_type(kind))
            for (name, kind), field in zip(types.items(), fields, strict=True)
        }
    combined = _combinations(fields, wanted)
    return {
        name: Input(combined.getField(f"_{i}"), T.ArrayType(wire_type(kind)))
        for i, (name, kind) in enumerate(types.items())
    }


def _check_type(param: str, field: T.StructField, wanted: T.DataType) -> None:
    """Check that a column has the items' key type, or arrays of it, or that both are integers."""
    given = _element(field.dataType)
    if given == wanted or (type(given) in INTEGER_BITS and type(wanted) in INTEGER_BITS):
        return
    if collated := collation_hint(given):
        raise TypeError(f"{param} {field.name!r} {collated}")
    name = wanted.simpleString()
    raise TypeError(
        f"{param} {field.name!r} must be of the type of the items' keys, {name} or array<{name}>, "
        f"but was actually {field.dataType.simpleString()}. Cast the column."
    )


def _element(given: T.DataType) -> T.DataType:
    return given.elementType if isinstance(given, T.ArrayType) else given


def _as_key(value: Column, given: T.DataType, wanted: T.DataType) -> Column:
    """Convert a key of a query to the form of the items' keys in Python; null if it has none."""
    if given != wanted:
        bits = INTEGER_BITS[type(wanted)]
        if INTEGER_BITS[type(given)] > bits:
            limit = 1 << (bits - 1)
            value = F.when(value.between(-limit, limit - 1), value)
        value = value.cast(wanted)
    return to_wire(value, wanted)


def _combinations(fields: Sequence[T.StructField], wanted: Sequence[T.DataType]) -> Column:
    """Return an array of structs of one field for each column: every combination of elements."""

    def listed(number: int) -> Column:
        field, value = fields[number], columns.column(fields[number].name)
        if not isinstance(field.dataType, T.ArrayType):
            return F.array(_as_key(value, field.dataType, wanted[number]))
        given = field.dataType.elementType
        return F.transform(value, lambda each: _as_key(each, given, wanted[number]))

    def from_column(number: int, before: list[Column]) -> Column:
        if number == len(fields):
            named = [value.alias(f"_{i}") for i, value in enumerate(before)]
            return F.array(F.struct(*named))
        each = F.transform(listed(number), lambda one: from_column(number + 1, [*before, one]))
        return F.flatten(each)

    return F.array_distinct(from_column(0, []))
