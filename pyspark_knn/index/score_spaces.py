"""The score spaces of the metrics: what to multiply, and the terms that hold the bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyspark_knn.index.angles import centered_rows, unit_rows
from pyspark_knn.index.rounding import V
from pyspark_knn.index.score_space import (
    Queries,
    ScoreSpace,
    largest_magnitude,
    remaining_exponent,
    row_blocks,
    scaling_exponent,
    squared_norms,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyspark_knn.index.distances import Metric

_WORTH_CENTERING = 0.75
"""The share of the mean in the sum of squares from which on the mean is subtracted. The bound
shrinks by 1 minus this share."""

_SAMPLE_ITEMS = 1 << 16
"""Items of the sample whose mean is computed."""


class EuclideanSpace(ScoreSpace):
    """Scores of euclidean distance, squared or not, with factors or without."""

    per_item: ClassVar[tuple[str, ...]] = ("_squares",)

    def __init__(self, metric: Metric, matrix: NDArray[np.floating]) -> None:
        super().__init__(metric, matrix.shape[1])
        exponent = scaling_exponent(largest_magnitude(matrix))
        self._scale = 2.0**-exponent
        self._center: NDArray[np.float64] | None = None
        self._factor: NDArray[np.float64] | None = None
        factor = metric.params.get("factor")
        if factor is not None:
            more = int(np.frexp(factor.max())[1])
            # Scaled before vectors are squared, since squares lose bits where they underflow.
            self._factor = np.ldexp(factor, -more)
            rest = remaining_exponent(
                max(largest_magnitude(self._transformed(r)) for _, r in row_blocks(matrix))
            )
            self._factor = np.ldexp(self._factor, -rest)
            exponent += more + rest
        self._center = self._worthwhile_center(matrix)
        self._squares = np.empty(len(matrix))
        for where, rows in row_blocks(matrix):
            vectors = self.vectors(rows, where)
            self._squares[where] = squared_norms(vectors)
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
            mean_square += float(squared_norms(vectors).sum()) / len(sample)
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
            squares = squared_norms(vectors)
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

    def keeps_differences(self) -> bool:
        """See `ScoreSpace.keeps_differences`: a center is subtracted from both."""
        return self._scale == 1.0 and self._factor is None

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
        self._exponent = scaling_exponent(largest_magnitude(matrix))
        self._scale = 2.0**-self._exponent
        self._norms = np.empty(len(matrix))
        for where, rows in row_blocks(matrix):
            self._norms[where] = np.sqrt(squared_norms(self.vectors(rows, where)))
        self._norm = float(self._norms.max())

    def _figure_exponents(self, queries: Queries) -> NDArray[np.float64]:
        return queries.exponents.astype(np.float64) + float(np.frexp(self._norm)[1])

    def queries(self, rows: Any) -> Queries:
        """See `ScoreSpace.queries`."""
        vectors = rows.astype(np.float64)
        exponents = np.frexp(np.abs(vectors).max(axis=1))[1].astype(np.int64)
        vectors = np.ldexp(vectors, -exponents[:, None])
        more = np.frexp(np.sqrt(squared_norms(vectors)))[1].astype(np.int64)
        vectors = np.ldexp(vectors, -more[:, None])
        return Queries(vectors, squared_norms(vectors), exponents + more + self._exponent)

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
        return Queries(vectors, squared_norms(vectors), np.zeros(len(rows), np.int64))

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


def has_scores(metric: Metric) -> bool:
    """Whether the nearest items by a metric are those with the largest scores."""
    return metric.name in _SPACES and (metric.name != "minkowski" or metric.p == 2)


def score_space(metric: Metric, matrix: NDArray[np.floating]) -> ScoreSpace:
    """Return the score space of a metric and some items; raise ValueError if it has no scores."""
    if not has_scores(metric):
        raise ValueError(f"metric {metric.name!r} is not a matrix product")
    return _SPACES[metric.name](metric, matrix)


def _inverse_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 divided by the norms; 0 for rows of zeros, -1 where squares are not safe."""
    with np.errstate(over="ignore"):
        squares = squared_norms(rows)
    unsafe = np.flatnonzero(~((squares > 2.0**-900) & (squares < 2.0**900)))
    squares[unsafe] = 1.0
    inverse = 1.0 / np.sqrt(squares)
    inverse[unsafe] = np.where(rows[unsafe].any(axis=1), -1.0, 0.0)
    return inverse
