"""The range of the ids in a shard, which shows that an id is not in it. Independent of Spark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from pyspark_knn.engine.shards.frames import ShardSource

_LIMIT = 1 << 63
"""Integers are at least minus this number, and less than it."""

_LONGEST = 1024
"""The largest number of bytes of an id in a range, which is sent to the driver."""


def range_of(ids: pa.Array) -> list[bytes] | None:
    """Return the smallest and the largest id, as bytes whose order is that of the ids.

    Integers, and so dates and timestamps, become 8 bytes whatever their width, strings their UTF-8:
    Arrow, which sorts the ids, and Spark compare strings by these bytes.

    Parameters
    ----------
    ids : pyarrow.Array
        At least one id in the form of Python, in any order, without nulls.

    Returns
    -------
    list of bytes or None
        Both; None if one is longer than `_LONGEST`, or if ids are of another type. Floats, for
        example, have a NaN and two zeros.
    """
    kind = ids.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        ids = ids.cast(pa.large_binary())
    elif not (pa.types.is_integer(kind) or pa.types.is_binary(kind)):
        return None
    ends = pc.min_max(ids).as_py()
    both = ends["min"], ends["max"]
    if pa.types.is_integer(kind):
        return [(each + _LIMIT).to_bytes(8, "big") for each in both]
    return list(both) if max(map(len, both)) <= _LONGEST else None


def may_overlap(
    sources: Sequence[ShardSource], ranges: Iterable[Sequence[bytes] | None]
) -> list[ShardSource]:
    """Return only those shards that may contain an id of some ranges.

    Parameters
    ----------
    sources : sequence of ShardSource
        The shards.
    ranges : iterable of sequence of bytes, or None
        Ranges as from `range_of`; None for ids that may be any.
    """
    wanted = list(ranges)
    others = {
        shard.shard
        for source in sources
        for shard in source.shards
        if not any(_overlap(shard.ids, each) for each in wanted)
    }
    kept = [source.without(others) for source in sources]
    return [source for source in kept if source.shards]


def _overlap(one: Sequence[bytes] | None, other: Sequence[bytes] | None) -> bool:
    return one is None or other is None or (one[0] <= other[1] and other[0] <= one[1])
