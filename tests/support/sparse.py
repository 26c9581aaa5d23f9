"""Matrices most of whose values are 0, and the metrics of sparse storage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.sparse.rows import SparseRows

PRODUCTS = ("euclidean", "sqeuclidean", "seuclidean", "minkowski", "cosine", "inner_product")
SETS = ("jaccard", "dice")
METRICS = (*PRODUCTS, *SETS)


def metric_for(name: str, dim: int, rng: np.random.Generator) -> Metric:
    """A metric of sparse storage; variances of all sizes, and some weights of zero."""
    if name == "seuclidean":
        return resolve_metric(name, params={"V": 10.0 ** rng.integers(-3, 4, dim)})
    if name == "minkowski":
        return resolve_metric(name, 2.0, {"w": rng.uniform(0, 3, dim) * (rng.random(dim) < 0.8)})
    return resolve_metric(name)


KINDS = {
    "normal": lambda rng, matrix: matrix,
    "positive": lambda rng, matrix: np.abs(matrix),
    "lattice": lambda rng, matrix: np.round(matrix * 2),
    "ones": lambda rng, matrix: (matrix != 0) * 1.0,
    "offset": lambda rng, matrix: matrix + 1e6 * (matrix != 0),
    "1e300": lambda rng, matrix: matrix * 1e300,
    "the largest": lambda rng, matrix: np.sign(matrix) * 1.7e308,
    "1e155": lambda rng, matrix: matrix * 1e155,
    "1e-170": lambda rng, matrix: matrix * 1e-170,
    "denormals": lambda rng, matrix: np.round(matrix * 20) * 5e-324,
    "all sizes": lambda rng, matrix: matrix * 10.0 ** rng.integers(-300, 300, matrix.shape),
    "row scales": lambda rng, matrix: matrix * 10.0 ** rng.integers(-300, 300, (len(matrix), 1)),
}
"""The values of the entries other than 0, given normal ones."""


def matrix(
    rng: np.random.Generator, n: int, dim: int, share: float, kind: str = "normal"
) -> NDArray[np.float64]:
    """Rows with a share of values other than 0; some rows have none, and some a single one."""
    values = rng.standard_normal((n, dim)) * (rng.random((n, dim)) < share)
    for row in np.flatnonzero(rng.random(n) < 0.1):
        values[row] = 0.0
        values[row, rng.integers(0, dim)] = rng.integers(-1, 2)
    return np.ascontiguousarray(KINDS[kind](rng, values))


def single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The same values in float32; those beyond its range are 1."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    narrow[~np.isfinite(narrow)] = 1.0
    return narrow


def read_only(rows: SparseRows) -> SparseRows:
    """The same rows in arrays that must not be written to."""
    arrays = [rows.data.copy(), rows.indices.copy(), rows.indptr.copy()]
    for array in arrays:
        array.flags.writeable = False
    return SparseRows(*arrays, rows.n_features)
