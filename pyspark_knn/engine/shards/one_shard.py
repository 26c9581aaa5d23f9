"""The request to one shard in the plan of a search: its rows come just before its queries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from pyspark_knn.engine.ship.shard_rows import SHARD_COLUMNS, SHARD_SCHEMA

if TYPE_CHECKING:
    from pyspark_knn.engine.search.answers import FoundLists, OwnSearch
    from pyspark_knn.engine.search.batches import Request

QUERY_PART = (1 << 31) - 1
"""The part number of a query, which sorts it after all parts of its shard."""

_UNLIMITED = (1 << 31) - 1
"""More neighbors than an Arrow list has."""


def in_one_shard(request: Request, answer: FoundLists | OwnSearch) -> Request:
    """Return the request to one shard: all candidates, and a null for an invalid query."""
    keep = "error" if request.handle_invalid == "error" else "keep"
    # What fits in one row is decided when the neighbors of all shards are merged.
    return replace(request, answer=answer, handle_invalid=keep, row_neighbors=_UNLIMITED)


def shard_types() -> list[T.DataType]:
    """Return the types of `SHARD_COLUMNS`."""
    return [from_arrow_type(SHARD_SCHEMA.field(name).type) for name in SHARD_COLUMNS]
