"""Columns of a DataFrame: names, checks of the schema, and conversions of ids and vectors."""

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

from pyspark_knn.engine import compat, hints
from pyspark_knn.engine.vectors import VectorBatch, invalid_rows

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


# --- names ------------------------------------------------------------------------------------


def quoted(name: str) -> str:
    """Quote the name of a column, so that Spark does not interpret dots in it."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str) -> Column:
    """Return the column with this name."""
    return F.col(quoted(name))


def replace_columns(frame: DataFrame, values: dict[str, Column]) -> DataFrame:
    """Add or replace the columns of `frame` that `values` names, in one step.

    Spark would analyze the whole plan again for each further step, which takes longer than a small
    search.
    """
    if not values:
        return frame
    if not compat.drops_metadata(frame.sparkSession):
        return frame.withColumns(values)
    names = frame.columns
    if len(set(names)) == len(names):
        return frame.select(*(values.get(name, column(name)) for name in names))
    # Columns with duplicate names cannot be selected by name, so give them unique names meanwhile.
    first = min(map(names.index, values))
    own = [f"own_{i}" for i in range(first)]
    plain = frame.toDF(*own, *names[first:])
    replaced = (values.get(name, column(name)) for name in names[first:])
    return plain.select(*own, *replaced).toDF(*names)


def with_attributes(name: str, value: Column, attributes: dict[str, Any]) -> Column:
    """Name a column, and add ML attributes to its metadata unless they are empty."""
    return value.alias(name, metadata={"ml_attr": attributes} if attributes else {})


def case_sensitive(dataset: DataFrame) -> bool:
    """Whether column names are case-sensitive in the session of `dataset`."""
    return compat.flag(dataset.sparkSession, "spark.sql.caseSensitive", default=False)


def field_of(dataset: DataFrame, param: str, name: str) -> T.StructField:
    """Return the field of the column `name`, which is the value of the Param `param`.

    Raises
    ------
    ValueError
        If there is no such column, or more than one.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    found = [field for field in dataset.schema.fields if fold(field.name) == fold(name)]
    if len(found) != 1:
        problem = "is ambiguous" if found else "does not exist"
        hint = "" if found else hints.missing(param, name, dataset.schema.fields)
        raise ValueError(f"{param} {name!r} {problem}. Input columns: {dataset.columns}{hint}")
    return found[0]


def refuse_existing(dataset: DataFrame, outputs: dict[str, str]) -> None:
    """Check the names of output columns against each other and against `dataset`.

    Parameters
    ----------
    dataset : DataFrame
        The data to which they will be added.
    outputs : dict of str to str
        Name of a Param or argument -> name of the output column.

    Raises
    ------
    ValueError
        If a name exists already.
    """
    fold = (lambda s: s) if case_sensitive(dataset) else str.lower
    taken = {fold(name) for name in dataset.columns}
    for param, name in outputs.items():
        if fold(name) in taken:
            raise ValueError(
                f"{param} {name!r} already exists. Input columns: {dataset.columns}. Output "
                f"columns: {list(outputs.values())}"
            )
        taken.add(fold(name))


# --- ids --------------------------------------------------------------------------------------


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
    """The end of the message: how to combine several values into one id."""
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
        "case-insensitive ids, apply lower() before that."
    )


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


# --- feature vectors --------------------------------------------------------------------------


class Features(NamedTuple):
    """A features column in the form in which it is sent to Python.

    Attributes
    ----------
    columns : list of one or two Column
        The values of each vector. MLlib vectors have a second column, their layout, so that sparse
        vectors stay sparse: an array of the dimension and the indices, empty for a dense vector.
    types : list of DataType
        The types of `columns`.
    attributes : int or None
        The dimension that is declared in the column's ML attributes, if any.
    names : list of str or None
        The names of the features that are declared in the column's ML attributes, if any.
    """

    columns: list[Column]
    types: list[T.DataType]
    attributes: int | None
    names: list[str] | None


def features_of(dataset: DataFrame, param: str, name: str) -> Features:
    """Return the columns that send a features column to Python.

    Parameters
    ----------
    dataset : DataFrame
        The data.
    param : str
        The Param that names the features column.
    name : str
        The name of the features column.

    Returns
    -------
    Features
        The columns, their types and the ML attributes.

    Raises
    ------
    TypeError
        If the column contains neither vectors nor arrays of numbers.
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
        # Longs are not cast here, so that Python can refuse those that a double would round.
        if isinstance(element, (T.FloatType, T.DoubleType, T.LongType)):
            return Features([values], [field.dataType], None, None)
        if isinstance(element, T.NumericType):
            doubles = T.ArrayType(T.DoubleType())
            return Features([values.cast(doubles)], [doubles], None, None)
    raise TypeError(
        f"{param} {name!r} must contain vectors (pyspark.ml.linalg) or arrays of numbers but was "
        f"actually {field.dataType.simpleString()}; {hints.features(name, field.dataType)}"
    )


def _vector_features(plain: Column, attributes: int | None, names: list[str] | None) -> Features:
    """The features of a column of vectors, given as the struct that `VectorUDT` stores."""
    # Spark computes the size in bytes of every column after each row (4.3.0). So the dimension and
    # the indices are one column, and a dense vector has an empty array rather than a null, since
    # nulls are counted each time.
    layout = F.when(plain["size"].isNull(), F.array().cast("array<int>")).otherwise(
        F.concat(F.array(plain["size"]), plain["indices"])
    )
    types: list[T.DataType] = [T.ArrayType(T.DoubleType()), T.ArrayType(T.IntegerType())]
    return Features([plain["values"], layout], types, attributes, names)


_VECTOR_FIELDS: dict[str, T.DataType] = {
    "type": T.ByteType(),
    "size": T.IntegerType(),
    "indices": T.ArrayType(T.IntegerType()),
    "values": T.ArrayType(T.DoubleType()),
}
"""The fields in which a `VectorUDT` is stored. Size and indices are null in a dense vector."""


def _holds_vectors(kind: T.StructType) -> bool:
    """Whether a struct is a vector that was stored in a format without user-defined types.

    ORC preserves the fields. JSON sorts them, widens their types, and omits `size` and `indices` if
    all vectors are dense.
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
    """Convert a struct that contains a vector to the fields and types of a stored `VectorUDT`."""
    fields = [
        (values[name] if name in kind.names else F.lit(None)).cast(field_type).alias(name)
        for name, field_type in _VECTOR_FIELDS.items()
    ]
    return F.when(values.isNotNull(), F.struct(*fields))


def _attribute_names(attributes: dict[str, Any]) -> list[str] | None:
    """The names of the features in their order, if the ML attributes declare all of them."""
    named = [entry for group in attributes.get("attrs", {}).values() for entry in group]
    names = {entry["idx"]: entry["name"] for entry in named if "name" in entry}
    if not names or sorted(names) != list(range(attributes.get("num_attrs", -1))):
        return None
    return [names[i] for i in range(len(names))]


_SAMPLE_BYTES = 32 << 20
"""The largest sample of vectors in bytes, since sparse ones grow when they are made dense."""


def valid_sample(rows: list[Row], types: list[T.DataType], dim: int) -> NDArray[np.floating]:
    """Return the valid vectors among collected rows as a dense matrix of 32 MiB at most.

    Parameters
    ----------
    rows : list of Row
        Rows with the columns `Features.columns`.
    types : list of DataType
        The types `Features.types`.
    dim : int
        The dimension of a valid vector.

    Returns
    -------
    ndarray of shape (n_vectors, dim), dtype float32 or float64
        The vectors.
    """
    rows = rows[: max(1, _SAMPLE_BYTES // (8 * dim))]
    arrays = tuple(
        pa.array([row[i] for row in rows], to_arrow_type(kind)) for i, kind in enumerate(types)
    )
    batch = VectorBatch.from_arrow(arrays)
    matrix = batch.dense(np.flatnonzero(batch.dims == dim), dim)
    return matrix[~invalid_rows(matrix)]
