"""Outlier scores, compared with scikit-learn and with plain Python."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T
from sklearn.neighbors import LocalOutlierFactor

from pyspark_knn.engine.fit.item_columns import ItemColumn
from pyspark_knn.engine.rows.items import Items
from pyspark_knn.engine.search.outlier_answers import (
    DENSITY,
    K_DISTANCE,
    NEIGHBOR_COUNT,
    SCORE,
    OutlierScore,
)
from pyspark_knn.engine.search.scoring import (
    LIST_SCHEMA,
    VALUE_SCHEMA,
    find_densities,
    find_factors,
    numbers_of,
    pack_lists,
    score_alone,
    score_distances,
    unpack_scores,
    values_of,
)
from pyspark_knn.index import lof
from pyspark_knn.index.base import IndexSpec
from pyspark_knn.index.distances import resolve_metric
from pyspark_knn.index.found import Exclusion, Found
from pyspark_knn.index.pairwise import PairwiseSearch

METRICS = ["euclidean", "manhattan", "chebyshev", "cosine"]


class Fitted:
    """Items that were scored against each other."""

    def __init__(self, matrix: Any, k: int, metric: str = "euclidean") -> None:
        matrix = np.asarray(matrix, dtype=np.float64)
        spec = IndexSpec(resolve_metric(metric, 2.0, None))
        self.index = PairwiseSearch.build(matrix, spec)
        rows = np.arange(len(matrix))
        self.k = min(k, len(matrix) - 1)
        self.found = self.index.search(matrix, self.k, exclude=Exclusion(rows, rows))
        self.k_distance = lof.k_distances(self.found)
        self.density = lof.densities(self.found, self.k_distance)
        self.scores = lof.factors(self.found, self.density, self.density)

    def scored(self, queries: Any) -> np.ndarray:
        found = self.index.search(np.asarray(queries, dtype=np.float64), self.k)
        return lof.factors(found, self.density, lof.densities(found, self.k_distance))


def plain(matrix: list[list[float]], k: int) -> list[float]:
    """The factor by its definition, one item at a time; ties go to the earlier item."""
    distance = [[math.dist(a, b) for b in matrix] for a in matrix]
    near = [
        sorted((other, j) for j, other in enumerate(row) if j != i)[:k]
        for i, row in enumerate(distance)
    ]
    k_distance = [row[-1][0] for row in near]
    density = [1 / (sum(max(d, k_distance[j]) for d, j in row) / len(row) + 1e-10) for row in near]
    return [
        sum(density[j] / own for _, j in row) / len(row)
        for row, own in zip(near, density, strict=True)
    ]


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 60), k=st.integers(1, 25))
def test_the_factor_agrees_with_scikit_learn(metric: str, seed: int, rows: int, k: int) -> None:
    random = np.random.default_rng(seed)
    items, new = random.normal(size=(rows, 3)), random.normal(size=(5, 3)) * 2
    fitted = Fitted(items, k, metric)
    settings = {"n_neighbors": min(k, rows - 1), "metric": metric, "algorithm": "brute"}
    inside = LocalOutlierFactor(**settings).fit(items)
    np.testing.assert_allclose(fitted.scores, -inside.negative_outlier_factor_, rtol=1e-9)
    novelty = LocalOutlierFactor(**settings, novelty=True).fit(items)
    np.testing.assert_allclose(fitted.scored(new), -novelty.score_samples(new), rtol=1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20),
    st.integers(1, 8),
)
def test_ties_go_to_the_earlier_item(points: list[tuple[int, int]], k: int) -> None:
    matrix = [list(map(float, point)) for point in points]
    fitted = Fitted(matrix, k)
    np.testing.assert_allclose(fitted.scores, plain(matrix, fitted.k), rtol=1e-12)


def test_more_than_k_duplicates_have_finite_densities_as_in_scikit_learn() -> None:
    items = np.concatenate([np.zeros((6, 2)), np.random.default_rng(1).normal(size=(20, 2))])
    fitted = Fitted(items, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # since release 1.6, scikit-learn warns of duplicates
        expected = LocalOutlierFactor(4, algorithm="brute").fit(items).negative_outlier_factor_
    np.testing.assert_allclose(fitted.scores, -expected, rtol=1e-9)
    assert (fitted.k_distance == 0).sum() == 6
    assert fitted.scores.max() > 1e8


def test_scores_do_not_depend_on_the_blocks() -> None:
    random = np.random.default_rng(2)
    items, new = random.normal(size=(300, 4)), random.normal(size=(40, 4))
    fitted = Fitted(items, 7)
    one_by_one = [fitted.scored(row[None])[0] for row in new]
    assert fitted.scored(new).tolist() == one_by_one


@pytest.mark.parametrize("contamination", [0.01, 0.1, 1 / 3, 0.5])
def test_the_threshold_is_that_of_scikit_learn(contamination: float) -> None:
    items = np.random.default_rng(3).normal(size=(157, 2))
    oracle = LocalOutlierFactor(10, contamination=contamination).fit(items)
    scores = -oracle.negative_outlier_factor_
    threshold = lof.threshold_of(np.append(scores, np.nan), contamination)
    assert threshold == -oracle.offset_
    labels = oracle.fit_predict(items)
    assert lof.outliers(scores, threshold).tolist() == (labels == -1).tolist()


def test_without_neighbors_there_is_no_score() -> None:
    nothing = Found(np.array([0, 0, 1]), np.array([2.0]), np.array([0]))
    values = np.array([1.0])
    for scores in (
        lof.k_distances(nothing),
        lof.densities(nothing, values),
        lof.factors(nothing, values, np.array([np.nan, 1.0])),
        lof.distance_scores(nothing, "kth"),
        lof.distance_scores(nothing, "mean"),
    ):
        assert np.isnan(scores).tolist() == [True, False]
    assert np.isnan(lof.threshold_of(np.array([np.nan]), 0.1))
    assert lof.outliers(np.array([np.nan, 1.0, 2.0]), 1.0).tolist()[1:] == [0.0, 1.0]
    nobody = Found(np.zeros(3, np.int64), np.array([]), np.array([], np.int64))
    assert np.isnan(lof.factors(nobody, values, np.array([1.0, 1.0]))).all()


def test_distances_as_scores() -> None:
    found = Found(np.array([0, 2, 5]), np.array([1.0, 2.0, 0.0, 3.0, 6.0]), np.arange(5))
    assert lof.distance_scores(found, "kth").tolist() == [2.0, 6.0]
    assert lof.distance_scores(found, "mean").tolist() == [1.5, 3.0]


def test_a_query_has_as_many_neighbors_as_the_items_of_its_group() -> None:
    found = Found(np.array([0, 3, 3, 5, 6]), np.arange(6.0), np.array([0, 1, 2, 3, 4, 5]))
    short = lof.shortened(found, np.array([2.0, 2.0, 2.0, 5.0, 5.0, 0.0]))
    assert short.offsets.tolist() == [0, 2, 2, 4, 4]
    assert short.positions.tolist() == [0, 1, 3, 4]
    assert short.distances.tolist() == [0.0, 1.0, 3.0, 4.0]


# --- in workers -----------------------------------------------------------------------------------


def lists_of(found: Found, numbers: np.ndarray) -> pa.RecordBatch:
    offsets = pa.array(found.offsets, pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, pa.array(x)) for x in found[:0:-1]]
    return pa.RecordBatch.from_arrays([pa.array(numbers), *lists], names=["n", "of", "d"])


def part(found: Found, start: int, stop: int) -> Found:
    first, last = found.offsets[[start, stop]]
    offsets = found.offsets[start : stop + 1] - first
    return Found(offsets, found.distances[first:last], found.positions[first:last])


def together(*groups: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Rows of several schemas, as after a union in Spark."""
    schema = pa.unify_schemas([*dict.fromkeys((LIST_SCHEMA, VALUE_SCHEMA))])
    return [
        pa.RecordBatch.from_pylist(batch.to_pylist(), schema=schema)
        for batches in groups
        for batch in batches
    ]


def column(batches: list[pa.RecordBatch], name: str, count: int) -> np.ndarray:
    found = np.full(count, np.nan)
    for row in (row for batch in batches for row in batch.to_pylist()):
        found[numbers_of(row["numbers"])] = values_of(row[name])
    return found


def test_the_steps_of_a_fit() -> None:
    fitted = Fitted(np.random.default_rng(4).normal(size=(50, 3)), 6)
    numbers = np.arange(50)
    parts = [(0, 7), (7, 40), (40, 50)]
    lists = list(
        pack_lists("", (lists_of(part(fitted.found, *p), numbers[slice(*p)]) for p in parts))
    )
    distances = list(score_distances("lof", iter(lists)))
    densities = list(find_densities(50, iter(together(distances, lists))))
    factors = list(find_factors(50, iter(together(densities, lists[::-1]))))
    expected = {
        K_DISTANCE: fitted.k_distance,
        DENSITY: fitted.density,
        SCORE: fitted.scores,
        NEIGHBOR_COUNT: np.full(50, 6.0),
    }
    for name, values in expected.items():
        assert column(factors, name, 50).tolist() == values.tolist(), name
    alone = list(score_alone(50, "lof", iter(lists)))
    assert [row for batch in alone for row in batch.to_pylist()] == [
        row for batch in factors[::-1] for row in batch.to_pylist()
    ]
    for step in (functools.partial(score_alone, 50), score_distances):
        plain_scores = list(step("mean", iter(lists)))
        assert column(plain_scores, SCORE, 50).tolist() == (
            lof.distance_scores(fitted.found, "mean").tolist()
        )
    single = list(unpack_scores(iter(batch.select([SCORE]) for batch in factors)))
    assert sum(batch.num_rows for batch in single) == 50


@pytest.mark.parametrize("keyed", [False, True])
def test_the_answer(keyed: bool) -> None:
    items = np.random.default_rng(5).normal(size=(30, 2))
    new = np.array([[0.0, 0.1], [5.0, 5.0]])
    fitted = Fitted(items, 4)
    columns = {K_DISTANCE: fitted.k_distance, DENSITY: fitted.density}
    columns |= {NEIGHBOR_COUNT: np.full(30, 4.0)} if keyed else {}
    table = Items(30, {name: pa.array(each) for name, each in columns.items()})
    result = T.StructType([T.StructField(name, T.DoubleType()) for name in ("out", "s")])
    answer = OutlierScore(result, ("predictionCol", "scoreCol"), "lof", 1.5, keyed)
    assert set(answer.needs) == set(columns)
    found = fitted.index.search(new, 4)
    rows = answer.rows(found, table).to_pylist()
    assert [row["s"] for row in rows] == fitted.scored(new).tolist()
    assert [row["out"] for row in rows] == [0.0, 1.0]


def test_saved_numbers_may_be_nan_but_not_null() -> None:
    known = ItemColumn("density", "items column", "density", finite=False)
    assert known.problem(pa.array([1.0, float("nan"), float("inf")])) is None
    assert "contains a null" in str(known.problem(pa.array([1.0, None])))
    assert "contains nan" in str(
        ItemColumn("label", "labelCol", "y").problem(pa.array([1.0, float("nan")]))
    )
