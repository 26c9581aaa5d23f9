"""Answer narrower searches from the neighbors that a wider one found, in a worker.

The answer of a stage depends only on the distances and on columns of the neighbors. So the lists of
both for the widest search contain the answer of every narrower one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.answers import DISTANCE, Answer
from pyspark_knn.engine.search.batches import BLOCK_NUMBERS, fan_out
from pyspark_knn.engine.spark.arrow import slices
from pyspark_knn.index.found import Found


@dataclass(frozen=True)
class NarrowerSearch:
    """A search whose neighbors are among those of another one.

    Attributes
    ----------
    k : int or None
        Neighbors per query, at most as many as in the other search; None: all of them.
    max_distance : float or None
        The largest distance of a neighbor, at most that of the other search, in the unit of the
        metric.
    names : tuple of str
        The lists that the other search gave, as in its `FoundLists`.
    answer : Answer
        Makes the output.
    """

    k: int | None
    max_distance: float | None
    names: tuple[str, ...]
    answer: Answer

    def rows(self, valid: NDArray[np.bool_], lists: Sequence[pa.ListArray]) -> pa.StructArray:
        """Return the answers to the valid queries, from the lists of all queries."""
        lengths = lists[0].value_lengths().fill_null(0).to_numpy(zero_copy_only=False)[valid]
        columns = {name: each.flatten() for name, each in zip(self.names, lists, strict=True)}
        distances = columns.pop(DISTANCE).to_numpy()
        # Only the first k of each list are looked at, however long the lists are.
        counts = lengths if self.k is None else np.minimum(lengths, self.k)
        offsets = np.append(0, np.cumsum(counts))
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        if self.max_distance is not None:
            kept = distances[positions] <= self.max_distance
            offsets = np.append(0, np.cumsum(kept))[offsets]
            positions = positions[kept]
        found = Found(offsets, distances[positions], positions)
        return self.answer.rows(found, Items(len(distances), columns))


def narrower_batches(
    search: NarrowerSearch, batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer one narrower search.

    Parameters
    ----------
    search : NarrowerSearch
        What to answer.
    batches : iterator of tuples of pyarrow.Array
        The lists `search.names` of the wider search; null for an invalid query.

    Yields
    ------
    pyarrow.ListArray
        See `batches.search_batches`.
    """
    for valid, lists in _blocks(batches, [search]):
        yield fan_out(search.rows(valid, lists), valid, keep=True)


def all_narrower_batches(
    searches: Sequence[NarrowerSearch], batches: Iterator[tuple[pa.Array, ...]]
) -> Iterator[pa.Array]:
    """Answer several narrower searches at once.

    Parameters
    ----------
    searches : sequence of NarrowerSearch
        What to answer, all with the same `names`.
    batches : iterator of tuples of pyarrow.Array
        See `narrower_batches`.

    Yields
    ------
    pyarrow.ListArray
        For each query a list of one struct, whose fields are the answers; null for an invalid
        query.
    """
    names = [str(i) for i in range(len(searches))]
    for valid, lists in _blocks(batches, searches):
        answers = [each.rows(valid, lists) for each in searches]
        yield fan_out(pa.StructArray.from_arrays(answers, names), valid, keep=True)


def _blocks(
    batches: Iterator[tuple[pa.Array, ...]], searches: Sequence[NarrowerSearch]
) -> Iterator[tuple[NDArray[np.bool_], tuple[pa.ListArray, ...]]]:
    """Yield blocks whose answers have a bounded size: which queries are valid, and the lists."""
    for lists in batches:
        mean = len(lists[0].flatten()) // max(1, len(lists[0])) + 1
        width = sum(each.answer.width + (each.k or mean) for each in searches)
        step = max(1, BLOCK_NUMBERS // width)
        for block in slices(lists, step):
            yield block[0].is_valid().to_numpy(zero_copy_only=False), block
