"""The distance of one pair to sixty digits, at any magnitude: a reference for distances.

The formulas are those of scipy.spatial.distance, in decimal arithmetic, whose exponents have no
end. Haversine and the metrics of sets are compared with scikit-learn and scipy instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal, localcontext

from pyspark_knn.index.distances import Metric

_SIXTY_DIGITS = Context(prec=60, Emax=10**9, Emin=-(10**9), traps=[])

Row = list[Decimal]


def distance(metric: Metric, left: Sequence[float], right: Sequence[float]) -> float:
    """The true distance, rounded once; infinite if it is beyond float64."""
    with localcontext(_SIXTY_DIGITS):
        first = [Decimal(float(value)) for value in left]
        second = [Decimal(float(value)) for value in right]
        figure = _FORMULAS[metric.name](first, second, metric)
        return float(figure)


def _weights(metric: Metric, size: int) -> Row:
    return [Decimal(float(w)) for w in metric.params.get("w", [1.0] * size)]


def _differences(left: Row, right: Row) -> Row:
    return [abs(a - b) for a, b in zip(left, right, strict=True)]


def _minkowski(left: Row, right: Row, metric: Metric) -> Decimal:
    p = Decimal(metric.p)
    gaps = zip(_weights(metric, len(left)), _differences(left, right), strict=True)
    total = sum((w * gap**p for w, gap in gaps if gap), Decimal(0))
    return total ** (1 / p) if total else total


def _nan_euclidean(left: Row, right: Row, metric: Metric) -> Decimal:
    trios = zip(_weights(metric, len(left)), left, right, strict=True)
    squares = [w * (a - b) ** 2 for w, a, b in trios if not (a.is_nan() or b.is_nan())]
    if not squares:
        return Decimal("NaN")
    return (Decimal(len(left)) / len(squares) * sum(squares)).sqrt()


def _chebyshev(left: Row, right: Row, metric: Metric) -> Decimal:
    gaps = zip(_weights(metric, len(left)), _differences(left, right), strict=True)
    return max((gap for w, gap in gaps if w), default=Decimal(0))


def _sqeuclidean(left: Row, right: Row, metric: Metric) -> Decimal:
    return sum((gap * gap for gap in _differences(left, right)), Decimal(0))


def _seuclidean(left: Row, right: Row, metric: Metric) -> Decimal:
    gaps = zip(_differences(left, right), metric.params["V"], strict=True)
    return sum((gap * gap / Decimal(float(v)) for gap, v in gaps), Decimal(0)).sqrt()


def _mahalanobis(left: Row, right: Row, metric: Metric) -> Decimal:
    gaps = [a - b for a, b in zip(left, right, strict=True)]
    rows = [[Decimal(float(v)) for v in row] for row in metric.params["VI"]]
    form = sum(
        (
            a * v * b
            for a, row in zip(gaps, rows, strict=True)
            for v, b in zip(row, gaps, strict=True)
        ),
        Decimal(0),
    )
    return max(form, Decimal(0)).sqrt()


def _inner_product(left: Row, right: Row, metric: Metric) -> Decimal:
    return -sum((a * b for a, b in zip(left, right, strict=True)), Decimal(0))


def _cosine(left: Row, right: Row, metric: Metric) -> Decimal:
    norms = (_inner_product(left, left, metric) * _inner_product(right, right, metric)).sqrt()
    return 1 + _inner_product(left, right, metric) / norms if norms else Decimal(1)


def _correlation(left: Row, right: Row, metric: Metric) -> Decimal:
    first, second = sum(left) / len(left), sum(right) / len(right)
    constant = len(set(left)) == 1 or len(set(right)) == 1
    centered = [a - first for a in left], [b - second for b in right]
    return Decimal(1) if constant else _cosine(*centered, metric)


def _canberra(left: Row, right: Row, metric: Metric) -> Decimal:
    pairs = zip(left, right, strict=True)
    return sum((abs(a - b) / (abs(a) + abs(b)) for a, b in pairs if a or b), Decimal(0))


def _braycurtis(left: Row, right: Row, metric: Metric) -> Decimal:
    above = sum(_differences(left, right), Decimal(0))
    below = sum((abs(a + b) for a, b in zip(left, right, strict=True)), Decimal(0))
    if not above:
        return above
    return above / below if below else Decimal("Infinity")


_FORMULAS: dict[str, Callable[[Row, Row, Metric], Decimal]] = {
    "braycurtis": _braycurtis,
    "canberra": _canberra,
    "chebyshev": _chebyshev,
    "cityblock": lambda left, right, metric: sum(_differences(left, right), Decimal(0)),
    "correlation": _correlation,
    "cosine": _cosine,
    "euclidean": lambda left, right, metric: _sqeuclidean(left, right, metric).sqrt(),
    "inner_product": _inner_product,
    "mahalanobis": _mahalanobis,
    "minkowski": _minkowski,
    "nan_euclidean": _nan_euclidean,
    "seuclidean": _seuclidean,
    "sqeuclidean": _sqeuclidean,
}

NAMES = tuple(_FORMULAS)
