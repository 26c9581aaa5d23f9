"""Every branch on a Spark version, and on classic Spark or Spark Connect."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

# The names in the signatures below are looked up by Spark when it tells the kind of a UDF from its
# type hints, so they are needed at run time.
import pandas as pd
import pyarrow as pa
from pyspark.errors import PySparkException
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


def parallelism(session: SparkSession) -> int:
    """Tasks that the cluster runs at a time, as far as it tells now.

    On Spark Connect this is a job, but a tiny one: for the use of fit and load.
    """
    if not is_connect(session):
        return max(1, session.sparkContext.defaultParallelism)
    # A range without a number of partitions has as many as there are cores.
    whole = session.range(1 << 20).select(F.spark_partition_id().alias("partition"))
    return int(whole.agg(F.count_distinct("partition")).collect()[0][0])


def is_alive(session: SparkSession) -> bool:
    """Whether `session` still takes commands."""
    if is_connect(session):
        return not getattr(session, "is_stopped", False)
    return session.sparkContext._jsc is not None


def same_cluster(one: SparkSession, other: SparkSession) -> bool:
    """Whether what is persisted in `one` can be read in `other`."""
    if is_connect(one) or is_connect(other):
        return one is other
    return is_alive(one) and one.sparkContext is other.sparkContext


def persist(frame: DataFrame) -> DataFrame:
    """Persist `frame` in memory and on disk; where the server refuses that, warn of the cost."""
    try:
        return frame.persist()
    except PySparkException as error:
        warnings.warn(
            "this Spark refuses to persist a DataFrame, so all of it is computed again each time "
            f"that it is used ({str(error).strip().splitlines()[0]})",
            UserWarning,
            stacklevel=2,
        )
        return frame


def unpersist(frame: DataFrame) -> None:
    """Free what `persist` keeps; nothing happens where the session is gone."""
    if is_alive(frame.sparkSession):
        frame.unpersist()


@contextlib.contextmanager
def described(session: SparkSession, text: str) -> Iterator[None]:
    """Show `text` beside the jobs of this block in Spark's UI; Spark Connect cannot."""
    if is_connect(session):
        yield
        return
    context, name = session.sparkContext, "spark.job.description"
    before = context.getLocalProperty(name)
    context.setLocalProperty(name, text)
    try:
        yield
    finally:
        context.setLocalProperty(name, cast("str", before))


def has_arrow_udf() -> bool:
    """Whether Spark hands Arrow arrays to scalar functions (Spark 4.1 and later)."""
    return hasattr(_FUNCTIONS, "arrow_udf")


def metadata_session(session: SparkSession) -> Any:
    """What `DefaultParamsWriter` and `DefaultParamsReader` want: a context before Spark 4.0."""
    from pyspark import __version__

    return session if int(__version__.split(".")[0]) >= 4 else session.sparkContext


def batch_udf(
    function: BatchFunction,
    inputs: list[DataType],
    result: DataType,
    *,
    deterministic: bool = True,
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
    deterministic : bool, default=True
        Whether a row's result depends on that row alone, so that Spark may leave rows out.

    Returns
    -------
    callable
        Takes the columns, returns the result's column.
    """
    arrow_types = [to_arrow_type(each) for each in inputs]
    if has_arrow_udf():

        def on_arrow(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            return function(map(_as_tuple, batches))

        return _finished(_FUNCTIONS.arrow_udf(on_arrow, result), deterministic)

    def on_pandas(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        arrays = (tuple(map(_to_arrow, _as_tuple(columns), arrow_types)) for columns in batches)
        return map(_to_series, function(arrays))

    return _finished(_FUNCTIONS.pandas_udf(on_pandas, result), deterministic)


def _finished(udf: Any, deterministic: bool) -> Callable[..., Column]:
    return cast("Callable[..., Column]", udf if deterministic else udf.asNondeterministic())


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
