"""The distances of few pairs by differences of their vectors, where products tell too little.

A product is off by a fraction of the sizes of two vectors, a difference by a fraction of itself. So
differences tell items apart that are near to each other and far from 0, such as near-duplicates and
the items of a tight cluster. They take some ten times as long as a product, and far less than a
final figure.

**How far a distance can be off.** With u the rounding of a difference (2**-24 in float32, v in
float64): a vector in float32 is off by 3 u of its size, in float64 not by that, and in both by
``(d + L + 20) v`` (see `pyspark_knn.index.axes.bounds`); a difference by u of its own; and the sum
of d squares by ``(d + 1) u`` of itself. So the distance of a pair with ``D <= T`` is off by

    1.05 ((3 u + (d + L + 20) v) (2 |z| + T) + ((d + 4) u / 2 + (L + 8) v) T)

where z is the vector of the query. Where vectors are rows less a center, the rows are subtracted
instead, if u is that of their type, and the first term is 0: near pairs are known to some digits,
however far from 0 they are. Here ``(L + 8) v`` is the error of the final figure. Pairs farther than
T are not estimated below T less this.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pyspark_knn.index.candidates import kth_largest
from pyspark_knn.index.rounding import TINY, U, V

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pyspark_knn.index.score_space import Queries, ScoreSpace

LARGEST_LIMIT = 2.0**40
"""Distances below this have squares far from the limits of float32, as norms have."""

_CHUNK_FLOATS = 1 << 16
"""Numbers in each buffer of differences: 256 KiB of float32."""

_NARROW_FEATURES = 1 << 20
"""The largest number of features whose squares are added in float32: of more, the errors may be as
large as the distance."""

_SPARE_PAIRS = 64
"""Pairs of a query beyond 2 k that are ranked by final figures sooner than compared here."""

_SPARE_DIFFERENCES = 512
"""Pairs of a query that may always be compared by differences."""

_PRODUCTS_PER_DIFFERENCE = 32
"""Items that a full product compares in about the time of one comparison by differences."""

_USUAL_DIFFERENCES, _PRODUCTS_PER_USUAL = 64, 256
"""What takes the place of the two numbers above for the mean of a batch. If more comparisons are
needed, products in float64 take less time."""


def most_differences(n_items: int) -> int:
    """Return how many items may be compared with a query by differences."""
    return _SPARE_DIFFERENCES + n_items // _PRODUCTS_PER_DIFFERENCE


def difference_error(
    n_features: int,
    norms: NDArray[np.float64],
    limits: NDArray[np.float64],
    exact: bool,
    unit: float = U,
) -> NDArray[np.float64]:
    """Return how far a distance computed by differences can be off.

    Parameters
    ----------
    n_features : int
        The dimension of the vectors.
    norms : ndarray of shape (n_queries,), dtype float64
        The norms of the queries' vectors.
    limits : ndarray of shape (n_queries,), dtype float64
        The largest distance of a neighbor.
    exact : bool
        Whether rows are subtracted, as they are stored.
    unit : float, default=2**-24
        The rounding of a difference, u.

    Returns
    -------
    ndarray of shape (n_queries,), dtype float64
        The errors.
    """
    levels = n_features.bit_length()
    relative = 0.0 if exact else 3 * unit + (n_features + levels + 20) * V
    vectors = relative * (2.0 * norms + limits)
    sums = ((n_features + 4) * unit / 2 + (levels + 8) * V) * limits
    hidden = 2.0 * ((n_features + 1) * TINY) ** 0.5
    error: NDArray[np.float64] = 1.05 * (vectors + sums) + hidden
    return error


class Differences:
    """The distances of pairs of a batch of queries and the items, in a score space.

    Parameters
    ----------
    matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
        The items.
    space : ScoreSpace
        Their score space, in which the nearest items are those whose vectors are nearest.
    rows : ndarray of shape (n_queries, n_features), dtype float32 or float64
        The queries.
    queries : Queries
        The queries, transformed by the space.
    wide : bool, default=False
        Whether to subtract in float64 what is not float32.
    """

    def __init__(
        self,
        matrix: NDArray[np.floating],
        space: ScoreSpace,
        rows: NDArray[np.floating],
        queries: Queries,
        *,
        wide: bool = False,
    ) -> None:
        self._matrix = matrix
        self._space = space
        keeps = space.keeps_differences()
        narrow = keeps and matrix.shape[1] <= _NARROW_FEATURES and _are_float32(rows, matrix)
        self._dtype: type[np.floating] = np.float64 if wide and not narrow else np.float32
        self._exact = narrow or (keeps and wide)
        self._queries = (rows if self._exact else queries.vectors).astype(self._dtype, copy=False)
        self._norms = np.sqrt(queries.squares)

    def distances(
        self, rows: NDArray[np.integer], positions: NDArray[np.int64]
    ) -> NDArray[np.floating]:
        """Return the distance of each pair: ndarray of shape (n_pairs,).

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), integer
            The row number of the query, and the position of the item.
        """
        squares = np.empty(len(rows), self._dtype)
        step = max(1, _CHUNK_FLOATS // self._matrix.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            vectors = self._vectors(positions[part])
            np.subtract(vectors, self._queries.take(rows[part], axis=0), out=vectors)
            np.einsum("ij,ij->i", vectors, vectors, out=squares[part])
        return np.sqrt(squares, out=squares)

    def _vectors(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return what is subtracted of some items, a copy."""
        items = self._matrix.take(positions, axis=0)
        if self._exact:
            return items.astype(self._dtype, copy=False)
        if self._dtype is np.float32:
            return self._space.float32_vectors(items, positions)
        vectors: NDArray[np.floating] = self._space.vectors(items, positions)
        return vectors.astype(self._dtype, copy=False)

    def error(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far the distances of each query can be off, see `difference_error`."""
        unit = U if self._dtype is np.float32 else V
        return difference_error(self._matrix.shape[1], self._norms, limits, self._exact, unit)

    def slack(self, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far beyond its limit the distance of a neighbor can be, as it is computed."""
        return self.error(limits) + self._space.hidden_distance()

    def limits(self, kth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a distance that no neighbor of each query exceeds.

        Parameters
        ----------
        kth : ndarray of shape (n_queries,), dtype float64
            What `distances` returns for k items at most; may be inf.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The distances.
        """
        finite = np.where(np.isinf(kth), 0.0, kth)
        return kth + 1.01 * self.error(1.001 * finite) + self._space.hidden_distance()


class CloserPairs:
    """Rules out candidates by differences, for queries that have many.

    Parameters
    ----------
    differences : callable
        Returns the distances of a batch, or None if its pairs cannot be compared. It is called when
        a query has many candidates, which those of most batches have not.
    n_queries : int
        The number of its queries.
    k : int
        The number of neighbors of a query.
    last : bool
        Whether there are no products that tell more pairs apart than those that left these.
    """

    def __init__(
        self, differences: Callable[[], Differences | None], n_queries: int, k: int, *, last: bool
    ) -> None:
        self._differences = functools.cache(differences)
        self._k = k
        self._last = last
        self._most, self._total = 0, 0
        self._compared = np.zeros(n_queries, np.int64)
        self._n_dropped = 0

    def allow(self, n_items: int) -> None:
        """Allow as many comparisons of a query as are worth it for `n_items` items.

        A query that needs more of them in the first blocks would need many more in the end.
        """
        usual = _USUAL_DIFFERENCES + n_items // _PRODUCTS_PER_USUAL
        self._most = most_differences(n_items)
        self._total = (self._most if self._last else usual) * len(self._compared)

    def __call__(
        self, rows: NDArray[np.integer], positions: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which pairs may be among the k nearest: those of other queries may be, too.

        Parameters
        ----------
        rows, positions : ndarray of shape (n_pairs,), integer
            The row number of the query, and the position of the item, of all candidates so far.
        """
        kept = np.ones(len(rows), bool)
        # Among ties, differences tell no more than products.
        if 2 * self._n_dropped < self._compared.sum():
            return kept
        counts = np.bincount(rows, minlength=len(self._compared))
        chosen = (counts > 2 * self._k + _SPARE_PAIRS) & (self._compared + counts <= self._most)
        some = np.flatnonzero(chosen[rows])
        if not some.size or self._compared.sum() + some.size > self._total:
            return kept
        if (differences := self._differences()) is not None:
            rows, positions = rows[some], positions[some]
            counts = np.where(chosen, counts, 0)
            self._compared += counts
            distances = differences.distances(rows, positions)
            reach = self._reach(differences, -kth_largest(rows, -distances, counts, self._k))
            kept[some] = distances <= reach[rows]
            self._n_dropped += int(some.size - np.count_nonzero(kept[some]))
        return kept

    def _reach(self, differences: Differences, kth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far a neighbor of each query may be, as the distances are computed."""
        limits = differences.limits(kth)
        finite = np.where(limits < LARGEST_LIMIT, limits, 0.0)
        reach = limits + differences.slack(finite)
        return np.where(limits < LARGEST_LIMIT, reach, np.inf)


def _are_float32(rows: NDArray[np.floating], matrix: NDArray[np.floating]) -> bool:
    """Return whether the values of queries and items are float32."""
    if matrix.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return rows.dtype == np.float32 or bool((rows == rows.astype(np.float32)).all())
