"""Predictions and probabilities agree with scikit-learn on every data set that it includes.

Both may differ only where items are equally far, so that the k nearest are not told by their
distances: scikit-learn breaks such ties as its algorithm happens to meet the items, we by the
smaller id. Each comparison leaves exactly those queries out, and says so where another one differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from sklearn import datasets
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from pyspark_knn import KNNClassifier, KNNEstimator, KNNRegressor

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

K = 7
P = 3.0
LARGEST = 500
SEARCHES = [
    ("euclidean", "brute"),
    ("euclidean", "kd_tree"),
    ("euclidean", "ball_tree"),
    ("cityblock", "kd_tree"),
    ("chebyshev", "brute"),
    ("minkowski", "ball_tree"),
    ("cosine", "brute"),
]
WEIGHTS = ("uniform", "distance")
TOGETHER = 4
"""Outputs in one job: each has its own Python worker."""

CLASSIFIED: dict[str, Callable[[], Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
MEASURED: dict[str, tuple[Callable[[], Any], int | None]] = {
    "diabetes": (datasets.load_diabetes, None),
    "linnerud, weight": (datasets.load_linnerud, 0),
    "linnerud, waist": (datasets.load_linnerud, 1),
    "linnerud, pulse": (datasets.load_linnerud, 2),
}


class Halves(NamedTuple):
    """A data set, split in two."""

    items: np.ndarray
    target: np.ndarray
    queries: np.ndarray


def cut(bundle: Any, target: int | None = None) -> Halves:
    mixed = np.random.default_rng(0).permutation(len(bundle.data))[:LARGEST]
    values = bundle.target if target is None else bundle.target[:, target]
    half = len(mixed) // 2
    items, queries = mixed[:half], mixed[half:]
    matrix = np.asarray(bundle.data, dtype=float)
    return Halves(matrix[items], values[items], matrix[queries])


def frames(spark: SparkSession, halves: Halves) -> tuple[DataFrame, DataFrame]:
    rows = [
        (i, halves.items[i].tolist(), float(halves.target[i])) for i in range(len(halves.items))
    ]
    items = spark.createDataFrame(rows, "id int, features array<double>, label double")
    asked = list(enumerate(halves.queries.tolist()))
    queries = spark.createDataFrame(asked, "query int, features array<double>")
    return items.coalesce(1), queries.coalesce(1)


def compared(
    spark: SparkSession, kind: type, judge: type, halves: Halves
) -> Iterator[tuple[str, list[Any], Any, np.ndarray]]:
    """For each search: its name, our rows, what scikit-learn fitted, and the queries to compare."""
    items, queries = frames(spark, halves)
    knn = kind(k=K, idCol="id", p=P)
    cases = [(*search, weights) for search in SEARCHES for weights in WEIGHTS]
    maps = [
        {knn.metric: metric, knn.algorithm: algorithm, knn.weights: weights}
        for metric, algorithm, weights in cases
    ]
    models = dict(knn.fitMultiple(items, maps))
    rows: dict[int, list[Any]] = {}
    for start in range(0, len(cases), TOGETHER):
        part = range(start, min(start + TOGETHER, len(cases)))
        frame = queries
        for i in part:
            names = {"predictionCol": f"prediction {i}"}
            if kind is KNNClassifier:
                names |= {"probabilityCol": f"probability {i}", "rawPredictionCol": ""}
            frame = models[i]._set(**names).transform(frame)
        collected = sorted(frame.drop("features").collect(), key=lambda row: row["query"])
        rows |= dict.fromkeys(part, collected)
    for i, (metric, algorithm, weights) in enumerate(cases):
        theirs = judge(K, metric=metric, p=P, algorithm=algorithm, weights=weights)
        theirs.fit(halves.items, halves.target)
        distances, _ = theirs.kneighbors(halves.queries, K + 1)
        told = distances[:, K] - distances[:, K - 1] > 1e-9 * distances[:, K]
        ours = [(row[f"prediction {i}"], row.asDict().get(f"probability {i}")) for row in rows[i]]
        yield f"{metric}, {algorithm}, {weights}", ours, theirs, told


@pytest.mark.parametrize("name", CLASSIFIED)
def test_classes(spark: SparkSession, name: str) -> None:
    halves = cut(CLASSIFIED[name]())
    compared_queries = 0
    for case, ours, theirs, told in compared(spark, KNNClassifier, KNeighborsClassifier, halves):
        compared_queries += told.sum()
        shares = np.array([probability.toArray() for _, probability in ours])
        expected = theirs.predict_proba(halves.queries)
        differ = np.flatnonzero(told & (abs(shares - expected) > 1e-9).any(axis=1))
        assert not len(differ), f"{case}: the queries {differ} differ"
        predicted = np.array([prediction for prediction, _ in ours])
        if case.endswith("distance"):  # sums of inverses may be equal but for their last digits
            best = np.sort(expected, axis=1)
            told &= best[:, -1] - best[:, -2] > 1e-9
        differ = np.flatnonzero(told & (predicted != theirs.predict(halves.queries)))
        assert not len(differ), f"{case}: the queries {differ} differ"
    assert compared_queries > 5 * len(halves.queries)


@pytest.mark.parametrize("name", MEASURED)
def test_means(spark: SparkSession, name: str) -> None:
    load, target = MEASURED[name]
    halves = cut(load(), target)
    compared_queries = 0
    for case, ours, theirs, told in compared(spark, KNNRegressor, KNeighborsRegressor, halves):
        predicted = np.array([prediction for prediction, _ in ours])
        compared_queries += told.sum()
        expected = theirs.predict(halves.queries)
        differ = np.flatnonzero(told & (abs(predicted - expected) > 1e-9 * abs(expected)))
        assert not len(differ), f"{case}: the queries {differ} differ"
    assert compared_queries > 5 * len(halves.queries)


def test_only_queries_with_ties_differ_from_scikit_learn(spark: SparkSession) -> None:
    """On whole numbers, whose distances are exact: only tied queries differ, by our rule."""
    halves = cut(datasets.load_iris())
    halves = halves._replace(items=np.rint(halves.items * 10), queries=np.rint(halves.queries * 10))
    squares = ((halves.queries[:, None, :] - halves.items[None, :, :]) ** 2).sum(axis=2)
    by_rule = np.argsort(squares, axis=1, kind="stable")[:, :K]  # equal ones by position: the id
    items, queries = frames(spark, halves)
    found = KNNEstimator(k=K, idCol="id").fit(items).transform(queries).collect()
    ours = np.array([row.neighbors for row in sorted(found, key=lambda row: row["query"])])
    assert (ours == by_rule).all()
    theirs = KNeighborsClassifier(K, algorithm="kd_tree").fit(halves.items, halves.target)
    _, chosen = theirs.kneighbors(halves.queries)
    ordered = np.sort(squares, axis=1)
    tied = np.flatnonzero(ordered[:, K - 1] == ordered[:, K])
    differ = np.flatnonzero((np.sort(chosen, axis=1) != np.sort(ours, axis=1)).any(axis=1))
    assert len(differ), "scikit-learn breaks some of these ties otherwise"
    assert set(differ) <= set(tied), f"of the queries {differ} only {tied} are tied"
