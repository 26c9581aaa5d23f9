"""The outlier scores of items from the neighbors of each among the others, in a Python worker.

The factor of an item depends on the densities of its neighbors, and these on the distances of their
own k-th neighbors. So what every item has is computed in three steps, and the steps after the first
one look up what the step before has found for all items, by their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pyspark_knn.engine.rows.items import NUMBER
from pyspark_knn.engine.search.outlier_answers import DENSITY, K_DISTANCE, NEIGHBOR_COUNT, SCORE
from pyspark_knn.engine.search.self_search import (
    DISTANCES,
    NUMBERS,
    SelfSearch,
    self_search_in_bundle,
)
from pyspark_knn.engine.spark.arrow import one_row, rows_of
from pyspark_knn.index import lof
from pyspark_knn.index.found import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.engine.ship.bundle import BundleRef

LIST_SCHEMA = pa.schema(
    [(name, pa.binary()) for name in ("numbers", "counts", "neighbors", "distances")]
)
"""Neighbors of several items: the numbers of the items and how many neighbors each has, as int64,
and then for all neighbors, nearest first, their numbers as int64 and their distances as double."""

VALUE_SCHEMA = pa.schema(
    [
        ("numbers", pa.binary()),
        *((name, pa.binary()) for name in (K_DISTANCE, DENSITY, SCORE, NEIGHBOR_COUNT)),
        ("zeros", pa.int64()),
    ]
)
"""What was computed for several items: their numbers as int64, the values as double, null if they
are not computed, and how many k-distances are 0."""


def pack_lists(unique: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Pack the neighbors of items into rows of `LIST_SCHEMA`, which Spark moves much faster.

    Parameters
    ----------
    unique : str
        A value that makes this plan unique, see `packing.PackRequest`.
    batches : iterator of pyarrow.RecordBatch
        The number of an item, and the lists of the numbers and the distances of its neighbors.
    """
    for batch in batches:
        numbers, neighbors, distances = batch.columns
        counts = neighbors.value_lengths().to_numpy(zero_copy_only=False)
        arrays = (
            numbers.to_numpy(),
            counts.astype(np.int64),
            neighbors.flatten().to_numpy(),
            distances.flatten().to_numpy(),
        )
        cells = zip(LIST_SCHEMA.names, map(_buffer, arrays), strict=True)
        yield one_row(LIST_SCHEMA, dict(cells))


def lists_in_bundle(
    ref: BundleRef, wanted: SelfSearch, unique: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Search some items among all others, and pack what is found; see `self_search_in_bundle`."""
    found = self_search_in_bundle(ref, wanted, batches)
    return pack_lists(unique, (each.select([NUMBER, NUMBERS, DISTANCES]) for each in found))


def score_alone(
    n_items: int, score: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield rows of `VALUE_SCHEMA` with all values, given the neighbors of all items.

    Parameters
    ----------
    n_items : int
        The number of all items.
    score : {"lof", "kth", "mean"}
        What to compute.
    batches : iterator of pyarrow.RecordBatch
        Rows of `LIST_SCHEMA`, which are kept in memory.
    """
    if score != lof.LOF:
        yield from score_distances(score, batches)
        return
    parts = [_lists_of(row) for batch in batches for row in rows_of(batch)]
    k_distance, density = np.full(n_items, np.nan), np.full(n_items, np.nan)
    for numbers, found in parts:
        k_distance[numbers] = lof.k_distances(found)
    for numbers, found in parts:
        density[numbers] = lof.densities(found, k_distance)
    for numbers, found in parts:
        yield _all_values(numbers, found, density)


def score_distances(score: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield rows of `VALUE_SCHEMA` with what depends on the distances alone.

    Parameters
    ----------
    score : {"lof", "kth", "mean"}
        The k-distance is computed for "lof", the score for the others.
    batches : iterator of pyarrow.RecordBatch
        Rows of `LIST_SCHEMA`.
    """
    for row in (row for batch in batches for row in rows_of(batch)):
        numbers, found = _lists_of(row)
        if score == lof.LOF:
            yield _values(numbers, {K_DISTANCE: lof.k_distances(found)})
        else:
            scores = {SCORE: lof.distance_scores(found, score)}
            yield _values(numbers, {**scores, NEIGHBOR_COUNT: np.diff(found.offsets)})


def find_densities(n_items: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield rows of `VALUE_SCHEMA` with densities.

    Parameters
    ----------
    n_items : int
        The number of all items.
    batches : iterator of pyarrow.RecordBatch
        Rows of `VALUE_SCHEMA` with the k-distances of all items and, after them, rows of
        `LIST_SCHEMA`; the other columns are null.
    """
    for k_distance, numbers, found in _looked_up(K_DISTANCE, n_items, batches):
        yield _values(numbers, {DENSITY: lof.densities(found, k_distance)})


def find_factors(n_items: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield rows of `VALUE_SCHEMA` with all values, given densities; see `find_densities`."""
    for density, numbers, found in _looked_up(DENSITY, n_items, batches):
        yield _all_values(numbers, found, density)


def values_of(cell: pa.Buffer | bytes) -> NDArray[np.float64]:
    """Return the values in a cell of `VALUE_SCHEMA`."""
    return np.frombuffer(cell, np.float64)


def numbers_of(cell: pa.Buffer | bytes) -> NDArray[np.int64]:
    """Return the numbers of items in a cell."""
    return np.frombuffer(cell, np.int64)


def unpack_scores(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the scores in the first column of `batches`, one a row, without those that are NaN."""
    for row in (row for batch in batches for row in rows_of(batch)):
        scores = values_of(row[SCORE])
        yield pa.RecordBatch.from_arrays([pa.array(scores[~np.isnan(scores)])], names=[SCORE])


def _looked_up(
    name: str, n_items: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64], Found]]:
    """Yield the value `name` of all items with each row of lists, which come after the values."""
    values = np.full(n_items, np.nan)
    for row in (row for batch in batches for row in rows_of(batch)):
        if row["neighbors"] is None:
            values[numbers_of(row["numbers"])] = values_of(row[name])
        else:
            yield values, *_lists_of(row)


def _lists_of(row: Mapping[str, Any]) -> tuple[NDArray[np.int64], Found]:
    """Return the numbers of the items of a row of `LIST_SCHEMA`, and their neighbors."""
    offsets = np.append(0, np.cumsum(numbers_of(row["counts"])))
    neighbors = Found(offsets, values_of(row["distances"]), numbers_of(row["neighbors"]))
    return numbers_of(row["numbers"]), neighbors


def _all_values(
    numbers: NDArray[np.int64], found: Found, density: NDArray[np.float64]
) -> pa.RecordBatch:
    own = density[numbers]
    values = {
        K_DISTANCE: lof.k_distances(found),
        DENSITY: own,
        SCORE: lof.factors(found, density, own),
        NEIGHBOR_COUNT: np.diff(found.offsets),
    }
    return _values(numbers, values)


def _values(numbers: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> pa.RecordBatch:
    cells: dict[str, object] = {"numbers": _buffer(numbers)}
    cells |= {name: _buffer(each.astype(np.float64)) for name, each in values.items()}
    known = values.get(K_DISTANCE)
    zeros = 0 if known is None else int((known == 0).sum())
    return one_row(VALUE_SCHEMA, {**cells, "zeros": zeros})


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(array))
