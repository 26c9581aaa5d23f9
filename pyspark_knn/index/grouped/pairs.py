"""The items of small groups: the distance of each pair of a query and an item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.grouped.lists import Lists
from pyspark_knn.index.sparse.rows import offsets_of, ranges, slices_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark_knn.index.grouped.items import Distances
    from pyspark_knn.index.grouped.visits import Visits

_BLOCK_PAIRS = 1 << 17
"""Pairs of a query and an item that are compared at a time. Each takes about 100 bytes."""


def compared_pairs(
    visits: Visits, distances: Distances, *, block_pairs: int = _BLOCK_PAIRS
) -> Iterator[Lists]:
    """Compare queries with all items of their groups.

    Parameters
    ----------
    visits : Visits
        The queries and their groups.
    distances : callable
        Returns the distances of pairs, given the row numbers of the queries and of the items.
    block_pairs : int, default=_BLOCK_PAIRS
        Pairs of a query and an item that are compared at a time.

    Yields
    ------
    Lists
        All items of some of the visits that have a distance, in the order of their positions.
    """
    for block in slices_of(visits.sizes, block_pairs):
        yield _compare(visits.take(block), distances)


def _compare(visits: Visits, distances: Distances) -> Lists:
    counts = visits.sizes
    rows, places = np.repeat(visits.rows, counts), ranges(visits.starts, counts)
    if visits.excluded.size:
        which, within = visits.excluded
        kept = np.ones(len(rows), bool)
        kept[offsets_of(counts)[which] + within] = False
        counts = np.add.reduceat(kept, offsets_of(counts)[:-1], dtype=np.int64)
        rows, places = rows[kept], places[kept]
    figures = distances(rows, places)
    lists = Lists(visits.numbers, counts, places, figures)
    # Vectors with missing values may have nothing in common, and then they have no distance.
    return lists.within(np.inf) if np.isnan(figures).any() else lists
