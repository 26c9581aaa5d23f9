"""The formula of each metric, on blocks of gathered pairs, in float64.

A kernel gets two blocks of equal shape (n_pairs, n_features) and returns one distance for each row.
A distance must depend on the two rows and on nothing else: not on the number of pairs in the block,
memory order, alignment or the width of a SIMD register. Two rules ensure that:

* Everything except sums is elementwise. IEEE 754 requires that ``+ - * / sqrt`` are correctly
  rounded, so there is one possible result. (`pow`, `sin`, `cos` and `arcsin` are elementwise too,
  but not correctly rounded: their last bit depends on numpy's build for the processor.)
* Sums are computed by `summation.fold`, as elementwise additions in an order that depends on the
  number of features only. `np.sum`, `np.dot` and `np.einsum` guarantee no order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.angles import correlation_of, cosine_of
from pyspark_knn.index.missing.kernel import nan_euclidean
from pyspark_knn.index.summation import fold, joined_parts, scale, scaled_difference, unsafe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.constants import Constants
    from pyspark_knn.index.summation import Block

    Kernel = Callable[[Block, Block, Constants], NDArray[np.float64]]


def _sum_of_squares(
    left: Block, right: Block, metric: Constants
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared euclidean distance as ``sums * 4**exponents``, free of overflow and underflow.

    A `factor` (seuclidean, weighted minkowski of p = 2) multiplies the differences. Vectors may be
    float32; they are subtracted in float64. They may be in parts, see `summation.take_parts`.
    """
    factor = metric.params.get("factor")
    with np.errstate(over="ignore", invalid="ignore"):
        # numpy converts a whole block faster than a buffer at a time, within the subtraction.
        second: Block = right.astype(np.float64, copy=False)
        terms: Block = np.subtract(left, second, out=None if second is right else second)
        if factor is not None:
            terms *= factor if terms.ndim == 2 else factor.reshape(len(terms), 1, -1)
        np.multiply(terms, terms, out=terms)
        sums = fold(terms)
    exponents = np.zeros(len(sums), np.int64)
    redo = np.flatnonzero(unsafe(sums))
    if redo.size:
        first, second = joined_parts(left, redo), joined_parts(right, redo)
        scaled, exponents[redo] = scaled_difference(first, second, factor)
        sums[redo] = fold(scaled * scaled)
    return sums, exponents


def euclidean(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Square root of the sum of squared differences."""
    sums, exponents = _sum_of_squares(left, right, metric)
    with np.errstate(over="ignore"):
        return np.ldexp(np.sqrt(sums), exponents)


def sqeuclidean(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Sum of squared differences."""
    sums, exponents = _sum_of_squares(left, right, metric)
    with np.errstate(over="ignore"):
        return np.ldexp(sums, 2 * exponents)


def cityblock(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Sum of absolute differences. It overflows only where the true sum does."""
    with np.errstate(over="ignore"):
        terms = left - right
        return fold(np.abs(terms, out=terms))


def chebyshev(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Largest absolute difference; features of weight zero do not count."""
    with np.errstate(over="ignore"):
        terms = left - right
    weights = metric.params.get("w")
    if weights is not None:
        terms[:, weights == 0] = 0.0
    largest: NDArray[np.float64] = np.abs(terms, out=terms).max(axis=1)
    return largest


def _power(base: Block, exponent: float) -> Block:
    """Return ``base ** exponent`` for bases >= 0; for small whole exponents by multiplication."""
    if exponent in (1.0, 2.0, 3.0, 4.0):
        result = base
        for _ in range(int(exponent) - 1):
            result = result * base
        return result
    return np.power(base, exponent)


def minkowski(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """``sum(|factor * difference|**p) ** (1/p)`` for a finite p."""
    factor = metric.params.get("factor")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        terms = np.abs(left - right)
        sums = fold(_power(terms if factor is None else terms * factor, metric.p))
        distances = np.power(sums, 1.0 / metric.p)
        # The rounding of 1/p gives the root a relative error of log(sum) * 2**-53: keep it small.
        redo = np.flatnonzero(~((sums >= 2.0**-32) & (sums <= 2.0**32)))
        if redo.size:
            scaled, exponents = scaled_difference(left[redo], right[redo], factor)
            np.abs(scaled, out=scaled)
            # Divided by the largest, powers stay in [0, 1] whatever p is, and one of them is 1.
            largest = scaled.max(axis=1)
            scaled /= np.where(largest > 0, largest, 1.0)[:, None]
            sums = fold(_power(scaled, metric.p))
            distances[redo] = np.ldexp(np.power(sums, 1.0 / metric.p) * largest, exponents)
    return distances


def mahalanobis(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Square root of the quadratic form of the difference and VI; never negative."""
    inverse = metric.params["VI"]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = _quadratic_form(left - right, inverse)
    exponents = np.zeros(len(sums), np.int64)
    redo = np.flatnonzero(unsafe(sums))
    if redo.size:
        scaled, exponents[redo] = scaled_difference(left[redo], right[redo])
        # Scaling VI by an even power of two keeps the root exact.
        half = int(np.frexp(np.abs(inverse).max())[1]) // 2
        sums[redo] = _quadratic_form(scaled, np.ldexp(inverse, -2 * half))
        exponents[redo] += half
    with np.errstate(over="ignore"):
        return np.ldexp(np.sqrt(np.maximum(sums, 0.0)), exponents)


def _quadratic_form(rows: Block, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    products = np.empty_like(rows)
    for column in range(rows.shape[1]):
        products[:, column] = fold(rows * matrix[column])
    products *= rows
    return fold(products)


def inner_product(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Negated inner product. Where terms overflow, both rows are scaled and summed again."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = fold(left * right)
    redo = np.flatnonzero(~np.isfinite(sums))
    if redo.size:
        first, exponents = scale(left[redo])
        second, more = scale(right[redo])
        with np.errstate(over="ignore"):
            sums[redo] = np.ldexp(fold(first * second), exponents + more)
    # Subtracting from zero, not negating, so that no distance is -0.0.
    return 0.0 - sums


def cosine(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """``1 - cos``, in [0, 2]; 1 where a row is all zeros, 0 where the rows are parallel."""
    return cosine_of(left, right)


def correlation(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Cosine distance of the centered rows; 1 where a row is constant."""
    return correlation_of(left, right)


def canberra(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Sum of ``|a - b| / (|a| + |b|)``, where 0/0 counts as 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        terms = np.abs(left - right)
        sizes = np.abs(left) + np.abs(right)
        beyond = np.isinf(sizes)
        if beyond.any():
            terms[beyond] = np.abs(left[beyond] * 0.5 - right[beyond] * 0.5)
            sizes[beyond] = np.abs(left[beyond] * 0.5) + np.abs(right[beyond] * 0.5)
    sizes[sizes == 0] = 1.0
    terms /= sizes
    return fold(terms)


def braycurtis(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """``sum|a - b| / sum|a + b|``, where 0/0 counts as 0."""
    with np.errstate(over="ignore"):
        above = fold(np.abs(left - right))
        below = fold(np.abs(left + right))
    redo = np.flatnonzero(~np.isfinite(above + below))
    if redo.size:
        first, second = left[redo] * 2.0**-64, right[redo] * 2.0**-64
        above[redo] = fold(np.abs(first - second))
        below[redo] = fold(np.abs(first + second))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(above == 0, 0.0, above / below)


def hamming(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Share of the features that differ."""
    share: NDArray[np.float64] = np.count_nonzero(left != right, axis=1) / float(left.shape[1])
    return share


def haversine(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Great-circle distance of (latitude, longitude) in radians, in the unit of the radius."""
    # Halved before the subtraction, which could overflow for values that are not angles.
    latitude = np.sin(left[:, 0] * 0.5 - right[:, 0] * 0.5)
    longitude = np.sin(left[:, 1] * 0.5 - right[:, 1] * 0.5)
    cosines = np.cos(left[:, 0].copy()) * np.cos(right[:, 0].copy())
    chord = latitude * latitude + cosines * (longitude * longitude)
    halves: NDArray[np.float64] = np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))
    with np.errstate(over="ignore", under="ignore"):
        return 2.0 * halves * metric.radius


def set_distance(name: str, both: Block, left: Block, right: Block, size: int) -> Block:
    """Return the distances of sets of features; see scipy.spatial.distance for the formulas.

    Parameters
    ----------
    name : str
        One of `SET_METRICS`.
    both, left, right : ndarray, dtype float64
        The sizes of the intersections and of the two sets, of shapes that broadcast together. They
        are integers, so their sums are exact in any order.
    size : int
        The number of features.

    Returns
    -------
    ndarray, dtype float64
        The distances, of the common shape.
    """
    differ = left + right - 2.0 * both
    if name == "russellrao":
        return (size - both) / size
    if name == "rogerstanimoto":
        return 2.0 * differ / (size + differ)
    if name == "yule":
        crossed = (left - both) * (right - both)
        below = both * (size - left - right + both) + crossed
        return np.where(crossed == 0, 0.0, 2.0 * crossed / np.where(crossed == 0, 1.0, below))
    above = differ
    if name == "jaccard":
        below = both + differ
    elif name == "dice":
        below = 2.0 * both + differ
    else:
        above = 2.0 * differ
        below = both + above
    # Two empty sets are equal: 0/0 counts as 0. All other numbers below are at least 1.
    return above / np.maximum(below, 1.0)


def _set_kernel(left: Block, right: Block, metric: Constants) -> NDArray[np.float64]:
    """Distance of sets by any of `SET_METRICS`: a set has the features that are not 0."""
    first, second = left != 0, right != 0
    both, one, other = (
        np.count_nonzero(members, axis=1).astype(np.float64)
        for members in (first & second, first, second)
    )
    return set_distance(metric.name, both, one, other, left.shape[1])


SET_METRICS = ("dice", "jaccard", "rogerstanimoto", "russellrao", "sokalsneath", "yule")
"""Metrics that compare sets: a vector is the set of its features that are not 0."""

SUBTRACTING: frozenset[Kernel] = frozenset([euclidean, sqeuclidean])
"""Kernels that take vectors of float32 too, and return what they return for the same in float64.
They also take vectors in parts, see `pyspark_knn.index.summation.take_parts`."""

KERNELS: dict[str, Kernel] = {
    "braycurtis": braycurtis,
    "canberra": canberra,
    "chebyshev": chebyshev,
    "cityblock": cityblock,
    "correlation": correlation,
    "cosine": cosine,
    "euclidean": euclidean,
    "hamming": hamming,
    "haversine": haversine,
    "inner_product": inner_product,
    "mahalanobis": mahalanobis,
    "minkowski": minkowski,
    "nan_euclidean": nan_euclidean,
    "seuclidean": euclidean,
    "sqeuclidean": sqeuclidean,
    **dict.fromkeys(SET_METRICS, _set_kernel),
}
"""Canonical name of a metric -> its formula."""
