"""Answers of a search: compared with plain float64 search, and equal to the bit in every run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.rows.features import features_of
from tests.support.frames import KINDS, Matrix, answers, frame_of
from tests.support.oracle import direct_distances, nearest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def _lattice() -> tuple[Matrix, list[int], Matrix]:
    """Items, ids and queries: full of ties, and exact in every type of column."""
    rng = np.random.default_rng(7)
    items = rng.integers(-2, 3, (120, 3)).astype(np.float64)
    ids = rng.permutation(1000)[:120].tolist()
    return items, ids, rng.integers(-3, 4, (30, 3)).astype(np.float64)


ITEMS, IDS, QUERIES = _lattice()

# Metric, the Params that it needs, and the algorithms that support it.
METRICS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("euclidean", {}, ("auto", "brute", "kd_tree", "ball_tree")),
    ("minkowski", {"p": 3.0, "metricParams": {"w": [1.0, 2.0, 0.5]}}, ("brute", "ball_tree")),
    ("canberra", {}, ("brute", "ball_tree")),
    ("cosine", {}, ("auto", "brute")),
]


@pytest.fixture(scope="module")
def queries(spark: SparkSession) -> DataFrame:
    return frame_of(spark, QUERIES, partitions=3)


@pytest.fixture
def batches_of_one(spark: SparkSession) -> Iterator[None]:
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    spark.conf.set(name, "1")
    yield
    spark.conf.set(name, before or "10000")


def test_dense_vectors_reach_python_without_null_arrays(spark: SparkSession) -> None:
    # Spark takes quadratic time for runs of nulls; the layout marks sparse vectors instead.
    sparse = Vectors.sparse(3, [1], [2.0])
    rows = [(Vectors.dense(1.0, 2.0, 3.0),), (sparse,), (Vectors.sparse(3, [], []),)]
    queries = spark.createDataFrame(rows, ["features"])
    inputs = features_of(queries, "featuresCol", "features").inputs
    found = queries.select(*(each.value.alias(name) for name, each in inputs.items())).collect()
    assert [list(row) for row in found] == [
        [[1.0, 2.0, 3.0], []],
        [[2.0], [3, 1]],
        [[], [3]],
    ]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_neighbors_are_those_of_direct_differences(
    spark: SparkSession, queries: DataFrame, metric: str
) -> None:
    model = KNNEstimator(k=8, idCol="id", metric=metric).fit(frame_of(spark, ITEMS, IDS))
    expected = nearest(direct_distances(QUERIES, ITEMS, metric), IDS, 8)
    found = answers(model.transform(queries))
    for got, wanted in zip(found, expected, strict=True):
        assert [d for _, d in got] == pytest.approx([d for _, d in wanted], abs=1e-15)
        if metric != "cosine":
            # Distances on a lattice are exact, so ties are ties in the reference too.
            assert got == wanted


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_type_of_features_column(spark: SparkSession, kind: str) -> None:
    items = frame_of(spark, ITEMS, IDS, kind=kind)
    expected = nearest(direct_distances(QUERIES, ITEMS), IDS, 5)
    model = KNNEstimator(idCol="id").fit(items)
    # Queries of another column type have the same answers.
    other = "dense" if kind != "dense" else "float"
    for column in (kind, other):
        assert answers(model.transform(frame_of(spark, QUERIES, kind=column))) == expected


def test_float32_items_with_float64_queries_are_compared_in_float64(
    spark: SparkSession, rng: np.random.Generator
) -> None:
    items = rng.normal(size=(50, 4)).astype(np.float32)
    queries = rng.normal(size=(10, 4))
    model = KNNEstimator(k=3, idCol="id").fit(frame_of(spark, items, kind="float"))
    expected = nearest(direct_distances(queries, items), range(50), 3)
    found = answers(model.transform(frame_of(spark, queries)))
    assert [[i for i, _ in row] for row in found] == [[i for i, _ in row] for row in expected]
    assert np.ravel([[d for _, d in row] for row in found]) == pytest.approx(
        np.ravel([[d for _, d in row] for row in expected]), rel=1e-15
    )


@pytest.mark.dense
def test_dtype_float32_rounds_the_items_once(spark: SparkSession, rng: np.random.Generator) -> None:
    items, queries = rng.normal(size=(50, 4)), rng.normal(size=(10, 4))
    model = KNNEstimator(k=3, idCol="id", dtype="float32").fit(frame_of(spark, items))
    rounded = items.astype(np.float32)
    expected = nearest(direct_distances(queries, rounded), range(50), 3)
    found = answers(model.transform(frame_of(spark, queries)))
    assert [[i for i, _ in row] for row in found] == [[i for i, _ in row] for row in expected]
    stored = sorted(model.items.collect(), key=lambda row: row.id)
    assert [row.features for row in stored] == rounded.tolist()


@pytest.mark.parametrize(
    ("metric", "params", "algorithms"), METRICS, ids=[each[0] for each in METRICS]
)
def test_answers_are_equal_to_the_bit_however_they_are_computed(
    spark: SparkSession,
    rng: np.random.Generator,
    batches_of_one: None,
    metric: str,
    params: dict[str, Any],
    algorithms: tuple[str, ...],
) -> None:
    """Algorithms, partitions of items and of queries, and batch sizes of 1 and 10,000."""
    items, queries = rng.normal(size=(90, 3)), frame_of(spark, rng.normal(size=(20, 3)))
    items[40:60] = items[:20]  # duplicates
    found = []
    for algorithm in algorithms:
        for partitions, batch in ((1, "10000"), (7, "1")):
            estimator = KNNEstimator(k=6, idCol="id", metric=metric, algorithm=algorithm, **params)
            model = estimator.fit(frame_of(spark, items, partitions=partitions))
            spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", batch)
            found.append(answers(model.transform(queries.repartition(partitions))))
            if algorithm != "auto":
                assert model.getAlgorithm() == algorithm
    assert all(each == found[0] for each in found)
    assert all(len(row) == 6 for row in found[0])


def test_without_id_col_positions_name_the_neighbors(spark: SparkSession) -> None:
    items = frame_of(spark, ITEMS, partitions=1).orderBy("id").select("features")
    with pytest.warns(UserWarning, match="idCol is unset"):
        model = KNNEstimator(k=4).fit(items)
    expected = nearest(direct_distances(QUERIES, ITEMS), range(120), 4)
    found = model.transform(frame_of(spark, QUERIES))
    assert answers(found) == expected
    assert found.schema["neighbors"].dataType.simpleString() == "array<bigint>"


def test_items_with_duplicate_ids_are_separate_items(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[0.0], [1.0], [2.0], [9.0]]), [7, 7, 7, 8])
    with pytest.warns(UserWarning, match="2 items have the same id as another"):
        model = KNNEstimator(k=3, idCol="id").fit(items)
    found = answers(model.transform(frame_of(spark, np.array([[0.0]]))))
    assert found == [[(7, 0.0), (7, 1.0), (7, 2.0)]]


def test_k_above_the_number_of_items_returns_all_items(spark: SparkSession) -> None:
    with pytest.warns(UserWarning, match="k is 9, but there are only 2 items"):
        model = KNNEstimator(k=9, idCol="id").fit(frame_of(spark, ITEMS[:2]))
    found = answers(model.transform(frame_of(spark, QUERIES[:3])))
    assert found == nearest(direct_distances(QUERIES[:3], ITEMS[:2]), range(2), 9)


def test_one_item(spark: SparkSession) -> None:
    with pytest.warns(UserWarning, match="k is 2, but there is only 1 item: each query gets fewer"):
        model = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, ITEMS[:1], [5]))
    found = answers(model.transform(frame_of(spark, QUERIES[:2])))
    assert found == nearest(direct_distances(QUERIES[:2], ITEMS[:1]), [5], 1)


@pytest.mark.parametrize("algorithm", ["brute", "kd_tree", "ball_tree"])
def test_all_items_identical(spark: SparkSession, algorithm: str) -> None:
    items = frame_of(spark, np.ones((300, 2)), partitions=3)
    model = KNNEstimator(k=4, idCol="id", algorithm=algorithm).fit(items)
    found = answers(model.transform(frame_of(spark, np.array([[1.0, 1.0], [1.0, 4.0]]))))
    assert found == [[(i, 0.0) for i in range(4)], [(i, 3.0) for i in range(4)]]


def test_zero_vectors_under_cosine(spark: SparkSession) -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [-1.0, 2.0]])
    model = KNNEstimator(k=4, idCol="id", metric="cosine").fit(frame_of(spark, vectors))
    found = answers(model.transform(frame_of(spark, vectors[:2])))
    assert found[0] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    assert found[1][:2] == [(1, 0.0), (2, 0.0)]
    assert found[1][3] == (0, 1.0)


@pytest.mark.parametrize("scale", [1e300, 1e150, 1e-150, 1e-300])
def test_huge_and_tiny_magnitudes(spark: SparkSession, scale: float) -> None:
    model = KNNEstimator(k=5, idCol="id").fit(frame_of(spark, ITEMS * scale, IDS))
    found = answers(model.transform(frame_of(spark, QUERIES[:8] * scale)))
    expected = nearest(direct_distances(QUERIES[:8], ITEMS), IDS, 5)
    for got, wanted in zip(found, expected, strict=True):
        assert [d for _, d in got] == pytest.approx([d * scale for _, d in wanted], rel=1e-14)


def test_max_distance_is_inclusive_and_set_without_a_refit(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[0.0], [3.0], [5.0]]))
    model = KNNEstimator(k=3, idCol="id").fit(items)
    queries = frame_of(spark, np.array([[0.0], [100.0]]))
    assert answers(model.setMaxDistance(3.0).transform(queries)) == [[(0, 0.0), (1, 3.0)], []]
    wide = model.transform(queries, {model.maxDistance: 97.0})
    assert answers(wide) == [[(0, 0.0), (1, 3.0), (2, 5.0)], [(2, 95.0), (1, 97.0)]]
    assert len(answers(model.setMaxDistance(None).transform(queries))[1]) == 3


def test_max_distance_may_be_negative_for_inner_product_alone(spark: SparkSession) -> None:
    items = frame_of(spark, np.array([[1.0], [2.0], [3.0]]))
    knn = KNNEstimator(k=3, idCol="id", metric="inner_product", maxDistance=-4.0)
    found = knn.fit(items).transform(frame_of(spark, np.array([[2.0]])))
    assert answers(found) == [[(2, -6.0), (1, -4.0)]]
    with pytest.raises(ValueError, match=r"maxDistance must be >= 0, got -1.0"):
        KNNEstimator(idCol="id", maxDistance=-1.0).fit(items)


# The first two are equal.
TWINS = np.array([[0.0], [0.0], [1.0], [2.0]])


@pytest.fixture(scope="module")
def twins(spark: SparkSession) -> DataFrame:
    return frame_of(spark, TWINS, [10, 11, 12, 13])


class TestExclusion:
    """excludeIdCol excludes items by id."""

    def test_self_join_with_duplicate_points(self, twins: DataFrame) -> None:
        model = KNNEstimator(k=2, idCol="id", excludeIdCol="id").fit(twins)
        assert answers(model.transform(twins)) == [
            [(11, 0.0), (12, 1.0)],
            [(10, 0.0), (12, 1.0)],
            [(10, 1.0), (11, 1.0)],
            [(12, 1.0), (10, 2.0)],
        ]

    def test_arrays_nulls_and_unknown_ids(self, spark: SparkSession, twins: DataFrame) -> None:
        model = KNNEstimator(k=4, idCol="id", excludeIdCol="seen").fit(twins)
        rows = [(0, [0.0], [10, 12]), (1, [0.0], None), (2, [0.0], [None, 13]), (3, [0.0], [])]
        rows += [(4, [0.0], [99]), (5, [0.0], [10, 11, 12, 13, 13])]
        queries = spark.createDataFrame(rows, "id long, features array<double>, seen array<long>")
        found = [[i for i, _ in row] for row in answers(model.transform(queries))]
        every = [10, 11, 12, 13]
        assert found == [[11, 13], every, [10, 11, 12], every, every, []]

    def test_all_items_with_an_excluded_id_are_excluded(self, spark: SparkSession) -> None:
        with pytest.warns(UserWarning, match="same id as another"):
            model = KNNEstimator(k=4, idCol="id").fit(frame_of(spark, TWINS, [1, 1, 2, 1]))
        queries = frame_of(spark, np.array([[0.0]]), [1])
        assert answers(model.setExcludeIdCol("id").transform(queries)) == [[(2, 1.0)]]

    def test_excluded_ids_of_another_type_are_refused(
        self, spark: SparkSession, twins: DataFrame
    ) -> None:
        model = KNNEstimator(idCol="id", excludeIdCol="id", k=2).fit(twins)
        message = "excludeIdCol 'id' must be of the items' id type, bigint or array<bigint>"
        with pytest.raises(TypeError, match=message):
            model.transform(twins.selectExpr("string(id) AS id", "features"))
        with pytest.raises(ValueError, match="excludeIdCol 'id' does not exist"):
            model.transform(twins.select("features"))

    def test_positions_are_excluded_without_id_col(self, spark: SparkSession) -> None:
        with pytest.warns(UserWarning, match="idCol is unset"):
            model = KNNEstimator(k=4).fit(
                frame_of(spark, TWINS, partitions=1).orderBy("id").select("features")
            )
        found = answers(model.setExcludeIdCol("id").transform(frame_of(spark, TWINS[:2])))
        assert found == [[(1, 0.0), (2, 1.0), (3, 2.0)], [(0, 0.0), (2, 1.0), (3, 2.0)]]


def test_every_row_and_column_is_kept_and_the_outputs_are_appended(spark: SparkSession) -> None:
    model = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, ITEMS, IDS, kind="dense"))
    rows = [(1, "a", {"x": 1}, QUERIES[0].tolist()), (1, "a", {"x": 1}, QUERIES[0].tolist())]
    schema = "`a key` int, `dotted.name` string, attributes map<string,int>, features array<double>"
    queries = spark.createDataFrame(rows, schema)
    found = model.transform(queries)
    assert found.columns == [*queries.columns, "neighbors", "distances"]
    kinds = [found.schema[name].dataType.simpleString() for name in ("neighbors", "distances")]
    assert kinds == ["array<bigint>", "array<double>"]
    first, second = found.collect()
    assert first == second
    assert first["attributes"] == {"x": 1}


def test_an_empty_output_name_omits_the_column(spark: SparkSession) -> None:
    model = KNNEstimator(k=2, idCol="id", distancesCol="").fit(frame_of(spark, ITEMS, IDS))
    queries = frame_of(spark, QUERIES[:2])
    assert model.transform(queries).columns == ["id", "features", "neighbors"]
    model = model.setDistancesCol("d").setNeighborsCol("")
    assert model.transform(queries).columns == ["id", "features", "d"]
    with pytest.raises(ValueError, match="neighborsCol, distancesCol are all empty"):
        model.setDistancesCol("").transform(queries)


def test_empty_queries_and_empty_partitions(spark: SparkSession) -> None:
    model = KNNEstimator(k=2, idCol="id").fit(frame_of(spark, ITEMS, IDS))
    few = frame_of(spark, QUERIES[:2], partitions=6)
    assert answers(model.transform(few)) == nearest(direct_distances(QUERIES[:2], ITEMS), IDS, 2)
    none = model.transform(few.where("id < 0"))
    assert none.collect() == []
    assert none.columns == ["id", "features", "neighbors", "distances"]


def test_items_with_empty_partitions(spark: SparkSession) -> None:
    items = frame_of(spark, ITEMS[:3], partitions=8)
    model = KNNEstimator(k=3, idCol="id").fit(items)
    expected = nearest(direct_distances(QUERIES[:3], ITEMS[:3]), range(3), 3)
    assert answers(model.transform(frame_of(spark, QUERIES[:3]))) == expected
