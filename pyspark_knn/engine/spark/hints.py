"""What to do instead: the end of errors about things that are no DataFrame, and about columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pyspark.sql import types as T

_ONE_ROW = (
    "a single query is a DataFrame of one row: spark.createDataFrame([(Vectors.dense(values),)], "
    '["features"])'
)
_MANY_ROWS = 'spark.createDataFrame([(Vectors.dense(row),) for row in rows], ["features"])'


# --- what is no DataFrame ---------------------------------------------------------------------


def described(value: object) -> str:
    """What was given, in a few words."""
    if value is None:
        return "None"
    kind = type(value)
    package = kind.__module__.split(".")[0]
    if kind.__module__.startswith("pyspark.pandas"):
        package = "pyspark.pandas"
    return f"a {kind.__name__}" if package == "builtins" else f"a {package} {kind.__name__}"


def instead_of(value: object) -> str:
    """How to make a DataFrame of what was given in place of one."""
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
            "call toDF() on it, or, if it holds vectors, "
            'rdd.map(lambda vector: (vector,)).toDF(["features"])'
        )
    if _is_vector(value):
        return _ONE_ROW
    if isinstance(value, np.ndarray):
        return f"use {_MANY_ROWS}"
    if isinstance(value, (str, Path)):
        return "use spark.read.parquet(path) or spark.table(name)"
    if isinstance(value, Mapping):
        return "use spark.createDataFrame([row])"
    if isinstance(value, (list, tuple)):
        # A tuple is a row of columns, of numbers as well.
        vectors = bool(value) and not isinstance(value[0], tuple) and _is_vector(value[0])
        return f"use {_MANY_ROWS}" if vectors else "use spark.createDataFrame(rows, names)"
    return "use spark.createDataFrame(rows, names) or spark.read"


def _is_vector(value: object) -> bool:
    """Whether it is one vector of numbers: MLlib's, or a plain sequence."""
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
    """The stage that makes one vector of these columns."""
    inputs = list(names) or "[...]"
    return f"pyspark.ml.feature.VectorAssembler(inputCols={inputs}, outputCol={output!r})"


def missing(param: str, name: str, fields: list[T.StructField]) -> str:
    """What may help where there is no column `name`, which `param` names."""
    if param == "idCol" and any(field.name.startswith("mc2b$") for field in fields):
        return (
            ". OneVsRest keeps only the label, features and weight columns: fit the classifier "
            "without idCol, or without OneVsRest (it takes any number of classes itself)"
        )
    if param == "featuresCol" and any(isinstance(each.dataType, T.NumericType) for each in fields):
        return (
            f". If each feature is a column of numbers, make one vector of them: "
            f"{assembler(output=name)}"
        )
    return ""


def features(name: str, kind: T.DataType) -> str:
    """What makes vectors out of a features column of a wrong type."""
    name = _sql(name)
    if isinstance(kind, T.ArrayType):
        return _elements(name, kind.elementType)
    if isinstance(kind, (T.NumericType, T.BooleanType)):
        return (
            f"if each feature is a column, make one vector of them: {assembler(output='vector')}, "
            "and set featuresCol='vector'"
        )
    if isinstance(kind, T.BinaryType):
        return (
            "decode the bytes in a pandas_udf that returns array<float>, for example by "
            "numpy.frombuffer(value, dtype)"
        )
    if isinstance(kind, T.StringType):
        return (
            "encode categories with pyspark.ml.feature.StringIndexer and OneHotEncoder, text with "
            "Tokenizer and HashingTF; numbers that were read as text: cast them"
        )
    if (number := _time(kind, name)) is not None:
        return (
            f"make a number of it, {number}, and one vector of all features: "
            f"{assembler(output='vector')}"
        )
    if isinstance(kind, T.StructType):
        return f"make an array of the struct's numbers: array({name}.*)"
    return "pyspark.ml.feature.VectorAssembler makes one vector of several columns"


def _elements(name: str, kind: T.DataType) -> str:
    if isinstance(kind, T.BooleanType):
        return f"convert its elements: transform({name}, x -> int(x))"
    if isinstance(kind, T.StringType):
        return (
            f"numbers that were read as text: CAST({name} AS array<double>); words: "
            "pyspark.ml.feature.HashingTF, CountVectorizer or Word2Vec"
        )
    if isinstance(kind, T.BinaryType):
        return "decode its elements to numbers"
    if isinstance(kind, T.ArrayType):
        return f"make one array of its rows: flatten({name})"
    if (number := _time(kind, "x")) is not None:
        return f"convert its elements: transform({name}, x -> {number})"
    return f"make an array of numbers of it: transform({name}, x -> ...)"


def _sql(name: str) -> str:
    """The name of a column as Spark SQL takes it."""
    return name if name.isidentifier() else "`" + name.replace("`", "``") + "`"


def _time(kind: T.DataType, name: str) -> str | None:
    """A date or a timestamp as a number, in Spark SQL; None for other types."""
    if isinstance(kind, T.DateType):
        return f"unix_date({name})"
    if isinstance(kind, T.TimestampType):
        return f"unix_micros({name})"
    if isinstance(kind, T.TimestampNTZType):
        return f"unix_micros(CAST({name} AS timestamp))"
    return None


def number(name: str, kind: T.DataType, *, classes: bool) -> str:
    """What makes a number out of a label or a weight of a wrong type.

    Parameters
    ----------
    name : str
        The column.
    kind : DataType
        Its type.
    classes : bool
        Whether it holds the labels of a classifier.
    """
    name = _sql(name)
    if isinstance(kind, T.StringType):
        if classes:
            return "pyspark.ml.feature.StringIndexer makes labels of names"
        return f"cast it: CAST({name} AS double)"
    if isinstance(kind, T.BooleanType):
        return f"cast it: CAST({name} AS int)"
    if (time := _time(kind, name)) is not None:
        return f"make a number of it: {time}"
    if isinstance(kind, (T.ArrayType, T.UserDefinedType)):
        return "it holds one number for each item: for several targets, fit an estimator for each"
    return "cast it to a number"
