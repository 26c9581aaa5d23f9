"""Searches of single vectors on the driver, in the copy of a replicated index that is there."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.linalg import SparseVector, Vector

from pyspark_knn.engine.rows.invalid import invalid_rows
from pyspark_knn.engine.shared_search import Limits
from pyspark_knn.engine.spark import hints
from pyspark_knn.index.found import SPARSE, Found
from pyspark_knn.index.grouped.index import GroupedIndex
from pyspark_knn.index.sparse.rows import SparseRows
from pyspark_knn.models.local import LoadsWithoutSpark
from pyspark_knn.models.neighbors import NeighborModel
from pyspark_knn.params.converters import whole

if TYPE_CHECKING:
    from pyspark_knn.engine.search.searchable import Searchable
    from pyspark_knn.index.base import NeighborIndex
    from pyspark_knn.index.found import Rows

    Vectors = Vector | Sequence[float] | Sequence[Vector] | Sequence[Sequence[float]] | NDArray[Any]

_NUMBERS = "biufO"
"""The kinds of NumPy's dtypes that may contain numbers: of objects, only numbers are converted."""

_BLOCK = 1024
"""The number of queries that are searched at a time."""


def one_row(value: Any, storage: str) -> Rows:
    """Convert one vector to a matrix of one row.

    Parameters
    ----------
    value : Vector or sequence of float
        The vector.
    storage : {"dense", "sparse"}
        The storage of the index.

    Returns
    -------
    ndarray or SparseRows of shape (1, n_features), dtype float64
        The row, in the form that the index searches.

    Raises
    ------
    TypeError
        If `value` is not one vector of numbers.
    """
    row = value if isinstance(value, SparseVector) else _numbers(value, 1)
    if row is None:
        raise TypeError(
            "value must be one vector, a pyspark.ml.linalg Vector or a sequence of numbers, got "
            f"{hints.described(value)}. For several rows, call transform with a DataFrame."
        )
    return _stored([row], storage)


def _several_rows(values: Any, storage: str) -> Rows:
    """Convert vectors to a matrix of as many rows."""
    matrix = _numbers(values, 2)
    if matrix is not None:
        return SparseRows.from_dense(matrix) if storage == SPARSE else matrix
    listed = isinstance(values, (list, tuple)) and len(values) > 0
    rows = [_numbers(each, 1) for each in values] if listed else []
    if not rows or any(row is None for row in rows):
        raise TypeError(
            "vectors must be one vector (a pyspark.ml.linalg Vector or a sequence of numbers), a "
            "list of vectors or an array of shape (n, numFeatures), got "
            f"{hints.described(values)}. For a DataFrame, call transform."
        )
    sizes = sorted({len(row) for row in rows if row is not None})
    if len(sizes) > 1:
        raise ValueError(f"vectors must have the same dimension, got dimensions {sizes}")
    sparse = all(isinstance(each, SparseVector) for each in values)
    return _stored(values if sparse else rows, storage)


def _numbers(value: Any, dimensions: int) -> NDArray[np.float64] | None:
    """Return numbers as an array with this number of dimensions, None if they are none."""
    plain = value.toArray() if isinstance(value, Vector) else value
    if isinstance(plain, (str, bytes)) or not isinstance(plain, (Sequence, np.ndarray, array)):
        return None
    try:
        given = np.ma.array(plain) if _has_masked(plain) else np.asarray(plain)
        if given.dtype.kind not in _NUMBERS:
            return None  # NumPy would convert strings, times and the real part of complex numbers
        found: NDArray[np.float64] = np.ma.filled(given.astype(np.float64, order="C"), np.nan)
    except OverflowError:
        raise ValueError("a vector contains an integer that is too large for float64") from None
    except (TypeError, ValueError):
        return None
    return found if found.ndim == dimensions else None


def _has_masked(value: Any) -> bool:
    """Whether a value is a masked array or a list of them, whose masks `numpy.asarray` ignores."""
    if isinstance(value, np.ndarray) or not len(value) or not isinstance(value[0], np.ndarray):
        return isinstance(value, np.ma.MaskedArray)
    return any(isinstance(each, np.ma.MaskedArray) for each in value)


def _stored(rows: Sequence[Any], storage: str) -> Rows:
    """Return rows of equal dimension as a matrix: SparseVectors, or arrays of shape (n,)."""
    if storage == SPARSE and isinstance(rows[0], SparseVector):
        numbers = np.repeat(np.arange(len(rows)), [len(each.indices) for each in rows])
        indices = np.concatenate([each.indices for each in rows])
        data = np.concatenate([each.values for each in rows])
        return SparseRows.from_entries(numbers, indices, data, (len(rows), rows[0].size))
    arrays = [each.toArray() if isinstance(each, SparseVector) else each for each in rows]
    matrix = np.array(arrays, np.float64)
    return SparseRows.from_dense(matrix) if storage == SPARSE else matrix


def searchable_on_driver(model: NeighborModel, queries: Rows, name: str) -> Searchable:
    """Return the index on the driver, after a check of the queries.

    Parameters
    ----------
    model : NeighborModel
        The model.
    queries : ndarray or SparseRows of shape (n_queries, n_features), dtype float64
        The queries, see `one_row`.
    name : str
        The name of the argument, for errors.

    Returns
    -------
    Searchable
        The items and their index.

    Raises
    ------
    ValueError
        If a query is invalid, if the driver does not hold the index, or if items have keys.
    """
    searchable = model._fitted.searchable
    if searchable is None:
        raise ValueError(
            "the index of a sharded model is on the executors, not on the driver. Call transform "
            "with a DataFrame of the vectors, or fit with placement='replicated'."
        )
    if isinstance(searchable.index, GroupedIndex):
        raise ValueError(
            f"keyCols is {model.getKeyCols()!r}, but one vector has no key. Call transform with a "
            "DataFrame that has these columns."
        )
    if queries.shape[1] != model.numFeatures:
        raise ValueError(
            f"{name} must have dimension {model.numFeatures}, got dimension {queries.shape[1]}"
        )
    metric = searchable.index.metric
    bad = invalid_rows(queries, missing=metric.allows_missing)
    if bad.any():
        what = "infinity" if metric.allows_missing else "NaN or infinity"
        row = queries[np.flatnonzero(bad)[:1]]
        shown = row if isinstance(row, np.ndarray) else row.dense()
        raise ValueError(f"{name} contains {what}: {shown[0]}")
    metric.check_values(queries)
    return searchable.tuned(model._knob())


class HasDriverSearch(LoadsWithoutSpark, NeighborModel):
    """A model that searches vectors on the driver."""

    def kneighbors(
        self, vectors: Vectors, k: int | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the nearest items of one or a few vectors, on the driver, without a Spark job.

        It serves single queries, for example in a web service: `transform` starts a Spark job,
        which takes a fraction of a second. For many queries use `transform`, which runs on all
        cores. The neighbors and distances are the same. ``excludeIdCol`` does not apply.

        Parameters
        ----------
        vectors : Vector, sequence of float, list of vectors, or ndarray of shape (n, numFeatures)
            One query, or several.
        k : int, optional
            Number of neighbors per query, >= 1. By default ``k`` of the model; if that is None, all
            items within maxDistance or minSimilarity, which apply in any case.

        Returns
        -------
        ids : ndarray
            The ids of the neighbors, nearest first (positions, if ``idCol`` is unset), in the types
            of `ids`. One query gives an array of shape (n_neighbors,), several give one of shape
            (n, n_neighbors), or an object array of n arrays where queries can have different
            numbers of neighbors: with maxDistance, minSimilarity or metric "nan_euclidean".
        distances : ndarray
            The distances, in the unit of the metric, in the same shape.

        Raises
        ------
        TypeError
            If `vectors` or `k` has another type.
        ValueError
            If a vector has another dimension or contains NaN or infinity, if the model is sharded,
            or if it has ``keyCols``.

        Examples
        --------
        >>> from pyspark_knn import KNNEstimator
        >>> items = spark.createDataFrame(
        ...     [("plum", [1.0, 1.0]), ("pear", [2.0, 1.0]), ("leek", [9.0, 7.0])],
        ...     ["name", "features"])
        >>> model = KNNEstimator(k=2, idCol="name", placement="replicated").fit(items)
        >>> ids, distances = model.kneighbors([1.0, 1.0])
        >>> ids.tolist(), distances.tolist()
        (['plum', 'pear'], [0.0, 1.0])
        >>> ids, distances = model.kneighbors([[1.0, 1.0], [9.0, 8.0]], k=1)
        >>> ids.tolist(), distances.tolist()
        ([['plum'], ['leek']], [[0.0], [1.0]])
        """
        storage = self.getStorage()
        one = isinstance(vectors, SparseVector) or _numbers(vectors, 1) is not None
        queries = one_row(vectors, storage) if one else _several_rows(vectors, storage)
        searchable = searchable_on_driver(self, queries, "vectors")
        limits = self._limits()
        if k is not None:
            limits = Limits(whole("k", 1)(k), limits.max_distance)
        found = _searched(cast("NeighborIndex", searchable.index), limits, queries)
        ids = self._in_numpy(searchable.items.take("id", found.positions))
        if one:
            return ids, found.distances
        missing = searchable.index.metric.allows_missing
        if limits.k is None or limits.max_distance is not None or missing:
            return _ragged(ids, found.offsets), _ragged(found.distances, found.offsets)
        shape = (len(queries), min(limits.k, self.numItems))
        return ids.reshape(shape), found.distances.reshape(shape)


def _searched(index: NeighborIndex, limits: Limits, queries: Rows) -> Found:
    """Search queries block by block, since the memory of a search grows with their number."""
    starts = range(0, max(1, len(queries)), _BLOCK)
    parts = [limits.found(index, queries[start : start + _BLOCK]) for start in starts]
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Found(
        np.append(0, lengths.cumsum()),
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )


def _ragged(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[Any]:
    """Return one array for each query in an object array, also if all have the same length."""
    lists = np.empty(len(offsets) - 1, object)
    for i in range(len(lists)):
        lists[i] = values[offsets[i] : offsets[i + 1]]
    return lists
