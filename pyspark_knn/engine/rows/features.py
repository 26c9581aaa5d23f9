"""Columns of feature vectors, and their form in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_type

from pyspark_knn.engine.rows.columns import Input, column, field_of
from pyspark_knn.engine.rows.invalid import invalid_rows, read_vectors
from pyspark_knn.engine.rows.vectors import LAYOUT, VALUES
from pyspark_knn.engine.spark import hints
from pyspark_knn.index.found import SPARSE

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows


class Features(NamedTuple):
    """A features column in the form in which it is sent to Python.

    Attributes
    ----------
    inputs : dict of str to Input
        `vectors.VALUES`, the values of each vector. MLlib vectors also have `vectors.LAYOUT`, so
        that sparse vectors stay sparse: an array of the dimension and the indices, empty for a
        dense vector.
    attributes : int or None
        The dimension that is declared in the column's ML attributes, if any.
    names : list of str or None
        The names of the features that are declared in the column's ML attributes, if any.
    """

    inputs: dict[str, Input]
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
            return Features({VALUES: Input(values, field.dataType)}, None, None)
        if isinstance(element, T.NumericType):
            doubles = T.ArrayType(T.DoubleType())
            return Features({VALUES: Input(values.cast(doubles), doubles)}, None, None)
    raise TypeError(
        f"{param} {name!r} must contain vectors (pyspark.ml.linalg) or arrays of numbers but was "
        f"actually {field.dataType.simpleString()}; {hints.features(name, field.dataType)}"
    )


def _vector_features(plain: Column, attributes: int | None, names: list[str] | None) -> Features:
    """Return the features of a column of vectors, given as the struct that `VectorUDT` stores."""
    # Spark computes the size in bytes of every column after each row (4.3.0). So the dimension and
    # the indices are one column, and a dense vector has an empty array rather than a null, since
    # nulls are counted each time. Of a damaged vector, either may be null without the other.
    dense = plain["size"].isNull() & plain["indices"].isNull()
    layout = F.when(dense, F.array().cast("array<int>")).otherwise(
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
    """Return the names of the features, in order, if the ML attributes declare all of them."""
    named = [entry for group in attributes.get("attrs", {}).values() for entry in group]
    names = {entry["idx"]: entry["name"] for entry in named if "name" in entry}
    if not names or sorted(names) != list(range(attributes.get("num_attrs", -1))):
        return None
    return [names[i] for i in range(len(names))]


def vector_type(dtype: np.dtype[np.floating], storage: str) -> T.DataType:
    """Return the Spark type of the vectors of an index: an array or, if sparse, MLlib's vector."""
    if storage == SPARSE:
        return VectorUDT()
    return T.ArrayType(T.FloatType() if dtype.itemsize == 4 else T.DoubleType())


_SAMPLE_BYTES = 8 << 20
"""The largest sample of dense vectors in bytes: Spark needs a second for some of these."""


class Sample(NamedTuple):
    """Some valid queries.

    Attributes
    ----------
    vectors : ndarray or SparseRows of shape (n_queries, n_features), dtype float32 or float64
        Their vectors.
    mean_bytes : float
        The mean size of a vector, in bytes, in the form in which it is sent to Python.
    """

    vectors: Rows
    mean_bytes: float


def most_sampled(features: Features, dim: int, storage: str) -> int:
    """Return the largest number of queries in a sample, so that dense vectors take 8 MiB.

    Parameters
    ----------
    features : Features
        The features column.
    dim : int
        The dimension of the vectors.
    storage : {"dense", "sparse"}
        The form of the vectors.

    Returns
    -------
    int
        The number of queries, at least 1.
    """
    if storage == SPARSE and LAYOUT in features.inputs:
        return max(1, _SAMPLE_BYTES // 8)
    return max(1, _SAMPLE_BYTES // (8 * dim))


def valid_sample(
    rows: list[Row],
    features: Features,
    dim: int,
    storage: str,
    name: str = "features",
    *,
    missing: bool = False,
) -> Sample:
    """Return the valid vectors among collected rows, `most_sampled` of them at most.

    Parameters
    ----------
    rows : list of Row
        Rows with the columns `features.inputs`.
    features : Features
        The features column.
    dim : int
        The dimension of a valid vector.
    storage : {"dense", "sparse"}
        The form of the vectors.
    name : str, default="features"
        The name of the features column, for error messages.
    missing : bool, default=False
        Whether vectors may have missing values, which are NaN.

    Returns
    -------
    Sample
        The vectors.

    Raises
    ------
    ValueError
        If a vector is damaged, see `VectorBatch.malformed`.
    """
    rows = rows[: most_sampled(features, dim, storage)]
    arrays = {
        name: pa.array([row[i] for row in rows], to_arrow_type(each.type))
        for i, (name, each) in enumerate(features.inputs.items())
    }
    batch = read_vectors(arrays, name)
    valid = np.flatnonzero(batch.dims == dim)
    matrix = batch.sparse_rows(valid, dim) if storage == SPARSE else batch.dense(valid, dim)
    size = sum(array.nbytes for array in arrays.values()) / max(1, len(rows))
    return Sample(matrix[~invalid_rows(matrix, missing=missing)], size)
