"""
Similar images
==============

Find the images that look most like another one, by the euclidean distance of their pixels.

scikit-learn includes 1,797 scans of handwritten digits, of 8 x 8 pixels each.
"""

from matplotlib import pyplot as plt
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
digits = load_digits()
rows = [(i, pixels.tolist()) for i, pixels in enumerate(digits.data)]
images = spark.createDataFrame(rows, "id INT, features ARRAY<DOUBLE>")

# %%
# An image is an item and a query at the same time. ``excludeIdCol`` prevents that it finds
# itself.

model = KNNEstimator(k=6, idCol="id", excludeIdCol="id").fit(images)
asked = [1000, 1001, 1005, 1011]
found = model.transform(images.where(images.id.isin(asked))).orderBy("id").collect()

# %%
# The first column shows the queries, and the others their neighbors, with the distances.

figure, grid = plt.subplots(len(found), 7, figsize=(8, 5), layout="constrained")
for row, axes in zip(found, grid, strict=True):
    shown = [row.id, *row.neighbors]
    titles = ["query", *(f"{each:.0f}" for each in row.distances)]
    for image, title, ax in zip(shown, titles, axes, strict=True):
        ax.imshow(digits.images[image], cmap="gray_r")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
plt.show()
