"""Fill in the missing values of a health survey from the people who are most alike.

The data are those of NHEFS: 1,629 smokers, who were examined in 1971 and again in 1982. Some values
are missing: 77 blood pressures, 62 incomes, and 63 weights of people who were not seen again. What
these were nobody knows. So this example knocks out a tenth of all other values as well, imputes
everything, and compares the imputed values with those that it knocked out.

The columns have different units: years, kilograms, millimeters of mercury. KNNImputer divides them
by their standard deviations before it computes distances, and the imputed values are in the
original units. In these units the deviations happen to be similar, so it makes no difference here;
with weights in grams it would. MLlib's Imputer replaces a missing value with the mean of its
column. Nothing in these columns tells how much a person smokes, or earns.

    pip install 'pyspark_knn[spark]' causaldata==0.1.5
    python examples/imputing.py

The data are in the public domain, the license of the package causaldata is MIT.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.ml.feature import Imputer
from pyspark.sql import DataFrame, SparkSession

from pyspark_knn import KNNImputer

NAMES = ["age", "smokeyrs", "smokeintensity", "income", "ht", "wt71", "wt82", "sbp", "dbp"]
FILLED = [f"{name}_filled" for name in NAMES]
SHARE = 0.1


def read_people() -> pd.DataFrame:
    """Return the people, with NaN where a value is missing."""
    package = find_spec("causaldata")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install causaldata==0.1.5")
    # The package itself is not imported: that would import statsmodels.
    people = pd.read_stata(Path(package.origin).parent / "nhefs" / "nhefs.dta")
    return people[["seqn", *NAMES]].astype(float)


def knock_out(people: pd.DataFrame) -> pd.DataFrame:
    """Return the people without a tenth of their values."""
    values = people[NAMES].to_numpy()
    chosen = np.random.default_rng(0).random(values.shape) < SHARE
    result = people.copy()
    result[NAMES] = np.where(chosen, np.nan, values)
    return result


def errors(filled: DataFrame, people: pd.DataFrame, gaps: pd.DataFrame) -> pd.Series:
    """Return the root mean squared error of the values that were knocked out, in each column."""
    found = filled.orderBy("seqn").select(*FILLED).toPandas().to_numpy()
    known = people[NAMES].to_numpy()
    off = np.where(gaps[NAMES].isna(), found - known, np.nan)
    return pd.Series(np.sqrt(np.nanmean(off**2, axis=0)), NAMES)


def main() -> None:
    """Impute in several ways, and print the errors of each."""
    # Workers must run this interpreter, not any python3 on PATH. Set before a JVM starts.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn imputing")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    people = read_people().sort_values("seqn", ignore_index=True)
    gaps = knock_out(people)
    frame = spark.createDataFrame(gaps).cache()
    missing = int(people[NAMES].isna().sum().sum())
    hidden = int(gaps[NAMES].isna().sum().sum()) - missing
    print(f"{len(people):,} people: {missing:,} values are missing, {hidden:,} were knocked out\n")

    columns = {"inputCols": NAMES, "outputCols": FILLED}
    plain = KNNImputer(**columns, k=20, idCol="seqn")
    imputers = {
        "mean": Imputer(**columns),
        "nearest": plain.copy({plain.standardization: False}),
        "nearest, in units of deviations": plain,
    }
    table = pd.DataFrame(
        {
            name: errors(imputer.fit(frame).transform(frame), people, gaps)
            for name, imputer in imputers.items()
        }
    )
    print("Root mean squared error of what was knocked out:\n")
    print(table.round(1).to_string())

    # A person who was not seen again in 1982: the weight is that of people like her or him.
    model = plain.fit(spark.createDataFrame(people))
    lost = spark.createDataFrame(people[people["wt82"].isna()])
    print("\nImputed weights of people who were not seen again:\n")
    shown = model.transform(lost).orderBy("seqn").select("age", "ht", "wt71", "wt82_filled")
    print(shown.limit(5).toPandas().round(1).to_string(index=False))
    spark.stop()


if __name__ == "__main__":
    main()
