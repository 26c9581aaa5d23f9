"""Scalar UDFs from functions on batches of Arrow arrays, of the kind that this Spark has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import DataType

from pyspark_knn.engine.ship import udf
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.spark import compat

_FUNCTIONS: Any = F
"""Untyped, since the functions that exist depend on the version of Spark."""


def batch_udf(
    function: udf.BatchFunction,
    inputs: list[DataType],
    result: DataType,
    *,
    deterministic: bool = True,
) -> Callable[..., Column]:
    """Create a scalar iterator UDF from a function on batches of Arrow arrays.

    Parameters
    ----------
    function : callable
        Takes an iterator of tuples of Arrow arrays, one array per column, and yields Arrow arrays
        of type `result`, with the same number of rows in total.
    inputs : list of DataType
        The Spark types of the columns.
    result : DataType
        The Spark type of the result.
    deterministic : bool, default=True
        Whether the result for a row depends on that row alone, so that Spark may filter rows
        before the UDF and may call it several times.

    Returns
    -------
    callable
        Takes the input columns and returns the result column.
    """
    # Spark reads the kind of the UDF from the type hints. Neither function may refer to a name of
    # this package: they are pickled by value, and must load in a worker that lacks the package.
    if compat.has_arrow_udf():
        run = guarded(functools.partial(udf.on_arrow, function))

        def on_arrow(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            return run(batches)

        return _finished(_FUNCTIONS.arrow_udf(on_arrow, result), deterministic)

    # Before Spark 4.1 scalar UDFs get pandas Series only.
    import pandas as pd

    arrow_types = [to_arrow_type(each) for each in inputs]
    run = guarded(functools.partial(udf.on_pandas, function, arrow_types))

    def on_pandas(batches: Any) -> Any:
        return run(batches)

    on_pandas.__annotations__ = {
        "batches": Iterator[tuple[pd.Series, ...]],
        "return": Iterator[pd.Series],
    }
    return _finished(_FUNCTIONS.pandas_udf(on_pandas, result), deterministic)


def _finished(made: Any, deterministic: bool) -> Callable[..., Column]:
    return cast("Callable[..., Column]", made if deterministic else made.asNondeterministic())
