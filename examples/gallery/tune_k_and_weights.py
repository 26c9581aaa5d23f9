"""
Tuning of k and weights
=======================

Choose ``k`` and ``weights`` by cross-validation with MLlib's ``CrossValidator``.

scikit-learn includes 30 measurements of 569 tumors, and whether they are benign or malignant.
"""

import numpy as np
from matplotlib import pyplot as plt
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import SparkSession
from sklearn.datasets import load_breast_cancer

from pyspark_knn import KNNClassifier, SharedPrefixPipeline

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
table = load_breast_cancer(as_frame=True).frame.rename(columns=lambda name: name.replace(" ", "_"))
names = [name for name in table if name != "target"]
table = table.assign(fold=np.arange(len(table)) % 3, id=np.arange(len(table)))
tumors = spark.createDataFrame(table).coalesce(2).cache()

# %%
# ``SharedPrefixPipeline`` fits the scaler and the index once per fold, and searches once for all
# candidates, so a larger grid costs little.

ks, weights = [1, 5, 15, 45], ["uniform", "distance"]
knn = KNNClassifier(idCol="id", labelCol="target")
stages = [
    VectorAssembler(inputCols=names, outputCol="raw"),
    StandardScaler(withMean=True, inputCol="raw", outputCol="features"),
    knn,
]
grid = ParamGridBuilder().addGrid(knn.weights, weights).addGrid(knn.k, ks).build()
tuned = CrossValidator(
    estimator=SharedPrefixPipeline(stages=stages),
    estimatorParamMaps=grid,
    evaluator=MulticlassClassificationEvaluator(labelCol="target", metricName="accuracy"),
    numFolds=3,
    foldCol="fold",
    parallelism=2,
).fit(tumors)
best = tuned.bestModel.stages[-1]
print(f"best: k={best.getK()}, weights={best.getWeights()}, accuracy {max(tuned.avgMetrics):.3f}")

# %%
# A small ``k`` fits the noise, and a large one smooths too much.

pairs = zip(grid, tuned.avgMetrics, strict=True)
accuracy = {(each[knn.weights], each[knn.k]): metric for each, metric in pairs}
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
for each, style in zip(weights, ["o-", "s--"], strict=True):
    ax.plot(ks, [accuracy[each, k] for k in ks], style, label=f'weights="{each}"')
ax.set_xscale("log")
ax.set_xticks(ks, labels=ks)
ax.set_xticks([], minor=True)
ax.set_xlabel("k")
ax.set_ylabel("accuracy (mean of 3 folds)")
ax.legend()
plt.show()
