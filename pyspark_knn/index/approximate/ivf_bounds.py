"""What computed squared distances prove: bounds of their rounding errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.rounding import U

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COORDINATES = 1 << 16
"""The sum of more squared coordinates may overflow."""

COMPARED_FLOATS = 1 << 20
"""Numbers in the vectors that are compared in float64 at a time."""

_SMALLEST = 2.0**-80
"""Of a smaller sum, squares that underflow may be a part that counts."""

_UNDERFLOW = 2.0**-108
"""More than what underflow hides in the products and squares of 2**16 coordinates: each loses less
than the smallest normal number, 2**-126."""


def separated(
    near: NDArray[np.floating], far: NDArray[np.floating], n_coordinates: int
) -> NDArray[np.bool_]:
    """Return where computed squared distances prove that one item is nearer than another one.

    A squared distance is a sum of n squares of differences. In float32, each rounding multiplies a
    term by a factor from 1 - u to 1 + u, where u = 2**-24. There are two such factors for the
    difference, which is squared, one for the square, and at most n - 1 for the sum, in any order.
    So the computed sum is s (1 + e), where s is the true one and abs(e) <= g with
    g = (n + 2) u / (1 - (n + 2) u), see Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1. If near / (1 - g) < far / (1 + g), the true sums are in the same order,
    and that is near (1 + g) < far (1 - g). One more u on either side is more than the error of the
    distances in float64, by which neighbors are ordered. Squares that underflow lose less than
    2**-149 each, which is nothing beside the smallest `far`.

    Parameters
    ----------
    near, far : ndarray of shape (n_queries,), dtype float32 or float64
        Squared distances, computed in float32 from the same coordinates, or bounds of the true
        ones: none is above `near`, and none below `far`.
    n_coordinates : int
        Their number. Nothing is proved with more than 65,536.

    Returns
    -------
    ndarray of shape (n_queries,), dtype bool
        Whether the first item is nearer, by its true distance and by that in float64.
    """
    if n_coordinates > MOST_COORDINATES:
        return np.zeros(len(near), bool)
    error = (n_coordinates + 2) * U / (1 - (n_coordinates + 2) * U) + U
    proved: NDArray[np.bool_] = near.astype(np.float64) * (1 + error) < far * np.float64(1 - error)
    return proved & (far >= _SMALLEST)


def apart(
    near: NDArray[np.floating],
    far: NDArray[np.floating],
    sizes: NDArray[np.float64],
    n_coordinates: int,
) -> NDArray[np.bool_]:
    """Return where squared distances by products prove what `separated` proves.

    Parameters
    ----------
    near, far : ndarray of shape (n_queries,), dtype float32 or float64
        The squared distances of two items for each query.
    sizes, n_coordinates
        See `bounds`.

    Returns
    -------
    ndarray of shape (n_queries,), dtype bool
        Whether the first item is nearer, by its true distance and by those that are computed from
        differences, in float32 and in float64.
    """
    _, most = bounds(near, sizes, n_coordinates)
    least, _ = bounds(far, sizes, n_coordinates)
    return separated(most, least, n_coordinates)


def bounds(
    squares: NDArray[np.floating], sizes: NDArray[np.float64], n_coordinates: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return between which bounds the distances are whose squares were computed by products.

    Let q be a query, x an item, n the number of coordinates, ``u = 2**-24`` and
    ``g = (n + 3) u / (1 - (n + 3) u)``. The score of x is the computed ``|x|**2 - 2 q.x - t``: an
    inner product of n + 2 coordinates, of which the last are the squared norm and 1 for x, and 1
    and a limit -t for q (-2 q is exact). It is off by at most
    ``(n + 2) u (1 + u) (2 |q| |x| + (1 + u) |x|**2 + |t|)``, in any order of summation, see
    `pyspark_knn.index.rounding`, and the squared norm, computed in float64, by ``u |x|**2``. All
    together, that is at most ``g (2 |q| |x| + |x|**2 + |t|)``. There is a squared distance m that
    the limit stands for, so that ``t = m - |q|**2``, and the score is off by at most
    ``g ((|q| + |x|)**2 + m)``. With the distance d and ``|x| <= |q| + d``, the square is at most
    ``(2 |q| + d)**2``, which is at most ``5 (|q|**2 + d**2)``, because
    ``4 |q| d <= |q|**2 + 4 d**2``. So, for a computed square s, which is the score plus t plus
    ``|q|**2``, and ``z = |q|**2 + m / 5``,

        (s - 5 g z) / (1 + 5 g) <= d**2 <= (s + 5 g z) / (1 - 5 g).

    Without a limit, ``t = m = 0``. Rounding the limit to float32, and to float64, makes a
    difference of less than the u that `separated` allows for, since g is more than n + 2 roundings
    need.

    Parameters
    ----------
    squares : ndarray of shape (n_queries,), dtype float32 or float64
        The squared distance of an item for each query.
    sizes : ndarray of shape (n_queries,), dtype float64
        z for each query: its squared norm, and a fifth of the squared distance of its limit.
    n_coordinates : int
        The number of coordinates, at most 65,536.

    Returns
    -------
    least, most : ndarray of shape (n_queries,), dtype float64
        The bounds of the squared distance.
    """
    error = (n_coordinates + 3) * U
    error = 5 * error / (1 - error)
    off = error * sizes + _UNDERFLOW
    return (squares - off) / (1 + error), (squares + off) / (1 - error)


def squared_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared norms of rows.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_coordinates), dtype float32
        The rows.

    Returns
    -------
    ndarray of shape (n_rows,), dtype float64
        The squared norms.
    """
    found: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return found


def factors(
    queries: NDArray[np.float32], limits: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return rows whose products with items, their squared norms, and 1 are scores less limits.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_coordinates), dtype float32
        The queries.
    limits : ndarray of shape (n_queries,), dtype float32, optional
        What is subtracted from the scores of each query. Default: nothing, and there is no column
        for it.

    Returns
    -------
    ndarray of shape (n_queries, n_coordinates + 1 or n_coordinates + 2), dtype float32
        ``-2 q``, 1, and the negated limits.
    """
    n_queries, dim = queries.shape
    found = np.ones((n_queries, dim + 1 + (limits is not None)), np.float32)
    np.multiply(queries, np.float32(-2), out=found[:, :dim])
    if limits is not None:
        np.negative(limits, out=found[:, -1])
    return found


def sizes_within(limits: NDArray[np.float32], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return z of `bounds` for queries with limits.

    Parameters
    ----------
    limits : ndarray of shape (n_queries,), dtype float32
        The squared distance that the limit of each query stands for.
    norms : ndarray of shape (n_queries,), dtype float64
        The squared norm of each query; without a limit, this is z.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The sizes.
    """
    sizes: NDArray[np.float64] = norms + limits / 5
    return sizes


def squared_distances(
    queries: NDArray[np.float32], vectors: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the squared distances of queries and some vectors for each, in float64.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, n_coordinates), dtype float32
        The queries.
    vectors : ndarray of shape (n_queries, n_vectors, n_coordinates), dtype float32
        The vectors that each query is compared with.

    Returns
    -------
    ndarray of shape (n_queries, n_vectors), dtype float64
        The squared distances.
    """
    gaps = vectors.astype(np.float64)
    gaps -= queries[:, None]
    squares: NDArray[np.float64] = np.square(gaps, out=gaps).sum(axis=2)
    return squares
