"""What our scalar functions do in a worker, for either kind of UDF that Spark has.

`compat.batch_udf` picks the kind. pandas is imported only where it is needed: it takes some 40 MiB
of each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

BatchFunction = Callable[[Iterator[tuple[pa.Array, ...]]], Iterator[pa.Array]]


def on_arrow(function: BatchFunction, batches: Iterator[Any]) -> Iterator[pa.Array]:
    """Apply `function` to batches as an Arrow UDF gets them."""
    return function(map(_as_tuple, batches))


def on_pandas(
    function: BatchFunction, types: list[pa.DataType], batches: Iterator[Any]
) -> Iterator[pd.Series]:
    """Apply `function` to batches as a pandas UDF gets them; `types` are those of its arrays."""
    arrays = (tuple(map(_to_arrow, _as_tuple(columns), types)) for columns in batches)
    return map(_to_series, function(arrays))


def _as_tuple(columns: Any) -> tuple[Any, ...]:
    """Spark hands a single column over bare."""
    return columns if isinstance(columns, tuple) else (columns,)


def _to_arrow(series: pd.Series, kind: pa.DataType) -> pa.Array:
    """An Arrow array out of a pandas UDF's column: lists are objects, nulls None or NaN."""
    if pa.types.is_list(kind):
        rows = series.tolist()
        if pa.types.is_integer(kind.value_type):
            rows = list(map(_integers, rows))
        return pa.array(rows, type=kind)
    return pa.array(series, type=kind, from_pandas=True)


def _integers(row: Any) -> Any:
    """An array of integers, which pandas has as floats where one of them is null."""
    if row is None or getattr(row, "dtype", None) != "float64":
        return row
    return [None if each != each else int(each) for each in row.tolist()]


def _to_series(array: pa.Array) -> pd.Series:
    """A column as pandas UDFs must return it: structs as dicts, lists as lists, all exact."""
    import pandas as pd

    return pd.Series(array.to_pylist(), dtype=object)
