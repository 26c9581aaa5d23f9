"""Tune a whole Pipeline by grid search, and compare the result with scikit-learn.

The first example classifies tumors as benign or malignant, on the breast cancer data set that
scikit-learn includes. The stages are StringIndexer, VectorAssembler, StandardScaler, PCA and
KNNClassifier. Cross-validation tunes the number of PCA components, the number of neighbors and
their weights. A scikit-learn pipeline on the same folds must return the same accuracies. The second
example is a regression on the diabetes data set.

    python examples/tuning.py
    python examples/tuning.py --plot accuracy.png    # accuracy against k; requires matplotlib
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.feature import PCA, StandardScaler, StringIndexer, VectorAssembler
from pyspark.ml.tuning import CrossValidator, CrossValidatorModel, ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession
from sklearn import datasets, decomposition, neighbors, pipeline, preprocessing
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from pyspark_knn import KNNClassifier, KNNRegressor, SharedPrefixPipeline

COMPONENTS = [5, 10]
NEIGHBORS = [1, 3, 5, 9, 15, 25, 45, 75]
WEIGHTS = ["uniform", "distance"]
FOLDS = 3


def read(spark: SparkSession, bundle, target: np.ndarray) -> tuple[DataFrame, list[str]]:
    """Return the rows of a scikit-learn data set with their folds, and the feature names."""
    frame = bundle.data.copy()
    names = [name.replace(" ", "_") for name in frame.columns]
    frame.columns = names
    frame["target"] = target
    frame["fold"] = np.arange(len(frame)) % FOLDS
    frame["id"] = np.arange(len(frame))
    return spark.createDataFrame(frame).coalesce(2).cache(), names


def tune_classifier(spark: SparkSession) -> tuple[CrossValidatorModel, list[dict], float]:
    """Tune the classifier; return the fitted validator, its grid as dicts, and the seconds."""
    bundle = datasets.load_breast_cancer(as_frame=True)
    kinds = np.asarray(bundle.target_names)[bundle.target]
    tumours, names = read(spark, bundle, kinds)
    pca = PCA(inputCol="scaled", outputCol="features")
    knn = KNNClassifier(idCol="id")
    stages = [
        StringIndexer(inputCol="target", outputCol="label"),
        VectorAssembler(inputCols=names, outputCol="raw"),
        StandardScaler(withMean=True, inputCol="raw", outputCol="scaled"),
        pca,
        knn,
    ]
    grid = (
        ParamGridBuilder()
        .addGrid(pca.k, COMPONENTS)
        .addGrid(knn.k, NEIGHBORS)
        .addGrid(knn.weights, WEIGHTS)
        .build()
    )
    search = CrossValidator(
        estimator=SharedPrefixPipeline(stages=stages),
        estimatorParamMaps=grid,
        evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
        numFolds=FOLDS,
        foldCol="fold",
        parallelism=4,
    )
    start = time.perf_counter()
    model = search.fit(tumours)
    seconds = time.perf_counter() - start
    plain = [
        {"components": each[pca.k], "k": each[knn.k], "weights": each[knn.weights]} for each in grid
    ]
    return model, plain, seconds


def tune_in_sklearn(last, evaluator: str, matrix, target, grid: dict) -> GridSearchCV:
    """Run scikit-learn's grid search over the same stages and folds."""
    steps = [("scaler", preprocessing.StandardScaler())]
    if "pca__n_components" in grid:
        steps.append(("pca", decomposition.PCA(svd_solver="full")))
    folds = PredefinedSplit(np.arange(len(matrix)) % FOLDS)
    search = GridSearchCV(
        pipeline.Pipeline([*steps, ("knn", last)]), grid, scoring=evaluator, cv=folds
    )
    return search.fit(matrix, target)


def compare_classifiers(plain: list[dict], metrics: list[float]) -> None:
    """Print accuracy by k, and exit if an accuracy differs from scikit-learn's."""
    bundle = datasets.load_breast_cancer()
    theirs = tune_in_sklearn(
        neighbors.KNeighborsClassifier(),
        "accuracy",
        bundle.data,
        bundle.target,
        {
            "pca__n_components": COMPONENTS,
            "knn__n_neighbors": NEIGHBORS,
            "knn__weights": WEIGHTS,
        },
    ).cv_results_
    expected = {
        (each["pca__n_components"], each["knn__n_neighbors"], each["knn__weights"]): score
        for each, score in zip(theirs["params"], theirs["mean_test_score"], strict=True)
    }
    ours = {tuple(each.values()): metric for each, metric in zip(plain, metrics, strict=True)}
    columns = [(components, weights) for components in COMPONENTS for weights in WEIGHTS]
    print("\n    k" + "".join(f"{f'{c} components, {w}':>26}" for c, w in columns))
    for k in NEIGHBORS:
        print(f"{k:5}" + "".join(f"{ours[c, k, w]:26.4f}" for c, w in columns))
    worst = max(abs(ours[key] - expected[key]) for key in expected)
    if worst > 1e-12:
        raise SystemExit(f"scikit-learn's accuracies differ by up to {worst}")
    print(f"\nscikit-learn computes the same {len(ours)} accuracies on the same folds.")


def tune_regressor(spark: SparkSession) -> None:
    """Tune a regression on the diabetes data set, and compare the errors with scikit-learn's."""
    bundle = datasets.load_diabetes(as_frame=True, scaled=False)
    patients, names = read(spark, bundle, bundle.target.to_numpy())
    knn = KNNRegressor(idCol="id", labelCol="target")
    stages = [
        VectorAssembler(inputCols=names, outputCol="raw"),
        StandardScaler(withMean=True, inputCol="raw", outputCol="features"),
        knn,
    ]
    values = NEIGHBORS[2::2]
    grid = ParamGridBuilder().addGrid(knn.k, values).addGrid(knn.weights, WEIGHTS).build()
    model = CrossValidator(
        estimator=SharedPrefixPipeline(stages=stages),
        estimatorParamMaps=grid,
        evaluator=RegressionEvaluator(labelCol="target", metricName="rmse"),
        numFolds=FOLDS,
        foldCol="fold",
        parallelism=4,
    ).fit(patients)
    theirs = tune_in_sklearn(
        neighbors.KNeighborsRegressor(),
        "neg_root_mean_squared_error",
        bundle.data,
        bundle.target,
        {"knn__n_neighbors": values, "knn__weights": WEIGHTS},
    ).cv_results_["mean_test_score"]
    worst = np.abs(np.array(model.avgMetrics) + theirs).max()
    if worst > 1e-9:
        raise SystemExit(f"scikit-learn's errors differ by up to {worst}")
    best = model.bestModel.stages[-1]
    print(
        f"\nDiabetes after a year: best k = {best.getK()}, weights = {best.getWeights()}, "
        f"root mean squared error {min(model.avgMetrics):.2f}, the same as scikit-learn's."
    )


def plot(plain: list[dict], metrics: list[float], path: str) -> None:
    """Plot accuracy against k, with one line per combination of the other parameters."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for components in COMPONENTS:
        for weights in WEIGHTS:
            line = [
                metric
                for each, metric in zip(plain, metrics, strict=True)
                if (each["components"], each["weights"]) == (components, weights)
            ]
            style = "-" if weights == "uniform" else "--"
            axes.plot(
                NEIGHBORS, line, style, marker="o", label=f"{components} components, {weights}"
            )
    axes.set_xscale("log")
    axes.set_xticks(NEIGHBORS, labels=NEIGHBORS)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("k, the number of neighbors")
    axes.set_ylabel(f"accuracy (mean of {FOLDS} folds)")
    axes.set_title("Breast cancer: accuracy against k")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"Saved the plot to {path}.")


def main() -> None:
    """Tune, compare and, with --plot, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="file for a plot of accuracy against k")
    given = parser.parse_args()
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn tuning")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    model, plain, seconds = tune_classifier(spark)
    best = model.bestModel.stages
    print(f"{len(plain)} candidates in {FOLDS} folds: {seconds:.1f} s")
    print(
        f"best: {best[-2].getK()} components, k = {best[-1].getK()}, "
        f"weights = {best[-1].getWeights()}, accuracy {max(model.avgMetrics):.4f}"
    )
    compare_classifiers(plain, model.avgMetrics)
    tune_regressor(spark)
    if given.plot:
        plot(plain, model.avgMetrics, given.plot)
    spark.stop()


if __name__ == "__main__":
    main()
