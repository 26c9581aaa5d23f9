"""Every branch on a Spark version, and on classic Spark or Spark Connect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

# The names in the signatures below are looked up by Spark when it tells the kind of a UDF from its
# type hints, so they are needed at run time.
import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

Batches = Iterator[tuple[pa.Array, ...]]
# What it holds depends on the version of Spark, so no type checker knows it.
_FUNCTIONS: Any = F

BatchFunction = Callable[[Batches], Iterator[pa.Array]]


def is_connect(session: SparkSession) -> bool:
    """Whether `session` talks to a Spark Connect server (it then has no JVM and no context)."""
    return "connect" in type(session).__module__.split(".")


def session_of(dataset: DataFrame) -> SparkSession:
    """The session of `dataset`, which must be alive.

    Raises
    ------
    ValueError
        If the session was stopped.
    """
    session = dataset.sparkSession
    if not is_connect(session) and session.sparkContext._jsc is None:
        raise ValueError(
            "the Spark session of this DataFrame was stopped: create the DataFrame anew in the "
            "running session (the model itself can still be used there)"
        )
    return session


def is_local(session: SparkSession) -> bool:
    """Whether the executors are this machine's own threads, so that they see its files."""
    return bool(re.match(r"local(\[|$)", session.sparkContext.master or ""))


def has_arrow_udf() -> bool:
    """Whether Spark hands Arrow arrays to scalar functions (Spark 4.1 and later)."""
    return hasattr(_FUNCTIONS, "arrow_udf")


def metadata_session(session: SparkSession) -> Any:
    """What `DefaultParamsWriter` and `DefaultParamsReader` want: a context before Spark 4.0."""
    from pyspark import __version__

    return session if int(__version__.split(".")[0]) >= 4 else session.sparkContext


def batch_udf(
    function: BatchFunction, inputs: list[DataType], result: DataType
) -> Callable[..., Column]:
    """A scalar iterator UDF out of a function on batches of Arrow arrays.

    Parameters
    ----------
    function : callable
        Takes an iterator of tuples of Arrow arrays, one array a column, and yields Arrow arrays of
        type `result`, as many rows in all.
    inputs : list of DataType
        The Spark types of the columns.
    result : DataType
        The Spark type of the result.

    Returns
    -------
    callable
        Takes the columns, returns the result's column.
    """
    arrow_types = [to_arrow_type(each) for each in inputs]
    if has_arrow_udf():

        def on_arrow(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            return function(map(_as_tuple, batches))

        return cast("Callable[..., Column]", _FUNCTIONS.arrow_udf(on_arrow, result))

    def on_pandas(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        arrays = (tuple(map(_to_arrow, _as_tuple(columns), arrow_types)) for columns in batches)
        return map(_to_series, function(arrays))

    return cast("Callable[..., Column]", _FUNCTIONS.pandas_udf(on_pandas, result))


def _as_tuple(columns: Any) -> tuple[Any, ...]:
    """Spark hands a single column over bare."""
    return columns if isinstance(columns, tuple) else (columns,)


def _to_arrow(series: pd.Series, kind: pa.DataType) -> pa.Array:
    """An Arrow array out of a pandas UDF's column: lists are objects, nulls None or NaN."""
    if pa.types.is_list(kind):
        return pa.array(series.tolist(), type=kind)
    return pa.array(series, type=kind, from_pandas=True)


def _to_series(array: pa.Array) -> pd.Series:
    """A column as pandas UDFs must return it: structs as dicts, lists as lists, all exact."""
    return pd.Series(array.to_pylist(), dtype=object)
