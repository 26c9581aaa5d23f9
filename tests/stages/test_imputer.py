"""KNNImputer on Spark: scikit-learn's values, and MLlib's rules for columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import DenseVector, SparseVector, Vectors
from pyspark.sql import functions as F
from sklearn.impute import KNNImputer as SklearnImputer

from pyspark_knn import KNNImputer, KNNImputerModel
from tests.support.counting import SearchCounter
from tests.support.oracle import nan_euclidean

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

NAN = math.nan
NAMES = ["a", "b", "c"]
FILLED = ["a_full", "b_full", "c_full"]
PLACEMENTS: dict[str, dict[str, Any]] = {
    "replicated": {"placement": "replicated"},
    "sharded": {"placement": "sharded", "numShards": 3},
}
placed = pytest.mark.parametrize("placement", PLACEMENTS)


def _matrix() -> np.ndarray:
    """Features of different units, a quarter of whose values are missing; the last row has none."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(70, 3)) * [1.0, 100.0, 0.01] + [0.0, 1000.0, 0.0]
    matrix[rng.random(matrix.shape) < 0.25] = NAN
    matrix[-1] = NAN
    matrix[0] = [0.5, 1050.0, 0.02]
    return matrix


MATRIX = _matrix()


@pytest.fixture(scope="module")
def frame(spark: SparkSession) -> DataFrame:
    """The matrix as columns, in which missing values are null or NaN, and as vectors."""
    rows = []
    for i, values in enumerate(MATRIX.tolist()):
        cells = [None if math.isnan(value) and i % 2 else value for value in values]
        rows.append((i, *cells, Vectors.dense(values)))
    return spark.createDataFrame(rows, ["id", *NAMES, "features"]).repartition(3).cache()


def imputer(**settings: Any) -> KNNImputer:
    """An imputer of the columns, unless the settings name others."""
    if "featuresCol" not in settings:
        settings = {"inputCols": NAMES, "outputCols": FILLED, **settings}
    return KNNImputer(**{"k": 3, "idCol": "id", **settings})


def rows_of(found: DataFrame) -> list[Row]:
    """The rows, without the inputs: NaN does not equal NaN."""
    return sorted(found.drop("a", "b", "c", "features").collect(), key=lambda row: row.id)


def values_of(found: DataFrame, names: list[str]) -> np.ndarray:
    return np.array([[row[name] for name in names] for row in rows_of(found)], np.float64)


@pytest.fixture(scope="module")
def models(frame: DataFrame) -> dict[str, KNNImputerModel]:
    return {name: imputer(**settings).fit(frame) for name, settings in PLACEMENTS.items()}


# --- values ---


@placed
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_scikit_learns_values(frame: DataFrame, placement: str, weights: str) -> None:
    settings = {"standardization": False, "weights": weights, **PLACEMENTS[placement]}
    # scikit-learn computes distances by products, which lose digits: up to 5e-4 of these values.
    known = SklearnImputer(n_neighbors=3, weights=weights, metric=nan_euclidean)
    model = imputer(**settings).fit(frame)
    found = values_of(model.transform(frame), FILLED)
    np.testing.assert_allclose(found, known.fit_transform(MATRIX), rtol=1e-12)
    vectors = imputer(featuresCol="features", outputCol="filled", **settings).fit(frame)
    rows = rows_of(vectors.transform(frame))
    assert [row.filled.toArray().tolist() for row in rows] == found.tolist()


@placed
def test_standardization_is_the_default(
    frame: DataFrame, models: dict[str, KNNImputerModel], placement: str
) -> None:
    """Distances in units of the deviations, and values in the original units."""
    deviations = np.nanstd(MATRIX, axis=0)
    scaled = SklearnImputer(n_neighbors=3).fit_transform(MATRIX / deviations)
    model = models[placement]
    assert model.getPlacement() == placement
    found = values_of(model.transform(frame), FILLED)
    np.testing.assert_allclose(found, scaled * deviations, rtol=1e-12)
    np.testing.assert_allclose(model.statistics, np.nanmean(MATRIX, axis=0), rtol=1e-12)
    assert (model.numItems, model.numFeatures, model.numSkipped) == (70, 3, 0)


def test_the_same_bits_in_both_placements_and_any_partitions(
    frame: DataFrame, models: dict[str, KNNImputerModel]
) -> None:
    near = {"weights": "distance", "k": 7}
    found = []
    for model in (*models.values(), imputer().fit(frame.repartition(5))):
        extra = {model.getParam(name): value for name, value in near.items()}
        found.append(rows_of(model.transform(frame.repartition(2), extra)))
        assert model.getK() == 3
    assert found[0] == found[1] == found[2]


def test_new_rows(spark: SparkSession, models: dict[str, KNNImputerModel]) -> None:
    """A row without values gets the means."""
    rows = [(1, 0.1, None, NAN), (2, None, None, None), (3, 1.0, 2.0, 3.0)]
    new = spark.createDataFrame(rows, "id long, a double, b double, c double")
    one, other = (rows_of(model.transform(new)) for model in models.values())
    assert one == other
    assert [one[1][name] for name in FILLED] == models["replicated"].statistics.tolist()
    assert [one[2][name] for name in FILLED] == [1.0, 2.0, 3.0]


def test_a_feature_of_one_value_does_not_count(spark: SparkSession) -> None:
    rows = [(1, 5.0, 0.0, 1.0), (2, None, 1.0, 2.0), (3, 5.0, 3.0, 9.0)]
    items = spark.createDataFrame(rows, "id int, a double, b double, c double")
    model = imputer(k=1).fit(items)
    new = spark.createDataFrame([(1, 7e9, 2.9, None)], items.schema)
    assert model.transform(new).first()["c_full"] == 9.0


# --- columns ---


def test_types_and_values_that_are_there(spark: SparkSession) -> None:
    """Outputs have the types of the inputs; integers are rounded, and others are untouched."""
    schema = "id int, x double, s smallint, i int, l bigint, f float, d decimal(20,2)"
    rows = [
        (1, 1.0, 1, 3, 2**60 + 1, 0.1, Decimal("1.25")),
        (2, 2.0, None, None, None, None, None),
        (3, 3.0, 4, -6, 11, 0.3, Decimal("4.00")),
    ]
    names = schema.split(" ")[2::2]
    items = spark.createDataFrame(rows, schema)
    model = KNNImputer(inputCols=names, outputCols=names, k=2, idCol="id").fit(items)
    found = model.transform(items)
    assert found.schema.simpleString() == items.schema.simpleString()
    expected = rows_of(items)
    first, second, third = rows_of(found)
    assert (first, third) == (expected[0], expected[2])
    assert (second.s, second.i, second.l) == (3, -2, 2**59)
    assert second.f == pytest.approx(0.2, abs=1e-7)
    assert second.d == Decimal("2.63")


def test_a_missing_value(spark: SparkSession) -> None:
    rows = [(1, -1, 0.1), (2, 4, float("nan")), (3, None, 0.3), (4, 8, -1.0)]
    items = spark.createDataFrame(rows, "id int, n int, x float")
    settings = {"inputCols": ["n", "x"], "outputCols": ["n2", "x2"], "idCol": "id"}
    model = KNNImputer(missingValue=-1, **settings).setK(4)
    with pytest.warns(UserWarning, match="k is 5, but there are only 4 items") as warned:
        fitted = model.setK(5).fit(items)
    assert warned.pop(UserWarning).filename == __file__
    assert fitted.statistics.tolist() == pytest.approx([6.0, 0.2])
    assert [row.n2 for row in rows_of(fitted.transform(items))] == [6, 4, 6, 8]
    tenth = spark.createDataFrame([(1, 0, 0.1), (2, 1, 0.5)], items.schema)
    fitted = KNNImputer(missingValue=0.1, k=1, **settings).fit(tenth)
    assert rows_of(fitted.transform(tenth))[0].x2 == 0.5


def test_columns_that_replace_their_inputs(frame: DataFrame) -> None:
    model = imputer(outputCols=NAMES).fit(frame)
    found = model.transform(frame)
    assert found.columns == frame.columns
    found = found.select("id", *(F.col(name).alias(f"{name}_full") for name in NAMES))
    expected = imputer().fit(frame).transform(frame)
    assert np.array_equal(values_of(found, FILLED), values_of(expected, FILLED))
    one = imputer(inputCols=None, outputCols=None, inputCol="a", outputCol="a").fit(frame)
    assert one.transform(frame).where("a IS NULL OR isnan(a)").count() == 0


def test_duplicate_names(frame: DataFrame) -> None:
    """Joins produce such columns."""
    twice = frame.selectExpr("a", "7 AS z", "b", "8 AS z", "c", "id")
    model = imputer(outputCols=["a", "b_full", "c"]).fit(frame)
    found = model.transform(twice)
    assert found.columns == ["a", "z", "b", "z", "c", "id", "b_full"]
    expected = rows_of(imputer().fit(frame).transform(frame))
    rows = sorted(found.collect(), key=lambda row: row.id)
    assert [(row.a, row[1], row[3], row.c, row.b_full) for row in rows] == [
        (row.a_full, 7, 8, row.c_full, row.b_full) for row in expected
    ]


def test_indicators(spark: SparkSession) -> None:
    items = spark.createDataFrame([(1, 1.0, 2.0), (2, None, 3.0)], "id int, a double, b double")
    model = imputer(inputCols=["a", "b"], outputCols=["x", "b"], addIndicator=True, k=1).fit(items)
    found = model.transform(items)
    assert found.columns == ["id", "a", "b", "x", "x_missing"]
    assert [row.x_missing for row in rows_of(found)] == [0.0, 1.0]
    taken = items.withColumn("x_missing", F.lit(1))
    with pytest.raises(ValueError, match="outputCols 'x_missing' already exists"):
        model.transform(taken)


def test_columns_of_other_names(frame: DataFrame, models: dict[str, KNNImputerModel]) -> None:
    model = models["replicated"].copy()
    renamed = frame.select("id", F.col("a").alias("x.y"), "b", "c")
    model.setInputCols(["x.y", "b", "c"]).setOutputCols(["p q", "r", "s"])
    found = values_of(model.transform(renamed), ["p q", "r", "s"])
    assert np.array_equal(found, values_of(models["replicated"].transform(frame), FILLED))
    model._set(inputCols=None, outputCols=None, inputCol="b", outputCol="x")
    with pytest.raises(ValueError, match=r"must name the 3 features of the fit, got \['b'\]"):
        model.transform(frame)


# --- vectors ---


def test_kinds_of_vectors(spark: SparkSession, frame: DataFrame) -> None:
    """The output is of the same kind, and complete vectors stay sparse."""
    sparse = Vectors.sparse(3, {1: 2.0})
    rows = [
        (1, sparse),
        (2, Vectors.dense(NAN, 1.0, 0.0)),
        (3, Vectors.sparse(3, [0, 1], [4, NAN])),
    ]
    items = spark.createDataFrame(rows, ["id", "v"])
    model = imputer(featuresCol="v", outputCol="v", k=1).fit(items)
    found = [row.v for row in rows_of(model.transform(items))]
    assert isinstance(found[0], SparseVector)
    assert found[0] == sparse
    assert [each.toArray().tolist() for each in found[1:]] == [[4.0, 1.0, 0.0], [4.0, 1.0, 0.0]]
    for kind in ("array<float>", "array<double>", "array<int>"):
        arrays = spark.createDataFrame([(1, "[1,null]"), (2, "[2,3]")], "id int, s string")
        arrays = arrays.select("id", F.from_json("s", kind).alias("v"))
        arrays = imputer(featuresCol="v", outputCol="w", k=1).fit(arrays).transform(arrays)
        assert [row.w for row in rows_of(arrays)] == [[1.0, 3.0], [2.0, 3.0]]
        element = "float" if kind == "array<float>" else "double"
        assert arrays.schema["w"].dataType.simpleString() == f"array<{element}>"


def test_a_missing_value_of_zero_in_sparse_vectors(spark: SparkSession) -> None:
    rows = [(1, Vectors.sparse(2, {0: 1.0})), (2, Vectors.dense(1.0, 7.0))]
    items = spark.createDataFrame(rows, ["id", "v"])
    model = imputer(featuresCol="v", outputCol="w", k=1, missingValue=0.0).fit(items)
    assert [row.w.toArray().tolist() for row in rows_of(model.transform(items))] == [[1, 7]] * 2


@placed
def test_features_that_no_item_has(spark: SparkSession, placement: str) -> None:
    """As scikit-learn's: dropped, or 0; and indicators of all features that some items lack."""
    matrix = np.array([[1.0, NAN, 5.0], [NAN, NAN, 3.0], [2.0, NAN, 4.0]])
    rows = [(i, Vectors.dense(row)) for i, row in enumerate(matrix.tolist())]
    items = spark.createDataFrame(rows, ["id", "v"])
    new = np.array([[NAN, 9.0, NAN], [1.0, NAN, 2.0]])
    asked = spark.createDataFrame(
        [(i, Vectors.dense(row)) for i, row in enumerate(new)], ["id", "v"]
    )
    for keeps in (False, True):
        made = imputer(
            featuresCol="v",
            outputCol="w",
            k=2,
            keepEmptyFeatures=keeps,
            addIndicator=True,
            **{**PLACEMENTS[placement], "numShards": None},
        )
        if keeps:
            model = made.fit(items)
        else:
            with pytest.warns(UserWarning, match=r"only missing values in features \[1\], which"):
                model = made.fit(items)
        assert model.statistics.tolist() == pytest.approx([1.5, NAN, 4.0], nan_ok=True)
        known = SklearnImputer(n_neighbors=2, keep_empty_features=keeps, add_indicator=True)
        known.fit(matrix)
        for given, frame in ((matrix, items), (new, asked)):
            found = [row.w.toArray().tolist() for row in rows_of(model.transform(frame))]
            assert found == known.transform(given).tolist()


def test_names_of_features(spark: SparkSession) -> None:
    from pyspark.ml.feature import VectorAssembler

    schema = "id int, a double, b double, c double"
    rows = spark.createDataFrame([(1, 1.0, None, None), (2, 2.0, 5.0, None)], schema)
    assembler = VectorAssembler(inputCols=NAMES, outputCol="v", handleInvalid="keep")
    items = assembler.transform(rows)
    with pytest.warns(UserWarning, match="dropped from the output"):
        model = imputer(featuresCol="v", outputCol="w", k=1, addIndicator=True).fit(items)
    attributes = model.transform(items).schema["w"].metadata["ml_attr"]
    assert attributes["num_attrs"] == 4
    names = [each["name"] for each in attributes["attrs"]["numeric"]]
    assert names == ["a", "b", "b_missing", "c_missing"]
    other = VectorAssembler(inputCols=["b", "a", "c"], outputCol="v", handleInvalid="keep")
    with pytest.raises(ValueError, match="featuresCol 'v' has different features"):
        model.transform(other.transform(rows))


# --- invalid rows, and mistakes ---


@placed
def test_invalid_rows(spark: SparkSession, placement: str) -> None:
    rows = [
        (1, Vectors.dense(1.0, NAN)),
        (2, None),
        (3, Vectors.dense(1.0, math.inf)),
        (4, Vectors.dense(1.0)),
        (5, Vectors.sparse(2, {0: 1.0})),
    ]
    # One task, since Spark 3.5 may give the worker of a task that it kills to the next job.
    frame = spark.createDataFrame(rows, ["id", "v"]).coalesce(1)
    settings = {"featuresCol": "v", "outputCol": "w", "k": 1, **PLACEMENTS[placement]}
    with pytest.raises(ValueError, match="featuresCol 'v' contains a null"):
        imputer(**settings).fit(frame)
    model = imputer(handleInvalid="keep", **settings).fit(frame)
    assert (model.numItems, model.numSkipped) == (2, 3)
    kept = {row.id: row.w for row in model.transform(frame).collect()}
    assert [kept[i] for i in (2, 3, 4)] == [None] * 3
    assert kept[1] == DenseVector([1.0, 0.0])
    assert kept[5] == DenseVector([1.0, 0.0])
    skipped = model.transform(frame, {model.handleInvalid: "skip"})
    assert [row.id for row in rows_of(skipped)] == [1, 5]
    for wrong, message in ((3, "an infinity"), (4, "a vector of dimension 1 instead of 2")):
        part = frame.where(f"id = {wrong}")
        with pytest.raises(Exception, match=f"featuresCol 'v' contains {message}"):
            model.transform(part, {model.handleInvalid: "error"}).collect()


def test_infinities_in_columns(spark: SparkSession) -> None:
    items = spark.createDataFrame([(1, 1.0, math.inf), (2, 2.0, 3.0)], "id int, a double, b double")
    settings = {"inputCols": ["a", "b"], "outputCols": ["x", "y"], "k": 1}
    with pytest.raises(ValueError, match="inputCols 'a, b' contains an infinity"):
        imputer(**settings).fit(items)
    model = imputer(handleInvalid="keep", **settings).fit(items)
    assert [(row.x, row.y) for row in rows_of(model.transform(items))] == [(None, None), (2.0, 3.0)]
    with pytest.raises(Exception, match="inputCols 'a, b' contains an infinity"):
        model.transform(items, {model.handleInvalid: "error"}).collect()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no columns": (
        {"inputCols": None, "outputCols": None},
        "exactly one of inputCols, inputCol and featuresCol must be set, got none of them",
    ),
    "two kinds": ({"inputCol": "a"}, r"must be set, got inputCols=\['a', 'b', 'c'\], inputCol='a'"),
    "no outputs": ({"outputCols": None}, "outputCols must be set if inputCols is set"),
    "unequal lengths": (
        {"outputCols": ["x"]},
        r"one column for each of inputCols \['a', 'b', 'c'\]",
    ),
    "the wrong output": ({"outputCol": "x"}, "outputCol must be unset if inputCols is set"),
    "strings": ({"inputCols": ["a", "b", "s"]}, "inputCols 's' must be numeric but was .* string"),
    "no such column": ({"inputCols": ["a", "b", "z"]}, "inputCols 'z' does not exist"),
    "twice": ({"inputCols": ["a", "b", "A"]}, r"names a column twice: \['a', 'b', 'a'\]"),
    "all missing": ({"inputCols": ["a", "b", "e"]}, r"inputCols \['e'\] contain only missing"),
    "not vectors": (
        {"inputCols": None, "outputCols": None, "featuresCol": "a", "outputCol": "x"},
        "featuresCol 'a' must contain vectors",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes(frame: DataFrame, kind: str) -> None:
    settings, message = MISTAKES[kind]
    given = {"inputCols": NAMES, "outputCols": FILLED, **settings}
    items = frame.withColumns({"s": F.lit("x"), "e": F.lit(None).cast("double")})
    with pytest.raises((TypeError, ValueError), match=message):
        KNNImputer(**given).fit(items)


def test_mistakes_about_data(
    spark: SparkSession, frame: DataFrame, models: dict[str, KNNImputerModel]
) -> None:
    with pytest.raises(ValueError, match="inputCols 'a, b, c' contains no vectors to fit"):
        imputer().fit(frame.limit(0))
    nothing = spark.createDataFrame([(1, Vectors.dense(NAN, NAN))], ["id", "v"])
    with pytest.raises(ValueError, match="featuresCol 'v' contains only missing values"):
        imputer(featuresCol="v", outputCol="w").fit(nothing)
    model = models["replicated"]
    for existing in ("id", "b", "B"):
        outputs = [existing, "y", "z"]
        with pytest.raises(ValueError, match=f"outputCols '{existing}' already exists"):
            model.transform(frame, {model.outputCols: outputs})
    with pytest.raises(ValueError, match="outputCols contains a name twice"):
        model.transform(frame, {model.outputCols: ["x", "y", "X"]})
    with pytest.raises(ValueError, match="standardization cannot be changed on a fitted"):
        model.copy({model.standardization: False})
    with pytest.raises(TypeError, match="dataset must be a"):
        model.transform(MATRIX)
    with pytest.raises(ValueError, match="KNNImputerModel has no index"):
        KNNImputerModel().transform(frame)


def test_ids_that_repeat(frame: DataFrame) -> None:
    with pytest.warns(UserWarning, match="idCol 'id' contains duplicates") as warned:
        imputer().fit(frame.withColumn("id", F.col("id") % 60))
    assert warned.pop(UserWarning).filename == __file__


# --- the search ---


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda found: found, id="plain"),
        pytest.param(lambda found: found.where("a_full > 0"), id="filter on an output"),
        pytest.param(lambda found: found.select("a_full", "c_full"), id="some outputs"),
    ],
)
def test_only_incomplete_rows_are_searched_and_once(
    frame: DataFrame, tmp_path: Path, write: Callable[[DataFrame], DataFrame]
) -> None:
    model = imputer(placement="replicated").fit(frame)
    counter = SearchCounter(model, tmp_path)
    write(model.transform(frame)).collect()
    incomplete = np.isnan(MATRIX).any(axis=1) & ~np.isnan(MATRIX).all(axis=1)
    assert counter.take() == incomplete.sum()


@placed
def test_save_and_load(
    frame: DataFrame, models: dict[str, KNNImputerModel], placement: str, tmp_path: Path
) -> None:
    model, path = models[placement], (tmp_path / "model").as_uri()
    model.save(path)
    loaded = KNNImputerModel.load(path)
    assert loaded.explainParams() == model.explainParams()
    assert np.array_equal(loaded.statistics, model.statistics)
    assert rows_of(loaded.transform(frame)) == rows_of(model.transform(frame))
    assert loaded.placementReason == model.placementReason
    assert sorted(model.items.columns)[:2] == ["features", "id"]
    assert "KNNImputerModel: uid=KNNImputer_" in repr(loaded)


def test_damaged(models: dict[str, KNNImputerModel], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    models["replicated"].save(folder.as_uri())
    (file,) = (folder / "metadata").glob("part-*")
    for crc in (folder / "metadata").glob(".*.crc"):
        crc.unlink()
    text = file.read_text()
    file.write_text(text.replace('"featureMeans":[', '"featureMeans":[1.0,'))
    with pytest.raises(ValueError, match="featureMeans must have one number for each of the 3"):
        KNNImputerModel.load(folder.as_uri())
    file.write_text(text.replace('"featureCounts":[', '"featureCounts":["x",'))
    with pytest.raises(ValueError, match="featureCounts must be of type"):
        KNNImputerModel.load(folder.as_uri())


def test_a_grid_over_k_shares_the_index(frame: DataFrame) -> None:
    stage = imputer()
    maps = [{stage.k: 1}, {stage.k: 4}, {stage.k: 4, stage.weights: "distance"}]
    fitted = stage.fit(frame, maps)
    assert len({id(model._index) for model in fitted}) == 1
    assert [model.getK() for model in fitted] == [1, 4, 4]
    cached = frame.cache()
    for model, extra in zip(fitted, maps, strict=True):
        alone = stage.copy(extra).fit(frame)
        assert rows_of(model.transform(cached)) == rows_of(alone.transform(frame))
