"""
Imputation of missing values
============================

Fill in missing values with the mean of the nearest rows that have them, and compare with the mean
of a column.

The package ``causaldata`` has a health survey of 1,629 people (``pip install causaldata``). To
measure the error, this example knocks out a tenth of the known values and imputes them.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from pyspark.ml.feature import Imputer
from pyspark.sql import SparkSession

from pyspark_knn import KNNImputer

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
names = ["age", "smokeyrs", "smokeintensity", "ht", "wt71", "wt82", "sbp", "dbp"]
people = pd.read_stata(Path(find_spec("causaldata").origin).parent / "nhefs" / "nhefs.dta")
people = people[["seqn", *names]].astype(float).sort_values("seqn", ignore_index=True)
known = people[names].to_numpy()
knocked_out = np.random.default_rng(0).random(known.shape) < 0.1
gaps = people.copy()
gaps[names] = np.where(knocked_out, np.nan, known)

# %%
# Both imputers have the columns and Params of MLlib's ``Imputer``. NaN counts as missing.

frame = spark.createDataFrame(gaps).cache()
columns = {"inputCols": names, "outputCols": [f"{name}_filled" for name in names]}
errors = {}
for label, imputer in {
    "mean of the column": Imputer(**columns),
    "mean of the 20 nearest": KNNImputer(**columns, k=20, idCol="seqn"),
}.items():
    filled = imputer.fit(frame).transform(frame).orderBy("seqn").select(columns["outputCols"])
    off = np.where(knocked_out, filled.toPandas().to_numpy() - known, np.nan)
    errors[label] = np.sqrt(np.nanmean(off**2, axis=0)) / np.nanstd(known, axis=0)

# %%
# Where columns are related, as the two weights are, the nearest rows know the value. Where no
# other column tells anything, as for the cigarettes per day, the mean is as good.

table = pd.DataFrame(errors, names)
print(table.round(2))
figure, ax = plt.subplots(figsize=(8, 3.5), layout="constrained")
table.plot.bar(ax=ax, rot=0)
ax.set_ylabel("error, in standard deviations")
ax.set_ylim(0, 1.4)
ax.tick_params(axis="x", labelsize=8)
plt.show()
