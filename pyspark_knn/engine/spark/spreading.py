"""Columns that say where rows go in a shuffle, and that say it again when a task is repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

_SEED = 42
"""Of the hash by which Spark's ``repartition`` picks a row's partition."""

_SALTS_AT_ONCE = 1 << 16


def spreading_keys(partitions: int) -> list[int]:
    """Ints that ``repartition(partitions, key)`` brings to the partitions 0, 1, 2 and so on.

    Hashed as they are, eight keys share five of eight partitions, and three cores do nothing.

    Parameters
    ----------
    partitions : int
        How many there are.

    Returns
    -------
    list of int
        As many keys, the first for partition 0.
    """
    keys = np.full(partitions, -1, np.int32)
    start = 0
    while (keys < 0).any():
        tried = np.arange(start, start + _SALTS_AT_ONCE, dtype=np.int32)
        place = spark_hash(tried).astype(np.int64) % partitions
        found, first = np.unique(place, return_index=True)
        new = keys[found] < 0
        keys[found[new]] = tried[first[new]]
        start += _SALTS_AT_ONCE
    return [int(key) for key in keys]


def spark_hash(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Spark's hash of ints: Murmur3_x86_32 (A. Appleby, public domain) of their four bytes."""
    with np.errstate(over="ignore"):
        mixed = _turned(values.astype(np.uint32) * np.uint32(0xCC9E2D51), 15)
        result = np.uint32(_SEED) ^ mixed * np.uint32(0x1B873593)
        result = _turned(result, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        result ^= np.uint32(4)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            result = (result ^ (result >> np.uint32(shift))) * np.uint32(factor)
    return result.view(np.int32)


def _turned(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))


def int_array(values: Sequence[int]) -> Column:
    """A constant array of ints that stays small in the plan, however long it is."""
    return F.split(F.lit(",".join(map(str, values))), ",").cast("array<int>")


def row_hash(values: list[tuple[Column, T.DataType]]) -> Column:
    """A hash of whole rows, whatever their types: rows of one hash are the same row twice.

    Parameters
    ----------
    values : list of (Column, DataType)
        The columns.
    """
    parts = [_hashable(value, kind) for value, kind in values]
    return F.xxhash64(*(part for part in parts if part is not None))


_OPAQUE = ("variant", "geometry", "geography")
"""Names of types that Spark cannot hash. Rows that differ in nothing else count as the same."""


def _hashable(value: Column, kind: T.DataType) -> Column | None:
    """`value` as something that Spark hashes: it refuses maps, at any depth."""
    if kind.typeName() in _OPAQUE:
        return None
    if not _needs_care(kind):
        return value
    if isinstance(kind, T.MapType):
        fields = [T.StructField("key", kind.keyType), T.StructField("value", kind.valueType)]
        return _hashable(F.map_entries(value), T.ArrayType(T.StructType(fields)))
    if isinstance(kind, T.ArrayType):
        return F.transform(value, lambda each: _always(_hashable(each, kind.elementType)))
    parts = [_hashable(value.getField(each.name), each.dataType) for each in _fields(kind)]
    return F.struct(*map(_always, parts))


def _always(value: Column | None) -> Column:
    return F.lit(0) if value is None else value


def _needs_care(kind: T.DataType) -> bool:
    if isinstance(kind, T.ArrayType):
        return _needs_care(kind.elementType)
    if isinstance(kind, T.StructType):
        return any(_needs_care(each.dataType) for each in kind.fields)
    return isinstance(kind, T.MapType) or kind.typeName() in _OPAQUE


def _fields(kind: T.DataType) -> list[T.StructField]:
    return kind.fields if isinstance(kind, T.StructType) else []
