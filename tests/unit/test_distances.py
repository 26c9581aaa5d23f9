"""Names and parameters of metrics: what is taken, and what is said where it is not."""

import math

import numpy as np
import pytest
from sklearn.neighbors import VALID_METRICS

from pyspark_knn.index.distances import METRICS, Metric, resolve_metric

VI = [[2.0, 0.5], [0.5, 1.0]]
PARAMS = {"seuclidean": {"V": [1.0, 2.0]}, "mahalanobis": {"VI": VI}}


def resolved(name: str) -> Metric:
    return resolve_metric(name, params=PARAMS.get(name))


def test_all_that_scikit_learn_takes_is_taken_or_refused_with_a_reason():
    theirs = set().union(*VALID_METRICS.values())
    assert theirs - set(METRICS) == {"precomputed", "pyfunc"}
    assert set(METRICS) - theirs <= {"inner_product", "sokalmichener"}
    for name in theirs & set(METRICS):
        assert resolved(name).name in METRICS


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("l1", "cityblock"),
        ("manhattan", "cityblock"),
        ("l2", "euclidean"),
        ("infinity", "chebyshev"),
        ("sokalmichener", "rogerstanimoto"),
        ("minkowski", "euclidean"),
        ("p", "euclidean"),
        ("sqeuclidean", "sqeuclidean"),
    ],
)
def test_aliases(alias, name):
    assert resolve_metric(alias).name == name


@pytest.mark.parametrize(
    ("p", "name"), [(1, "cityblock"), (np.float32(2), "euclidean"), (math.inf, "chebyshev")]
)
def test_minkowski_of_a_plain_p_is_the_plain_metric(p, name):
    assert resolve_metric("minkowski", p).name == name


def test_p_is_read_by_minkowski_alone():
    assert resolve_metric("cosine", -1.0).p == 2.0
    assert resolve_metric("minkowski", np.int32(3)).p == 3.0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("precomputed", "a search needs vectors, not their distances"),
        ("pyfunc", "a Python function cannot be saved"),
    ],
)
def test_refused_with_a_reason(name, reason):
    with pytest.raises(ValueError, match=f"metric '{name}' is not supported: {reason}"):
        resolve_metric(name)


def test_an_unknown_metric_is_told_all_names():
    with pytest.raises(ValueError, match=r"unknown metric 'euclidian'. Supported: ") as error:
        resolve_metric("euclidian")
    assert str(error.value).endswith(f"{', '.join(METRICS)}. Did you mean 'euclidean'?")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (math.dist, "metric must be a name, not a function"),
        (3, "metric must be a string, got 3"),
        (None, "metric must be a string, got None"),
    ],
)
def test_a_metric_that_is_no_name(name, message):
    with pytest.raises(TypeError, match=message):
        resolve_metric(name)


@pytest.mark.parametrize(
    ("p", "kind", "message"),
    [
        (0, ValueError, "p must be > 0, got 0"),
        (-1.5, ValueError, "p must be > 0, got -1.5"),
        (math.nan, ValueError, "p must be > 0, got nan"),
        ("3", TypeError, "p must be a number, got '3'"),
        (True, TypeError, "p must be a number, got True"),
        (None, TypeError, "p must be a number, got None"),
    ],
)
def test_bad_p(p, kind, message):
    with pytest.raises(kind, match=message):
        resolve_metric("minkowski", p)


@pytest.mark.parametrize(
    ("name", "params", "kind", "message"),
    [
        (
            "seuclidean",
            None,
            ValueError,
            r"'seuclidean' requires metricParams\['V'\], the variance",
        ),
        ("seuclidean", {"V": [1, 0]}, ValueError, r"\['V'\] must contain numbers > 0: drop const"),
        ("seuclidean", {"V": [[1.0]]}, ValueError, r"\['V'\] must be a list with one number for "),
        ("seuclidean", {"V": []}, ValueError, r"\['V'\] must be a list .* got shape \(0,\)"),
        ("seuclidean", {"V": [math.nan]}, ValueError, r"\['V'\] must contain finite"),
        ("seuclidean", {"V": ["x"]}, TypeError, r"\['V'\] must contain numbers"),
        (
            "seuclidean",
            {"V": [1], "w": [1]},
            ValueError,
            r"\['w'\] is not a parameter .* Supported: 'V'\.",
        ),
        ("mahalanobis", {}, ValueError, r"'mahalanobis' requires metricParams\['V'\], the cov"),
        ("mahalanobis", {"VI": [1.0]}, ValueError, r"\['VI'\] must be a square matrix"),
        ("mahalanobis", {"VI": [[1, 2]]}, ValueError, r"\['VI'\] must be square, got shape \(1, 2"),
        ("mahalanobis", {"VI": [[1, 2], [0, 1]]}, ValueError, r"\['VI'\] must be symmetric"),
        ("mahalanobis", {"VI": [[1, 2], [2, 1]]}, ValueError, "positive semi-definite"),
        ("mahalanobis", {"V": [1.0, 2.0]}, ValueError, r"\['V'\] must be a square matrix"),
        ("mahalanobis", {"V": [[1, 2], [0, 1]]}, ValueError, r"\['V'\] must be symmetric"),
        ("mahalanobis", {"V": [[1, 2], [2, 1]]}, ValueError, r"\['V'\] must be positive semi-def"),
        ("mahalanobis", {"V": VI, "VI": VI}, ValueError, r"both 'V' and 'VI': pass one of them"),
        (
            "haversine",
            {"radius": 0},
            ValueError,
            r"\['radius'\] must be a finite number > 0, got 0",
        ),
        ("haversine", {"radius": math.inf}, ValueError, r"must be a finite number > 0, got inf"),
        ("haversine", {"radius": math.nan}, ValueError, r"must be a finite number > 0, got nan"),
        ("haversine", {"radius": -1.5}, ValueError, r"must be a finite number > 0, got -1.5"),
        ("haversine", {"radius": "km"}, TypeError, r"must be a finite number > 0, got 'km'"),
        ("haversine", {"radius": True}, TypeError, r"must be a finite number > 0, got True"),
        ("haversine", {"radius": [1.0]}, TypeError, r"must be a finite number > 0, got \[1.0\]"),
        (
            "euclidean",
            {"radius": 2.0},
            ValueError,
            r"\['radius'\] is not a parameter of metric 'euclidean'",
        ),
        ("minkowski", {"w": [1, -1]}, ValueError, r"\['w'\] must contain numbers >= 0"),
        ("minkowski", {"p": 3}, ValueError, "must not contain 'p': set the Param p"),
        ("cosine", {"w": [1]}, ValueError, r"\['w'\] is not a parameter of metric 'cosine'\. Supp"),
        ("l1", {"w": [1]}, ValueError, r"\['w'\] is not a parameter of metric 'l1'\. Supported"),
        ("minkowski", [1, 2], TypeError, r"metricParams must be a dict, got \[1, 2\]"),
    ],
)
def test_bad_params(name, params, kind, message):
    with pytest.raises(kind, match=message):
        resolve_metric(name, params=params)


def test_weights_that_overflow():
    with pytest.raises(ValueError, match=r"metricParams\['w'\] is too large for p=0.5"):
        resolve_metric("minkowski", 0.5, {"w": [1e300]})


def test_params_are_copied():
    given = np.array([1.0, 2.0])
    metric = resolve_metric("seuclidean", params={"V": given})
    given[:] = 7
    assert metric.params["V"].tolist() == [1.0, 2.0]


def test_an_inverse_that_rounding_made_unsymmetric_is_taken():
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1, 1e3, 1e-3, 1]
    inverse = np.linalg.inv(np.cov(rows, rowvar=False))
    found = resolve_metric("mahalanobis", params={"VI": inverse}).params["VI"]
    np.testing.assert_array_equal(found, found.T)


def one_hots(count: int, columns: int) -> np.ndarray:
    rows = np.random.default_rng(0)
    return np.column_stack(
        [rows.normal(size=count), np.eye(columns)[rows.integers(0, columns, count)]]
    )


def test_a_covariance_is_inverted_once():
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1, 1e3, 1e-9, 1]
    covariance = np.cov(rows, rowvar=False)
    found = resolve_metric("mahalanobis", params={"V": covariance})
    assert set(found.params) == {"VI"}
    inverse = found.params["VI"]
    np.testing.assert_array_equal(inverse, inverse.T)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(
        inverse * np.outer(scale, scale),
        np.linalg.inv(covariance / np.outer(scale, scale)),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("columns", [2, 3, 12])
def test_a_singular_covariance_is_called_that_and_the_remedies_are_named(columns):
    """All one-hot columns of a category sum to 1: a pseudo-inverse or one column less helps."""
    covariance = np.cov(one_hots(400, columns), rowvar=False)
    remedies = r"numpy\.linalg\.pinv.*dropLast"
    with pytest.raises(ValueError, match=rf"\['V'\] is singular.*{remedies}"):
        resolve_metric("mahalanobis", params={"V": covariance})
    resolve_metric("mahalanobis", params={"VI": np.linalg.pinv(covariance)})
    resolve_metric("mahalanobis", params={"V": covariance[:-1, :-1]})


def test_the_inverse_of_a_singular_covariance_is_refused_with_the_remedies():
    """numpy.linalg.inv raises for some of these matrices, and returns noise for others."""
    for inverse in ([[1.0, 2.0], [2.0, 1.0]], [[1e16, 3e15], [2e15, 1e16]]):
        with pytest.raises(ValueError, match=r"singular.*numpy\.linalg\.pinv.*dropLast"):
            resolve_metric("mahalanobis", params={"VI": inverse})


def test_a_constant_feature_makes_a_covariance_singular():
    with pytest.raises(ValueError, match=r"\['V'\] is singular"):
        resolve_metric("mahalanobis", params={"V": [[1.0, 0.0], [0.0, 0.0]]})


def test_the_radius_scales_every_distance():
    points = np.random.default_rng(1).uniform(-1.5, 1.5, (30, 2))
    pairs = np.arange(30), np.arange(30)[::-1]
    angles = resolve_metric("haversine").distances(points, points, *pairs)
    radius = 6371.0088
    metric = resolve_metric("haversine", params={"radius": radius})
    assert metric.radius == radius
    metric.check_dimension(2)
    assert metric.distances(points, points, *pairs).tolist() == (angles * radius).tolist()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ([48.8566, 2.3522], "latitude 48.8566"),
        ([-1.6, 0.0], "latitude -1.6"),
        ([0.5, 139.7], "longitude 139.7"),
        ([0.5, -6.4], "longitude -6.4"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degrees_are_refused(row, what, dtype):
    rows = np.array([[0.8, 0.1], row], dtype)
    recipe = r"radians\(lat\).*radians\(lon\)"
    with pytest.raises(ValueError, match=rf"featuresCol.*{what}.*{recipe}"):
        resolve_metric("haversine").check_values(rows)
    resolve_metric("euclidean").check_values(rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_places_on_earth_are_taken_even_rounded_to_float32(dtype):
    lat, lon = np.meshgrid([-90.0, 90.0], [-360.0, -180.0, 180.0, 360.0])
    rows = np.radians(np.stack([lat, lon], axis=-1).reshape(-1, 2)).astype(dtype)
    resolve_metric("haversine").check_values(rows)
    resolve_metric("haversine").check_values(rows[:0])


@pytest.mark.parametrize("name", METRICS)
def test_the_dimension_that_a_metric_demands(name):
    metric = resolved(name)
    metric.check_dimension(2)
    if name == "haversine":
        with pytest.raises(ValueError, match="'haversine' requires 2 features, latitude and longi"):
            metric.check_dimension(3)
    elif name in PARAMS:
        (key,) = PARAMS[name]
        with pytest.raises(ValueError, match=rf"\['{key}'\] is for 2 .* vectors have 3"):
            metric.check_dimension(3)
    else:
        metric.check_dimension(3)
