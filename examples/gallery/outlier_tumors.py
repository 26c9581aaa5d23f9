"""
Outliers by their local density
===============================

Find the rows of a table that are unusual, with ``LocalOutlierFactor``.

scikit-learn includes 30 measurements of 569 tumors. Here, 357 benign and 30 malignant tumors form
the table. The outlier factor does not see the labels, but finds many of the malignant ones.
"""

import numpy as np
from matplotlib import pyplot as plt
from pyspark.ml import Pipeline
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA

from pyspark_knn import LocalOutlierFactor

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
table = load_breast_cancer(as_frame=True).frame.rename(columns=lambda name: name.replace(" ", "_"))
malignant = table.pop("target").to_numpy() == 0
kept = np.flatnonzero(~malignant | (np.cumsum(malignant) <= 30))
table, malignant = table.iloc[kept].reset_index(drop=True), malignant[kept]

# %%
# The factor of a row compares the density around it with the density around its neighbors. A
# factor of 1 is usual. ``contamination`` is the share of rows that get the prediction 1.

stages = [
    VectorAssembler(inputCols=list(table), outputCol="raw"),
    StandardScaler(withMean=True, inputCol="raw", outputCol="features"),
    LocalOutlierFactor(k=40, contamination=0.08, idCol="id"),
]
tumors = spark.createDataFrame(table.reset_index(names="id"))
model = Pipeline(stages=stages).fit(tumors).stages[-1]
scores = model.scores.toPandas().sort_values("id", ignore_index=True)
found = scores.prediction == 1
print(f"{found.sum()} outliers, of which {(malignant & found).sum()} are malignant")

# %%
# The tumors on their first two principal components. The larger a circle, the larger the factor.

places = PCA(2).fit_transform((table - table.mean()) / table.std())
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for chosen, color, label in ((~malignant, "C0", "benign"), (malignant, "C3", "malignant")):
    size = 25 * scores.outlierScore[chosen] ** 3
    ax.scatter(*places[chosen].T, s=size, facecolors="none", edgecolors=color, label=label)
ax.plot(*places[found].T, "k.", markersize=4, label="prediction 1")
ax.set_xlabel("first component")
ax.set_ylabel("second component")
ax.legend()
plt.show()
