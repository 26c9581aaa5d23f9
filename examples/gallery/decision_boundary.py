"""
Decision boundary of a classifier
=================================

Draw the class that a classifier predicts for each point of a plane, for a small and a large ``k``.

The flowers of the iris data, which scikit-learn includes, have three species.
"""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from pyspark.sql import SparkSession
from sklearn.datasets import load_iris

from pyspark_knn import KNNClassifier

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
iris = load_iris()
points = iris.data[:, :2]
rows = list(zip(range(len(points)), points.tolist(), iris.target.tolist(), strict=True))
flowers = spark.createDataFrame(rows, "id INT, features ARRAY<DOUBLE>, label INT")

# %%
# The queries are the points of a grid. ``k`` can be changed on the fitted model, so one fit is
# enough.

xs, ys = np.linspace(4, 8.2, 85), np.linspace(1.8, 4.6, 57)
grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
rows = [(i, point) for i, point in enumerate(grid.tolist())]
queries = spark.createDataFrame(rows, "i INT, features ARRAY<DOUBLE>").cache()
model = KNNClassifier(k=1, idCol="id").fit(flowers)

# %%
# With ``k=1``, single flowers decide about the area around them. A larger ``k`` gives a smooth
# boundary.

figure, pictures = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
colors = ListedColormap(["C0", "C1", "C2"])
for k, ax in zip([1, 25], pictures, strict=True):
    predicted = model.copy({model.k: k}).transform(queries).orderBy("i").select("prediction")
    areas = predicted.toPandas().to_numpy().reshape(len(ys), len(xs))
    ax.pcolormesh(xs, ys, areas, cmap=colors, alpha=0.3, shading="nearest")
    ax.scatter(*points.T, c=iris.target, cmap=colors, s=15, edgecolors="k", linewidths=0.4)
    ax.set_title(f"k={k}")
    ax.set_xlabel(iris.feature_names[0])
pictures[0].set_ylabel(iris.feature_names[1])
plt.show()
