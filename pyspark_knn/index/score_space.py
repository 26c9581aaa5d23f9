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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from pyspark_knn.index.angles import centered_rows, unit_rows
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

_WORTH_CENTERING = 0.75
"""The share of the mean in the sum of squares from which on the mean is subtracted. The bound
shrinks by 1 minus this share."""

_SAMPLE_ITEMS = 1 << 16
"""Items of the sample whose mean is computed."""

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


def has_scores(metric: Metric) -> bool:
    """Whether the nearest items by a metric are those with the largest scores."""
    return metric.name in _SPACES and (metric.name != "minkowski" or metric.p == 2)


def score_space(metric: Metric, matrix: NDArray[np.floating]) -> ScoreSpace:
    """Return the score space of a metric and some items; raise ValueError if it has no scores."""
    if not has_scores(metric):
        raise ValueError(f"metric {metric.name!r} is not a matrix product")
    return _SPACES[metric.name](metric, matrix)


class EuclideanSpace(ScoreSpace):
    """Scores of euclidean distance, squared or not, with factors or without."""

    per_item: ClassVar[tuple[str, ...]] = ("_squares",)

    def __init__(self, metric: Metric, matrix: NDArray[np.floating]) -> None:
        super().__init__(metric, matrix.shape[1])
        exponent = scaling_exponent(_largest(matrix))
        self._scale = 2.0**-exponent
        self._center: NDArray[np.float64] | None = None
        self._factor: NDArray[np.float64] | None = None
        factor = metric.params.get("factor")
        if factor is not None:
            more = int(np.frexp(factor.max())[1])
            # Scaled before vectors are squared, since squares lose bits where they underflow.
            self._factor = np.ldexp(factor, -more)
            rest = remaining_exponent(
                max(_largest(self._transformed(r)) for _, r in row_blocks(matrix))
            )
            self._factor = np.ldexp(self._factor, -rest)
            exponent += more + rest
        self._center = self._worthwhile_center(matrix)
        self._squares = np.empty(len(matrix))
        for where, rows in row_blocks(matrix):
            vectors = self.vectors(rows, where)
            self._squares[where] = _squared_norms(vectors)
        rest = remaining_exponent(float(np.sqrt(self._squares.max())))
        if rest:
            ones = np.ones(self._n_features)
            self._factor = np.ldexp(ones if self._factor is None else self._factor, -rest)
            self._squares = np.ldexp(self._squares, -2 * rest)
        self._exponent = exponent + rest
        self._norm = float(np.sqrt(self._squares.max()))

    def _worthwhile_center(self, matrix: NDArray[np.floating]) -> NDArray[np.float64] | None:
        """Return the mean of a sample, scaled, if subtracting it makes the vectors much shorter."""
        sample = matrix[:: max(1, len(matrix) // _SAMPLE_ITEMS)]
        mean: NDArray[np.float64] = np.zeros(self._n_features)
        mean_square = 0.0
        for _, rows in row_blocks(sample):
            vectors = self._transformed(rows)
            mean += vectors.sum(axis=0) / len(sample)
            mean_square += float(_squared_norms(vectors).sum()) / len(sample)
        if float(mean @ mean) <= _WORTH_CENTERING * mean_square:
            return None
        if self._factor is None:
            return mean
        center: NDArray[np.float64] = np.divide(
            mean, self._factor, out=np.zeros_like(mean), where=self._factor > 0
        )
        return center

    def _transformed(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.multiply(rows, self._scale, dtype=np.float64)
        if self._center is not None:
            result -= self._center
        if self._factor is not None:
            result *= self._factor
        return result

    def queries(self, rows: Any) -> Queries:
        """See `ScoreSpace.queries`."""
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = self._transformed(rows)
            squares = _squared_norms(vectors)
        return Queries(vectors, squares, np.full(len(rows), self._exponent))

    def _figure_exponents(self, queries: Queries) -> NDArray[np.float64]:
        lengths = np.sqrt(queries.squares) + self._norm
        exponents = self._exponent + np.frexp(lengths)[1].astype(np.float64)
        return exponents * (2 if self._metric.name == "sqeuclidean" else 1)

    def vectors(self, items: Any, where: slice | NDArray[np.int64]) -> Any:
        """See `ScoreSpace.vectors`."""
        if self._scale == 1.0 and self._center is None and self._factor is None:
            return items
        return self._transformed(items)

    def terms(
        self, where: slice | NDArray[np.int64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ScoreSpace.terms`."""
        squares = self._squares[where]
        error = self._rounding[dtype] * squares
        error += self._underflow[dtype] * (1.0 + self._norm)
        return error - 0.5 * squares, 2.0 * error

    def slack(self, queries: Queries, dtype: type[np.floating]) -> NDArray[np.float64]:
        """See `ScoreSpace.slack`."""
        slack = 0.5 * self._rounding[dtype] * queries.squares
        slack += self._underflow[dtype] * (1.0 + np.sqrt(queries.squares))
        return slack + self._hidden()

    def _hidden(self) -> float:
        """Return what underflow hides in a final figure: below the least float64, h in this scale.

        ``(D + h)**2 <= D**2 (1 + v) + h**2 (1 + 1 / v)``; the first term is within the bound.
        """
        least = 2.0 ** min(300, -1074 - self._exponent)
        if self._metric.name == "sqeuclidean":
            return float(2.0 ** min(300, -1074 - 2 * self._exponent))
        return least * least * (1.0 + 1.0 / V)

    def ranks_by_distance(self, matrix: Any) -> bool:
        """See `ScoreSpace.ranks_by_distance`."""
        return True

    def hidden_distance(self) -> float:
        """See `ScoreSpace.hidden_distance`."""
        return float((2.0 * self._hidden()) ** 0.5)

    def least_scores(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """See `ScoreSpace.least_scores`."""
        with np.errstate(over="ignore"):
            if self._metric.name == "sqeuclidean":
                squares = np.ldexp(limits, -2 * self._exponent)
            else:
                squares = np.ldexp(limits, -self._exponent) ** 2
            scores = 0.5 * (queries.squares - squares)
            scores -= self._rounding[np.float64] * (queries.squares + squares)
        scores -= self._hidden()
        return np.where(limits < 0, np.inf, scores)


class ProductSpace(ScoreSpace):
    """Scores of inner_product."""

    least_figure: ClassVar[float] = -np.inf
    per_item: ClassVar[tuple[str, ...]] = ("_norms",)

    def __init__(self, metric: Metric, matrix: NDArray[np.floating]) -> None:
        super().__init__(metric, matrix.shape[1])
        self._exponent = scaling_exponent(_largest(matrix))
        self._scale = 2.0**-self._exponent
        self._norms = np.empty(len(matrix))
        for where, rows in row_blocks(matrix):
            self._norms[where] = np.sqrt(_squared_norms(self.vectors(rows, where)))
        self._norm = float(self._norms.max())

    def _figure_exponents(self, queries: Queries) -> NDArray[np.float64]:
        return queries.exponents.astype(np.float64) + float(np.frexp(self._norm)[1])

    def queries(self, rows: Any) -> Queries:
        """See `ScoreSpace.queries`."""
        vectors = rows.astype(np.float64)
        exponents = np.frexp(np.abs(vectors).max(axis=1))[1].astype(np.int64)
        vectors = np.ldexp(vectors, -exponents[:, None])
        more = np.frexp(np.sqrt(_squared_norms(vectors)))[1].astype(np.int64)
        vectors = np.ldexp(vectors, -more[:, None])
        return Queries(vectors, _squared_norms(vectors), exponents + more + self._exponent)

    def vectors(self, items: Any, where: slice | NDArray[np.int64]) -> Any:
        """See `ScoreSpace.vectors`."""
        if self._scale == 1.0:
            return items
        scaled: NDArray[np.float64] = np.multiply(items, self._scale, dtype=np.float64)
        return scaled

    def terms(
        self, where: slice | NDArray[np.int64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ScoreSpace.terms`."""
        error = self._rounding[dtype] * self._norms[where]
        error += self._underflow[dtype] * (3.0 + self._norms[where])
        return error, 2.0 * error

    def slack(self, queries: Queries, dtype: type[np.floating]) -> NDArray[np.float64]:
        """See `ScoreSpace.slack`: only what underflow hides in a final figure."""
        hidden = np.minimum(300, -1074 - queries.exponents)
        return np.ldexp(float(self._n_features), hidden)

    def least_scores(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """See `ScoreSpace.least_scores`."""
        with np.errstate(over="ignore"):
            scores = np.ldexp(-limits, -queries.exponents)
        least: NDArray[np.float64] = scores - self.slack(queries, np.float64)
        return least


class DirectionSpace(ScoreSpace):
    """Scores of cosine and correlation."""

    per_item: ClassVar[tuple[str, ...]] = ("_inverse_norms",)
    _item_square: ClassVar[float] = 1.0

    def __init__(self, metric: Metric, matrix: NDArray[np.floating]) -> None:
        super().__init__(metric, matrix.shape[1])
        self._centered = metric.name == "correlation"
        self._inverse_norms = np.ones(len(matrix))
        if not self._centered:
            for where, rows in row_blocks(matrix):
                self._inverse_norms[where] = _inverse_norms(rows)
        self._largest_inverse = float(self._inverse_norms.max())

    def _figure_exponents(self, queries: Queries) -> NDArray[np.float64]:
        return np.full(len(queries.vectors), 1.0)

    def queries(self, rows: Any) -> Queries:
        """See `ScoreSpace.queries`."""
        vectors = self._directions(rows)
        return Queries(vectors, _squared_norms(vectors), np.zeros(len(rows), np.int64))

    def _directions(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the unit vectors from which final figures are computed."""
        wide = rows.astype(np.float64)
        return unit_rows(centered_rows(wide) if self._centered else wide)

    def vectors(self, items: Any, where: slice | NDArray[np.int64]) -> Any:
        """See `ScoreSpace.vectors`."""
        if self._centered:
            return self._directions(items)
        # Multiplying is much faster than the kernel, which supports all magnitudes.
        inverse = np.maximum(self._inverse_norms[where], 0.0)
        result: NDArray[np.float64] = np.multiply(items, inverse[:, None], dtype=np.float64)
        return result

    def float32_vectors(self, items: Any, where: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `ScoreSpace.float32_vectors`."""
        if self._centered or items.dtype != np.float32 or self._largest_inverse > 2.0**100:
            return super().float32_vectors(items, where)
        items *= self._inverse_norms[where].astype(np.float32)[:, None]
        found: NDArray[np.float32] = items
        return found

    def terms(
        self, where: slice | NDArray[np.int64], dtype: type[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `ScoreSpace.terms`."""
        error = self._rounding[dtype] + 4.0 * self._underflow[dtype]
        # A vector that is not known is replaced by zeros; its score is between -2 and 2.
        errors = np.where(self._inverse_norms[where] < 0, 2.0, error)
        return errors, 2.0 * errors

    def slack(self, queries: Queries, dtype: type[np.floating]) -> NDArray[np.float64]:
        """See `ScoreSpace.slack`: all of it is the items'."""
        return np.zeros(len(queries.vectors))

    def ranks_by_distance(self, matrix: Any) -> bool:
        """See `ScoreSpace.ranks_by_distance`: zeros are equally far from all directions."""
        if not self._centered:
            return bool((self._inverse_norms > 0).all())
        return all(bool(self._directions(rows).any(axis=1).all()) for _, rows in row_blocks(matrix))

    def hidden_distance(self) -> float:
        """See `ScoreSpace.hidden_distance`: the error of a cosine, which is half of a square."""
        return float(2.0 * ((self._n_features.bit_length() + 5) * V) ** 0.5)

    def least_scores(self, limits: NDArray[np.float64], queries: Queries) -> NDArray[np.float64]:
        """See `ScoreSpace.least_scores`."""
        return np.where(limits < 0, np.inf, 1.0 - limits - 4.0 * V * (1.0 + limits))


_SPACES: dict[str, Callable[[Metric, NDArray[np.floating]], ScoreSpace]] = {
    "correlation": DirectionSpace,
    "cosine": DirectionSpace,
    "euclidean": EuclideanSpace,
    "inner_product": ProductSpace,
    "minkowski": EuclideanSpace,
    "seuclidean": EuclideanSpace,
    "sqeuclidean": EuclideanSpace,
}


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


def _largest(matrix: NDArray[np.floating]) -> float:
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


def _squared_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return result


def _inverse_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 divided by the norms; 0 for rows of zeros, -1 where squares are not safe."""
    with np.errstate(over="ignore"):
        squares = _squared_norms(rows)
    unsafe = np.flatnonzero(~((squares > 2.0**-900) & (squares < 2.0**900)))
    squares[unsafe] = 1.0
    inverse = 1.0 / np.sqrt(squares)
    inverse[unsafe] = np.where(rows[unsafe].any(axis=1), -1.0, 0.0)
    return inverse
