"""The key columns of items and of queries: their types, and the form in which Python gets them."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.ids import (
    as_wire,
    changes_on_wire,
    check_comparable,
    check_id_type,
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
    given = [
        check_comparable(param, field, kind, "the type of the items' keys")
        for field, kind in zip(fields, types.values(), strict=True)
    ]
    arrays = any(isinstance(field.dataType, T.ArrayType) for field in fields)
    as_input = _list_input if arrays else _single_input
    return {
        name: as_input(field, from_type, kind)
        for (name, kind), field, from_type in zip(types.items(), fields, given, strict=True)
    }


def _single_input(field: T.StructField, given: T.DataType, wanted: T.DataType) -> Input:
    return Input(as_wire(columns.column(field.name), given, wanted), wire_type(wanted))


def _list_input(field: T.StructField, given: T.DataType, wanted: T.DataType) -> Input:
    value = columns.column(field.name)
    if not isinstance(field.dataType, T.ArrayType):
        value = F.array(as_wire(value, given, wanted))
    elif given != wanted or changes_on_wire(wanted):
        value = F.transform(value, lambda each: as_wire(each, given, wanted))
    return Input(value, T.ArrayType(wire_type(wanted)))
