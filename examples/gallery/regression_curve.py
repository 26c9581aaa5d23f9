"""
Curve of a regression
=====================

Predict a number from the nearest items, and see how ``k`` and ``weights`` shape the curve.

The Gapminder data of ``plotly`` have the income and the life expectancy of 142 countries (``pip
install plotly``).
"""

import numpy as np
import plotly.data
from matplotlib import pyplot as plt
from pyspark.sql import SparkSession

from pyspark_knn import KNNRegressor

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
table = plotly.data.gapminder().query("year == 2007")
countries = spark.createDataFrame(table).selectExpr(
    "country", "array(log10(gdpPercap)) AS features", "lifeExp AS label"
)

# %%
# One model answers for every ``k``. ``weights="distance"`` gives closer items more weight, and
# then the curve meets each item.

incomes = np.logspace(2.4, 4.75, 300)
rows = [(float(income), [float(np.log10(income))]) for income in incomes]
queries = spark.createDataFrame(rows, "income DOUBLE, features ARRAY<DOUBLE>").cache()
model = KNNRegressor(idCol="country").fit(countries)
figure, pictures = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for weights, ax in zip(["uniform", "distance"], pictures, strict=True):
    ax.plot(table.gdpPercap, table.lifeExp, ".", color="0.6")
    for k in (3, 15, 60):
        chosen = model.copy({model.k: k, model.weights: weights})
        curve = chosen.transform(queries).orderBy("income").select("prediction").toPandas()
        ax.plot(incomes, curve.prediction, label=f"k={k}")
    ax.set_xscale("log")
    ax.set_xlabel("income per person (US$)")
    ax.set_title(f'weights="{weights}"')
    ax.legend(loc="lower right")
pictures[0].set_ylabel("life expectancy (years)")
plt.show()
