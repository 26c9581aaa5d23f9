"""What it costs that Spark before 4.1 hands columns to Python through pandas.

    python benchmarks/udf.py [--items 200000] [--queries 20000] [--dim 64] [--rounds 5]

Both kinds of UDF search the same index in one session of a Spark that has both, in turns.
"""

from __future__ import annotations

import argparse
from typing import Any

from _harness import as_mllib, check, median, ratio, show, start, take_turns, vectors
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pyspark_knn import KNNEstimator
from pyspark_knn.engine.spark import compat


def found(model: Any, queries: DataFrame, *, arrow: bool) -> int:
    """Search by one kind of UDF, and make a figure of all that it finds."""
    before = compat.has_arrow_udf
    compat.has_arrow_udf = lambda: arrow
    try:
        answers = model.transform(queries)
    finally:
        compat.has_arrow_udf = before
    sums = answers.select(F.sum(F.hash("neighbors", "distances").cast("long")))
    return int(sums.collect()[0][0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spark = start()
    check(compat.has_arrow_udf(), "this Spark has one kind of UDF only")
    items = vectors(spark, options.items, options.dim, seed=1)
    arrays = vectors(spark, options.queries, options.dim, seed=2)
    model = KNNEstimator(k=10, idCol="id").fit(items)
    rows = []
    for kind, queries in (("MLlib vectors", as_mllib(arrays)), ("array<float>", arrays)):
        seconds, results = take_turns(
            {
                "arrow": lambda q=queries: found(model, q, arrow=True),
                "pandas": lambda q=queries: found(model, q, arrow=False),
            },
            options.rounds,
        )
        check(results["arrow"] == results["pandas"], kind)
        more = ratio(seconds["pandas"], seconds["arrow"])
        rows.append([kind, *(f"{median(seconds[way]):.2f}" for way in seconds), f"{more:.2f}"])
    show(
        f"{options.queries:,} queries, {options.items:,} x {options.dim} items, k=10, local[2]",
        ["queries are", "Arrow UDF, s", "pandas UDF, s", "ratio"],
        rows,
    )
    spark.stop()


if __name__ == "__main__":
    main()
