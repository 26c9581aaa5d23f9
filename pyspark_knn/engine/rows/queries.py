"""What a search needs of its queries beside their vectors, looked at by the schema alone."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Features, Input

_MOST_NAMES = 10_000
"""Some 200 KiB in the metadata of a saved model."""


def check_attributes(
    name: str, features: Features, dim: int, names: list[str] | None, *, strict: bool
) -> None:
    """Refuse, before any job, queries that the schema shows to be of another make than the items.

    Parameters
    ----------
    name : str
        The features column.
    features : Features
        What the schema tells of it.
    dim : int
        The dimension of the items.
    names : list of str or None
        The names of the items' features, where they are known.
    strict : bool
        Whether another dimension is an error (handleInvalid is "error").

    Raises
    ------
    ValueError
        If the dimension or the names differ.
    """
    if strict and features.attributes is not None and features.attributes != dim:
        raise ValueError(
            f"featuresCol {name!r} holds vectors of dimension {features.attributes} where "
            f"{dim} is needed"
        )
    given = features.names
    if names is None or given is None or len(given) != len(names):
        return
    differ = [i for i, both in enumerate(zip(given, names, strict=True)) if both[0] != both[1]]
    if differ:
        first = differ[0]
        # Spark 3.5 takes empty metadata for none, and keeps what was there.
        dropped = f"queries.withMetadata({name!r}, {{'ml_attr': {{}}}})"
        raise ValueError(
            f"featuresCol {name!r} is made of other features than the items: feature {first} is "
            f"{given[first]!r}, but the items have {names[first]!r} there ({len(differ)} of "
            f"{len(names)} differ). Assemble the queries as the items were, or, if only the names "
            f"differ, drop them: {dropped}"
        )


def names_to_keep(features: Features) -> list[str] | None:
    """The names of the items' features that a model remembers; None where they are too many."""
    names = features.names
    return None if names is None or len(names) > _MOST_NAMES else names


def excluded_ids(queries: DataFrame, name: str, id_type: T.DataType) -> Input:
    """For each query the ids never to be returned: an array on the wire, without nulls.

    Parameters
    ----------
    queries : DataFrame
        Has the column.
    name : str
        The column that the Param excludeIdCol names.
    id_type : DataType
        The type of the items' ids.

    Raises
    ------
    ValueError
        If there is no such column.
    TypeError
        If it holds neither ids of the items' type (of any integers for integers) nor arrays of
        them.
    """
    field = columns.field_of(queries, "excludeIdCol", name)
    given, values = field.dataType, columns.column(field.name)
    if isinstance(given, T.ArrayType):
        given = given.elementType
    else:
        values = F.array(values)
    known = F.array_compact(values)
    if given != id_type:
        _check_excluded_type(field, given, id_type)
        known = _cast_integers(known, given, id_type)
    wire = columns.wire_type(id_type)
    if wire != id_type:
        known = F.transform(known, lambda each: columns.to_wire(each, id_type))
    nothing = F.array().cast(T.ArrayType(wire))
    return Input(F.coalesce(known, nothing), T.ArrayType(wire))


_INTEGER_BITS: dict[type[T.DataType], int] = {
    T.ByteType: 8,
    T.ShortType: 16,
    T.IntegerType: 32,
    T.LongType: 64,
}


def _check_excluded_type(field: T.StructField, given: T.DataType, id_type: T.DataType) -> None:
    """Refuse what is not of the items' id type, unless both are integers."""
    if type(given) in _INTEGER_BITS and type(id_type) in _INTEGER_BITS:
        return
    if collated := columns.collation_hint(given):
        raise TypeError(f"excludeIdCol {field.name!r} {collated}")
    wanted = id_type.simpleString()
    raise TypeError(
        f"excludeIdCol {field.name!r} must be of the items' id type, {wanted} or array<{wanted}>,"
        f" but was actually {field.dataType.simpleString()}: cast it"
    )


def _cast_integers(values: Column, given: T.DataType, id_type: T.DataType) -> Column:
    """Arrays of integers as those of the ids' type, without those that are beyond its range."""
    bits = _INTEGER_BITS[type(id_type)]
    if _INTEGER_BITS[type(given)] > bits:
        limit = 1 << (bits - 1)
        values = F.filter(values, lambda each: each.between(-limit, limit - 1))
    return values.cast(T.ArrayType(id_type))
