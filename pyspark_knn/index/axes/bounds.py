"""Bounds on distances by extended prefixes: what makes the search on principal axes exact.

Let z be the vector of a row in the score space, less the center c, and Q a matrix whose m columns
are orthogonal unit vectors. Q splits z into ``y = Q'z`` and a rest, whose norm is r. For two rows,
by the triangle inequality in the rest (by Cauchy-Schwarz, if it is multiplied out),

    D**2 = |z - w|**2 >= |y(z) - y(w)|**2 + (r(z) - r(w))**2

So D is at least the distance of the *extended prefixes* ``(y, r)``, vectors of m + 1 numbers. Their
squared norms are those of z and w, so that one product of m + 1 numbers compares a pair.

**Prefixes are known within epsilon.** The axes V are orthogonal up to rounding:
``V = Q H`` with an exact Q and ``|H - I| <= |V'V - I| = s`` (the polar decomposition; Higham,
Functions of Matrices, 2008, section 8.1 and theorem 8.4), so ``|V'z - Q'z| <= s |z|``. Products in
float64 with these axes are off by ``d sqrt(m) v |z|``. The vectors themselves are off by
``(d/2 + L/2 + 8) v`` (see `pyspark_knn.index.rounding`), and the subtraction of the center by v.
With the sum e of these four, squared norms of z and of y, and so the square of r, are off by
``((2 d + 8) v + 2 e) |z|**2``, and r is off by the root of that, since
``|sqrt(a) - sqrt(b)| <= sqrt(|a - b|)``. Rounding to float32 adds u. All of it, with 5 % for the
products of errors, is ``epsilon (|z| + |c|)``, where the sizes are those before rounding.

**Which pairs matter.** For a query, let T be a distance that no neighbor exceeds. A pair with
``D <= T`` has ``|w| <= |z| + T``, so the distance of its computed prefixes is at most

    T' = T + epsilon (2 |z| + 2 |c| + T)

and a pair beyond T' is none of the neighbors. So the bound has no part of the item: an outlier
among the items makes no bound loose.

**The product.** Let a and b be the computed prefixes of the query and of the item, exactly as they
are stored in float32. ``|a - b| <= T'`` means that ``a.b - |b|**2 / 2 - t >= 0`` with
``t = (|a|**2 - T'**2) / 2``. The left side is computed as one product of ``m + 3`` numbers, two of
which are multiplied by 1. Let P be the sum of its positive terms, and N that of the negative ones
without their signs. For a pair that matters ``P >= N``, so whatever the order of summation, a
partial sum is at most P in size, and ``P <= |a||b| + max(-t, 0) <= B**2`` with ``B = |a| + T'``,
since ``|b| <= B``. Each of the ``m + 2`` additions is off by u of a partial sum; the products, and
the two terms as they are stored, by u of their sizes, which are at most ``2 B**2`` in all. So the
error is at most ``1.05 (m + 6) u B**2``, as long as ``(m + 6) u < 2**-10``. It is subtracted from
t. Underflow hides no more than the smallest normal number for each product.

The error is that of the computed product, above or below. So a product, with its error and the
computed t, is a *ceiling* of ``a.b - |b|**2 / 2`` for a pair that matters. When a smaller T becomes
known, a pair whose ceiling is below the new t does not matter any more.

**Boxes.** The items of a cell have coordinates between the least and the largest of the cell. The
square of the distance to this box, computed in float32 from n coordinates, is a sum of squares,
hence off by ``(n + 6) u`` of itself.

**Differences.** The pairs that are left are compared by `pyspark_knn.index.differences`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.rounding import TINY, U

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.axes.rotation import Rotation


def reach(
    limits: NDArray[np.float64], norms: NDArray[np.float64], rotation: Rotation
) -> NDArray[np.float64]:
    """Return the T' of each query: how far the prefixes of a neighbor can be.

    Parameters
    ----------
    limits : ndarray of shape (n_queries,), dtype float64
        The largest distance of a neighbor; negative for queries that need none.
    norms : ndarray of shape (n_queries,), dtype float64
        The norms of the extended prefixes of the queries.
    rotation : Rotation
        The axes.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The distances, negative where the limit is.
    """
    size = 2.0 * norms + 2.0 * float(np.linalg.norm(rotation.center))
    wider = limits + 1.01 * rotation.error * (size + limits)
    return np.where(limits < 0, limits, wider)


def thresholds(
    reaches: NDArray[np.float64], squares: NDArray[np.float64], n_axes: int
) -> NDArray[np.float64]:
    """Return the t of each query, less the error of a product; inf for queries that need none.

    Parameters
    ----------
    reaches : ndarray of shape (n_queries,), dtype float64
        The T' of each query.
    squares : ndarray of shape (n_queries,), dtype float64
        The squared norms of the extended prefixes of the queries.
    n_axes : int
        The number of axes.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        What a product must reach.
    """
    error = errors(reaches, squares, n_axes)
    return np.where(reaches < 0, np.inf, 0.5 * (squares - reaches * reaches) - error)


def errors(
    reaches: NDArray[np.float64], squares: NDArray[np.float64], n_axes: int
) -> NDArray[np.float64]:
    """Return how far the products of each query can be off, for pairs that matter.

    Parameters
    ----------
    reaches, squares, n_axes
        See `thresholds`.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The errors.
    """
    largest = np.sqrt(squares) + np.maximum(reaches, 0.0)
    error: NDArray[np.float64] = product_error(n_axes) * largest * largest
    error += (n_axes + 3) * TINY * (4.0 + 2.0 * largest)
    return error


def product_error(n_axes: int) -> float:
    """Return the error of a product, relative to the square of the largest norm that matters."""
    return 1.05 * (n_axes + 6) * U


def box_error(n_axes: int) -> float:
    """Return the relative error of a squared distance to a box, computed from `n_axes` numbers."""
    return (n_axes + 6) * U
