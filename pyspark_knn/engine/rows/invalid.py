"""Invalid and damaged vectors, and the messages about them.

This module does not import Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pyspark_knn.engine.rows.vectors import VectorBatch

if TYPE_CHECKING:
    from pyspark_knn.index.found import Rows


def read_vectors(arrays: Mapping[str, pa.Array], name: str) -> VectorBatch:
    """Return the vectors of a batch, see `VectorBatch.from_arrow`.

    Parameters
    ----------
    arrays : mapping of str to pyarrow.Array
        The inputs that make up the vectors.
    name : str
        The name of the features column, for error messages.

    Returns
    -------
    VectorBatch
        The vectors.

    Raises
    ------
    ValueError
        If a vector is damaged, see `VectorBatch.malformed`, or an integer is inexact.
    """
    batch = VectorBatch.from_arrow(arrays, name)
    if len(batch.malformed()):
        raise ValueError(describe_malformed("featuresCol", name))
    return batch


def invalid_rows(matrix: Rows, *, missing: bool = False) -> NDArray[np.bool_]:
    """Return which rows of a matrix contain an infinity, or NaN unless that is a missing value.

    Parameters
    ----------
    matrix : ndarray or SparseRows of shape (n_rows, dim), dtype float32 or float64
        The vectors.
    missing : bool, default=False
        Whether vectors may have missing values, which are NaN.

    Returns
    -------
    ndarray of shape (n_rows,), dtype bool
        True for the invalid rows.
    """
    bad: NDArray[np.bool_] = np.zeros(len(matrix), dtype=bool)
    if isinstance(matrix, np.ndarray):
        if missing:
            np.isinf(matrix).any(axis=1, out=bad)
        else:
            np.logical_not(np.isfinite(matrix).all(axis=1), out=bad)
        return bad
    matrix = matrix.compact()
    at = np.flatnonzero(wrong_values(matrix.data, missing=missing))
    bad[np.searchsorted(matrix.indptr, at, side="right") - 1] = True
    return bad


def wrong_values(values: NDArray[np.floating], *, missing: bool) -> NDArray[np.bool_]:
    """Return which values are infinite, or NaN unless `missing` values are allowed."""
    wrong: NDArray[np.bool_] = np.isinf(values) if missing else ~np.isfinite(values)
    return wrong


def describe_malformed(param: str, name: str) -> str:
    """Return the error message for vectors of `VectorBatch.malformed`.

    Parameters
    ----------
    param : str
        The Param that names the features column.
    name : str
        The name of the features column.

    Returns
    -------
    str
        The message.
    """
    return (
        f"{param} {name!r} contains a damaged sparse vector: its indices must be in ascending "
        "order, without duplicates, at least 0 and below its size, and as many as its values. "
        "Write the data again."
    )


def describe_invalid(param: str, name: str, batch: VectorBatch, row: int, dim: int | None) -> str:
    """Return the error message for an invalid vector.

    Parameters
    ----------
    param : str
        The Param that names the features column.
    name : str
        The name of the features column.
    batch : VectorBatch
        The batch that contains the vector.
    row : int
        The row number of the vector in the batch.
    dim : int or None
        The required dimension, if it is known.

    Returns
    -------
    str
        The message.
    """
    found = int(batch.dims[row])
    if found < 0:
        what = "a null"
    elif dim is not None and found != dim:
        what = f"a vector of dimension {found} instead of {dim}"
    elif found == 0:
        what = "a vector of dimension 0"
    else:
        *_, values = batch.entries(np.array([row]))
        what = "an infinity"
        if not np.isinf(values).any():
            what = (
                "a NaN (or a null element). Metric 'nan_euclidean', which algorithms 'auto' and "
                "'brute' support, allows missing values"
            )
    return (
        f"{param} {name!r} contains {what}. Set handleInvalid to 'skip' to drop such rows, or to "
        "'keep' to return such queries with null outputs."
    )
