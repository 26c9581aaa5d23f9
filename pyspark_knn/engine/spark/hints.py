"""Remedies in error messages, for arguments that are not DataFrames and columns of a wrong type.

Each hint follows a colon or a semicolon within a message, so it starts in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pyspark.sql import types as T

_ONE_ROW = 'for a single query, use spark.createDataFrame([(Vectors.dense(values),)], ["features"])'
_MANY_ROWS = 'use spark.createDataFrame([(Vectors.dense(row),) for row in rows], ["features"])'


# --- arguments that are not DataFrames --------------------------------------------------------


def described(value: object) -> str:
    """Return the kind of a value for an error message, such as "a pandas DataFrame".

    Parameters
    ----------
    value : object
        The value that was given.

    Returns
    -------
    str
        The name of its class, after an article and, unless it is a built-in, its package.
    """
    if value is None:
        return "None"
    kind = type(value)
    package = kind.__module__.split(".")[0]
    if kind.__module__.startswith("pyspark.pandas"):
        package = "pyspark.pandas"
    name = kind.__name__ if package == "builtins" else f"{package} {kind.__name__}"
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def instead_of(value: object) -> str:
    """Return how to create a Spark DataFrame from a value that was given in place of one.

    Parameters
    ----------
    value : object
        Anything but a Spark DataFrame.

    Returns
    -------
    str
        The hint.
    """
    module, kind = type(value).__module__, type(value).__name__
    if module.startswith("pyspark.pandas"):
        return "call to_spark() on it" if kind == "DataFrame" else "call to_frame().to_spark()"
    if module.startswith("pandas"):
        frame = "frame" if kind == "DataFrame" else "series.to_frame()"
        return f"use spark.createDataFrame({frame})"
    if module.split(".")[0] in ("polars", "pyarrow"):
        return "use spark.createDataFrame(table.to_pandas())"
    if kind in ("RDD", "PipelinedRDD"):
        return (
            "call toDF() on it or, if it contains vectors, "
            'rdd.map(lambda vector: (vector,)).toDF(["features"])'
        )
    if _is_vector(value):
        return _ONE_ROW
    if isinstance(value, np.ndarray):
        return _MANY_ROWS
    if isinstance(value, (str, Path)):
        return "use spark.read.parquet(path) or spark.table(name)"
    if isinstance(value, Mapping):
        return "use spark.createDataFrame([row])"
    if isinstance(value, (list, tuple)):
        # A tuple is a row with several columns, even if all of them are numbers.
        vectors = bool(value) and not isinstance(value[0], tuple) and _is_vector(value[0])
        return _MANY_ROWS if vectors else "use spark.createDataFrame(rows, names)"
    return "use spark.createDataFrame(rows, names) or spark.read"


def _is_vector(value: object) -> bool:
    """Whether a value is a single vector: one of MLlib's, or a plain sequence of numbers."""
    if type(value).__module__ == "pyspark.ml.linalg":
        return "Vector" in type(value).__name__
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != object
    if not isinstance(value, (list, tuple, range)):
        return False
    return len(value) > 0 and all(_is_number(each) for each in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


# --- columns ----------------------------------------------------------------------------------


def assembler(names: Iterable[str] = (), output: str = "features") -> str:
    """Return the code of a VectorAssembler that combines columns into one vector.

    Parameters
    ----------
    names : iterable of str
        The names of the input columns; an ellipsis stands for them if there are none.
    output : str
        The name of the output column.

    Returns
    -------
    str
        The expression.
    """
    inputs = list(names) or "[...]"
    return f"pyspark.ml.feature.VectorAssembler(inputCols={inputs}, outputCol={output!r})"


def missing(param: str, name: str, fields: list[T.StructField]) -> str:
    """Return a hint for a column that does not exist.

    Parameters
    ----------
    param : str
        The Param that names the column.
    name : str
        The name of the column.
    fields : list of StructField
        The columns that do exist.

    Returns
    -------
    str
        The end of the error message, after its last word: a full stop and a sentence, or nothing.
    """
    if param == "idCol" and any(field.name.startswith("mc2b$") for field in fields):
        return (
            ". OneVsRest passes only the label, features and weight columns to its classifier. "
            "Fit KNNClassifier without idCol or, since it supports any number of classes itself, "
            "without OneVsRest"
        )
    found = _in_a_struct(name, fields)
    if found:
        return found
    if param == "featuresCol" and any(isinstance(each.dataType, T.NumericType) for each in fields):
        return (
            ". If each feature is a numeric column, combine the columns into one vector with "
            f"{assembler(output=name)}"
        )
    return ""


def _in_a_struct(name: str, fields: list[T.StructField]) -> str:
    """Return how to read `name` where it is a field of a struct."""
    struct, _, field = name.partition(".")
    inside = {
        each.name: each.dataType for each in fields if isinstance(each.dataType, T.StructType)
    }
    if field not in inside.get(struct, T.StructType()).names:
        return ""
    return (
        f". {struct!r} is a struct. Select its field first: "
        f"df = df.withColumn({field!r}, df[{struct!r}][{field!r}])"
    )


def features(name: str, kind: T.DataType) -> str:
    """Return how to convert a features column of a wrong type.

    Parameters
    ----------
    name : str
        The name of the column.
    kind : DataType
        Its type, neither vectors nor arrays of numbers.

    Returns
    -------
    str
        The hint.
    """
    name = _sql(name)
    if isinstance(kind, T.ArrayType):
        return _elements(name, kind.elementType)
    if isinstance(kind, (T.NumericType, T.BooleanType)):
        return (
            "if each feature is a column, combine the columns into one vector with "
            f"{assembler(output='vector')}, and set featuresCol='vector'"
        )
    if isinstance(kind, T.BinaryType):
        return (
            "decode the bytes in a pandas_udf that returns array<float>, for example with "
            "numpy.frombuffer(value, dtype)"
        )
    if isinstance(kind, T.StringType):
        return (
            "encode categories with pyspark.ml.feature.StringIndexer and OneHotEncoder, and text "
            "with Tokenizer and HashingTF; cast numbers that were read as strings"
        )
    if (number := _time(kind, name)) is not None:
        return (
            f"convert it to a number with {number}, and combine all features into one vector with "
            f"{assembler(output='vector')}"
        )
    if isinstance(kind, T.StructType):
        return f"convert a struct of numbers to an array: array({name}.*)"
    return "combine several columns into one vector with pyspark.ml.feature.VectorAssembler"


def _elements(name: str, kind: T.DataType) -> str:
    if isinstance(kind, T.BooleanType):
        return f"convert its elements to numbers: transform({name}, x -> int(x))"
    if isinstance(kind, T.StringType):
        return (
            f"for numbers that were read as strings, use CAST({name} AS array<double>); for words, "
            "use pyspark.ml.feature.HashingTF, CountVectorizer or Word2Vec"
        )
    if isinstance(kind, T.BinaryType):
        return "decode its elements to numbers"
    if isinstance(kind, T.ArrayType):
        return f"concatenate the nested arrays: flatten({name})"
    number = _time(kind, "x") or "..."
    return f"convert its elements to numbers: transform({name}, x -> {number})"


def _sql(name: str) -> str:
    """Return the name of a column in Spark SQL, in backticks if it needs them."""
    return name if name.isidentifier() else "`" + name.replace("`", "``") + "`"


def _time(kind: T.DataType, name: str) -> str | None:
    """Return the expression that converts a date or timestamp to a number, or None."""
    if isinstance(kind, T.DateType):
        return f"unix_date({name})"
    if isinstance(kind, T.TimestampType):
        return f"unix_micros({name})"
    if isinstance(kind, T.TimestampNTZType):
        return f"unix_micros(CAST({name} AS timestamp))"
    return None


def number(name: str, kind: T.DataType, *, classes: bool) -> str:
    """Return how to convert a label or weight column that is not numeric.

    Parameters
    ----------
    name : str
        The name of the column.
    kind : DataType
        Its type.
    classes : bool
        Whether it contains the labels of a classifier.

    Returns
    -------
    str
        The hint.
    """
    name = _sql(name)
    if isinstance(kind, T.StringType):
        if classes:
            return "convert the names of classes to labels with pyspark.ml.feature.StringIndexer"
        return f"cast it: CAST({name} AS double)"
    if isinstance(kind, T.BooleanType):
        return f"cast it: CAST({name} AS int)"
    if (time := _time(kind, name)) is not None:
        return f"convert it to a number: {time}"
    if isinstance(kind, (T.ArrayType, T.UserDefinedType)):
        return "only one number per item is supported; for several targets, fit one estimator each"
    return "cast it to a numeric type"
