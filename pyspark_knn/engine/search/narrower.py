"""A search kept as columns, and answers cut out of it, in a worker. No driver-side name.

What a stage makes of neighbours depends on their distances and on what is known of their items
alone. So the lists of both for the widest search hold the answer of every narrower one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.rows.vectors import list_parts
from pyspark_knn.engine.search.batches import BLOCK_ANSWERS, Answer, fan_out, list_offsets
from pyspark_knn.index.base import Neighbors

if TYPE_CHECKING:
    from pyspark.sql.types import StructType


@dataclass(frozen=True)
class Evidence:
    """The answer that others can be made of: a list of distances, and one for each fact.

    Attributes
    ----------
    result_type : StructType
        The output columns.
    facts : tuple of str
        What other answers need to know of items: "id", "label", "weight".
    """

    result_type: StructType
    facts: tuple[str, ...]
    width = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The facts."""
        return self.facts

    def rows(self, neighbors: Neighbors, items: Items) -> pa.StructArray:
        """One struct of lists for each query, nearest first, only as long as there are any."""
        there = neighbors.positions >= 0
        at = neighbors.positions[there]
        known = {
            "id": lambda: items.take_ids(at),
            "label": lambda: pa.array(items.labels).take(pa.array(at)),
            "weight": lambda: pa.array(items.weights).take(pa.array(at)),
        }
        cells = [pa.array(neighbors.distances[there]), *(known[fact]() for fact in self.facts)]
        offsets = list_offsets(there.sum(axis=1))
        lists = [pa.ListArray.from_arrays(offsets, cell) for cell in cells]
        return pa.StructArray.from_arrays(lists, names=self.result_type.names)


@dataclass(frozen=True)
class Cut:
    """What to cut out of evidence.

    Attributes
    ----------
    k : int
        The first so many neighbours, at most as many as were searched.
    max_distance : float or None
        Only those within, at most as far as was searched.
    facts : tuple of str
        As in the `Evidence`.
    answer : Answer
        Makes the output.
    """

    k: int
    max_distance: float | None
    facts: tuple[str, ...]
    answer: Answer


def cut_batches(cut: Cut, batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
    """Answer out of evidence.

    Parameters
    ----------
    cut : Cut
        What is wanted.
    batches : iterator of tuples of pyarrow.Array
        The columns of an `Evidence`; null where an invalid query was kept.

    Yields
    ------
    pyarrow.ListArray
        As `worker.search_batches` yields.
    """
    for valid, lists in _blocks(batches, cut.k + cut.answer.width):
        yield fan_out(_cut_block(cut, valid, lists), valid, keep=True)


def cut_all_batches(
    cuts: Sequence[Cut], batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer several times out of the same evidence.

    Parameters
    ----------
    cuts : sequence of Cut
        What is wanted, all with the same facts.
    batches : iterator of tuples of pyarrow.Array
        As of `cut_batches`.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct, whose fields are the answers; null where an invalid
        query was kept.
    """
    names = [str(i) for i in range(len(cuts))]
    for valid, lists in _blocks(batches, sum(cut.k + cut.answer.width for cut in cuts)):
        answers = [_cut_block(cut, valid, lists) for cut in cuts]
        yield fan_out(pa.StructArray.from_arrays(answers, names), valid, keep=True)


def _blocks(
    batches: Iterator[tuple[pa.Array, ...]], width: int
) -> Iterator[tuple[NDArray[np.bool_], list[pa.ListArray]]]:
    """Blocks of evidence with answers of bounded size, and which of their queries are valid."""
    step = max(1, BLOCK_ANSWERS // width)
    for lists in batches:
        for start in range(0, len(lists[0]), step):
            block = [each.slice(start, step) for each in lists]
            yield block[0].is_valid().to_numpy(zero_copy_only=False), block


def _cut_block(cut: Cut, valid: NDArray[np.bool_], lists: list[pa.ListArray]) -> pa.StructArray:
    """The answers of the valid queries."""
    distances, starts, lengths = list_parts(lists[0])
    starts, lengths = starts[valid], lengths[valid]
    place = np.arange(min(cut.k, lengths.max(initial=0)))
    there = place < lengths[:, None]
    found = np.full(there.shape, np.inf)
    found[there] = distances[(starts[:, None] + place)[there]]
    if cut.max_distance is not None:
        there &= found <= cut.max_distance
        found[~there] = np.inf
    positions = np.full(there.shape, -1, dtype=np.int64)
    count = int(there.sum())
    positions[there] = np.arange(count)
    facts = {}
    for name, each in zip(cut.facts, lists[1:], strict=True):
        at = (each.offsets.to_numpy()[:-1][valid][:, None] + place)[there]
        facts[name] = each.values.take(pa.array(at))
    items = Items(
        count,
        facts.get("id"),
        facts["label"].to_numpy() if "label" in facts else None,
        facts["weight"].to_numpy() if "weight" in facts else None,
    )
    return cut.answer.rows(Neighbors(found, positions), items)
