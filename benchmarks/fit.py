"""Time `fit` on rows of MLlib vectors against collecting them for scikit-learn.

python benchmarks/fit.py [--rows 200000] [--dim 64] [--rounds 3]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import as_mllib, check, median, ratio, show, start, take_turns, vectors
from sklearn.neighbors import NearestNeighbors

from pyspark_knn import KNNEstimator

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def recipe(items: DataFrame) -> Any:
    """Collect the rows, stack the vectors, and fit scikit-learn's index."""
    rows = items.select("id", "features").collect()
    matrix = np.vstack([row.features.toArray() for row in rows])
    return NearestNeighbors().fit(matrix), np.array([row.id for row in rows])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    spark = start(spark__driver__memory="6g")
    items = as_mllib(vectors(spark, options.rows, options.dim))
    knn = KNNEstimator(idCol="id")
    seconds, results = take_turns(
        {"recipe": lambda: recipe(items), "ours": lambda: knn.fit(items)}, options.rounds
    )
    fitted, ids = results["recipe"]
    model = results["ours"]
    order = np.argsort(ids)
    check(bool((model.ids == ids[order]).all()), "fit returns different ids")
    check(
        bool((model.toSklearn()._fit_X == fitted._fit_X[order]).all()),
        "fit returns different vectors",
    )
    show(
        f"Fit on {options.rows:,} x {options.dim} MLlib vectors, local[2]",
        ["tool", "seconds (median)", "relative to KNNEstimator.fit"],
        [
            [
                "collect + vstack + NearestNeighbors.fit",
                f"{median(seconds['recipe']):.1f}",
                f"{ratio(seconds['recipe'], seconds['ours']):.1f} x",
            ],
            ["KNNEstimator.fit", f"{median(seconds['ours']):.1f}", "1"],
        ],
    )
    spark.stop()


if __name__ == "__main__":
    main()
