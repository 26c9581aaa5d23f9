"""Queries that are scanned column by column, on their way to our functions."""

from __future__ import annotations

import uuid

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T


def as_rows(frame: DataFrame, inputs: list[Column]) -> tuple[DataFrame, list[Column], list[str]]:
    """Let Spark turn the batches of a columnar scan into rows before a Python function gets them.

    Since 4.3 Spark hands such batches to Arrow functions directly
    (``spark.sql.execution.arrow.pythonUDF.columnarInput.enabled``). That fails where any column,
    used or not, is of a user-defined type, as MLlib's vectors are, or of type void. A projection in
    between makes rows. It must compute something that the function reads, or the optimizer removes
    it, and something cheap: here, whether the first input is null.

    Parameters
    ----------
    frame : DataFrame
        Whatever is read.
    inputs : list of Column
        What the function reads of it.

    Returns
    -------
    frame : DataFrame
        With one more column, if need be.
    inputs : list of Column
        With the same values as the given ones.
    added : list of str
        Columns to drop afterwards.
    """
    if not _needs_rows(frame.schema):
        return frame, inputs, []
    name = f"knn_null_{uuid.uuid4().hex}"
    rows = frame.select("*", inputs[0].isNull().alias(name))
    return rows, [F.when(~F.col(name), inputs[0]), *inputs[1:]], [name]


def _needs_rows(kind: T.DataType) -> bool:
    if isinstance(kind, T.StructType):
        return any(_needs_rows(field.dataType) for field in kind.fields)
    if isinstance(kind, T.ArrayType):
        return _needs_rows(kind.elementType)
    if isinstance(kind, T.MapType):
        return _needs_rows(kind.keyType) or _needs_rows(kind.valueType)
    return isinstance(kind, (T.UserDefinedType, T.NullType))
