"""Adapters that run a function on Arrow arrays as an Arrow UDF or as a pandas UDF in a worker.

`batch_udf.batch_udf` chooses the kind of UDF. pandas is imported only in pandas UDFs, since it
takes some 40 MiB of memory in each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

BatchFunction = Callable[[Iterator[tuple[pa.Array, ...]]], Iterator[pa.Array]]
"""A function from batches, each with one array per column, to arrays with as many rows in total."""


def on_arrow(function: BatchFunction, batches: Iterator[Any]) -> Iterator[pa.Array]:
    """Apply a function to the batches of an Arrow UDF.

    Parameters
    ----------
    function : callable
        See `BatchFunction`.
    batches : iterator
        The batches as Spark passes them: tuples of Arrow arrays, or bare arrays of one column.

    Returns
    -------
    iterator of pyarrow.Array
        The results.
    """
    return function(map(_as_tuple, batches))


def on_pandas(
    function: BatchFunction, types: list[pa.DataType], batches: Iterator[Any]
) -> Iterator[pd.Series]:
    """Apply a function to the batches of a pandas UDF.

    Parameters
    ----------
    function : callable
        See `BatchFunction`.
    types : list of pyarrow.DataType
        The types of the columns.
    batches : iterator
        The batches as Spark passes them: tuples of Series, or bare Series of one column.

    Returns
    -------
    iterator of pandas.Series
        The results.
    """
    arrays = (tuple(map(_to_arrow, _as_tuple(columns), types)) for columns in batches)
    return map(_to_series, function(arrays))


def _as_tuple(columns: Any) -> tuple[Any, ...]:
    """Wrap a single column, which Spark passes without a tuple."""
    return columns if isinstance(columns, tuple) else (columns,)


def _to_arrow(series: pd.Series, kind: pa.DataType) -> pa.Array:
    """Convert a column of a pandas UDF, in which lists are objects and nulls are None or NaN."""
    if pa.types.is_list(kind):
        rows = series.tolist()
        if pa.types.is_integer(kind.value_type):
            rows = list(map(_integers, rows))
        return pa.array(rows, type=kind)
    return pa.array(series, type=kind, from_pandas=True)


def _integers(row: Any) -> Any:
    """Convert a list of integers, which Spark passes as floats if one of them is null."""
    if row is None or getattr(row, "dtype", None) != "float64":
        return row
    return [None if each != each else int(each) for each in row.tolist()]


def _to_series(array: pa.Array) -> pd.Series:
    """Convert a result for a pandas UDF: structs to dicts, lists to lists, without rounding."""
    import pandas as pd

    return pd.Series(array.to_pylist(), dtype=object)
