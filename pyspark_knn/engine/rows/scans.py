"""A workaround for UDFs that fail on the batches of a columnar scan."""

from __future__ import annotations

import uuid

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T


def as_rows(frame: DataFrame, inputs: list[Column]) -> tuple[DataFrame, list[Column], list[str]]:
    """Make Spark convert the batches of a columnar scan to rows before an Arrow UDF reads them.

    Since 4.3 Spark passes such batches to Arrow UDFs directly
    (``spark.sql.execution.arrow.pythonUDF.columnarInput.enabled``). That fails if any column, used
    or not, is of type void or of a user-defined type such as MLlib's vectors. A projection in
    between converts batches to rows. The UDF must read what the projection computes, or else the
    optimizer removes it. The size of the first input, an array, is cheap to compute, and tells
    whether it is null; `isNull` would be removed where the schema rules nulls out.

    Parameters
    ----------
    frame : DataFrame
        The input of the UDF.
    inputs : list of Column
        The columns of `frame` that the UDF reads, at least one.

    Returns
    -------
    frame : DataFrame
        The input, with one more column if it needs a projection.
    inputs : list of Column
        Columns of the returned DataFrame with the same values as the given ones.
    added : list of str
        The names of added columns, to be dropped afterwards.
    """
    if not _needs_rows(frame.schema):
        return frame, inputs, []
    name = f"knn_there_{uuid.uuid4().hex}"
    rows = frame.select("*", (F.size(inputs[0]) >= 0).alias(name))
    return rows, [F.when(F.col(name), inputs[0]), *inputs[1:]], [name]


def _needs_rows(kind: T.DataType) -> bool:
    if isinstance(kind, T.StructType):
        return any(_needs_rows(field.dataType) for field in kind.fields)
    if isinstance(kind, T.ArrayType):
        return _needs_rows(kind.elementType)
    if isinstance(kind, T.MapType):
        return _needs_rows(kind.keyType) or _needs_rows(kind.valueType)
    return isinstance(kind, (T.UserDefinedType, T.NullType))
