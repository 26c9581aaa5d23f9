"""Even, repeatable repartitioning: keys for shuffles, and hashes of whole rows.

A retried task must send each of its rows to the same partition again, so nothing in this module
depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

_SPARK_HASH_SEED = 42
"""The seed of the MurmurHash3 by which Spark's ``repartition`` chooses the partition of a row."""

_KEYS_PER_STEP = 1 << 16
"""The number of candidate keys that `spreading_keys` hashes at a time."""


def repartition_evenly(frame: DataFrame, partitions: int, number: str) -> DataFrame:
    """Repartition `frame` so that row number n is in partition n modulo `partitions`.

    ``frame.repartition(partitions, number)`` hashes the numbers. For small integers, such as the
    numbers of shards, that leaves partitions empty while others get several numbers.

    Parameters
    ----------
    frame : DataFrame
        The rows to repartition.
    partitions : int
        The number of partitions.
    number : str
        The name of an integer column of `frame`, without nulls. Rows with equal numbers go to the
        same partition.

    Returns
    -------
    DataFrame
        The same rows and columns in `partitions` partitions.
    """
    keys = int_array_sql(spreading_keys(partitions))
    key = F.expr(f"element_at({keys}, pmod({number}, {partitions}) + 1)")
    return frame.repartition(partitions, key)


def spreading_keys(partitions: int) -> list[int]:
    """Return integers that ``repartition(partitions, key)`` sends to partitions 0, 1, 2 and so on.

    Without them, eight consecutive integers share five of eight partitions, and three cores are
    idle.

    Parameters
    ----------
    partitions : int
        The number of partitions.

    Returns
    -------
    list of int, of length `partitions`
        The key of each partition, in the order of the partitions.
    """
    from sklearn.utils import murmurhash3_32  # not at the top: it takes a second to import

    keys = np.full(partitions, -1, np.int32)
    start = 0
    while (keys < 0).any():
        tried = np.arange(start, start + _KEYS_PER_STEP, dtype=np.int32)
        hashes = murmurhash3_32(tried, seed=_SPARK_HASH_SEED)
        found, first = np.unique(hashes.astype(np.int64) % partitions, return_index=True)
        new = keys[found] < 0
        keys[found[new]] = tried[first[new]]
        start += _KEYS_PER_STEP
    return [int(key) for key in keys]


def int_array(values: Sequence[int]) -> Column:
    """Return a constant column of type array<int> that is one literal in the plan.

    Parameters
    ----------
    values : sequence of int
        The elements.

    Returns
    -------
    Column
        The array. An array of literals would add a node to the plan for each element.
    """
    return F.expr(int_array_sql(values))


def int_array_sql(values: Sequence[int]) -> str:
    """Return `int_array` as an SQL expression."""
    return f"CAST(split('{','.join(map(str, values))}', ',') AS array<int>)"


def row_hash(values: list[tuple[Column, T.DataType]]) -> Column:
    """Return a hash of whole rows, of columns of any types.

    Parameters
    ----------
    values : list of (Column, DataType)
        The columns and their types.

    Returns
    -------
    Column
        A 64-bit hash, equal for equal rows. Values of a type in `_UNHASHABLE` are ignored, also
        inside of arrays, maps and structs: rows that differ in nothing else have equal hashes.
    """
    parts = [_hashable(value, kind) for value, kind in values]
    return F.xxhash64(*(part for part in parts if part is not None))


_UNHASHABLE = ("variant", "geometry", "geography")
"""The names of types that Spark cannot hash."""


def _hashable(value: Column, kind: T.DataType) -> Column | None:
    """Convert `value` to a type that Spark can hash, that is, without maps at any depth.

    Returns None if nothing of the value can be hashed.
    """
    if kind.typeName() in _UNHASHABLE:
        return None
    if not _contains_unhashable(kind):
        return value
    if isinstance(kind, T.MapType):
        fields = [T.StructField("key", kind.keyType), T.StructField("value", kind.valueType)]
        return _hashable(F.map_entries(value), T.ArrayType(T.StructType(fields)))
    if isinstance(kind, T.ArrayType):
        return F.transform(value, lambda each: _or_constant(_hashable(each, kind.elementType)))
    parts = [_hashable(value.getField(each.name), each.dataType) for each in _fields(kind)]
    return F.struct(*map(_or_constant, parts))


def _or_constant(value: Column | None) -> Column:
    return F.lit(0) if value is None else value


def _contains_unhashable(kind: T.DataType) -> bool:
    if isinstance(kind, T.ArrayType):
        return _contains_unhashable(kind.elementType)
    if isinstance(kind, T.StructType):
        return any(_contains_unhashable(each.dataType) for each in kind.fields)
    return isinstance(kind, T.MapType) or kind.typeName() in _UNHASHABLE


def _fields(kind: T.DataType) -> list[T.StructField]:
    return kind.fields if isinstance(kind, T.StructType) else []
