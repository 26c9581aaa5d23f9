"""
A saved model in a nightly job
==============================

Load a model every night, append the items of the day, and save it again.

The images of handwritten digits, which scikit-learn includes, arrive in five nights. The more of
them the classifier knows, the better it gets.
"""

import tempfile
from itertools import pairwise
from pathlib import Path

from matplotlib import pyplot as plt
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.sql import DataFrame, SparkSession
from sklearn.datasets import load_digits

from pyspark_knn import KNNClassificationModel, KNNClassifier

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
digits = load_digits()
columns = zip(range(1797), digits.data.tolist(), digits.target.tolist(), strict=True)
images = spark.createDataFrame(list(columns), "id INT, features ARRAY<DOUBLE>, label INT")
test = images.where("id >= 1400").cache()

# %%
# The first night fits and saves a model. ``handleInvalid="skip"`` drops rows without a usable
# vector, which should not stop a nightly job.

path = (Path(tempfile.mkdtemp()) / "digits").as_uri()
KNNClassifier(k=3, idCol="id", handleInvalid="skip").fit(images.where("id < 10")).save(path)

# %%
# The other nights append. ``append`` reads the new items only, and the answers are those of a new
# fit. If the job fails, the old model is still there.


def nightly(new: DataFrame) -> KNNClassificationModel:
    """Add the items of a day to the saved model, in place of items with the same ids."""
    model = KNNClassificationModel.load(path)
    known = [row.id for row in new.select("id").collect()]
    grown = model.remove(known).append(new)
    grown.write().overwrite().save(path)
    return grown


evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
counts, accuracies = [], []
bounds = [10, 40, 160, 640, 1400]
for start, stop in pairwise(bounds):
    model = nightly(images.where(f"id >= {start} AND id < {stop}"))
    counts.append(model.numItems)
    accuracies.append(evaluator.evaluate(model.transform(test)))
print(f"{counts[-1]} items, accuracy {accuracies[-1]:.3f}")

# %%
# The accuracy on images that no night has appended.

figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(counts, accuracies, "o-")
ax.set_xscale("log")
ax.set_xlabel("items in the model")
ax.set_ylabel("accuracy on new images")
plt.show()
