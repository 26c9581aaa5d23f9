"""The distance of a pair: accurate, the same in every search, never NaN and never -0.0."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial import distance as scipy_distance
from sklearn.metrics import DistanceMetric

from pyspark_knn.index import distances
from pyspark_knn.index.distances import Metric, resolve_metric
from pyspark_knn.index.kernels import SET_METRICS
from pyspark_knn.index.summation import fold, joined_parts, take_parts
from tests.support import exact
from tests.support.strategies import METRIC_CASES, dims, rows

EXACT_CASES = [case for case in METRIC_CASES if METRIC_CASES[case](2).name in exact.NAMES]


def figures(metric: Metric, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The distances of pairs of rows."""
    every = np.arange(len(left))
    return metric.distances(left, right, every, every)


def tolerance(metric: Metric, left: np.ndarray, right: np.ndarray) -> float:
    """The absolute error that cancellation may cause, in addition to the relative error."""
    with np.errstate(over="ignore"):
        if metric.name in ("cosine", "correlation"):
            return 1e-15
        if metric.name == "inner_product":
            return 1e-15 * exact.distance(metric, np.abs(left), -np.abs(right))
        if metric.name == "mahalanobis":
            # The root of a form whose terms cancel: 1e-15 of the terms, and then the root of that.
            plain = exact.distance(Metric("euclidean"), left, right)
            return 1e-7 * plain * math.sqrt(np.abs(metric.params["VI"]).sum())
    return 0.0


@pytest.mark.parametrize("case", EXACT_CASES)
@given(data=st.data())
def test_distances_are_accurate_at_every_magnitude(case, data):
    dim = data.draw(dims(case))
    metric = METRIC_CASES[case](dim)
    left, right = data.draw(rows(3, dim)), data.draw(rows(3, dim))
    found = figures(metric, left, right)
    for i, figure in enumerate(found.tolist()):
        true = exact.distance(metric, left[i], right[i])
        allowed = tolerance(metric, left[i], right[i]) + 3 * 2.0**-1074
        assert figure == pytest.approx(true, rel=8e-15, abs=allowed)


@pytest.mark.parametrize("case", METRIC_CASES)
@given(data=st.data())
def test_no_distance_is_nan_or_negative_or_minus_zero(case, data):
    dim = data.draw(dims(case))
    metric = METRIC_CASES[case](dim)
    found = figures(metric, data.draw(rows(4, dim)), data.draw(rows(4, dim)))
    assert not np.isnan(found).any()
    assert not (np.signbit(found) & (found == 0)).any()
    if metric.name != "inner_product":
        assert (found >= 0).all()


@pytest.mark.parametrize("case", METRIC_CASES)
@given(data=st.data())
def test_the_distance_is_the_same_in_both_directions(case, data):
    # kneighborsGraph has one distance for each pair, whichever of the two found the other.
    dim = data.draw(dims(case))
    metric = METRIC_CASES[case](dim)
    left, right = data.draw(rows(4, dim)), data.draw(rows(4, dim))
    one, other = figures(metric, left, right), figures(metric, right, left)
    np.testing.assert_array_equal(one.view(np.int64), other.view(np.int64))


@pytest.mark.parametrize("case", METRIC_CASES)
@given(data=st.data())
def test_the_distance_of_a_vector_to_itself_is_zero(case, data):
    dim = data.draw(dims(case))
    metric = METRIC_CASES[case](dim)
    left = data.draw(rows(4, dim))
    expected = np.zeros(4)
    if metric.name == "cosine":
        expected[(left == 0).all(axis=1)] = 1.0
    elif metric.name == "correlation":
        expected[(left == left[:, :1]).all(axis=1)] = 1.0
    elif metric.name == "russellrao":
        # By its definition the share of the features that are not in both sets.
        expected = np.mean(left == 0, axis=1)
    elif metric.name == "inner_product":
        expected = np.array([exact.distance(metric, row, row) for row in left])
        np.testing.assert_allclose(figures(metric, left, left), expected, rtol=4e-15, atol=2e-323)
        return
    assert figures(metric, left, left.copy()).tolist() == expected.tolist()


@pytest.mark.parametrize("case", METRIC_CASES)
@given(data=st.data())
def test_a_distance_depends_on_its_pair_alone(case, data):
    dim = (
        2
        if case.startswith("haversine")
        else data.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 16, 33]))
    )
    metric = METRIC_CASES[case](dim)
    count = data.draw(st.integers(1, 9))
    seed = np.random.default_rng(data.draw(st.integers(0, 99)))
    left = seed.normal(size=(count, dim)).astype(np.float32)
    right = seed.integers(-2, 3, size=(count, dim)).astype(np.float32)
    expected = figures(metric, left, right).tobytes()
    wide = left.astype(np.float64), right.astype(np.float64)

    assert figures(metric, *wide).tobytes() == expected
    assert figures(metric, *map(np.asfortranarray, wide)).tobytes() == expected
    assert figures(metric, *map(misaligned, wide)).tobytes() == expected
    assert figures(metric, left, wide[1]).tobytes() == expected
    alone = [figures(metric, left[i : i + 1], right[i : i + 1]) for i in range(count)]
    assert np.concatenate(alone).tobytes() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_CHUNK_FLOATS", data.draw(st.integers(1, 4 * dim)))
        assert figures(metric, left, right).tobytes() == expected


def misaligned(matrix: np.ndarray) -> np.ndarray:
    """The same values at an unaligned address."""
    memory = bytearray(matrix.nbytes + 1)
    moved = np.frombuffer(memory, np.float64, matrix.size, 1).reshape(matrix.shape)
    moved[:] = matrix
    return moved


@given(
    hnp.arrays(
        np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.floats(0, 8)
    )
)
def test_fold_sums_each_row_within_its_bound(terms):
    bound = math.ceil(math.log2(terms.shape[1])) * 2.0**-53 if terms.shape[1] > 1 else 0.0
    true = np.array([math.fsum(row) for row in terms])
    found = fold(terms.copy())
    # fsum itself rounds once.
    assert (np.abs(found - true) <= (bound + 2.0**-53) * true).all()


def plain_fold(terms):
    """The order of the additions, one by one."""
    while len(terms) > 1:
        half = len(terms) // 2
        rest = len(terms) - half
        terms = [terms[i] + terms[rest + i] if i < half else terms[i] for i in range(rest)]
    return terms[0]


@pytest.mark.parametrize(
    "width", [*range(1, 20), 31, 33, 63, 64, 65, 66, 127, 128, 129, 200, 255, 256, 257, 784]
)
def test_the_order_of_a_sum_depends_on_the_number_of_terms_only(width):
    terms = np.random.default_rng(width).standard_normal((7, width))
    expected = [plain_fold(row) for row in terms.tolist()]
    assert fold(terms.copy()).tolist() == expected
    assert fold(np.asfortranarray(terms)).tolist() == expected
    assert fold(terms[3:4].copy()).tolist() == expected[3:4]
    assert fold(np.empty((0, width))).tolist() == []


@pytest.mark.parametrize("width", [1, 47, 48, 50, 96, 100, 192, 200, 255, 384, 400, 784])
def test_rows_in_parts_have_the_same_sums(width):
    rng = np.random.default_rng(width)
    matrix = rng.standard_normal((9, width), dtype=np.float32)
    rows = rng.integers(0, 9, 20)
    parts = take_parts(matrix, rows)
    assert (parts.ndim == 3) == (width % 2 == 0 and width >= 48)
    some = np.array([3, 0, 17])
    np.testing.assert_array_equal(joined_parts(parts, some), matrix[rows[some]])
    expected = [plain_fold(row) for row in matrix[rows].tolist()]
    assert fold(parts.astype(np.float64)).tolist() == expected


@pytest.mark.parametrize("name", ["euclidean", "sqeuclidean", "seuclidean", "minkowski"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_distances_are_those_of_whole_rows(name, dtype, data):
    dim = data.draw(st.sampled_from([48, 100, 192]))
    params = {"seuclidean": "V", "minkowski": "w"}
    weights = np.arange(1.0, dim + 1)
    metric = resolve_metric(name, 2.0, {params[name]: weights} if name in params else None)
    left = data.draw(rows(3, dim, single=True)).astype(dtype)
    right = data.draw(rows(3, dim, single=dtype is np.float32))
    every = np.arange(3)
    expected = metric.kernel(left.astype(np.float64), right.astype(np.float64), metric)
    assert figures(metric, left, right).tolist() == expected.tolist()
    found = metric.distances(left, np.asfortranarray(right), every, every)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["cosine", "correlation"])
@given(data=st.data())
def test_angles_of_float32_are_those_of_float64(name, data):
    # float32 is not scaled before it is squared: neither its largest nor its smallest numbers.
    dim = data.draw(st.sampled_from([2, 3, 70]))
    left, right = data.draw(rows(3, dim, single=True)), data.draw(rows(3, dim, single=True))
    largest, smallest = np.finfo(np.float32).max, np.float32(2.0**-149)
    left[0, :2], right[1, :2] = (largest, smallest), (smallest, 3 * smallest)
    metric = resolve_metric(name)
    expected = figures(metric, left.astype(np.float64), right.astype(np.float64))
    assert figures(metric, left, right).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("other", [np.float32, np.float64])
def test_float32_is_subtracted_in_float64(name, other):
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 40, 9), dtype=np.float32)
    # Differences that float32 rounds, equal vectors, and what is near to the limits of float32.
    left[:10] += 1000
    right[10:20] = left[10:20]
    left[20:30] *= 1e38
    left[30:], right[30:] = left[30:] * 1e-38, right[30:] * 1e-40
    metric = resolve_metric(name)
    wide = metric.kernel(left.astype(np.float64), right.astype(np.float64), metric)
    assert metric.kernel(left, right.astype(other), metric).tolist() == wide.tolist()
    pairs = np.arange(40)
    assert metric.distances(left, right.astype(other), pairs, pairs).tolist() == wide.tolist()


@pytest.mark.parametrize("name", SET_METRICS)
@given(data=st.data())
def test_set_metrics_agree_with_scipy(name, data):
    sets = hnp.arrays(np.bool_, (4, data.draw(st.integers(1, 9))))
    left, right = data.draw(sets), data.draw(sets)
    found = figures(resolve_metric(name), left * 2.5, right * -3.0)
    for i, figure in enumerate(found.tolist()):
        if left[i].any() or right[i].any():
            assert figure == pytest.approx(getattr(scipy_distance, name)(left[i], right[i]))
        elif name == "russellrao":
            assert figure == 1.0
        else:
            assert figure == 0.0  # two empty sets are equal


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("euclidean", {}),
        ("cityblock", {}),
        ("chebyshev", {}),
        ("canberra", {}),
        ("hamming", {}),
        ("haversine", {}),
        ("dice", {}),
        ("jaccard", {}),
        ("rogerstanimoto", {}),
        ("russellrao", {}),
        ("minkowski", {"p": 3.0}),
        ("minkowski", {"p": 1.0, "w": np.array([0.5, 2.0])}),
        ("minkowski", {"p": 2.0, "w": np.array([0.5, 2.0])}),
        ("minkowski", {"p": 4.5, "w": np.array([0.0, 2.0])}),
        ("seuclidean", {"V": np.array([0.5, 2.0])}),
        ("mahalanobis", {"VI": np.array([[2.0, 0.5], [0.5, 1.0]])}),
    ],
)
def test_distances_agree_with_scikit_learn(name, params):
    seed = np.random.default_rng(3)
    left = np.concatenate([seed.normal(size=(20, 2)), seed.integers(-1, 2, size=(40, 2))])
    right = np.concatenate([seed.normal(size=(20, 2)), seed.integers(-1, 2, size=(40, 2))])
    theirs = DistanceMetric.get_metric(name, **params).pairwise(left, right)
    ours = dict(params)
    p = ours.pop("p", 2.0)
    rows, positions = np.divmod(np.arange(theirs.size), len(right))
    found = resolve_metric(name, p, ours).distances(left, right, rows, positions)
    empty = ~left.any(axis=1)[rows] & ~right.any(axis=1)[positions]
    if name == "dice":  # they give NaN for 0/0
        found, theirs = found[~empty], theirs.ravel()[~empty]
    np.testing.assert_allclose(found, theirs.ravel(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["braycurtis", "cosine", "correlation", "sqeuclidean", "yule", "sokalsneath"]
)
def test_distances_agree_with_scipy(name):
    seed = np.random.default_rng(4)
    left, right = seed.normal(size=(2, 30, 5))
    if name in SET_METRICS:
        left, right = left > 0, right > 0
    theirs = [getattr(scipy_distance, name)(*pair) for pair in zip(left, right, strict=True)]
    found = figures(resolve_metric(name), left * 1.0, right * 1.0)
    np.testing.assert_allclose(found, theirs, rtol=1e-12, atol=1e-15)


def test_cosine_of_parallel_and_opposite_and_zero_vectors():
    left = np.array([[1.0, 2, 3], [1, 2, 3], [0, 0, 0], [0, 0, 0], [3, 0, 0]])
    right = np.array([[0.1, 0.2, 0.3], [-2, -4, -6], [1, 2, 3], [0, 0, 0], [0, 7, 0]])
    assert figures(resolve_metric("cosine"), left, right).tolist() == [0.0, 2.0, 1.0, 1.0, 1.0]


def test_cosine_of_narrow_angles_keeps_its_digits():
    angles = np.array([1e-3, 1e-6, 1e-9, 1e-12])
    left = np.repeat([[1.0, 0.0]], len(angles), axis=0)
    right = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    true = 2 * np.sin(angles / 2) ** 2
    np.testing.assert_allclose(figures(resolve_metric("cosine"), left, right), true, rtol=1e-3)


def test_correlation_of_one_feature_is_one():
    assert figures(resolve_metric("correlation"), np.ones((1, 1)), np.ones((1, 1))).tolist() == [1]


HUGE = 1.5e308


@pytest.mark.parametrize(
    ("case", "left", "right", "true"),
    [
        ("haversine", [HUGE, 1.0], [-HUGE, 1.0], None),
        ("euclidean", [HUGE, 0.0], [HUGE, 2.0], 2.0),
        ("euclidean", [HUGE, 0.0], [-HUGE, 0.0], math.inf),
        ("weighted minkowski p=2.0", [HUGE, 1e-10], [-HUGE, 0.0], math.sqrt(0.7) * 1e-10),
        ("weighted minkowski p=3.0", [HUGE, 1e-10], [-HUGE, 0.0], 0.7 ** (1 / 3) * 1e-10),
        ("cosine", [HUGE, HUGE], [-HUGE, HUGE], 1.0),
        ("correlation", [HUGE, -HUGE], [-HUGE, HUGE], 2.0),
        ("inner_product", [HUGE, HUGE], [HUGE, -HUGE], 0.0),
        ("canberra", [HUGE, 0.0], [-HUGE, 0.0], 1.0),
        ("braycurtis", [HUGE, 0.5], [-HUGE, 0.5], math.inf),
        ("braycurtis", [HUGE, HUGE], [HUGE, -HUGE], 1.0),
    ],
)
def test_the_largest_numbers(case, left, right, true):
    found = figures(METRIC_CASES[case](2), np.array([left]), np.array([right]))
    if true is None:  # an invalid latitude still has a distance
        assert 0 <= found[0] <= np.pi
    else:
        assert found[0] == pytest.approx(true, rel=1e-15)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.5])
def test_weights_of_any_magnitude(p):
    weights = np.array([1e300, 1.0, 1e308, 1e308, 1e-308])
    metric = resolve_metric("minkowski", p, {"w": weights})
    left = np.array([[1e-108, 1e-10, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1e-10]])
    expected = [exact.distance(metric, row, np.zeros(5)) for row in left]
    np.testing.assert_allclose(figures(metric, left, np.zeros((3, 5))), expected, rtol=1e-13)
