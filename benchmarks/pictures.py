"""Draw the pictures of imputation, outlier factors and the graph in the documentation.

    python benchmarks/pictures.py docs/imputing.png docs/outliers.png docs/graph.png

The first one compares the error of imputed values with that of the mean, for more and more missing
values of the breast cancer data that scikit-learn ships. The second one shows the outlier factors
of points in two clusters of different densities. The third one shows the edges between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from _harness import start
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from sklearn.datasets import load_breast_cancer

from pyspark_knn import KNNEstimator, KNNImputer, LocalOutlierFactor

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.collections import LineCollection

Matrix = NDArray[np.float64]

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The shares of the values that are missing."""

SEEDS = range(3)
"""Values are knocked out several times, to average over the chance of which they are."""

IMPUTERS: dict[str, dict[str, Any]] = {
    "KNNImputer, k=5": {"k": 5},
    "KNNImputer, k=5, standardization=False": {"k": 5, "standardization": False},
}
"""The imputers to compare with the mean, by the labels of their lines."""

NAMED = 2.0
"""Points with larger factors than this are labeled with them."""

SIZES = (150, 150)
"""The numbers of points in the two clusters."""


def frame_of(spark: SparkSession, rows: Matrix) -> DataFrame:
    """Return a persisted DataFrame of ids and arrays."""
    numbered = list(enumerate(rows.tolist()))
    return spark.createDataFrame(numbered, "id long, features array<double>").persist()


def column(frame: DataFrame, name: str) -> Matrix:
    """Return a column in the order of the ids."""
    return np.array([row[0] for row in frame.orderBy("id").select(name).collect()])


# --- imputation -----------------------------------------------------------------------------------


def imputing_errors(spark: SparkSession) -> dict[str, list[float]]:
    """Return the root mean squared error of each method, in standard deviations, by its label."""
    rows = load_breast_cancer().data
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    spread = rows.std(axis=0)
    errors: dict[str, list[float]] = {"mean": [], **{label: [] for label in IMPUTERS}}
    for share in SHARES:
        squares: dict[str, list[Matrix]] = {label: [] for label in errors}
        for seed in SEEDS:
            missing = np.random.default_rng(seed).random(rows.shape) < share
            for label, values in filled(spark, np.where(missing, np.nan, rows)).items():
                squares[label].append(((values - rows) / spread)[missing] ** 2)
        for label, parts in squares.items():
            errors[label].append(float(np.sqrt(np.concatenate(parts).mean())))
    return errors


def filled(spark: SparkSession, rows: Matrix) -> dict[str, Matrix]:
    """Return the rows with the missing values imputed by each method, by its label."""
    items = frame_of(spark, rows)
    found = {"mean": np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)}
    for label, params in IMPUTERS.items():
        imputer = KNNImputer(featuresCol="features", outputCol="filled", idCol="id", **params)
        found[label] = column(imputer.fit(items).transform(items), "filled")
    items.unpersist()
    return found


def draw_imputing(errors: Mapping[str, list[float]], path: Path) -> None:
    """Draw the error against the share of missing values, with a line for each method."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for label, line in errors.items():
        axes.plot(100 * np.array(SHARES), line, marker="o", label=label)
    axes.set_ylim(0)
    axes.set_xlabel("missing values (%)")
    axes.set_ylabel("error of imputed values\n(RMSE in standard deviations)")
    axes.set_title("Breast cancer, 569 rows of 30 features")
    axes.legend()
    save(figure, path)


# --- outliers -------------------------------------------------------------------------------------


def two_clusters() -> Matrix:
    """Return points of a dense and of a loose cluster, and some around both."""
    random = np.random.default_rng(5)
    dense = random.normal([-2.0, -2.0], 0.25, (SIZES[0], 2))
    loose = random.normal([2.0, 2.0], 1.0, (SIZES[1], 2))
    around = random.uniform(-5.0, 5.5, (12, 2))
    return np.vstack([dense, loose, around])


def draw_outliers(points: Matrix, scores: Matrix, outlier: Matrix, path: Path) -> None:
    """Draw the points, with circles whose radii grow with the factors."""
    figure, axes = pyplot.subplots(figsize=(6.5, 5.5))
    found = outlier == 1.0
    axes.scatter(*points[~found].T, s=9, color="tab:blue", label="normal")
    axes.scatter(*points[found].T, s=9, color="tab:red", label="outlier: factor above 1.5")
    size = 60 * np.maximum(scores - 1.0, 0.0) ** 1.5
    axes.scatter(*points.T, s=size, facecolors="none", edgecolors="tab:gray", linewidths=0.7)
    named = scores > NAMED
    for point, score in zip(points[named], scores[named], strict=True):
        axes.annotate(f"{score:.1f}", point, (6, 4), textcoords="offset points", fontsize=8)
    axes.set_aspect("equal")
    axes.set_title("Local outlier factors (k=20)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
    save(figure, path)


# --- the graph ------------------------------------------------------------------------------------


def draw_graph(points: Matrix, edges: Mapping[str, Matrix], path: Path) -> None:
    """Draw the points, and the edges between them, once for each mode."""
    figure, panels = pyplot.subplots(1, len(edges), figsize=(8, 4.2), sharex=True, sharey=True)
    for axes, (mode, pairs) in zip(panels, edges.items(), strict=True):
        lines = LineCollection(points[pairs], colors="tab:gray", linewidths=0.6)
        axes.add_collection(lines)
        axes.scatter(*points.T, s=5, color="tab:blue", zorder=2)
        axes.set_aspect("equal")
        axes.set_title(f'"{mode}": {len(pairs)} edges')
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Save a figure as a small file."""
    figure.savefig(path, dpi=100, bbox_inches="tight")
    print(f"Saved {path}.")


def main() -> None:
    """Draw the pictures, and print the figures behind the first one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("imputing", type=Path, help="file for the picture of imputation")
    parser.add_argument("outliers", type=Path, help="file for the picture of outlier factors")
    parser.add_argument("graph", type=Path, help="file for the picture of the graph")
    given = parser.parse_args()
    spark = start()
    errors = imputing_errors(spark)
    print("| missing | " + " | ".join(errors) + " |")
    for i, share in enumerate(SHARES):
        print(f"| {share:.0%} | " + " | ".join(f"{line[i]:.3f}" for line in errors.values()) + " |")
    draw_imputing(errors, given.imputing)
    points = two_clusters()
    model = LocalOutlierFactor(k=20, idCol="id").fit(frame_of(spark, points))
    scores = column(model.scores, "outlierScore")
    draw_outliers(points, scores, column(model.scores, "prediction"), given.outliers)
    graph = KNNEstimator(k=4, idCol="id").fit(frame_of(spark, points))
    edges = {
        mode: np.array(graph.kneighborsGraph(mode).select("src", "dst").collect())
        for mode in ("union", "mutual")
    }
    draw_graph(points, edges, given.graph)
    spark.stop()


if __name__ == "__main__":
    main()
