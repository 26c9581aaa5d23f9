"""
Classification of a stream
==========================

Classify images as they arrive, with Structured Streaming.

A replicated model, the default for up to 2 GiB of vectors, transforms a stream as it transforms a
table. The images are the handwritten digits of scikit-learn.
"""

import tempfile
from pathlib import Path

from matplotlib import pyplot as plt
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from pyspark_knn import KNNClassifier

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
digits = load_digits()
columns = zip(range(1797), digits.data.tolist(), digits.target.tolist(), strict=True)
images = spark.createDataFrame(list(columns), "id INT, features ARRAY<DOUBLE>, label INT")
model = KNNClassifier(k=5, idCol="id", neighborsCol="because").fit(images.where("id < 1000"))

# %%
# Four files arrive, one per micro-batch. Each batch is appended to the table of results.

folder = Path(tempfile.mkdtemp())
(folder / "arriving").mkdir()
for night in range(4):
    part = images.where(f"id >= 1000 AND id % 4 = {night}").toPandas()
    part.to_json(folder / "arriving" / f"{night}.json", orient="records", lines=True)
schema = "id INT, features ARRAY<DOUBLE>, label INT"
reader = spark.readStream.schema(schema).option("maxFilesPerTrigger", 1)
stream = model.transform(reader.json((folder / "arriving").as_uri()))
query = (
    stream.writeStream.format("parquet")
    .option("path", (folder / "results").as_uri())
    .option("checkpointLocation", (folder / "checkpoint").as_uri())
    .trigger(availableNow=True)
    .start()
)
query.awaitTermination()
results = spark.read.parquet((folder / "results").as_uri()).orderBy("id").toPandas()
wrong = results[results.prediction != results.label]
print(f"{len(results)} images arrived, {len(wrong)} of them were misclassified")

# %%
# ``neighborsCol`` adds the items that voted, which explain the mistakes.

figure, grid = plt.subplots(4, 6, figsize=(8, 6), layout="constrained")
for row, axes in zip(wrong.itertuples(), grid, strict=False):
    titles = [f"{row.label}, not {row.prediction:.0f}", *digits.target[row.because]]
    for image, title, ax in zip([row.id, *row.because], titles, axes, strict=True):
        ax.imshow(digits.images[image], cmap="gray_r")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
plt.show()
