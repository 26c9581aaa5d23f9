"""Checks of a queries DataFrame by its schema, and its column of ids to exclude."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pyspark_knn.engine.rows import columns
from pyspark_knn.engine.rows.columns import Input
from pyspark_knn.engine.rows.features import Features
from pyspark_knn.engine.rows.ids import INTEGER_BITS, collation_hint, to_wire, wire_type

_MAX_NAMES = 10_000
"""The largest number of feature names that a model keeps: they take some 200 KiB of metadata."""


def check_attributes(
    name: str,
    features: Features,
    dim: int,
    names: list[str] | None,
    *,
    strict: bool,
    rows: str = "queries",
) -> None:
    """Check, before any job, that the queries or new items have the same features as the items.

    Parameters
    ----------
    name : str
        The name of the features column.
    features : Features
        The features column.
    dim : int
        The dimension of the items.
    names : list of str or None
        The names of the items' features; None if they are not known.
    strict : bool
        Whether another dimension is an error (handleInvalid is "error").
    rows : str, default="queries"
        What is checked, for the message.

    Raises
    ------
    ValueError
        If the dimension or the names of the features differ.
    """
    if strict and features.attributes is not None and features.attributes != dim:
        raise ValueError(
            f"featuresCol {name!r} contains vectors of dimension {features.attributes} instead of "
            f"{dim}"
        )
    given = features.names
    if names is None or given is None or len(given) != len(names):
        return
    differ = [i for i, both in enumerate(zip(given, names, strict=True)) if both[0] != both[1]]
    if differ:
        first = differ[0]
        # Spark 3.5 ignores empty metadata and keeps the previous metadata.
        dropped = f"{rows.split()[-1]}.withMetadata({name!r}, {{'ml_attr': {{}}}})"
        raise ValueError(
            f"featuresCol {name!r} has different features than the items: feature {first} is "
            f"{given[first]!r} instead of {names[first]!r} ({len(differ)} of {len(names)} features "
            f"differ). Assemble the {rows} in the same way as the items or, if only the names "
            f"differ, remove the names of the {rows}: {dropped}"
        )


def names_to_keep(features: Features) -> list[str] | None:
    """Return the feature names for a model to keep; None if there are none or too many."""
    names = features.names
    return None if names is None or len(names) > _MAX_NAMES else names


def excluded_ids(queries: DataFrame, name: str, id_type: T.DataType) -> Input:
    """Return the ids to exclude for each query, as an array without nulls.

    Parameters
    ----------
    queries : DataFrame
        The queries.
    name : str
        The column that the Param excludeIdCol names.
    id_type : DataType
        The type of the items' ids.

    Returns
    -------
    Input
        The arrays, in the form that ids have in Python (`ids.to_wire`).

    Raises
    ------
    ValueError
        If there is no such column.
    TypeError
        If the column contains neither ids of the items' type nor arrays of them. For integer ids
        any integer type is allowed.
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
    wire = wire_type(id_type)
    if wire != id_type:
        known = F.transform(known, lambda each: to_wire(each, id_type))
    nothing = F.array().cast(T.ArrayType(wire))
    return Input(F.coalesce(known, nothing), T.ArrayType(wire))


def _check_excluded_type(field: T.StructField, given: T.DataType, id_type: T.DataType) -> None:
    """Check that a column has the items' id type, or that both are integers."""
    if type(given) in INTEGER_BITS and type(id_type) in INTEGER_BITS:
        return
    if collated := collation_hint(given):
        raise TypeError(f"excludeIdCol {field.name!r} {collated}")
    wanted = id_type.simpleString()
    raise TypeError(
        f"excludeIdCol {field.name!r} must be of the items' id type, {wanted} or array<{wanted}>, "
        f"but was actually {field.dataType.simpleString()}. Cast the column."
    )


def _cast_integers(values: Column, given: T.DataType, id_type: T.DataType) -> Column:
    """Cast arrays of integers to the type of the ids, without the values beyond its range."""
    bits = INTEGER_BITS[type(id_type)]
    if INTEGER_BITS[type(given)] > bits:
        limit = 1 << (bits - 1)
        values = F.filter(values, lambda each: each.between(-limit, limit - 1))
    return values.cast(T.ArrayType(id_type))
