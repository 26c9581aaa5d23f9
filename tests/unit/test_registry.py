"""The registry of algorithms: which there are, what they support, and how one is added."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.neighbors import VALID_METRICS

from pyspark_knn.index.auto import Trials, build_index
from pyspark_knn.index.base import OPTIONS, IndexSpec
from pyspark_knn.index.distances import METRICS, Metric, resolve_metric
from pyspark_knn.index.kernels import KERNELS
from pyspark_knn.index.pairwise import PairwiseSearch
from pyspark_knn.index.registry import (
    algorithm_choices,
    check_algorithm,
    classes_for,
    entries,
    register,
    unregister,
)
from tests.support.toy_index import GuessingIndex, ToyIndex

VI = [[2.0, 0.5], [0.5, 1.0]]
PARAMS = {"seuclidean": {"V": [1.0, 2.0]}, "mahalanobis": {"VI": VI}}
EXACT = ("brute", "kd_tree", "ball_tree")
APPROXIMATE = tuple(name for name in algorithm_choices() if name not in ("auto", *EXACT))
ALGORITHMS = (*EXACT, *APPROXIMATE)
EUCLIDEAN = resolve_metric("euclidean")


def resolved(name: str) -> Metric:
    return resolve_metric(name, params=PARAMS.get(name))


@pytest.fixture
def toy() -> Iterator[None]:
    register(ToyIndex)
    yield
    unregister(ToyIndex)


@pytest.fixture
def guessing() -> Iterator[None]:
    register(GuessingIndex)
    yield
    unregister(GuessingIndex)


def test_every_class_states_what_it_is():
    assert algorithm_choices() == ("auto", *ALGORITHMS)
    for entry in entries():
        found = entry.load()
        assert (found.algorithm, found.exact) == (entry.algorithm, entry.exact)
        assert found.exact == (entry.algorithm in EXACT)
        assert found.metrics <= set(KERNELS)
        assert found.options <= OPTIONS
        assert not any(found.supports(Metric(name)) for name in set(KERNELS) - found.metrics)


def test_brute_supports_every_metric():
    assert all("brute" in classes_for(resolved(name)) for name in METRICS)


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_each_tree_supports_what_scikit_learns_does_but_for_the_inexact(algorithm):
    able = {name for name in METRICS if algorithm in classes_for(resolved(name))}
    missing = set(VALID_METRICS[algorithm]) - able
    assert missing <= {"braycurtis", "dice", "sokalsneath", "pyfunc"}
    # Squares have the order of their roots, so the trees can find them too. In the coordinates that
    # a tree gets, haversine and metrics with parameters are plain.
    plain = {"braycurtis", "haversine", "mahalanobis", "seuclidean"}
    assert able - set(VALID_METRICS[algorithm]) <= {"sqeuclidean", "sokalmichener", *plain}


@pytest.mark.parametrize("name", METRICS)
def test_the_error_of_an_unsupported_metric_names_the_algorithms_that_support_it(name):
    metric = resolved(name)
    able = classes_for(metric)
    check_algorithm("auto", metric)
    for algorithm in ALGORITHMS:
        if algorithm in able:
            check_algorithm(algorithm, metric)
            continue
        with pytest.raises(ValueError, match="does not support metric") as error:
            check_algorithm(algorithm, metric)
        start = f"algorithm {algorithm!r} does not support metric {metric.name!r}"
        assert str(error.value).startswith(start)
        names = ", ".join(map(repr, ("auto", *able)))
        assert str(error.value).endswith(f". Supported: {names}.")


def test_the_error_of_an_unsupported_metric():
    with pytest.raises(ValueError, match="support") as error:
        check_algorithm("kd_tree", resolve_metric("cosine"))
    assert str(error.value) == (
        "algorithm 'kd_tree' does not support metric 'cosine'. Supported: "
        + ", ".join(map(repr, ("auto", "brute", *APPROXIMATE)))
        + "."
    )


@pytest.mark.parametrize(
    ("p", "w", "able"),
    [
        (0.5, None, ("brute",)),
        (0.5, [1.0], ("brute",)),
        (3.0, None, ("brute", "kd_tree", "ball_tree")),
        (3.0, [1.0], ("brute", "ball_tree")),
        (2.0, [1.0], ("brute", "ball_tree", *APPROXIMATE)),
        (math.inf, [1.0], ("brute", "ball_tree")),
    ],
)
def test_which_algorithms_support_minkowski(p, w, able):
    metric = resolve_metric("minkowski", p, None if w is None else {"w": w})
    assert tuple(classes_for(metric)) == able
    if "kd_tree" not in able:
        detail = rf"with p={p:g}|weights"
        with pytest.raises(ValueError, match=detail):
            check_algorithm("kd_tree", metric)


def test_unknown_algorithms():
    known = ", ".join(map(repr, ("auto", *ALGORITHMS)))
    message = f"unknown algorithm 'lsh'. Supported: {known}."
    with pytest.raises(ValueError, match="unknown") as error:
        check_algorithm("lsh", EUCLIDEAN)
    assert str(error.value) == message
    with pytest.raises(TypeError, match="algorithm must be a string, got 3"):
        check_algorithm(3, EUCLIDEAN)


@pytest.mark.usefixtures("toy")
def test_a_registered_class_is_an_algorithm_until_it_is_unregistered():
    assert algorithm_choices() == ("auto", *ALGORITHMS, "toy")
    index, reason = build_index(np.eye(3), IndexSpec(EUCLIDEAN, "toy"))
    assert isinstance(index, ToyIndex)
    assert reason == "algorithm 'toy' was requested"
    with pytest.raises(ValueError, match=r"'toy' does not support metric 'cosine'"):
        check_algorithm("toy", resolve_metric("cosine"))
    before = entries()
    register(ToyIndex)
    assert entries() == before
    unregister(ToyIndex)
    assert algorithm_choices() == ("auto", *ALGORITHMS)
    with pytest.raises(ValueError, match="unknown algorithm 'toy'"):
        check_algorithm("toy", EUCLIDEAN)


def test_a_spec_carries_the_classes_to_another_process():
    register(ToyIndex)
    sent = pickle.dumps(IndexSpec(EUCLIDEAN, "toy", registered=entries()))
    unregister(ToyIndex)
    index, _ = build_index(np.eye(3), pickle.loads(sent))
    assert isinstance(index, ToyIndex)


def test_the_classes_of_the_package_stay():
    unregister(PairwiseSearch)
    assert algorithm_choices() == ("auto", *ALGORITHMS)
    assert PairwiseSearch in [entry.load() for entry in entries()]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"__module__": "__main__"}, "must be defined at the top level of a module that the"),
        ({"__qualname__": "make.<locals>.Other"}, "must be defined at the top level of a module"),
        ({"options": frozenset({"nlist"})}, r"options among .*'leaf_size'.*, got .* \['nlist'\]"),
        ({"algorithm": "auto"}, "must have an algorithm other than 'auto'"),
    ],
)
def test_what_cannot_be_registered(attributes, message):
    other = type("Other", (ToyIndex,), attributes)
    with pytest.raises(ValueError, match=message):
        register(other)
    assert algorithm_choices() == ("auto", *ALGORITHMS)


@pytest.mark.usefixtures("toy", "guessing")
def test_auto_chooses_among_exact_classes():
    timed = []

    def cost(index):
        timed.append(index.algorithm)
        return {"guessing": 1e-9, "toy": 1e-6}.get(index.algorithm, 2e-6)

    items = np.random.default_rng(0).standard_normal((3000, 2))
    assert build_index(items, IndexSpec(EUCLIDEAN), Trials(timer=cost))[0].algorithm == "toy"
    assert set(timed) == {*EXACT, "toy"}
    index, _ = build_index(items[:9], IndexSpec(EUCLIDEAN, "guessing"))
    assert not index.exact


def test_asking_what_the_classes_support_imports_no_large_library():
    code = (
        "import sys\n"
        "from pyspark_knn.index.distances import Metric\n"
        "from pyspark_knn.index.registry import classes_for\n"
        "print(*classes_for(Metric('euclidean')))\n"
        "large = ('sklearn', 'scipy', 'pandas', 'faiss', 'annoy')\n"
        "print(*[name for name in large if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines() == [" ".join(ALGORITHMS), ""]


def test_a_worker_that_searches_an_index_imports_no_registry():
    code = (
        "import sys, pyspark_knn.index.block_search, pyspark_knn.index.distances\n"
        "print('pyspark_knn.index.registry' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"
