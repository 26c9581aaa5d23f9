"""Columns of a DataFrame: schema checks, and ids and feature vectors on their way to Python."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES, VectorBatch, invalid_rows
from pyspark_knn.engine.spark import compat, hints

_ID_TYPES = (
    T.NumericType,
    T.StringType,
    T.BinaryType,
    T.BooleanType,
    T.DateType,
    T.TimestampType,
    T.TimestampNTZType,
)


# --- names ------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """`name` as Spark takes it for one column, dots and all."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str) -> Column:
    """The column `name`."""
    return F.col(quoted(name))


def replace_columns(frame: DataFrame, values: dict[str, Column]) -> DataFrame:
    """`frame` with other values in the columns that `values` names, all at once.

    Each step would make Spark analyze the plan once more, which takes longer than a small search.
    """
    if not values:
        return frame
    if not compat.drops_metadata(frame.sparkSession):
        return frame.withColumns(values)
    names = frame.columns
    if len(set(names)) == len(names):
        return frame.select(*(values.get(name, column(name)) for name in names))
    # Names of the queries that stand for two columns select neither of them.
    first = min(map(names.index, values))
    own = [f"own_{i}" for i in range(first)]
    plain = frame.toDF(*own, *names[first:])
    replaced = (values.get(name, column(name)) for name in names[first:])
    return plain.select(*own, *replaced).toDF(*names)


def with_attributes(name: str, value: Column, attributes: dict[str, Any]) -> Column:
    """`value` under the name `name`, with ML attributes on it, if any."""
    return value.alias(name, metadata={"ml_attr": attributes} if attributes else {})


def case_sensitive(dataset: DataFrame) -> bool:
    """Whether this session tells `Id` from `id`."""
    return compat.flag(dataset.sparkSession, "spark.sql.caseSensitive", default=False)


def field_of(dataset: DataFrame, param: str, name: str) -> T.StructField:
    """The field of the column that a Param names.

    Raises
    ------
    ValueError
        If there is no such column, or more than one.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    found = [field for field in dataset.schema.fields if fold(field.name) == fold(name)]
    if len(found) != 1:
        problem = "does not exist" if not found else "stands for more than one column"
        hint = "" if found else hints.missing(param, name, dataset.schema.fields)
        raise ValueError(f"{param} {name!r} {problem}; the columns are {dataset.columns}{hint}")
    return found[0]


def refuse_existing(dataset: DataFrame, outputs: dict[str, str]) -> None:
    """Check the names of output columns against each other and against `dataset`.

    Parameters
    ----------
    dataset : DataFrame
        Where they will be added.
    outputs : dict
        Param name (or a word for it) -> column name.

    Raises
    ------
    ValueError
        If a name is taken.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    taken = {fold(name) for name in dataset.columns}
    for param, name in outputs.items():
        if fold(name) in taken:
            raise ValueError(
                f"{param} {name!r} already exists: nothing is overwritten; the columns are "
                f"{dataset.columns}, the output columns {list(outputs.values())}"
            )
        taken.add(fold(name))


# --- ids --------------------------------------------------------------------------------------


def check_id_type(param: str, field: T.StructField) -> T.DataType:
    """The type of an id column.

    Raises
    ------
    TypeError
        If it is not an atomic type, or a string with a collation of its own.
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
    """How to make one id of several values."""
    if not isinstance(given, (T.StructType, T.ArrayType, T.MapType)):
        return ""
    return (
        ": make one column of it by pyspark.sql.functions.concat_ws, to_json or (short, but not "
        "quite unique) xxhash64"
    )


def collation_hint(given: T.DataType) -> str | None:
    """What is wrong with strings of this type as ids: a collation that calls others equal.

    Joins and grouping in Spark go by the collation; the search tells ids apart by their bytes.
    """
    collation = getattr(given, "collation", "UTF8_BINARY")  # strings of Spark 4 have one
    if collation == "UTF8_BINARY":
        return None
    return (
        f"has collation {collation}, under which different strings may be equal; ids are compared "
        "by their bytes: cast the column to string, or add COLLATE UTF8_BINARY, and lower() it "
        "first where its case must not matter"
    )


def wire_type(id_type: T.DataType) -> T.DataType:
    """The type that ids travel in between Spark and Python.

    Dates and timestamps travel as integers: through pandas they would lose what lies beyond the
    years 1677 to 2262, and the doubled hour at the end of daylight-saving time.
    """
    if isinstance(id_type, T.DateType):
        return T.IntegerType()
    if isinstance(id_type, (T.TimestampType, T.TimestampNTZType)):
        return T.LongType()
    return id_type


def to_wire(ids: Column, id_type: T.DataType) -> Column:
    """Ids as they travel to Python."""
    if isinstance(id_type, T.DateType):
        return F.unix_date(ids)
    if isinstance(id_type, T.TimestampType):
        return F.unix_micros(ids)
    if isinstance(id_type, T.TimestampNTZType):
        # A plain cast would go through the session's time zone, where some hours stand twice.
        minutes = (F.unix_date(F.to_date(ids)).cast("long") * 24 + F.hour(ids)) * 60 + F.minute(ids)
        seconds = F.date_part(F.lit("SECOND"), ids).cast("decimal(8,6)") * 1_000_000
        return minutes * 60_000_000 + seconds.cast("long")
    if isinstance(id_type, (T.FloatType, T.DoubleType)):
        # Spark joins and groups -0.0 and 0.0 as one value, so they are one id: 0.0.
        return ids + F.lit(0.0).cast(id_type)
    return ids


def from_wire(ids: Column, id_type: T.DataType) -> Column:
    """Ids as they were before `to_wire`."""
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
    """Whether `to_wire` does anything to ids of this type."""
    return wire_type(id_type) != id_type


# --- feature vectors --------------------------------------------------------------------------


class Input(NamedTuple):
    """A column as a Python function gets it.

    Attributes
    ----------
    value : Column
        Its values.
    type : DataType
        Their type.
    """

    value: Column
    type: T.DataType


class Features(NamedTuple):
    """A features column as Spark hands it to Python.

    Attributes
    ----------
    inputs : dict of str to Input
        `vectors.VALUES`, the values; for MLlib vectors also `vectors.LAYOUT`, so that sparse ones
        stay sparse: an array of the dimension and the indices, empty for dense ones.
    attributes : int or None
        The dimension that the column's ML attributes declare.
    names : list of str or None
        The features' names that the column's ML attributes declare.
    """

    inputs: dict[str, Input]
    attributes: int | None
    names: list[str] | None


def features_of(dataset: DataFrame, param: str, name: str) -> Features:
    """What to select of `dataset` to get at its feature vectors.

    Parameters
    ----------
    dataset : DataFrame
        Holds the column.
    param, name : str
        The Param that names the column, and the column's name.

    Raises
    ------
    TypeError
        If the column holds neither vectors nor arrays of numbers.
    ValueError
        If there is no such column.
    """
    field = field_of(dataset, param, name)
    values = column(field.name)
    if isinstance(field.dataType, VectorUDT):
        attributes = (field.metadata or {}).get("ml_attr", {})
        names = _attribute_names(attributes)
        return _vector_features(F.unwrap_udt(values), attributes.get("num_attrs"), names)
    if isinstance(field.dataType, T.StructType) and _holds_vectors(field.dataType):
        return _vector_features(_typed_vector(values, field.dataType), None, None)
    if isinstance(field.dataType, T.ArrayType):
        element = field.dataType.elementType
        # Longs travel as they are: Python refuses those that a double would round.
        if isinstance(element, (T.FloatType, T.DoubleType, T.LongType)):
            return Features({VALUES: Input(values, field.dataType)}, None, None)
        if isinstance(element, T.NumericType):
            doubles = T.ArrayType(T.DoubleType())
            return Features({VALUES: Input(values.cast(doubles), doubles)}, None, None)
    raise TypeError(
        f"{param} {name!r} must hold vectors (pyspark.ml.linalg) or arrays of numbers but was "
        f"actually {field.dataType.simpleString()}; {hints.features(name, field.dataType)}"
    )


def _vector_features(plain: Column, attributes: int | None, names: list[str] | None) -> Features:
    """The features of a column of vectors, given as the struct that `VectorUDT` stores."""
    # One column and not two: Spark adds up the bytes of every column after each row (4.3.0).
    # For the same reason not null for dense vectors: it then counts the nulls each time.
    layout = F.when(plain["size"].isNull(), F.array().cast("array<int>")).otherwise(
        F.concat(F.array(plain["size"]), plain["indices"])
    )
    inputs = {
        VALUES: Input(plain["values"], T.ArrayType(T.DoubleType())),
        LAYOUT: Input(layout, T.ArrayType(T.IntegerType())),
    }
    return Features(inputs, attributes, names)


_VECTOR_FIELDS: dict[str, T.DataType] = {
    "type": T.ByteType(),
    "size": T.IntegerType(),
    "indices": T.ArrayType(T.IntegerType()),
    "values": T.ArrayType(T.DoubleType()),
}
"""What a `VectorUDT` stores; size and indices are null in a dense vector."""


def _holds_vectors(kind: T.StructType) -> bool:
    """Whether a struct is a vector that was written to a format without user-defined types.

    ORC keeps the fields as they are. JSON sorts them, widens their types, and leaves out `size` and
    `indices` where all vectors are dense.
    """
    fields = {field.name: field.dataType for field in kind.fields}
    if set(fields) not in ({"type", "values"}, set(_VECTOR_FIELDS)):
        return False
    return all(_is_widened(fields[name], _VECTOR_FIELDS[name]) for name in fields)


def _is_widened(given: T.DataType, field_type: T.DataType) -> bool:
    if isinstance(given, T.ArrayType) and isinstance(field_type, T.ArrayType):
        return _is_widened(given.elementType, field_type.elementType)
    wanted = T.IntegralType if isinstance(field_type, T.IntegralType) else T.NumericType
    return isinstance(given, wanted)


def _typed_vector(values: Column, kind: T.StructType) -> Column:
    """A struct that holds a vector, with the fields and the types that `VectorUDT` gives it."""
    fields = [
        (values[name] if name in kind.names else F.lit(None)).cast(field_type).alias(name)
        for name, field_type in _VECTOR_FIELDS.items()
    ]
    return F.when(values.isNotNull(), F.struct(*fields))


def _attribute_names(attributes: dict[str, Any]) -> list[str] | None:
    """The features' names in the order of the vector, where the ML attributes tell all of them."""
    named = [entry for group in attributes.get("attrs", {}).values() for entry in group]
    names = {entry["idx"]: entry["name"] for entry in named if "name" in entry}
    if not names or sorted(names) != list(range(attributes.get("num_attrs", -1))):
        return None
    return [names[i] for i in range(len(names))]


_SAMPLE_BYTES = 32 << 20


def valid_sample(rows: list[Row], features: Features, dim: int) -> NDArray[np.floating]:
    """The valid vectors of dimension `dim` among rows of `features.inputs`, brought here.

    Not more of them than take 32 MiB: sparse ones grow when they are made dense.
    """
    rows = rows[: max(1, _SAMPLE_BYTES // (8 * dim))]
    arrays = {
        name: pa.array([row[i] for row in rows], to_arrow_type(each.type))
        for i, (name, each) in enumerate(features.inputs.items())
    }
    batch = VectorBatch.from_arrow(arrays)
    matrix = batch.dense(np.flatnonzero(batch.dims == dim), dim)
    return matrix[~invalid_rows(matrix)]
