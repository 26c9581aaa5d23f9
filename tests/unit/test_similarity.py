"""minSimilarity: the pairs at exactly the similarity are found, and none of lower similarity."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.kernels import set_distance
from pyspark_knn.index.registry import classes_for
from pyspark_knn.index.similarity import check_similarity, distance_of
from pyspark_knn.index.sparse.rows import SparseRows

FRACTIONS = sorted({Fraction(p, q) for q in range(1, 301) for p in range(q + 1)})


def jaccard_distances(fractions: list[Fraction], multiple: int) -> NDArray[np.float64]:
    """The distances of sets of which p of q elements are common, and q - p are in one of them."""
    both = np.array([float(each.numerator) for each in fractions]) * multiple
    union = np.array([float(each.denominator) for each in fractions]) * multiple
    return set_distance("jaccard", both, union, both, 10_000)


def dice_distances(fractions: list[Fraction], multiple: int) -> NDArray[np.float64]:
    """The distances of sets of q elements each of which p are common."""
    both = np.array([float(each.numerator) for each in fractions]) * multiple
    size = np.array([float(each.denominator) for each in fractions]) * multiple
    return set_distance("dice", both, size, size, 10_000)


@pytest.mark.parametrize(
    ("metric", "distances"), [("jaccard", jaccard_distances), ("dice", dice_distances)]
)
def test_all_fractions(metric, distances):
    limits = np.array([distance_of(float(each), metric, 500) for each in FRACTIONS])
    for multiple in (1, 3, 7):
        found = distances(FRACTIONS, multiple)
        assert (found <= limits).all()
        # The next lower similarity is beyond the limit.
        assert (found[:-1] > limits[1:]).all()


def test_written_as_a_difference_the_limit_loses_pairs():
    # What people write instead, and why minSimilarity exists.
    (distance,) = jaccard_distances([Fraction(4, 5)], 1)
    assert distance > 1 - 0.8
    assert distance <= distance_of(0.8, "jaccard", 5)


def exact_cosines(dim: int) -> tuple[NDArray[np.float64], list[Fraction]]:
    """A query, items, and their similarities, which are rational since all norms are integers."""
    random = np.random.default_rng(dim)
    side = math.isqrt(dim)
    query = random.choice([-1.0, 1.0], dim)
    rows, cosines = [query], [Fraction(1)]
    for _ in range(60):
        turned = random.integers(0, dim + 1)
        row = query.copy()
        row[random.permutation(dim)[:turned]] *= -1
        cosine = Fraction(int((row * query).sum()), side * side)
        rows.append(row * random.choice([1, 3, 7, 12_345]))
        cosines.append(cosine)
    return np.array(rows), cosines


@pytest.mark.parametrize("dim", [4, 16, 100, 900])
@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_cosines_that_are_exact(dim, storage):
    items, cosines = exact_cosines(dim)
    metric = resolve_metric("cosine")
    matrix = items if storage == "dense" else SparseRows.from_dense(items)
    index = classes_for(metric, storage=storage)["brute"].build(matrix, IndexSpec(metric))
    for similarity in {*cosines, Fraction(4, 5), Fraction(1, 2)}:
        if similarity == -1:
            continue
        found = index.within(matrix[:1], distance_of(float(similarity), "cosine", dim))
        wanted = [i for i, each in enumerate(cosines) if each >= similarity]
        assert sorted(found.positions.tolist()) == wanted, similarity


@pytest.mark.parametrize(
    ("left", "right"), [((3, 4), (0, 1)), ((3, 4), (0, 7)), ((4, 3), (1e-9, 0)), ((20, 21), (0, 3))]
)
def test_triples(left, right):
    metric = resolve_metric("cosine")
    pair = np.array([left, right], np.float64)
    cosine = {(3, 4): 0.8, (4, 3): 0.8, (20, 21): 21 / 29}[left]
    (distance,) = metric.distances(pair, pair, np.array([0]), np.array([1]))
    assert distance <= distance_of(cosine, "cosine", 2)
    assert distance > distance_of(math.nextafter(cosine, 2) + 1e-14, "cosine", 2)


@pytest.mark.parametrize("dim", [1, 2, 64, 1000, 1 << 20])
def test_nothing_below_beyond_rounding(dim):
    for similarity in (-1.0, -0.5, 0.0, 0.3, 0.5, 0.8, 0.999, 1 - 1e-12, 1.0):
        beyond = distance_of(similarity, "cosine", dim) - (1 - similarity)
        assert 0 <= beyond <= 1e-14


def test_identical_vectors_have_similarity_one():
    assert distance_of(1.0, "jaccard", 9) == 0
    # An angle of 1e-14.
    assert distance_of(1.0, "cosine", 9) < 1e-28


@pytest.mark.parametrize("value", [0.0, 0.1, -3.25, 1e300, math.inf])
def test_products(value):
    assert distance_of(value, "inner_product", 3) == -value
    assert math.copysign(1, distance_of(0.0, "inner_product", 3)) == 1


@pytest.mark.parametrize("metric", ["euclidean", "hamming", "correlation", "russellrao"])
def test_other_metrics_are_refused(metric):
    with pytest.raises(ValueError, match=f"minSimilarity does not support metric '{metric}'. Supp"):
        check_similarity(0.5, metric)


@pytest.mark.parametrize(
    ("metric", "value"), [("cosine", 1.1), ("cosine", -1.5), ("jaccard", -0.1), ("dice", 80)]
)
def test_values_beyond_the_range_are_refused(metric, value):
    with pytest.raises(ValueError, match="minSimilarity must be between"):
        check_similarity(value, metric)
