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
    changes_on_wire,
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


def key_hashes(keys: Sequence[Column], *, lists: bool) -> Column:
    """Return the hashes of the keys of a query, an array of long.

    Parameters
    ----------
    keys : sequence of Column
        The inputs that `key_inputs` returns.
    lists : bool
        Whether they are arrays.
    """

    def combined(before: list[Column]) -> Column:
        if len(before) == len(keys):
            return F.array(key_hash(before))
        return F.flatten(F.transform(keys[len(before)], lambda each: combined([*before, each])))

    return combined([]) if lists else F.array(key_hash(keys))


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
    """Return the keys of each query: a value for each column, or arrays of them.

    If any column contains arrays, all inputs are arrays, and each combination of their elements is
    a key.

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
    for field, kind in zip(fields, types.values(), strict=True):
        _check_type(param, field, kind)
    arrays = any(isinstance(field.dataType, T.ArrayType) for field in fields)
    as_input = _list_input if arrays else _single_input
    return {
        name: as_input(field, kind)
        for (name, kind), field in zip(types.items(), fields, strict=True)
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


def _single_input(field: T.StructField, wanted: T.DataType) -> Input:
    return Input(_as_key(columns.column(field.name), field.dataType, wanted), wire_type(wanted))


def _list_input(field: T.StructField, wanted: T.DataType) -> Input:
    value, given = columns.column(field.name), _element(field.dataType)
    if not isinstance(field.dataType, T.ArrayType):
        value = F.array(_as_key(value, given, wanted))
    elif given != wanted or changes_on_wire(wanted):
        value = F.transform(value, lambda each: _as_key(each, given, wanted))
    return Input(value, T.ArrayType(wire_type(wanted)))


def _as_key(value: Column, given: T.DataType, wanted: T.DataType) -> Column:
    """Convert a key of a query to the form of the items' keys in Python; null if it has none."""
    if given != wanted:
        bits = INTEGER_BITS[type(wanted)]
        if INTEGER_BITS[type(given)] > bits:
            limit = 1 << (bits - 1)
            value = F.when(value.between(-limit, limit - 1), value)
        value = value.cast(wanted)
    return to_wire(value, wanted)
