"""The Spark jobs that build shards, and that find ids in them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from pyspark_knn.engine.fit.chunks import CHANGED
from pyspark_knn.engine.rows.columns import struct_type
from pyspark_knn.engine.shards.build import PIECE_SCHEMA, ShardRequest, build_shards, split_chunks
from pyspark_knn.engine.shards.frames import ShardSource, SharedFrame, union_of
from pyspark_knn.engine.shards.id_ranges import may_overlap, range_of
from pyspark_knn.engine.shards.layout import ShardSeries
from pyspark_knn.engine.shards.sizing import enough_tasks
from pyspark_knn.engine.shards.updating import (
    FOUND_SCHEMA,
    RemovalRequest,
    find_ids,
    read_ids,
    remove_items,
)
from pyspark_knn.engine.ship.bundle import read_bundle
from pyspark_knn.engine.ship.guard import guarded
from pyspark_knn.engine.ship.shard_rows import (
    HEAD_BYTES,
    SHARD_COLUMNS,
    SHARD_FIELDS,
    SHARD_SCHEMA,
    Shard,
    head_parts,
    summary_of,
)
from pyspark_knn.engine.spark import compat
from pyspark_knn.engine.spark.caching import persisted
from pyspark_knn.engine.spark.spreading import repartition_evenly

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.fit.packed import PackedItems
    from pyspark_knn.engine.fit.source import ItemSource
    from pyspark_knn.engine.shards.restoring import SavedShards
    from pyspark_knn.index.base import IndexSpec

logger = logging.getLogger(__name__)

_HEAD = "substring(bytes, 1, head)"
"""The head of a shard, if it has a single part."""

_FETCHED_IDS = 1 << 20
"""Up to so many new ids are fetched to the driver and sent to the tasks that look for them, which
takes a fifth of the time of a join."""


@dataclass(frozen=True)
class ShardTraits:
    """What all shards of an index have in common.

    Attributes
    ----------
    source : ItemSource
        What was read of the items.
    num_features : int
        The dimension of the vectors.
    storage : {"dense", "sparse"}
        How the vectors are stored.
    dtype : numpy dtype
        The type of the vectors, float32 or float64; those of some shards may be narrower.
    cores : int
        The number of tasks that the cluster runs at a time.
    nbytes : int
        The size of the vectors in bytes.
    num_shards : int
        The number of shards of a fit of these items, the empty ones included.
    shard_bytes : int
        The default for the largest vectors of a shard, see `sizing.shard_bytes_of`.
    """

    source: ItemSource
    num_features: int
    storage: str
    dtype: np.dtype[np.floating]
    cores: int
    nbytes: int
    num_shards: int
    shard_bytes: int


class BuiltSeries(NamedTuple):
    """The shards of a fit or of an append.

    Attributes
    ----------
    source : ShardSource
        The shards that have items.
    ids : pyarrow.Array or None
        The distinct ids of appended items, if they are few.
    """

    source: ShardSource
    ids: pa.Array | None


def build_series(
    packed: PackedItems,
    spec: IndexSpec,
    traits: ShardTraits,
    series: ShardSeries,
    position: int = 0,
    saved: SavedShards | None = None,
) -> BuiltSeries:
    """Divide packed items into shards, and build the index of each on the executors.

    Parameters
    ----------
    packed : PackedItems
        The items.
    spec : IndexSpec
        The index of each shard.
    traits : ShardTraits
        What the shards have in common with those of other series.
    series : ShardSeries
        The shards.
    position : int, default=0
        The position of the first item, if items have no ids.
    saved : SavedShards, optional
        The structures of approximate shards, of a model that is loaded.

    Returns
    -------
    BuiltSeries
        The shards that have items.
    """
    source = packed.source
    request = ShardRequest(
        dim=packed.num_features,
        dtype=packed.dtype,
        num_shards=series.count,
        first=series.first,
        order=tuple(source.item_columns),
        has_ids=bool(source.sort_by),
        chunks=_chunk_table(packed, position),
        spec=spec,
        storage=traits.storage,
        assignment=series.assignment,
        keys=tuple(source.key_types),
        saved_at="" if saved is None else saved.path,
    )
    tasks = enough_tasks(packed.nbytes(traits.storage), traits.cores, traits.shard_bytes)
    built = _built(packed, request, min(series.count, tasks), saved)
    session = packed.frame.sparkSession
    with (
        compat.described(session, f"pyspark_knn: build {series.count} shards ({spec.algorithm})"),
        persisted(built) as frame,
    ):
        # Ids are fetched with the summaries of shards: another job would take as long as both.
        few = series.first > 0 and packed.num_items <= _FETCHED_IDS
        few = few and source.id_type is not None
        shards, ids = summaries_of(frame, with_ids=few)
        if sum(shard.rows for shard in shards) != packed.num_items:
            what = "the rows in the shards differ from the rows counted before"
            raise RuntimeError(CHANGED.format(what=what))
    logger.info("built %d shards of %d items", len(shards), packed.num_items)
    return BuiltSeries(ShardSource(SharedFrame(frame), shards), ids)


def count_duplicates(built: BuiltSeries, series: ShardSeries, id_type: T.DataType | None) -> int:
    """Return how many items of a series have the same id as an item before them.

    Items that are assigned by their ids are counted in each shard. Otherwise equal ids may be in
    several shards, and a job reads the ids of all of them.

    Parameters
    ----------
    built : BuiltSeries
        The shards.
    series : ShardSeries
        How items were assigned to them.
    id_type : DataType or None
        The type of the ids in Python; None if items have no ids.
    """
    if series.assignment is None or id_type is None:
        return sum(shard.duplicates for shard in built.source.shards)
    count = sum(shard.rows for shard in built.source.shards)
    if built.ids is not None:
        return count - len(built.ids)
    distinct = _ids([built.source], id_type).distinct()
    with compat.described(distinct.sparkSession, "pyspark_knn: count distinct ids"):
        return count - distinct.count()


def count_common_ids(old: Sequence[ShardSource], new: BuiltSeries, id_type: T.DataType) -> int:
    """Return how many distinct ids of `new` occur in `old`.

    Only the ids of shards are read, and only of those whose range of ids has some in common with
    the new ones. So there is no job if new ids come after all old ones.

    Parameters
    ----------
    old : sequence of ShardSource
        Shards.
    new : BuiltSeries
        Other shards.
    id_type : DataType
        The type of the ids in Python.
    """
    if new.ids is not None:
        return find_wanted(old, new.ids)[1]
    old = may_overlap(old, [shard.ids for shard in new.source.shards])
    if not old:
        return 0
    wanted = _ids([new.source], id_type).distinct()
    common = _ids(old, id_type).join(wanted, "id", "left_semi").distinct()
    with compat.described(common.sparkSession, "pyspark_knn: count the ids that are known"):
        return common.count()


def find_wanted(sources: Sequence[ShardSource], wanted: pa.Array) -> tuple[dict[int, int], int]:
    """Find items by their ids; see `count_common_ids` for what is read.

    Parameters
    ----------
    sources : sequence of ShardSource
        The shards.
    wanted : pyarrow.Array
        Distinct ids in the form of Python.

    Returns
    -------
    hits : dict of int to int
        The shards that have items with such ids, and the number of these items in each.
    distinct : int
        The number of these ids that an item has.
    """
    sources = may_overlap(sources, [range_of(wanted)]) if len(wanted) else []
    if not sources:
        return {}, 0
    run = guarded(functools.partial(find_ids, _digests(sources), wanted))
    found = _heads(sources).mapInArrow(run, from_arrow_schema(FOUND_SCHEMA))
    with compat.described(found.sparkSession, "pyspark_knn: find ids in shards"):
        rows = found.collect()
    which = [np.frombuffer(row.wanted, np.int64) for row in rows]
    distinct = len(np.unique(np.concatenate(which))) if which else 0
    return {row.shard: row.rows for row in rows}, distinct


def build_without(
    sources: Sequence[ShardSource], request: RemovalRequest, hits: Mapping[int, int]
) -> ShardSource | None:
    """Build shards again without some items, from their own rows.

    Parameters
    ----------
    sources : sequence of ShardSource
        The shards.
    request : RemovalRequest
        What to remove.
    hits : mapping of int to int
        The shards with such items, and the number of these items in each.

    Returns
    -------
    ShardSource or None
        The shards of `hits`, with the same numbers; None if all of them are empty now.
    """
    known = {shard.shard: shard for source in sources for shard in source.shards}
    rest = {number: known[number].rows - many for number, many in hits.items()}
    others = {number for number in known if rest.get(number, 0) == 0}
    left = [source.without(others) for source in sources]
    left = [source for source in left if source.shards]
    if not left:
        return None
    run = guarded(functools.partial(remove_items, request, _digests(left)))
    built = union_of(left).select(*SHARD_COLUMNS).mapInArrow(run, from_arrow_schema(SHARD_SCHEMA))
    title = f"pyspark_knn: build {sum(map(bool, rest.values()))} shards without some items"
    with compat.described(built.sparkSession, title), persisted(built) as frame:
        shards, _ = summaries_of(frame)
        if {shard.shard: shard.rows for shard in shards} != {n: r for n, r in rest.items() if r}:
            raise RuntimeError(CHANGED.format(what="the rows in rebuilt shards differ"))
    return ShardSource(SharedFrame(frame), shards)


def _digests(sources: Sequence[ShardSource]) -> dict[int, str]:
    return {shard.shard: shard.digest for source in sources for shard in source.shards}


def _ids(sources: Sequence[ShardSource], id_type: T.DataType) -> DataFrame:
    """Return the ids of all items of some shards."""
    run = guarded(functools.partial(read_ids, _digests(sources)))
    return _heads(sources).mapInArrow(run, struct_type({"id": id_type}))


def _heads(sources: Sequence[ShardSource]) -> DataFrame:
    """Return the rows that contain the heads of shards. Spark does not decompress the others."""
    parts = head_parts([shard for source in sources for shard in source.shards])
    return union_of(sources).where(F.col("part") < parts).select(*SHARD_COLUMNS)


def _built(
    packed: PackedItems, request: ShardRequest, partitions: int, saved: SavedShards | None
) -> DataFrame:
    """Return the rows of the shards, which are built when they are first read."""
    split = guarded(functools.partial(split_chunks, request))
    build = guarded(functools.partial(build_shards, request))
    pieces = packed.frame.mapInArrow(split, from_arrow_schema(PIECE_SCHEMA))
    if saved is not None:
        pieces = pieces.unionByName(saved.pieces(request.num_shards), allowMissingColumns=True)
    # Also of a single shard: packed items are numbered by the partitions of their own stage.
    pieces = repartition_evenly(pieces, partitions, "shard").sortWithinPartitions("shard")
    return pieces.mapInArrow(build, from_arrow_schema(SHARD_SCHEMA))


def _chunk_table(packed: PackedItems, position: int) -> NDArray[np.int64]:
    known = [(c.partition, c.chunk, 0, c.rows, c.content) for c in packed.chunks]
    rows = np.array(known, np.int64)
    rows[:, 2] = position + np.cumsum(rows[:, 3]) - rows[:, 3]
    return rows


def summaries_of(
    frame: DataFrame, *, with_ids: bool = False
) -> tuple[tuple[Shard, ...], pa.Array | None]:
    """Return the summaries of all shards, and their distinct ids if each head has a single part.

    Running this job builds the shards.
    """
    wanted = F.when(F.lit(with_ids) & (F.col("head") <= HEAD_BYTES), F.expr(_HEAD))
    rows = compat.collect(frame.where("part = 0").select(*SHARD_FIELDS, wanted.alias("bytes")))
    heads = [row["bytes"] for row in rows]
    shards = tuple(sorted(map(summary_of, rows), key=lambda shard: shard.shard))
    if any(head is None for head in heads):
        return shards, None
    items = [read_bundle(memoryview(head)) for head in heads]
    return shards, pc.unique(pa.chunked_array([each.columns["id"] for each in items]))
