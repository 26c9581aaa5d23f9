"""The k nearest so far: candidates offered in any order are sorted and limited to k."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pyspark_knn.index.found import Exclusion, Neighbors
from pyspark_knn.index.selection import NearestSoFar, exclusion_of_items, exclusion_of_rows

FIGURES = st.sampled_from([0.0, 0.5, 1.0, 1e300, 5e-324, -1.0, math.inf])


def offer(best: NearestSoFar, pairs: list[tuple[int, int, float]]) -> None:
    rows, positions, distances = zip(*pairs, strict=True) if pairs else ((), (), ())
    best.offer(
        np.array(rows, np.int64), np.array(positions, np.int64), np.array(distances, np.float64)
    )


@given(data=st.data())
def test_candidates_offered_in_any_order_are_sorted(data):
    n_queries, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    bound = data.draw(st.none() | FIGURES)
    keys = st.tuples(st.integers(0, n_queries - 1), st.integers(0, 9))
    offered = data.draw(st.dictionaries(keys, FIGURES, max_size=25))
    pairs = data.draw(st.permutations([(*key, value) for key, value in offered.items()]))
    cut = data.draw(st.integers(0, len(pairs)))

    best = NearestSoFar(n_queries, k, bound)
    offer(best, pairs[:cut])
    offer(best, pairs[cut:])
    found = best.neighbors()

    for row in range(n_queries):
        expected = sorted(
            (distance, position)
            for query, position, distance in pairs
            if query == row and distance <= (math.inf if bound is None else bound)
        )[:k]
        missing = k - len(expected)
        assert found.positions[row].tolist() == [p for _, p in expected] + [-1] * missing
        assert found.distances[row].tolist() == [d for d, _ in expected] + [math.inf] * missing


def test_limits_are_the_kth_distance_or_the_bound():
    best = NearestSoFar(3, 2, max_distance=4.0)
    assert best.limits().tolist() == [4.0, 4.0, 4.0]
    offer(best, [(0, 7, 1.0), (0, 8, 3.0), (1, 7, 2.0)])
    assert best.limits().tolist() == [3.0, 4.0, 4.0]
    offer(best, [(0, 5, 3.0)])  # a tie: the smaller position
    assert best.neighbors().positions.tolist() == [[7, 5], [7, -1], [-1, -1]]


def test_each_query_may_have_a_bound_of_its_own():
    bounds = np.array([4.0, 1.0, np.inf])
    best = NearestSoFar(3, 2, bounds)
    assert best.limits().tolist() == [4.0, 1.0, math.inf]
    offer(best, [(row, 5 + i, d) for row in range(3) for i, d in enumerate((1.0, 4.0, 5.0))])
    expected = [[1.0, 4.0], [1.0, math.inf], [1.0, 4.0]]
    assert best.neighbors().distances.tolist() == expected
    best = NearestSoFar(3, 2, bounds)
    best.start(np.array([2, 1]), np.array([[1.0, 4.0]] * 2), np.array([[5, 6]] * 2))
    assert best.neighbors().positions.tolist() == [[-1, -1], [5, -1], [5, 6]]


def test_forgotten_candidates_may_be_offered_again():
    best = NearestSoFar(2, 2)
    offer(best, [(0, 1, 1.0), (1, 1, 1.0)])
    best.forget(np.array([0]))
    offer(best, [(0, 1, 1.0), (0, 0, 2.0)])
    assert best.neighbors().positions.tolist() == [[1, 0], [1, -1]]


def test_answers_can_be_set():
    best = NearestSoFar(2, 2)
    offer(best, [(0, 1, 1.0), (1, 1, 1.0)])
    best.replace(np.array([1]), Neighbors(np.array([[0.5, np.inf]]), np.array([[9, -1]])))
    found = best.neighbors()
    assert found.positions.tolist() == [[1, -1], [9, -1]]
    assert found.distances.tolist() == [[1.0, np.inf], [0.5, np.inf]]


def test_parts_of_an_exclusion_are_counted_from_zero():
    exclude = Exclusion(np.array([0, 2, 1, 2, 2]), np.array([0, 0, 3, 5, 7]))
    assert exclusion_of_rows(None, 0, 9) is None
    of_rows = exclusion_of_rows(exclude, 1, 3)
    assert [part.tolist() for part in of_rows] == [[1, 0, 1, 1], [0, 3, 5, 7]]
    of_items = exclusion_of_items(exclude, 3, 6)
    assert [part.tolist() for part in of_items] == [[1, 2], [0, 2]]
    assert [part.tolist() for part in exclusion_of_items(exclude, 8, 9)] == [[], []]
