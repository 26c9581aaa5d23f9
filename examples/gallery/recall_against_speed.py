"""
Recall against speed of approximate indexes
===========================================

Choose how thoroughly an approximate index is searched, by its recall and its speed.

scikit-learn includes two photographs. Here, patches of 8 x 8 pixels are searched for similar ones,
as in the removal of noise: 33,000 patches are the items, and 200 others are the queries.
"""

import time

import numpy as np
from matplotlib import pyplot as plt
from pyspark.sql import SparkSession
from sklearn.datasets import load_sample_images

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
patches = []
for photograph in load_sample_images().images:
    windows = np.lib.stride_tricks.sliding_window_view(photograph.mean(axis=2), (8, 8))
    patches.append(windows[::4, ::4].reshape(-1, 64))
patches = np.random.default_rng(0).permutation(np.concatenate(patches)).round()
queries = patches[:200]
items = spark.createDataFrame(
    [(i, row) for i, row in enumerate(patches[200:].tolist())], "id INT, features ARRAY<DOUBLE>"
)

# %%
# The exact neighbors are those that the approximate indexes should find. ``kneighbors`` searches on
# the driver, without Spark jobs. Queries are searched one at a time, as a web service would.


def search(model):
    """Return the distances of the neighbors, and the number of queries per second."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        distances = [model.kneighbors(query)[1] for query in queries]
        seconds.append(time.perf_counter() - start)
    return np.array(distances), len(queries) / min(seconds)


exact, exact_speed = search(KNNEstimator(k=10, idCol="id", algorithm="brute").fit(items))

# %%
# ``searchParams`` can be changed on the model, without another fit. The recall is the share of the
# exact neighbors that are found. Another patch at the same distance counts, too.

settings = {
    "ivf": [{"nprobe": n} for n in (1, 2, 4, 8, 16, 32)],
    "hnsw": [{"efSearch": n} for n in (10, 20, 40, 80, 160)],
}
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for algorithm, levels in settings.items():
    estimator = KNNEstimator(k=10, idCol="id", algorithm=algorithm, searchParams=levels[0])
    model = estimator.fit(items)
    curve = []
    for level in levels:
        found, speed = search(model.setSearchParams(level))
        recall = np.mean(found <= exact[:, -1:])
        curve.append((recall, speed))
        print(f"{algorithm} {level}: recall {recall:.3f}, {speed / exact_speed:.1f} x exact")
    ax.plot(*np.transpose(curve), "o-", label=algorithm)
ax.plot(1, exact_speed, "k*", markersize=12, label="brute, exact")
ax.set_xlabel("recall: share of the 10 nearest patches that are found")
ax.set_ylabel("queries per second")
ax.set_yscale("log")
ax.legend()
plt.show()
