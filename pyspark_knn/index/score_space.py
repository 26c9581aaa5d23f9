"""Scores by matrix products: what they are for each metric, and how far rounding can move them.

For some metrics the nearest items are those of the largest *score*, an inner product of two
vectors and a term of the item:

* euclidean and its kin: since ``|q - x|**2 = |q|**2 - 2 (q.x - |x|**2 / 2)``, the score is the
  bracket. q and x are the rows less a common center, times the factors of the metric.
* inner_product: the product, of a query that is scaled to a norm below 1.
* cosine, correlation: the product of the unit vectors.

Scores are computed with rounding, and `pyspark_knn.index.rounding` bounds by how much. The bound
has a part of the query and a part of the item. The item's part is *added to the item's term*, so
that computed scores are *ceilings*, which only lack the query's part. If p is the score that the
final figure of a pair stands for, then

    p <= ceiling + slack           slack: the query's part
    p >= ceiling - slack - width   width: twice the item's part
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from pyspark_knn.index.rounding import V, rounding, underflow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_SMALLEST, _LARGEST = 2.0**-20, 2.0**40
"""The range of norms whose squares are far from the limits of float32; others are scaled."""

_LEAST_EXPONENT = -1000
"""The smallest exponent of scaling. Smaller values exceed the range of float64 anyway."""

_LEAST_REST = -300
"""The smallest exponent of scaling after differences were multiplied by factors. What two products
of this kind lost to underflow stays below 2**-400, which `rounding` allows for."""

_BLOCK_FLOATS = 1 << 18
"""Numbers in the items of a block: 2 MiB of float64."""


class Queries(NamedTuple):
    """Queries in a `ScoreSpace`.

    Attributes
    ----------
    vectors : ndarray or SparseRows of shape (n_queries, n_features), dtype float64
        The transformed queries.
    squares : ndarray of shape (n_queries,), dtype float64
        Squared norms of the vectors.
    exponents : ndarray of shape (n_queries,), dtype int64
        The power of two that figures of this query are to be divided by, to be those of vectors.
    """

    vectors: Any
    squares: NDArray[np.float64]
    exponents: NDArray[np.int64]

    def take(self, rows: slice | NDArray[Any]) -> Queries:
        """Return some of the queries.

        Parameters
        ----------
        rows : slice or ndarray
            The row numbers of the queries to return, or True for each of them.

        Returns
        -------
        Queries
            These queries.
        """
        return Queries(self.vectors[rows], self.squares[rows], self.exponents[rows])


class ScoreSpace(ABC):
    """The transform of items and queries to vectors, and of final figures to scores.

    A final figure is the distance that `Metric.distances` computes.

    Attributes
    ----------
    dtypes : tuple of type
        The dtypes of products that can rule out items, in the order in which a search tries them:
        float32, up to some 2**22 features, and float64.
    """

    least_figure: ClassVar[float] = 0.0
    """The smallest final figure. A query with k of them needs no item of a later position."""

    null_figure: ClassVar[float | None] = None
    """The final figure of all pairs whose vectors have no feature in common, if there is one."""

    per_item: ClassVar[tuple[str, ...]] = ()
    """The names of the attributes that have an entry for each item."""

    _item_square: ClassVar[float] = 0.0
    """A score is half of the squared norm of the query, and of this, less the squared distance."""

    def __init__(self, metric: Metric, n_features: int) -> None:
        self._metric = metric
        self._n_features = n_features
        kinds: tuple[type[np.floating], ...] = (np.float32, np.float64)
        self._rounding = {kind: rounding(self._n_features, kind) for kind in kinds}
        self._underflow = {kind: underflow(self._n_features, kind) for kind in kinds}
        self.dtypes = tuple(kind for kind in kinds if self._rounding[kind] < np.inf)

    def part(self, where: slice) -> ScoreSpace:
        """Return the space of some of the items; its bounds may be wider than their own.

        Parameters
        ----------
        where : slice
            The items.

        Returns
        -------
        ScoreSpace
            A space that shares its arrays with this one.
        """
        other = copy.copy(self)
        for name in self.per_item:
            setattr(other, name, getattr(self, name)[where])
        return other

    def serves(self, queries: Queries) -> NDArray[np.bool_]:
        """Return for which queries the bound holds: no score and no final figure overflows."""
        return (queries.squares < 2.0**80) & (self._figure_exponents(queries) < 1020)

    @abstractmethod
    def _figure_exponents(self, queries: Queries) -> NDArray[np.float64]:
        """Return the powers of two that no final figure of each query exceeds."""

    @abstractmethod
    def queries(self, rows: Any) -> Queries:
        """Transform queries; `serves` is False for those that overflow."""

    @abstractmethod
    def vectors(self, items: Any, where: slice | NDArray[np.int64]) -> Any:
        """Transform the items at `where` in the matrix.

        The vectors are float64, or the items themselves where they need no change.
        """

    @abstractmethod
    def terms(
        self, where: slice | NDArray[np.int64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the items' terms in their ceilings, and their widths, for products in `dtype`."""

    @abstractmethod
    def slack(self, queries: Queries, dtype: type[np.floating]) -> NDArray[np.float64]:
        """Return the queries' parts of the error, for products in `dtype`."""

    def ranks_by_distance(self, matrix: Any) -> bool:
        """Whether the final figures of a query grow with the distances of the vectors.

        Parameters
        ----------
        matrix : ndarray of shape (n_items, n_features), dtype float32 or float64
            The items.

        Returns
        -------
        bool
            True if the nearest items are those whose vectors are nearest.
        """
        return False

    def keeps_differences(self) -> bool:
        """Whether the difference of two vectors is that of the rows, as far as they are exact."""
        return False

    def distance_limits(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """Return the largest distance of the vectors of a pair whose final figure is in the limit.

        Parameters
        ----------
        limits : ndarray of shape (n_queries,), dtype float64
            The largest final figure of each query.
        queries : Queries
            The queries, if `ranks_by_distance`.

        Returns
        -------
        ndarray of shape (n_queries,), dtype float64
            The distances; negative if no figure is in the limit.
        """
        scores = self.least_scores(limits, queries)
        size = queries.squares + self._item_square
        squares = size * (1.0 + 16.0 * V) - 2.0 * scores
        return np.where(scores == np.inf, -1.0, np.sqrt(np.maximum(squares, 0.0)))

    def float32_vectors(self, items: Any, where: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return `vectors` in float32, each component off by at most three roundings.

        Parameters
        ----------
        items : ndarray of shape (n_rows, n_features), dtype float32 or float64
            The items at `where`, a copy, which may be overwritten.
        where : ndarray of shape (n_rows,), dtype int64
            Their positions.

        Returns
        -------
        ndarray of shape (n_rows, n_features), dtype float32
            The vectors; may be `items` itself.
        """
        found: NDArray[np.float32] = self.vectors(items, where).astype(np.float32, copy=False)
        return found

    def hidden_distance(self) -> float:
        """Return how far a final figure can be off, as a distance of vectors, beyond `(L + 8) v`.

        `L + 8` times v is the relative error of a squared distance, see `rounding`.
        """
        return 0.0

    def null_ceiling(self, dtype: type[np.floating]) -> float | None:
        """Return a number above the ceilings of all pairs without a common feature.

        None if these pairs have different final figures, see `null_figure`.
        """
        return None

    @abstractmethod
    def least_scores(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """Return the smallest score of an item whose final figure is within the limit."""


def row_blocks(
    matrix: NDArray[np.floating],
) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Yield the rows of a matrix in blocks that stay in the cache, and where they are.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_features), dtype float32 or float64
        The rows.

    Yields
    ------
    where : slice
        The row numbers.
    rows : ndarray of shape (n_block, n_features)
        These rows.
    """
    step = max(1, _BLOCK_FLOATS // matrix.shape[1])
    for start in range(0, len(matrix), step):
        where = slice(start, min(start + step, len(matrix)))
        yield where, matrix[where]


def largest_magnitude(matrix: NDArray[np.floating]) -> float:
    """Return the largest absolute value of a matrix."""
    return max(float(matrix.max()), -float(matrix.min()))


def scaling_exponent(size: float) -> int:
    """Return the power of two to divide by, so that squares of `size` are safe; mostly 0.

    Parameters
    ----------
    size : float
        A largest magnitude, or a norm.

    Returns
    -------
    int
        The exponent.
    """
    if size == 0 or _SMALLEST <= size <= _LARGEST:
        return 0
    return max(int(np.frexp(size)[1]), _LEAST_EXPONENT)


def remaining_exponent(size: float) -> int:
    """Return what `scaling_exponent` does, for numbers that were scaled before.

    Parameters
    ----------
    size : float
        A largest magnitude, or a norm.

    Returns
    -------
    int
        The exponent, at least `_LEAST_REST`.
    """
    return max(scaling_exponent(size), _LEAST_REST)


def squared_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the squared norm of each row: ndarray of shape (n_rows,), dtype float64."""
    result: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return result
